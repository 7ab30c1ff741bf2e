"""The ten scenarios: what a service does with a pool, from its start to an outage and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from .. import ConnectionPoolError, ConnectionPoolManager, PoolConfig, PoolConfigurationError
from .measure import Stopwatch, percentile, wait_until
from .registry import Check, Probe


async def initialization(probe: Probe) -> None:
    manager = ConnectionPoolManager()
    config = probe.target.config(min_size=2, max_size=10)
    with Stopwatch() as watch:
        await manager.initialize(config)
    try:
        statistics = manager.get_statistics()
        health = await manager.health_check()
    finally:
        await manager.shutdown()
    probe.below("took", watch.seconds, 2, "s")
    probe.equal("total", statistics.total_connections, 2)
    probe.equal("idle", statistics.idle_connections, 2)
    probe.equal("health", health.status.value, "healthy")
    probe.equal("database", text(health.database.status), "connected")


async def acquisition(probe: Probe) -> None:
    async with probe.target.pool() as manager:
        took = [await one_lease_ms(manager) for _ in range(20)]
        statistics = manager.get_statistics()
    probe.below("p95", percentile(took, 95), 10, "ms")
    probe.at_least("acquisitions", statistics.total_acquisitions, 20)
    probe.at_least("releases", statistics.total_releases, 20)
    probe.above("average wait", statistics.avg_acquisition_time_ms, 0, "ms")


async def outage(probe: Probe) -> None:
    async with probe.target.pool() as manager:
        probe.say("stopping the server")
        await probe.target.stop_server()
        await asyncio.sleep(2)  # the scenario's own: nothing touches the pool for two seconds
        during = await manager.health_check()
        probe.one_of("health after 2 s", during.status.value, ("unhealthy", "degraded"))
        probe.say("starting the server")
        await probe.target.start_server()
        with Stopwatch() as watch:
            await wait_until(lambda: is_healthy(manager), 30, 1.0)
        probe.equal("health", (await manager.health_check()).status.value, "healthy")
        probe.below("healthy after", watch.seconds, 30, "s")
        async with manager.acquire() as conn:
            probe.equal("SELECT 1", await conn.fetchval("SELECT 1"), 1)


async def concurrent_load(probe: Probe) -> None:
    async with probe.target.pool(max_size=10) as manager:

        async def task() -> bool:
            async with manager.acquire() as conn:
                await conn.fetchval("SELECT pg_sleep(0.01)")
            return True

        with Stopwatch() as watch:
            results = await asyncio.gather(*(task() for _ in range(100)), return_exceptions=True)
        statistics = manager.get_statistics()
    probe.equal("tasks done", sum(result is True for result in results), 100)
    probe.at_most("peak active", statistics.peak_active_connections, 10)
    probe.equal("waiting", statistics.waiting_requests, 0)
    probe.note("took", watch.ms, "ms")


async def graceful_shutdown(probe: Probe) -> None:
    async with probe.target.pool() as manager:

        async def work() -> str:
            async with manager.acquire() as conn:
                await conn.fetchval("SELECT pg_sleep(5)")
            return "completed"

        statement = asyncio.create_task(work())
        await wait_until(lambda: manager.get_statistics().active_connections == 1, 5, 0.001)
        probe.say("shutting down with a 5 s statement under way")
        with Stopwatch() as watch:
            await manager.shutdown(timeout=30.0)
        (result,) = await asyncio.gather(statement, return_exceptions=True)
    probe.equal("statement", str(result), "completed")
    probe.between("shutdown took", watch.seconds, 4.5, 6.0, "s")
    probe.equal("state", manager.state.value, "terminated")


async def health_performance(probe: Probe) -> None:
    async with probe.target.pool() as manager:
        took = await health_checks_ms(manager, 100)
    probe.below("p99", percentile(took, 99), 5, "ms")


CONFIGURATION_ERRORS: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    (
        {"min_size": 10, "max_size": 5},
        (
            "min_size (10) cannot be greater than max_size (5)",
            "max_size (5) must be >= min_size (10)",
            "Suggestion: Increase POOL_MAX_SIZE to 10 or reduce POOL_MIN_SIZE to 5",
        ),
    ),
    ({"database_url": "invalid://url"}, ("database_url must use postgresql",)),
    ({"min_size": -1}, ("min_size must be positive",)),
    ({"timeout": 600.0}, ("timeout must be less than 300.0 seconds",)),
    ({"timeout": 0.0}, ("timeout must be greater than 0.0",)),
)


async def configuration(probe: Probe) -> None:
    for options, wanted in CONFIGURATION_ERRORS:
        described = ", ".join(f"{name}={value}" for name, value in options.items())
        try:
            PoolConfig(**{"database_url": "postgresql://nobody@localhost/nothing", **options})
        except PoolConfigurationError as error:
            missing = [words for words in wanted if words not in str(error)]
            both = isinstance(error, ConnectionPoolError) and isinstance(error, ValueError)
            result = (
                "refused" if both and not missing else f"refused without {missing or 'being a ValueError'}"
            )
        else:
            result = "accepted"
        probe.equal(described, result, "refused")


async def leak(probe: Probe) -> None:
    with LeakWarnings() as warnings:
        async with probe.target.pool(leak_detection_timeout=10.0) as manager:
            probe.say("holding a connection for 12 s")
            async with manager.acquire() as conn:
                await conn.fetchval("SELECT 1")
                await asyncio.sleep(12)
            await wait_until(lambda: manager.get_statistics().idle_connections == 2, 2)
            statistics = manager.get_statistics()
    probe.equal("warnings", len(warnings.messages), 1)
    probe.equal("idle after the return", statistics.idle_connections, 2)


async def statistics(probe: Probe) -> None:
    async with probe.target.pool() as manager:
        held = [await manager.acquire() for _ in range(5)]
        during = manager.get_statistics()
        for conn in held:
            await manager.release(conn)
        after = manager.get_statistics()
        with Stopwatch() as watch:
            manager.get_statistics()
            manager.get_statistics()
    probe.equal("active", during.active_connections, 5)
    probe.at_least("total", during.total_connections, 5)
    probe.at_least("peak active, later", after.peak_active_connections, 5)
    probe.below("two snapshots", watch.ms, 1, "ms")


async def exhaustion(probe: Probe) -> None:
    async with probe.target.pool(max_size=5) as manager:
        holding = 0

        async def hold() -> None:
            nonlocal holding
            async with manager.acquire():
                holding += 1
                await asyncio.sleep(3)

        holders = [asyncio.create_task(hold()) for _ in range(5)]
        await wait_until(lambda: holding == 5, 2, 0.001)
        probe.say("five hold for 3 s, a sixth waits")
        with Stopwatch() as watch:
            conn = await manager.acquire()
        probe.equal("SELECT 1", await conn.fetchval("SELECT 1"), 1)
        await manager.release(conn)
        await asyncio.gather(*holders)
    probe.at_least("the sixth waited", watch.seconds, 2.5, "s")


async def one_lease_ms(manager: ConnectionPoolManager) -> float:
    """Acquire, ``SELECT 1`` and release: the first statement carries the connection's validation."""
    with Stopwatch() as watch:
        async with manager.acquire() as conn:
            value = await conn.fetchval("SELECT 1")
    if value != 1:
        raise AssertionError(f"SELECT 1 returned {value!r}")
    return watch.ms


