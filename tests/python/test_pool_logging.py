"""The log: silent unless asked, one JSON object a line, passwords masked, tolerant helpers."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pqpool import (
    LogLevel,
    PoolConfig,
    PoolStatistics,
    get_pool_logger,
    get_pool_structured_logger,
    log_connection_acquisition,
    log_pool_event,
    log_pool_initialization,
    log_pool_statistics,
    log_reconnection_attempt,
)
from pqpool.pool_logging import JsonFormatter, add_log_file, emit_native
from pqpool.throwaway import ThrowawayServer
from support.pools import open_pool
from support.wait import wait_until_async

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Reads the lines logged so far, as the JSON they hold."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = get_pool_logger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_nothing_reaches_stdout_or_stderr_unless_asked() -> None:
    script = (
        "import pqpool; pqpool.get_pool_logger('a').error('x'); pqpool.log_pool_event('y', level='error')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert (run.stdout, run.stderr) == (b"", b"")


def test_line_has_exactly_the_documented_members(lines: Lines) -> None:
    get_pool_logger("app").warning("low on %s", "idle", extra={"context": {"idle": 1}})
    (line,) = lines()
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert line == {
        "level": "WARNING",
        "component": "connection_pool",
        "message": "low on idle",
        "context": {"idle": 1},
    }


def test_logger_of_any_name_is_below_the_pools() -> None:
    assert get_pool_logger().name == "pqpool"
    assert get_pool_logger("pqpool").name == "pqpool"
    assert get_pool_logger("pqpool.manager").name == "pqpool.manager"
    assert get_pool_logger("__main__").name == "pqpool.__main__"
    assert get_pool_structured_logger("app").name == "pqpool.app"


def test_structured_logger_takes_mapping_and_keywords(lines: Lines) -> None:
    logger = get_pool_structured_logger(__name__)
    logger.info("opened", context={"min_size": 2}, max_size=10)
    logger.debug("100 % done")
    try:
        raise OSError("broken")
    except OSError:
        logger.error("failed", {"attempt": 1}, exc_info=True)
    opened, done, failed = lines()
    assert opened["context"] == {"min_size": 2, "max_size": 10}
    assert (done["level"], done["message"]) == ("DEBUG", "100 % done")
    assert failed["context"]["attempt"] == 1
    assert "OSError: broken" in failed["context"]["exception"]


def test_levels_are_known_in_any_case() -> None:
    assert LogLevel("warning") is LogLevel.WARNING
    assert LogLevel.WARNING.number == logging.WARNING
    with pytest.raises(ValueError, match="loud"):
        LogLevel("loud")


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (("info", "ready", {"a": 1}), {}),
        (("ready",), {"a": 1}),
        (("ready", {"a": 1}), {}),
        ((), {"level": "info", "event": "ready", "context": {"a": 1}}),
        ((), {"level": LogLevel.INFO, "message": "ready", "a": 1}),
        (("INFO",), {"event": "ready", "a": 1}),
    ],
)
@pytest.mark.parametrize("logger", ["none", "first", "named", "structured"])
def test_event_is_logged_in_every_calling_style(
    lines: Lines, arguments: tuple[Any, ...], keywords: dict[str, Any], logger: str
) -> None:
    if logger == "first":
        arguments = (get_pool_logger("app"), *arguments)
    elif logger == "structured":
        arguments = (get_pool_structured_logger("app"), *arguments)
    elif logger == "named":
        keywords = {**keywords, "logger": get_pool_logger("app")}
    log_pool_event(*arguments, **keywords)
    (line,) = lines()
    assert (line["level"], line["message"], line["context"]) == ("INFO", "ready", {"a": 1})


def test_event_named_like_a_level_is_still_an_event(lines: Lines) -> None:
    log_pool_event("error")
    (line,) = lines()
    assert (line["level"], line["message"]) == ("INFO", "error")


def test_helpers_take_the_logger_first_by_name_or_not_at_all(lines: Lines) -> None:
    logger = get_pool_logger("app")
    log_pool_initialization(logger=logger, min_size=2, max_size=10, duration_ms=125.5, success=True)
    log_pool_initialization(logger, 2, 10, 125.5)
    log_pool_initialization(min_size=2, max_size=10, duration_ms=125.5)
    assert [(line["level"], line["context"]) for line in lines()] == [
        ("INFO", {"min_size": 2, "max_size": 10, "duration_ms": 125.5})
    ] * 3


def test_failed_initialization_is_an_error_with_its_reason(lines: Lines) -> None:
    log_pool_initialization(min_size=2, success=False, error_message="refused")
    (line,) = lines()
    assert (line["level"], line["context"]["error_message"]) == ("ERROR", "refused")


def test_acquisition_is_a_debug_line(lines: Lines) -> None:
    log_connection_acquisition(get_pool_logger(), 2.3, 10, active_connections=5, idle_connections=5)
    (line,) = lines()
    assert line["level"] == "DEBUG"
    assert line["context"] == {
        "acquisition_time_ms": 2.3,
        "pool_size": 10,
        "active_connections": 5,
        "idle_connections": 5,
    }


def test_reconnection_attempt_tells_its_outcome(lines: Lines) -> None:
    log_reconnection_attempt(attempt=3, delay_seconds=4.0, success=False, error_message="refused")
    log_reconnection_attempt(None, 3, 4.0, success=True)
    log_reconnection_attempt(3, 4.0)
    assert [line["level"] for line in lines()] == ["WARNING", "INFO", "WARNING"]
    assert len({line["message"] for line in lines()}) == 3
    assert all(line["context"]["attempt"] == 3 for line in lines())


def test_statistics_are_logged_whole_or_by_number(lines: Lines) -> None:
    stats = PoolStatistics(total_connections=10, idle_connections=7)
    log_pool_statistics(stats)
    log_pool_statistics(stats=stats)
    log_pool_statistics(get_pool_logger(), total_connections=10, idle_connections=7)
    for line in lines():
        assert line["level"] == "INFO"
        assert line["context"]["total_connections"] == 10
        assert line["context"]["idle_connections"] == 7


def test_passwords_are_masked_wherever_they_stand(lines: Lines) -> None:
    url = "postgresql://alice:s3cret@h/d"
    log_pool_event(f"opening {url}", database_url="postgresql://alice:my s3cret/@h/d")
    log_pool_event("opening", {"nested": [{"note": f"see {url} there"}]}, password="s3cret")
    log_pool_event("opening", conninfo="host=h password = 's3cret word'", pgpassword="s3cret")
    log_pool_initialization(PoolConfig(database_url=url))
    get_pool_logger().error("failed: %s", f"{url}?sslpassword=s3cret", extra={"context": {"u": url}})
    try:
        raise OSError(url)
    except OSError:
        get_pool_logger().exception("failed")
    emit_native("info", url, {"u": url}, 1_700_000_000.0)
    found = lines()
    assert len(found) == 7
    assert "s3cret" not in json.dumps(found)
    assert "there" in json.dumps(found)


def test_handlers_with_other_formats_get_masked_lines_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="pqpool")
    log_pool_event("opening postgresql://alice:s3cret@h/d")
    emit_native("warning", "lost postgresql://alice:s3cret@h/d", {}, 1_700_000_000.0)
    assert len(caplog.messages) == 2
    assert "s3cret" not in caplog.text


def test_native_line_keeps_its_own_time(lines: Lines) -> None:
    emit_native("warning", "Connection lost", {"connection": 7}, 1_700_000_000.25)
    (line,) = lines()
    assert line == {
        "timestamp": "2023-11-14T22:13:20.250000+00:00",
        "level": "WARNING",
        "component": "connection_pool",
        "message": "Connection lost",
        "context": {"connection": 7},
    }


def test_line_stays_json_whatever_the_context_holds(lines: Lines) -> None:
    get_pool_logger().info(
        "x", extra={"context": {1: float("nan"), "t": datetime(2025, 1, 1, tzinfo=UTC), "o": {object}}}
    )
    get_pool_logger().info("y", extra={"context": "plain"})
    first, second = lines()
    assert first["context"]["1"] is None
    assert first["context"]["t"] == "2025-01-01T00:00:00+00:00"
    assert second["context"] == {"value": "plain"}


def test_file_gets_json_lines_of_its_level_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "pool.log"
    logger = get_pool_logger()
    level = logger.level
    handler = add_log_file(path, "info")
    try:
        log_pool_event("ready")
        log_pool_event("detail", level="debug")
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["ready"]
    assert isinstance(handler, logging.handlers.RotatingFileHandler)
    assert (handler.maxBytes, handler.backupCount) == (100 * 1024 * 1024, 5)


def test_line_stays_one_line_and_writable_whatever_it_says(tmp_path: Path) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError

    path = tmp_path / "pool.log"
    logger = get_pool_logger()
    level = logger.level
    handler = add_log_file(path)
    odd = "a\n\x1b[31m\x7f\x85\u2028\ud800"
    try:
        get_pool_logger().warning(odd, extra={"context": {odd: odd, "mute": Mute()}})
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert line.isprintable()
    assert json.loads(line)["message"] == odd


async def test_file_of_the_core_and_of_python_hold_the_same_lines(database_url: str, tmp_path: Path) -> None:
    logger = get_pool_logger()
    level = logger.level
    handler = add_log_file(tmp_path / "python", "debug")
    try:
        async with open_pool(
            database_url, log_file=str(tmp_path / "core"), log_level="debug", name="é\x7f\u2028"
        ) as pool:
            for _ in range(3):
                await pool.fetchval("SELECT 1")
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
    core = (tmp_path / "core").read_text(encoding="utf-8").splitlines()
    assert core == (tmp_path / "python").read_text(encoding="utf-8").splitlines()
    assert len(core) > 8 and all(json.loads(line)["context"]["pool"] == "é\x7f\u2028" for line in core)


async def test_lines_about_a_connection_tell_which_why_and_of_which_pool(
    server: ThrowawayServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pqpool")
    async with open_pool(server.url, name="shop") as shop, open_pool(server.url) as other:
        killed = [await pool.fetchval("SELECT pg_backend_pid()") for pool in (shop, other)]
        for pid in killed:
            server.sql(f"SELECT pg_terminate_backend({pid})")
        await wait_until_async(lambda: sum("lost" in r.message for r in caplog.records) >= 4)
    default = f"{server.host}:{server.port}/postgres"
    for pid, pool in zip(killed, ("shop", default), strict=True):
        lines = [r for r in caplog.records if r.context.get("backend_pid") == pid]  # type: ignore[attr-defined]
        assert [r.message.split(":")[0] for r in lines] == ["Connection lost", "Connection recycled"]
        for line in lines:
            context = line.context  # type: ignore[attr-defined]
            assert context["pool"] == pool and context["connection_id"].startswith("conn-")
            assert f"server process {pid}, pool {pool}" in line.message
        assert "terminating connection due to administrator command" in lines[0].context["reason"]  # type: ignore[attr-defined]
        assert lines[0].context["reason"] in lines[0].message  # type: ignore[attr-defined]
    assert {r.context["pool"] for r in caplog.records} == {"shop", default}  # type: ignore[attr-defined]


async def test_warning_outlives_a_flood_of_details_and_the_loss_is_told(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="pqpool")
    async with open_pool(database_url, max_size=2) as pool:
        held = await pool.acquire(leak_timeout=0.05)
        until = time.monotonic() + 10
        while pool.get_statistics().last_leak_time is None and time.monotonic() < until:
            async with pool.acquire():  # never yields to the loop
                pass
        for _ in range(2000):
            async with pool.acquire():
                pass
        await wait_until_async(lambda: any("leak" in r.message for r in caplog.records))
        await pool.release(held)
    dropped = [r for r in caplog.records if "log lines were dropped" in r.message]
    assert dropped and all(r.levelno == logging.WARNING for r in dropped)
    counts = dropped[0].context  # type: ignore[attr-defined]
    assert int(dropped[0].message.split()[0]) == counts["debug"] and set(counts) == {"debug", "pool"}


async def test_debug_can_be_turned_on_and_off_while_the_pool_runs(database_url: str) -> None:
    logger = get_pool_logger()
    level = logger.level
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.levelname)  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        logger.setLevel(logging.INFO)
        async with open_pool(database_url, max_size=2) as pool:
            await pool.fetchval("SELECT 1")
            assert "DEBUG" not in seen
            logger.setLevel(logging.DEBUG)

            async def told() -> bool:
                await pool.fetchval("SELECT 1")
                return "DEBUG" in seen

            await wait_until_async(told)
            logger.setLevel(logging.INFO)

            async def quiet() -> bool:
                seen.clear()
                logger.setLevel(logging.INFO)
                await pool.fetchval("SELECT 1")
                return pool._native_level == 1

            await wait_until_async(quiet)
            pool.set_log_level("error")
            async with pool.acquire(leak_timeout=0.02):
                await wait_until_async(lambda: pool.get_statistics().last_leak_time)
            assert seen == []
            with pytest.raises(ValueError, match="loud"):
                pool.set_log_level("loud")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
