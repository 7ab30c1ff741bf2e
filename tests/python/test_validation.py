"""The validation command's own judgement: what passes, fails or is left out, and what its reports say."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pqpool.validation import report
from pqpool.validation.criteria import CRITERIA
from pqpool.validation.events import EVENTS, Log, malformation, shortcoming
from pqpool.validation.measure import percentile, wait_until
from pqpool.validation.registry import Check, Outcome, Probe, Verdict, run_check
from pqpool.validation.runner import ValidationImpossible, choose_checks
from pqpool.validation.scenarios import SCENARIOS
from pqpool.validation.soak import Sample, Soak
from pqpool.validation.target import Target, password_of, with_parameters

URL = "postgresql://somebody:hush@localhost/somewhere"
LINE = {
    "timestamp": "2024-05-01T12:00:00.123456+00:00",
    "level": "INFO",
    "component": "connection_pool",
    "message": "Connection pool recovered: 2/10 connections available",
    "context": {},
}


def check(run: object, **options: object) -> Check:
    return Check("X", "title", "target", "method", run, **options)  # type: ignore[arg-type]


async def outcome(run: object, **options: object) -> Outcome:
    return await run_check(check(run, **options), Target(URL), lambda text: None)


def test_ten_scenarios_and_thirteen_criteria_each_with_a_key_of_its_own() -> None:
    assert [each.key for each in SCENARIOS] == [str(n) for n in range(1, 11)]
    assert [each.key for each in CRITERIA] == [f"SC-{n:03}" for n in range(1, 14)]


async def test_check_passes_when_every_figure_holds() -> None:
    async def run(probe: Probe) -> None:
        probe.below("p95", 1.0, 2.0, "ms")
        probe.note("p50", 0.5, "ms")

    assert (await outcome(run)).verdict is Verdict.PASSED


async def test_one_missed_figure_fails_the_check_and_the_others_are_kept() -> None:
    async def run(probe: Probe) -> None:
        probe.below("p95", 2.0, 2.0, "ms")
        probe.equal("total", 2, 2)

    result = await outcome(run)
    assert result.verdict is Verdict.FAILED
    assert [figure.held for figure in result.figures] == [False, True]
    assert "MISSED" in report.measured(result)


async def test_check_that_judges_nothing_fails() -> None:
    async def run(probe: Probe) -> None:
        probe.note("p50", 0.5, "ms")

    assert (await outcome(run)).verdict is Verdict.FAILED


async def test_check_that_raises_fails_with_its_error_and_without_the_password() -> None:
    async def run(probe: Probe) -> None:
        raise RuntimeError("cannot reach somebody:hush")

    result = await outcome(run)
    assert result.verdict is Verdict.FAILED
    assert result.detail == "RuntimeError: cannot reach somebody:***"


async def test_check_that_hangs_fails_at_its_time_limit() -> None:
    async def run(probe: Probe) -> None:
        await asyncio.Event().wait()

    result = await outcome(run, limit_seconds=0.05)
    assert result.verdict is Verdict.FAILED
    assert "did not end within 0.05 s" in result.detail


async def test_outage_is_left_out_where_the_server_must_not_be_stopped() -> None:
    async def run(probe: Probe) -> None:
        raise AssertionError("must not run")

    result = await outcome(run, outage=True)
    assert result.verdict is Verdict.SKIPPED
    assert "--url" in result.detail


async def test_check_measured_in_part_may_fail_but_not_pass() -> None:
    async def part(probe: Probe) -> None:
        probe.equal("found", 1, 1)
        probe.leave_out("the rest")

    async def failing_part(probe: Probe) -> None:
        probe.equal("found", 0, 1)
        probe.leave_out("the rest")

    assert (await outcome(part)).verdict is Verdict.SKIPPED
    assert (await outcome(failing_part)).verdict is Verdict.FAILED


def reported(*verdicts: Verdict) -> report.Report:
    async def run(probe: Probe) -> None: ...

    outcomes = [Outcome(check(run), verdict, detail="because | of this") for verdict in verdicts]
    return report.Report("1.0", "3.11", "Linux", "PostgreSQL 15", datetime.now(UTC), 1.0, outcomes, [])


def test_report_counts_what_was_skipped_apart() -> None:
    lines = report.summary(reported(Verdict.PASSED, Verdict.SKIPPED))
    assert lines[0] == "scenarios: 1 of 2 measured, 1 passed, 0 failed, 1 skipped"
    assert lines[-1].startswith("validation passed, except for what was skipped")
    assert reported(Verdict.PASSED, Verdict.FAILED).failed
    assert not reported(Verdict.PASSED, Verdict.SKIPPED).failed


def test_reports_hold_every_outcome() -> None:
    both = reported(Verdict.PASSED, Verdict.FAILED)
    assert json.loads(report.as_json(both))["scenarios"][1]["verdict"] == "fail"
    assert report.markdown(both).count("because \\| of this") == 2


def test_checks_are_chosen_by_key() -> None:
    scenarios, criteria = choose_checks(["3", " sc-004"])
    assert [each.key for each in (*scenarios, *criteria)] == ["3", "SC-004"]
    with pytest.raises(ValidationImpossible, match="77"):
        choose_checks(["77"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"timestamp": "2024-05-01T12:00:00Z"}, None),
        ({"timestamp": "2024-05-01T12:00:00+02:00"}, "its timestamp is not in UTC"),
        ({"timestamp": "yesterday"}, "its timestamp is not ISO 8601"),
        ({"level": "LOUD"}, "its level is 'LOUD'"),
        ({"component": "pool"}, "its component is 'pool'"),
        ({"message": ""}, "it has no message"),
        ({"context": None}, "it has no context"),
    ],
)
def test_log_line_is_judged_by_its_fields(change: dict[str, object], problem: str | None) -> None:
    assert malformation(json.dumps({**LINE, **change})) == problem


def test_log_line_that_is_no_json_object_is_malformed() -> None:
    assert malformation("recovered") == "not JSON"
    assert malformation("[]") == "not an object"


def test_event_without_its_fields_is_not_found(tmp_path: Path) -> None:
    leak = next(event for event in EVENTS if event.name == "leak")
    line = {**LINE, "level": "WARNING", "message": "Potential connection leak detected: 7"}
    told = {**line, "context": dict.fromkeys(leak.context, "told")}
    told_whole = {**line, "context": dict.fromkeys(leak.context + leak.logger_context, "told")}
    log = Log(tmp_path)

    def found(pool: dict[str, object], logger: dict[str, object]) -> str:
        (tmp_path / "pool.log").write_text(json.dumps(pool) + "\n")
        log.logger_file.write_text(json.dumps(logger) + "\n")
        return shortcoming(leak, log)

    assert shortcoming(leak, log) == "no such line in the pool's own file"
    assert found(line, told_whole).startswith("without connection_id, without held_duration_seconds in")
    assert found(told, told) == "without stack in the logger pqpool"
    assert found(told, {**told_whole, "level": "INFO"}) == "level INFO in the logger pqpool"
    assert found(told, told_whole) == "found"


def soaked(**last: int) -> Soak:
    from collections import Counter

    first = {"operations": 0, "resident_bytes": 10**8, "descriptors": 20, "sessions": 8, "objects": 1000}
    ends = [Sample(at_seconds=0.0, **first), Sample(at_seconds=10.0, **{**first, **last})]
    return Soak(tuple(ends), Counter(), leases_out=0, waiting=0)


@pytest.mark.parametrize(
    ("last", "grown"),
    [
        ({}, []),
        ({"resident_bytes": 10**8 + 5 * 2**20}, ["resident memory growth"]),
        ({"descriptors": 21}, ["descriptors gained"]),
        ({"sessions": 9}, ["server sessions beyond the pool's"]),
        ({"objects": 1201}, ["live objects gained"]),
    ],
)
def test_soak_sees_each_kind_of_leak(last: dict[str, int], grown: list[str]) -> None:
    assert [limit.name for limit in soaked(**last).limits() if limit.value > limit.most] == grown


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 95) == 95
    assert percentile(values, 99) == 99
    assert percentile([7.0], 99) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


async def test_wait_until_tells_how_long_or_that_it_gave_up() -> None:
    async def later() -> bool:
        return True

    assert await wait_until(lambda: True, 1) is not None
    assert await wait_until(later, 1) is not None
    assert await wait_until(lambda: False, 0.02) is None


@pytest.mark.parametrize(
    ("url", "password"),
    [
        (URL, "hush"),
        ("postgresql://somebody:h%40sh@localhost/somewhere", "h@sh"),
        ("postgresql://localhost/somewhere?password=hush", "hush"),
        ("host=localhost password='hu sh' dbname=somewhere", "hu sh"),
        ("postgresql://localhost/somewhere", None),
    ],
)
def test_password_is_found_wherever_it_stands(url: str, password: str | None) -> None:
    assert password_of(url) == password


def test_parameters_are_added_to_urls_and_keyword_strings() -> None:
    assert (
        with_parameters("postgresql://h/d", application_name="x y")
        == "postgresql://h/d?application_name=x%20y"
    )
    assert with_parameters("postgresql://h/d?a=b", host="c") == "postgresql://h/d?a=b&host=c"
    assert with_parameters("host=h", application_name="x") == "host=h application_name=x"