async def health_checks_ms(manager: ConnectionPoolManager, count: int) -> list[float]:
    """How long each of ``count`` health checks takes, other tasks running between them."""
    took = []
    for _ in range(count):
        with Stopwatch() as watch:
            await manager.health_check()
        took.append(watch.ms)
        await asyncio.sleep(0)
    return took


async def is_healthy(manager: ConnectionPoolManager) -> bool:
    return (await manager.health_check()).status.value == "healthy"


def text(value: object) -> str:
    """A status as text, whether it is an enum or a str already."""
    return str(getattr(value, "value", value))


class LeakWarnings(logging.Handler):
    """Collects the leak warnings that arrive in the logger ``pqpool`` while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "Potential connection leak detected" in message:
            self.messages.append(message)

    def __enter__(self) -> LeakWarnings:
        logging.getLogger("pqpool").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("pqpool").removeHandler(self)


SCENARIOS: tuple[Check, ...] = (
    Check(
        "1",
        "initialization",
        "< 2 s; total 2, idle 2; healthy, connected",
        "min_size 2, max_size 10, one run",
        initialization,
    ),
    Check(
        "2",
        "acquisition",
        "p95 < 10 ms; acquisitions and releases >= 20; average > 0",
        "20 times acquire, SELECT 1, release",
        acquisition,
    ),
    Check(
        "3",
        "outage",
        "unhealthy or degraded after 2 s; healthy < 30 s after the server is back; SELECT 1 works",
        "the server stopped and started, health polled once a second",
        outage,
        outage=True,
    ),
    Check(
        "4",
        "concurrent load",
        "all done; peak active <= 10; waiting 0",
        "100 tasks at once, each SELECT pg_sleep(0.01)",
        concurrent_load,
    ),
    Check(
        "5",
        "graceful shutdown",
        "the statement completes; shutdown returns after 4.5 to 6.0 s",
        "shutdown while SELECT pg_sleep(5) is under way",
        graceful_shutdown,
    ),
    Check("6", "health performance", "p99 < 5 ms", "100 health checks", health_performance),
    Check(
        "7",
        "configuration",
        "each refused with its documented words",
        f"{len(CONFIGURATION_ERRORS)} wrong configurations",
        configuration,
    ),
    Check(
        "8",
        "leak",
        "one warning in the log; idle 2 after the return",
        "leak_detection_timeout 10 s, a lease held 12 s",
        leak,
    ),
    Check(
        "9",
        "statistics",
        "active 5, total >= 5; later peak >= 5; two snapshots < 1 ms",
        "five connections held at once",
        statistics,
    ),
    Check(
        "10",
        "exhaustion",
        "the sixth waits >= 2.5 s and succeeds",
        "max_size 5, five held 3 s",
        exhaustion,
    ),
)
