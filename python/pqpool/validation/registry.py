"""What a check is, how it judges its figures, and what comes out of running one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .target import Target

Value = float | int | str


class Verdict(StrEnum):
    PASSED = "pass"
    FAILED = "fail"
    SKIPPED = "skipped"  # not measured: neither of the two


@dataclass(frozen=True)
class Figure:
    """One measured value; ``held`` is None where it only informs."""

    name: str
    value: Value
    unit: str = ""
    target: str = ""
    held: bool | None = None

    def __str__(self) -> str:
        measured = f"{self.name} {self.amount()}"
        if self.held is None:
            return measured
        return f"{measured} ({self.target})" if self.held else f"{measured} (MISSED {self.target})"

    def amount(self) -> str:
        """The value with its unit, to the digits that matter."""
        if isinstance(self.value, str):
            shown = self.value
        elif isinstance(self.value, float) and abs(self.value) < 1000:
            shown = f"{self.value:.3g}"
        else:
            shown = f"{self.value:,.0f}"
        return f"{shown} {self.unit}".rstrip()


@dataclass(frozen=True)
class Check:
    """One scenario or criterion: what must hold, how it is measured, and the coroutine that measures it."""

    key: str
    title: str
    target: str
    method: str
    run: Callable[[Probe], Awaitable[None]]
    outage: bool = False  # stops the server: only for one that this run has started itself
    limit_seconds: float = 90.0


@dataclass(frozen=True)
class Outcome:
    check: Check
    verdict: Verdict
    figures: Sequence[Figure] = ()
    detail: str = ""  # why it failed or was left out
    seconds: float = 0.0


@dataclass
class Probe:
    """Handed to a running check: the target to measure, and the place where its figures go.

    Each judging method records a figure and never raises, so that a check reports every figure it can.
    """

    target: Target
    say: Callable[[str], None] = lambda text: None
    figures: list[Figure] = field(default_factory=list)
    left_out: str = ""

    def note(self, name: str, value: Value, unit: str = "") -> None:
        """A figure that informs and is not judged."""
        self.figures.append(Figure(name, value, unit))

    def below(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._judge(name, value, unit, f"< {limit:g}", value < limit)

    def above(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._judge(name, value, unit, f"> {limit:g}", value > limit)

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._judge(name, value, unit, f"<= {limit:g}", value <= limit)

    def at_least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._judge(name, value, unit, f">= {limit:g}", value >= limit)

    def between(self, name: str, value: float, low: float, high: float, unit: str = "") -> None:
        self._judge(name, value, unit, f"{low:g} to {high:g}", low <= value <= high)

    def equal(self, name: str, value: Value, expected: Value) -> None:
        self._judge(name, value, "", f"= {expected}", value == expected)

    def one_of(self, name: str, value: str, allowed: Sequence[str]) -> None:
        self._judge(name, value, "", " or ".join(allowed), value in allowed)

    def leave_out(self, reason: str) -> None:
        """Part of what the check asks for cannot be measured here: it may still fail, but no longer pass."""
        self.left_out = reason

    def _judge(self, name: str, value: Value, unit: str, target: str, held: bool) -> None:
        self.figures.append(Figure(name, value, unit, f"{target} {unit}".rstrip(), held))

    def verdict(self) -> Verdict:
        if any(figure.held is False for figure in self.figures):
            return Verdict.FAILED
        return Verdict.SKIPPED if self.left_out else Verdict.PASSED


async def run_check(check: Check, target: Target, say: Callable[[str], None]) -> Outcome:
    """Runs one check to its end or its time limit; whatever it raises makes it fail and ends nothing else."""
    if check.outage and target.server is None:
        return Outcome(check, Verdict.SKIPPED, detail="needs a server that may be stopped; run without --url")
    probe = Probe(target, say)
    start = time.monotonic()
    detail = ""
    try:
        async with asyncio.timeout(check.limit_seconds) as limit:
            await check.run(probe)
        verdict = probe.verdict()
        detail = probe.left_out
        if verdict is Verdict.PASSED and not any(figure.held for figure in probe.figures):
            verdict, detail = Verdict.FAILED, "nothing was judged"
    except Exception as error:
        verdict = Verdict.FAILED
        detail = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError) and limit.expired():
            detail = f"did not end within {check.limit_seconds:g} s"
    await target.restore()
    return Outcome(check, verdict, tuple(probe.figures), target.scrub(detail), time.monotonic() - start)
