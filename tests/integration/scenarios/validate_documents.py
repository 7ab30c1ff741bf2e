#!/usr/bin/env python3
"""A validation script in the style of the pool's documents: ``./dev scenario`` runs it unchanged.

It knows nothing of this repository but the names the documents use, and drives its server through docker.
"""

import asyncio
import subprocess
import sys
import time

from src.connection_pool.exceptions import PoolConfigurationError, PoolTimeoutError
from src.connection_pool.health import PoolHealthStatus
from src.connection_pool.statistics import PoolStatistics

from src.connection_pool import ConnectionPoolManager, PoolConfig

DATABASE_URL = "postgresql+asyncpg://appuser:apppass@localhost:5432/appdb"

failures: list[str] = []


def expect(what: str, held: bool, seen: object = "") -> None:
    print(f"{'ok    ' if held else 'FAILED'} {what}{f': {seen}' if seen != '' else ''}", flush=True)
    if not held:
        failures.append(what)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def config(**options: object) -> PoolConfig:
    return PoolConfig(database_url=DATABASE_URL, **{"min_size": 2, "max_size": 10, **options})


async def initialization() -> None:
    manager = ConnectionPoolManager()
    start = time.time()
    await manager.initialize(config())
    took = time.time() - start
    stats = manager.get_statistics()
    health = await manager.health_check()
    expect("initialization under 2 s", took < 2.0, f"{took:.3f} s")
    expect("two connections, both idle", stats.total_connections == 2 and stats.idle_connections == 2)
    expect("statistics are a PoolStatistics", isinstance(stats, PoolStatistics))
    expect("a fresh pool has no acquisitions", stats.total_acquisitions == 0)
    expect("health is healthy", health.status == "healthy" and health.status == PoolHealthStatus.HEALTHY)
    expect("database is connected", health.database_connected and health.database.status == "connected")
    expect("state is healthy", manager._state.value == "healthy", manager._state.value)
    await manager.shutdown()
    expect("state is terminated", manager._state.value == "terminated", manager._state.value)


async def use() -> None:
    m = ConnectionPoolManager()
    await m.initialize(config())
    async with m.acquire() as conn:
        expect("SELECT 1 through the manager", await conn.fetchval("SELECT 1") == 1)
    async with m.pool.acquire() as conn:
        expect("parameters through its pool", await conn.fetchval("SELECT $1 + $2", 10, 20) == 30)
        row = await conn.fetchrow("SELECT 7 AS number, 'seven' AS name")
        expect("a record by index and by name", row[0] == 7 and row["name"] == "seven")

    async def task() -> None:
        async with m.acquire() as conn:
            await conn.fetchval("SELECT pg_sleep(0.01)")

    await asyncio.gather(*[task() for _ in range(100)])
    dump = m.get_statistics().model_dump()
    expect("at most ten at once", dump["peak_active_connections"] <= 10, dump["peak_active_connections"])
    expect("nobody waits", dump["waiting_requests"] == 0)
    expect("all given back", dump["total_acquisitions"] == dump["total_releases"], dump["total_acquisitions"])
    health = (await m.health_check()).model_dump()
    expect(
        "a health report has its fields", {"status", "timestamp", "database", "uptime_seconds"} <= set(health)
    )
    await m.shutdown()


async def exhaustion() -> None:
    m = ConnectionPoolManager()
    await m.initialize(config(max_size=2))
    held = [await m.acquire(), await m.acquire()]
    try:
        await m.acquire(timeout=0.2)
        expect("a third acquire times out", False)
    except PoolTimeoutError as error:
        expect("a third acquire times out", isinstance(error, asyncio.TimeoutError))
    for conn in held:
        await m.release(conn)
    await m.shutdown()


async def outage() -> None:
    container = docker("ps", "-q", "-f", "name=postgres")
    expect("docker knows the container", container != "", container)

    m = ConnectionPoolManager()
    await m.initialize(config())

    docker("stop", container)
    await asyncio.sleep(2)
    health = await m.health_check()
    expect(
        "unhealthy or degraded while stopped", health.status in ("unhealthy", "degraded"), health.status.value
    )
    expect("database not connected", health.database.status != "connected", health.database.status)

    async def request() -> int:
        async with m.acquire(timeout=30.0) as conn:
            return await conn.fetchval("SELECT 1")

    waiting = asyncio.create_task(request())  # a user's request that came during the outage
    await asyncio.sleep(1)
    docker("start", container)
    back = time.time()
    while time.time() - back < 30:
        health = await m.health_check()
        print(f"       {time.time() - back:.1f} s: {health.status.value}, state {m._state.value}", flush=True)
        if health.status == "healthy":
            break
        await asyncio.sleep(1)
    took = time.time() - back
    print(f"recovery time: {took:.2f} s")
    expect(
        "healthy within 3 s of the server's return",
        health.status == "healthy" and took <= 3.0,
        f"{took:.2f} s",
    )
    expect("the request that waited is answered", await waiting == 1)

    async with m.pool.acquire() as conn:
        expect("SELECT 1 after the outage", await conn.fetchval("SELECT 1") == 1)
    health = await m.health_check()
    expect(
        "still healthy, not degraded by the outage's error", health.status == "healthy", health.status.value
    )
    expect("database connected again", health.database_connected)
    stats = m.get_statistics()
    expect(
        "total is idle and active",
        stats.total_connections == stats.idle_connections + stats.active_connections,
    )
    await m.shutdown()


async def shutdown() -> None:
    m = ConnectionPoolManager()
    await m.initialize(config())

    async def statement() -> str:
        async with m.acquire() as conn:
            await conn.fetchval("SELECT pg_sleep(2)")
        return "completed"

    running = asyncio.create_task(statement())
    await asyncio.sleep(0.2)
    start = time.time()
    await m.shutdown(timeout=30.0)
    took = time.time() - start
    expect(
        "shutdown waits for the statement",
        1.5 <= took <= 3.0 and await running == "completed",
        f"{took:.2f} s",
    )


def configuration() -> None:
    try:
        config(min_size=10, max_size=5)
        expect("min 10, max 5 is refused", False)
    except PoolConfigurationError as error:
        words = str(error)
        expect(
            "min 10, max 5 is refused",
            "min_size (10) cannot be greater than max_size (5)" in words
            and "max_size (5) must be >= min_size (10)" in words,
        )


async def main() -> int:
    configuration()
    for scenario in (initialization, use, exhaustion, outage, shutdown):
        print(f"== {scenario.__name__}", flush=True)
        try:
            await scenario()
        except Exception as error:
            expect(f"{scenario.__name__} ends without an error", False, repr(error))
    print("all expectations held" if not failures else f"{len(failures)} failed: {', '.join(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
