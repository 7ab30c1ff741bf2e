"""What the callers were told, held against what the server has: the judgement on which every proof ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from pqpool import (
    ConnectionLostError,
    ConnectionPoolError,
    ConnectionValidationError,
    PoolClosedError,
    PoolInitializationError,
    PoolTimeoutError,
    QueryError,
    StatementTimeoutError,
)

__all__ = ["Label", "Ledger", "Told", "Wrong", "told_by"]


class Told(Enum):
    """What a caller knows after a call."""

    DONE = "done"
    UNKNOWN = "unknown"
    NOT_DONE = "not executed"
    NOTHING = "nothing"  # a lost connection, and no word on the statement: that alone is a fault


class Label(NamedTuple):
    """Under which line of the table something is counted, and where exactly it happened."""

    row: str
    detail: str = ""


class Wrong(Exception):
    """An answer that belongs to another question."""


def told_by(error: BaseException) -> Told:
    """The only place that knows how the product words it."""
    text = str(error)
    if isinstance(error, StatementTimeoutError):
        return Told.UNKNOWN  # the cancel may have come too late
    if isinstance(error, (ConnectionLostError, ConnectionValidationError)):
        if "is unknown" in text:
            return Told.UNKNOWN
        return Told.NOT_DONE if "was not executed" in text else Told.NOTHING
    if isinstance(error, QueryError):
        # An ordinary error of a statement undoes it. One that ends the session says nothing about a COMMIT.
        return Told.UNKNOWN if error.severity in ("FATAL", "PANIC") else Told.NOT_DONE
    if isinstance(error, (PoolTimeoutError, PoolClosedError, PoolInitializationError)):
        return Told.UNKNOWN if "is unknown" in text else Told.NOT_DONE
    return Told.NOTHING


@dataclass
class Ledger:
    """Every effect that somebody asked for, under the name of its fault; `judge` ends it.

    An effect has a number. Told done: there exactly once. Told not executed: absent. Unknown: at most once.
    """

    _told: dict[int, tuple[Label, Told, str]] = field(default_factory=dict)
    struck: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    last_words: str = ""

    def done(self, label: Label, numbers: range) -> None:
        self._enter(label, numbers, Told.DONE, "")

    def failed(self, label: Label, numbers: range, error: BaseException, *, is_undone: bool = False) -> None:
        """`is_undone`: whatever the error says, the effect cannot stand, as its COMMIT was never sent."""
        told = told_by(error)
        self.last_words = f"{type(error).__name__}: {error}"
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, Wrong):
            self.faults.append(f"{_name(label)}: {words}")
            told = Told.UNKNOWN
        elif told is Told.NOTHING or not isinstance(error, ConnectionPoolError):
            self.faults.append(f"{_name(label)}: says nothing about what became of the statement: {words}")
            told = Told.UNKNOWN
        self._enter(label, numbers, Told.NOT_DONE if is_undone else told, words)

    def _enter(self, label: Label, numbers: range, told: Told, words: str) -> None:
        for number in numbers:
            self._told[number] = (label, told, words)

    @property
    def size(self) -> int:
        return len(self._told)

    def judge(self, found: Mapping[int, int]) -> dict[str, Counter[str]]:
        """The counts of each label; what must not be is in `faults` then. `found`: how often each is."""
        table: dict[str, Counter[str]] = {}
        for number, (label, told, words) in self._told.items():
            times = found.get(number, 0)
            row = table.setdefault(label.row, Counter())
            row["asked"] += 1
            row[told.value] += 1
            if told is Told.UNKNOWN and times:
                row["took effect"] += 1
            verdict = _verdict(told, times)
            if verdict:
                row[verdict] += 1
                self.faults.append(
                    f"{_name(label)}: effect {number} {verdict} ({times} times; told {told.value}: {words})"
                )
        for number in found.keys() - self._told.keys():
            self.faults.append(f"effect {number} is there although nobody asked for it")
        for name, row in table.items():
            row["struck"] = self.struck[name]
        return table


def _name(label: Label) -> str:
    return f"{label.row}, {label.detail}" if label.detail else label.row


def _verdict(told: Told, times: int) -> str:
    if times > 1:
        return "DOUBLED"
    if told is Told.DONE and times == 0:
        return "LOST"
    if told is Told.NOT_DONE and times:
        return "DENIED"
    return ""
