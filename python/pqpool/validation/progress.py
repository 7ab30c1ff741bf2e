"""Telling what a run does while it does it: with rich, if installed, on a terminal, else in plain lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from .registry import Check, Outcome, Verdict
from .report import Report, measured, summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status


class Progress(Protocol):
    """What a run tells, in order: lines, for each check its beginning, steps and end, then the report."""

    def tell(self, line: str) -> None: ...
    def begin(self, check: Check) -> None: ...
    def step(self, line: str) -> None: ...
    def end(self, outcome: Outcome) -> None: ...
    def finish(self, report: Report) -> None: ...


class PlainProgress:
    """A line when a check begins and one for its verdict; a table at the end. For pipes and log files."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def tell(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()

    def begin(self, check: Check) -> None:
        self.tell(f"{check.key:>6}  {check.title}: {check.method}")

    def step(self, line: str) -> None:
        pass  # a line for each step would bury the verdicts

    def end(self, outcome: Outcome) -> None:
        missed = [str(figure) for figure in outcome.figures if figure.held is False]
        why = "; ".join([*missed, outcome.detail] if outcome.detail else missed)
        self.tell(f"        {outcome.verdict.value} after {outcome.seconds:.1f} s{': ' if why else ''}{why}")

    def finish(self, report: Report) -> None:
        for title, outcomes in (("Scenarios", report.scenarios), ("Success criteria", report.criteria)):
            if outcomes:
                self.tell(f"\n{title}")
            for outcome in outcomes:
                check = outcome.check
                self.tell(f"{check.key:>6}  {outcome.verdict.value:7}  {check.title}: {check.target}")
                for figure in outcome.figures:
                    target = f"  target {figure.target}" if figure.target else ""
                    missed = "  MISSED" if figure.held is False else ""
                    self.tell(f"{'':17}{figure.name:<38} {figure.amount():>14}{target}{missed}")
                if outcome.detail:
                    self.tell(f"{'':17}{outcome.detail}")
        self.tell("")
        for line in summary(report):
            self.tell(line)


STYLES = {Verdict.PASSED: "green", Verdict.FAILED: "bold red", Verdict.SKIPPED: "yellow"}


class RichProgress:
    """A line that moves while a check runs, a coloured one for its verdict, and a table at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._title = ""

    def tell(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def begin(self, check: Check) -> None:
        from rich.markup import escape

        self._title = escape(f"{check.key}  {check.title}")
        self._status = self._console.status(self._title)
        self._status.start()

    def step(self, line: str) -> None:
        from rich.markup import escape

        if self._status is not None:
            self._status.update(f"{self._title}: [dim]{escape(line)}[/dim]")

    def end(self, outcome: Outcome) -> None:
        from rich.text import Text

        if self._status is not None:
            self._status.stop()
            self._status = None
        line = Text(f"{outcome.check.key:>6}  ")
        line.append(f"{outcome.verdict.value:7}", style=STYLES[outcome.verdict])
        line.append(f"  {outcome.check.title}  ")
        line.append(f"{outcome.seconds:.1f} s", style="dim")
        self._console.print(line)

    def finish(self, report: Report) -> None:
        from rich.table import Table
        from rich.text import Text

        for title, outcomes in (("Scenarios", report.scenarios), ("Success criteria", report.criteria)):
            if not outcomes:
                continue
            table = Table(
                "", "what", "verdict", "measured", title=title, title_justify="left", show_lines=True
            )
            for outcome in outcomes:
                check = outcome.check
                what = Text(check.title).append(f"\n{check.target}", style="dim")
                verdict = Text(outcome.verdict.value, style=STYLES[outcome.verdict])
                table.add_row(Text(check.key), what, verdict, Text(measured(outcome, "\n")))
            self._console.print(table)
        for line in summary(report):
            self.tell(line)


def choose(out: TextIO | None = None) -> Progress:
    """Rich where it can move lines, plain lines elsewhere."""
    out = out or sys.stdout
    if out.isatty():
        try:
            from rich.console import Console
        except ImportError:
            pass
        else:
            return RichProgress(Console(file=out))
    return PlainProgress(out)
