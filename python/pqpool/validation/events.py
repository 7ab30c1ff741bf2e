"""The log's lines: which events there are, what each must tell, and how the lines are read and judged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

COMPONENT = "connection_pool"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Origin(Enum):
    """The two ways a line takes, both of which must carry every event."""

    POOL_FILE = "the pool's own file"
    LOGGER = "the logger pqpool"


@dataclass(frozen=True)
class Event:
    """One kind of line: a pattern its message matches, its level, and what its context must tell."""

    name: str
    message: str
    level: str
    context: tuple[str, ...] = ()
    logger_context: tuple[str, ...] = ()  # what Python alone knows, and so only the logger's line can tell
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
        ("connection_id", "held_duration_seconds"),
        ("stack",),
    ),
    Event("shutdown begun", r"^Connection pool shutting down", "INFO"),
    Event("shutdown by force", r"^Connection closed by force", "WARNING", ("connection_id",)),
    Event("shutdown ended", r"^Connection pool terminated", "INFO"),
)


class Log:
    """The JSON lines of one check in one folder, read anew each time: the pools' files, the logger's one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logger_file = folder / "logger.log"

    def lines(self, *origins: Origin) -> list[str]:
        """The lines that came these ways; all of them without any."""
        files = [
            file
            for file in sorted(self.folder.glob("*.log"))
            if not origins or (Origin.LOGGER if file == self.logger_file else Origin.POOL_FILE) in origins
        ]
        return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]

    def entries(self, *origins: Origin) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(*origins) if malformation(line) is None]

    def has(self, *names: str) -> bool:
        """Whether each of the events stands there in full, both ways."""
        return all(shortcoming(event, self) == "found" for event in EVENTS if event.name in names)


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


def missing(event: Event, entry: dict[str, Any], origin: Origin) -> list[str]:
    """What an entry of this event does not tell, or tells at another level."""
    wanted = event.context + (event.logger_context if origin is Origin.LOGGER else ())
    found = [f"without {name}" for name in wanted if entry["context"].get(name) in (None, "", [])]
    return found if entry["level"] == event.level else [*found, f"level {entry['level']}"]


def shortcoming(event: Event, log: Log) -> str:
    """``found``, or what is missing, and on which way: every line of the event must be complete."""
    for origin in Origin:
        entries = [entry for entry in log.entries(origin) if matches(event, entry)]
        if not entries:
            return f"no such line in {origin.value}"
        for entry in entries:
            if problems := missing(event, entry, origin):
                return f"{', '.join(problems)} in {origin.value}"
    return "found"
