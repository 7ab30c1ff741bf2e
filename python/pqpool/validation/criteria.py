"""The thirteen success criteria, each measured."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from typing import Any

from .. import ConnectionPoolManager
from .log_check import log_messages
from .measure import Stopwatch, percentile, run_subject, wait_until
from .outages import outage_under_load, recovery
from .registry import Check, Probe
from .scenarios import concurrent_load, health_checks_ms, one_lease_ms
from .soak import soak

SOAK_SECONDS = 15.0


async def initialization_time(probe: Probe) -> None:
    took = []
    for _ in range(20):
        manager = ConnectionPoolManager()
        with Stopwatch() as watch:
            await manager.initialize(probe.target.config(min_size=2, max_size=10))
        took.append(watch.seconds)
        await manager.shutdown()
    probe.below("p95", percentile(took, 95), 2, "s")
    probe.note("p50", percentile(took, 50) * 1000, "ms")


async def acquisition_time(probe: Probe) -> None:
    async with probe.target.pool(validation="always") as manager:
        took = [await one_lease_ms(manager) for _ in range(1000)]
    probe.below("p95", percentile(took, 95), 10, "ms")
    probe.note("p50", percentile(took, 50), "ms")


async def health_check_time(probe: Probe) -> None:
    """With tasks that use the pool between the checks: health is asked of services at work."""
    async with probe.target.pool() as manager:
        going_on = True

        async def work() -> None:
            while going_on:
                await one_lease_ms(manager)

        workers = [asyncio.create_task(work()) for _ in range(5)]
        took = await health_checks_ms(manager, 10_000)
        going_on = False
        await asyncio.gather(*workers)
    probe.below("p99", percentile(took, 99), 10, "ms")
    probe.note("p50", percentile(took, 50), "ms")


async def shutdown_time(probe: Probe) -> None:
    """Ten pools at once, each shut down with statements under way; then one whose lease nobody returns."""
    seconds_under_way = [0.5 + 0.25 * number for number in range(10)]
    probe.say("ten pools with statements under way")
    shutdowns = await asyncio.gather(*(shutdown_under_way(probe, seconds) for seconds in seconds_under_way))
    probe.below("p99", percentile([took for took, _ in shutdowns], 99), 30, "s")
    probe.equal(
        "statements completed", sum(completed for _, completed in shutdowns), 4 * len(seconds_under_way)
    )

    probe.say("a lease that nobody returns")
    name = probe.target.session_name()
    async with probe.target.observer() as observer:
        async with probe.target.pool(name) as manager:
            held = await manager.acquire()  # a lease that nobody refers to would be given back
            with Stopwatch() as watch:
                await manager.shutdown(timeout=2.0)
            await manager.release(held)
        probe.between("lease never returned, timeout 2 s", watch.seconds, 1.9, 3, "s")
        probe.equal("its sessions after", await probe.target.sessions_settle_at(observer, name, 0), 0)


async def shutdown_under_way(probe: Probe, seconds: float) -> tuple[float, int]:
    """How long a shutdown takes while four statements run, and how many of them completed."""

    async def statement(manager: ConnectionPoolManager) -> bool:
        async with manager.acquire() as conn:
            await conn.fetchval("SELECT pg_sleep($1)", seconds)
        return True

    async with probe.target.pool(min_size=4) as manager:
        statements = [asyncio.create_task(statement(manager)) for _ in range(4)]
        await wait_until(lambda: manager.get_statistics().active_connections == 4, 5, 0.001)
        with Stopwatch() as watch:
            await manager.shutdown(timeout=30.0)
        results = await asyncio.gather(*statements, return_exceptions=True)
    return watch.seconds, sum(result is True for result in results)


async def no_leaks(probe: Probe) -> None:
    measured = await soak(probe.target, SOAK_SECONDS, probe.say)
    for limit in measured.limits():
        probe.at_most(limit.name, limit.value, limit.most, limit.unit)
    probe.note("memory slope", measured.memory_slope() / 1024, "KiB/s")
    probe.note("operations", measured.operations)
    probe.note("judged for", measured.seconds, "s")


async def statistics_staleness(probe: Probe) -> None:
    """After each acquire and each release, the next snapshot must show it."""
    took = []
    stale = 0
    async with probe.target.pool() as manager:
        before = manager.get_statistics()
        for turn in range(1, 1001):
            conn = await manager.acquire()
            with Stopwatch() as watch:
                seen = manager.get_statistics()
            took.append(watch.ms)
            stale += (
                seen.active_connections != 1 or seen.total_acquisitions != before.total_acquisitions + turn
            )
            if turn % 10 == 0:
                await conn.fetchval("SELECT 1")
            await manager.release(conn)
            with Stopwatch() as watch:
                seen = manager.get_statistics()
            took.append(watch.ms)
            stale += seen.active_connections != 0 or seen.total_releases != before.total_releases + turn
    probe.equal("snapshots that missed a change", stale, 0)
    probe.below("p99 until visible", percentile(took, 99), 1, "ms")
    probe.note("snapshots", len(took))


async def memory(probe: Probe) -> None:
    bare = await median_resident(probe, "bare")
    with_asyncio = await median_resident(probe, "bare_asyncio")
    used = await median_resident(probe, "memory")
    probe.below("over a bare interpreter", (used - bare) / 2**20, 100, "MB")
    probe.note("over one that runs asyncio", (used - with_asyncio) / 2**20, "MB")


async def median_resident(probe: Probe, subject: str) -> float:
    """The resident memory of a subject, the median of three processes."""
    answers = [await run_subject(subject, probe.target.url) for _ in range(3)]
    if any(answer.get("connections", 10) != 10 for answer in answers):
        raise AssertionError("the pool under measurement did not have all of its 10 connections open")
    return statistics.median(float(answer["resident_bytes"]) for answer in answers)


async def startup_overhead(probe: Probe) -> None:
    """An installed package has its byte code cached; here the first start makes that, and is not judged."""
    overheads, imports, connects = [], [], []
    with tempfile.TemporaryDirectory(prefix="pqpool-bytecode-") as cache:

        async def one_start() -> dict[str, Any]:
            url = probe.target.url
            return await run_subject("startup", url, PYTHONPYCACHEPREFIX=cache, PYTHONDONTWRITEBYTECODE="")

        first = await one_start()
        for number in range(20):
            probe.say(f"start {number + 1} of 20")
            answer = await one_start()
            overheads.append((answer["ready_s"] - answer["raw_connect_s"]) * 1000)
            imports.append(answer["import_s"] * 1000)
            connects.append(answer["raw_connect_s"] * 1000)
    probe.below("median", percentile(overheads, 50), 200, "ms")
    probe.note("p95", percentile(overheads, 95), "ms")
    probe.note("the very first, without byte code", (first["ready_s"] - first["raw_connect_s"]) * 1000, "ms")
    probe.note("of that the import", percentile(imports, 50), "ms")
    probe.note("the bare connect taken off", percentile(connects, 50), "ms")


async def health_check_rate(probe: Probe) -> None:
    async with probe.target.pool() as manager:
        checks = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < 1.0:
            for _ in range(100):
                await manager.health_check()
            checks += 100
    probe.above("rate", checks / elapsed, 1000, "/s")


CRITERIA: tuple[Check, ...] = (
    Check("SC-001", "initialization", "< 2 s p95", "20 pools initialized, min_size 2", initialization_time),
    Check(
        "SC-002",
        "acquisition",
        "< 10 ms p95, validation included",
        "1,000 times acquire, SELECT 1 (whose packet carries the validation), release",
        acquisition_time,
    ),
    Check(
        "SC-003",
        "health check",
        "< 10 ms p99",
        "10,000 checks, five tasks using the pool between them",
        health_check_time,
    ),
    Check(
        "SC-004",
        "recovery",
        "< 30 s p95 after the server is back; < 1 s where a request waits",
        "the server stopped for 1, 2 and 3 s without traffic, and once with a request waiting",
        recovery,
        outage=True,
        limit_seconds=240,
    ),
    Check(
        "SC-005",
        "shutdown",
        "< 30 s p99 with statements under way",
        "10 shutdowns with 4 statements each under way, and one whose lease never comes back",
        shutdown_time,
    ),
    Check(
        "SC-006",
        "no leaks",
        "memory, descriptors, sessions and objects stay level",
        f"the leak test's load for {SOAK_SECONDS:g} s; "
        "pytest tests/integration/test_leak_detection.py --duration=86400 runs it for 24 h",
        no_leaks,
        limit_seconds=180,
    ),
    Check(
        "SC-007",
        "statistics",
        "staleness < 1 ms",
        "a snapshot right after each of 1,000 acquires and releases",
        statistics_staleness,
    ),
    Check(
        "SC-008",
        "concurrency",
        "100 concurrent requests, no deadlock",
        "100 tasks on 10 connections, each SELECT pg_sleep(0.01)",
        concurrent_load,
        limit_seconds=30,
    ),
    Check(
        "SC-009",
        "no crash",
        "no crash in outage and recovery",
        "30 tasks in a process of its own, a fast and an immediate stop; exit code, core dumps, counts",
        outage_under_load,
        outage=True,
        limit_seconds=180,
    ),
    Check(
        "SC-010",
        "log messages",
        "every event in the log, with its fields",
        "each event provoked; each line of the pools' log files, and of the logger, parsed",
        log_messages,
        limit_seconds=150,
    ),
    Check(
        "SC-011",
        "memory",
        "< 100 MB for max_size 10",
        "resident memory of a process with 10 connections open and used, less a bare interpreter's; "
        "medians of 3",
        memory,
    ),
    Check(
        "SC-012",
        "start-up overhead",
        "< 200 ms",
        "20 new processes that run asyncio: import, manager and initialize, less one bare libpq connect; "
        "the median",
        startup_overhead,
    ),
    Check(
        "SC-013", "health check rate", "> 1000/s", "as many checks as one second allows", health_check_rate
    ),
)
