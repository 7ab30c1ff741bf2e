"""The log's lines: which events there are, what each must tell, and how the lines are read and judged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

COMPONENT = "connection_pool"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class Event:
    """One kind of line: a pattern its message matches, its level, and what its context must tell."""

    name: str
    message: str
    level: str
    context: tuple[str, ...] = ()
    own_server: bool = False  # cannot be provoked on a server that must not be stopped


EVENTS = (
    Event("initialized", r"^Connection pool initialized", "INFO"),
    Event("acquired", r"^Connection acquired", "DEBUG", ("connection_id",)),
    Event("released", r"^Connection released", "DEBUG", ("connection_id",)),
    Event("recycled", r"^Connection recycled", "INFO", ("connection_id", "reason")),
    Event(
        "validation failed", r"^Connection validation failed", "WARNING", ("connection_id",), own_server=True
    ),
    Event("lost", r"^Connection lost", "WARNING", ("connection_id",)),
    Event("reconnection attempt", r"^Reconnection attempt", "WARNING", ("attempt",), own_server=True),
    Event("recovered", r"^Connection pool recovered: \d+/\d+ connections available", "INFO", own_server=True),
    Event(
        "leak",
        r"^Potential connection leak detected: \S+",
        "WARNING",
        ("connection_id", "held_duration_seconds", "stack"),
    ),
    Event("shutdown begun", r"^Connection pool shutting down", "INFO"),
    Event("shutdown by force", r"^Connection closed by force", "WARNING", ("connection_id",)),
    Event("shutdown ended", r"^Connection pool terminated", "INFO"),
)


class Log:
    """The JSON lines that the pools of one check have written into one folder, read anew each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self) -> list[str]:
        files = sorted(self.folder.glob("*.log"))
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines() if malformation(line) is None]

    def has(self, *names: str) -> bool:
        """Whether each of the events stands there in full."""
        entries = self.entries()
        return all(
            any(complete(event, entry) for entry in entries) for event in EVENTS if event.name in names
        )


def malformation(line: str) -> str | None:
    """What is wrong with one line of the log, or None."""
    try:
        entry = json.loads(line)
    except ValueError:
        return "not JSON"
    if not isinstance(entry, dict):
        return "not an object"
    try:
        offset = datetime.fromisoformat(str(entry.get("timestamp"))).utcoffset()
    except ValueError:
        return "its timestamp is not ISO 8601"
    if offset != timedelta(0):
        return "its timestamp is not in UTC"
    if entry.get("level") not in LEVELS:
        return f"its level is {entry.get('level')!r}"
    if entry.get("component") != COMPONENT:
        return f"its component is {entry.get('component')!r}"
    if not isinstance(entry.get("message"), str) or not entry["message"]:
        return "it has no message"
    return None if isinstance(entry.get("context"), dict) else "it has no context"


def matches(event: Event, entry: dict[str, Any]) -> bool:
    return re.search(event.message, entry["message"], re.IGNORECASE) is not None


def complete(event: Event, entry: dict[str, Any]) -> bool:
    """Whether the entry is this event, at its level, with everything its context must tell."""
    told = all(entry["context"].get(name) not in (None, "", []) for name in event.context)
    return matches(event, entry) and entry["level"] == event.level and told


def shortcoming(event: Event, log: Log) -> str:
    """``found``, or what is missing where the event was looked for."""
    candidates = [entry for entry in log.entries() if matches(event, entry)]
    if any(complete(event, entry) for entry in candidates):
        return "found"
    if not candidates:
        return "no such line"
    nearest = candidates[0]
    missing = [name for name in event.context if nearest["context"].get(name) in (None, "", [])]
    return (
        f"level {nearest['level']}, without {', '.join(missing)}" if missing else f"level {nearest['level']}"
    )
