"""What a validation run leaves: its results as a table, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from .registry import Outcome, Verdict


@dataclass(frozen=True)
class Report:
    """The outcomes of one run, and where it ran. Passwords were scrubbed as the outcomes were made."""

    version: str
    python: str
    platform: str
    server: str
    started_at: datetime
    seconds: float
    scenarios: Sequence[Outcome]
    criteria: Sequence[Outcome]

    @property
    def outcomes(self) -> list[Outcome]:
        return [*self.scenarios, *self.criteria]

    @property
    def failed(self) -> bool:
        return any(outcome.verdict is Verdict.FAILED for outcome in self.outcomes)


def tally(what: str, outcomes: Sequence[Outcome]) -> str:
    """``scenarios: 10 of 10 measured, 10 passed, 0 failed``."""
    count = {verdict: sum(outcome.verdict is verdict for outcome in outcomes) for verdict in Verdict}
    measured = count[Verdict.PASSED] + count[Verdict.FAILED]
    line = f"{what}: {measured} of {len(outcomes)} measured"
    counts = [f"{count[Verdict.PASSED]} passed", f"{count[Verdict.FAILED]} failed"]
    if count[Verdict.SKIPPED]:
        counts.append(f"{count[Verdict.SKIPPED]} skipped")
    return ", ".join([line, *counts])


def summary(report: Report) -> list[str]:
    """The tallies of whatever was asked for, and the verdict on the whole."""
    lines = [
        tally(what, outcomes)
        for what, outcomes in (("scenarios", report.scenarios), ("criteria", report.criteria))
        if outcomes
    ]
    skipped = any(outcome.verdict is Verdict.SKIPPED for outcome in report.outcomes)
    verdict = "FAILED" if report.failed else "passed, except for what was skipped" if skipped else "passed"
    return [*lines, f"validation {verdict} in {report.seconds:.0f} s"]


def measured(outcome: Outcome, separator: str = "; ") -> str:
    """Every figure of an outcome, and why it failed or was left out."""
    parts = [str(figure) for figure in outcome.figures]
    return separator.join([*parts, outcome.detail] if outcome.detail else parts)


def markdown(report: Report) -> str:
    """The report for people."""
    lines = [
        "# pqpool validation",
        "",
        f"- pqpool {report.version}, Python {report.python}, {report.platform}",
        f"- {report.server}",
        f"- {report.started_at.isoformat(timespec='seconds')}, {report.seconds:.0f} s",
        *(f"- {line}" for line in summary(report)),
    ]
    for title, outcomes in (("Scenarios", report.scenarios), ("Success criteria", report.criteria)):
        if not outcomes:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            "| | what | target | verdict | measured | how | s |",
            "|" + " --- |" * 7,
        ]
        for outcome in outcomes:
            check = outcome.check
            cells = [
                check.key,
                check.title,
                check.target,
                outcome.verdict.value,
                measured(outcome),
                check.method,
                f"{outcome.seconds:.1f}",
            ]
            lines.append("| " + " | ".join(in_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def in_cell(text: str) -> str:
    """Text that breaks no Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def as_json(report: Report) -> str:
    """The report for programs."""
    content = {
        "pqpool": report.version,
        "python": report.python,
        "platform": report.platform,
        "server": report.server,
        "started_at": report.started_at.isoformat(),
        "seconds": report.seconds,
        "passed": not report.failed,
        "scenarios": [as_dictionary(outcome) for outcome in report.scenarios],
        "criteria": [as_dictionary(outcome) for outcome in report.criteria],
    }
    return json.dumps(content, indent=2) + "\n"


def as_dictionary(outcome: Outcome) -> dict[str, Any]:
    check = outcome.check
    return {
        "key": check.key,
        "title": check.title,
        "target": check.target,
        "method": check.method,
        "verdict": outcome.verdict.value,
        "detail": outcome.detail,
        "seconds": outcome.seconds,
        "figures": [asdict(figure) for figure in outcome.figures],
    }
