"""A server that goes away and comes back: noticed without traffic, survived, recovered from at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqpool import (
    ConnectionLostError,
    ConnectionPoolError,
    ConnectionPoolManager,
    ConnectionValidationError,
    PoolState,
    PoolTimeoutError,
)
from pqpool.throwaway import StopMode, ThrowawayServer
from support.fault_proxy import Action, FaultProxy
from support.pools import assert_sound, named, open_pool, sessions_of
from support.wait import wait_until, wait_until_async

LOST = (ConnectionLostError, ConnectionValidationError)


@pytest.fixture(scope="module")
def outage_server() -> Iterator[ThrowawayServer]:
    with ThrowawayServer() as server:
        yield server


@pytest.fixture
def flaky(outage_server: ThrowawayServer) -> Iterator[ThrowawayServer]:
    """A server that the test may leave stopped."""
    outage_server.start()
    yield outage_server


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def is_healthy(manager: ConnectionPoolManager) -> bool:
    return (await manager.health_check()).status == "healthy"


async def time_until_unhealthy(manager: ConnectionPoolManager) -> float:
    """The moment at which health first tells of an outage; nothing but health is asked."""

    async def is_unhealthy() -> bool:
        return not await is_healthy(manager)

    await wait_until_async(is_unhealthy, 5.0, interval=0.002)
    return time.monotonic()


async def assert_same_sessions(server: ThrowawayServer, name: str, manager: ConnectionPoolManager) -> None:
    """The server has a session for each of the pool's connections, and no other."""

    def both() -> bool:
        return len(sessions_of(server, name)) == manager.get_statistics().total_connections

    await asyncio.to_thread(wait_until, both)


# ---- noticing ----


@pytest.mark.parametrize("action", [Action.CUT, Action.RESET])
async def test_closed_sockets_are_in_health_within_100_ms_without_traffic(server, proxy: FaultProxy, action):
    async with open_pool(proxy.url(server.url), min_size=4, max_size=4) as manager:
        assert await is_healthy(manager)
        proxy.refuse()
        watch = asyncio.ensure_future(time_until_unhealthy(manager))
        await asyncio.sleep(0)
        began = time.monotonic()
        await asyncio.to_thread(proxy.strike_all, action)
        noticed = await asyncio.wait_for(watch, 5.0)
        assert noticed - began < 0.1
        await wait_until_async(lambda: manager.get_statistics().total_connections == 0, 1.0)
        assert (await manager.health_check()).database.status == "disconnected"


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_stopped_server_is_in_health_within_100_ms_without_traffic(flaky, mode: StopMode):
    async with open_pool(flaky.url, min_size=4, max_size=4) as manager:
        watch = asyncio.ensure_future(time_until_unhealthy(manager))
        await asyncio.to_thread(flaky.stop, mode)
        stopped = time.monotonic()
        noticed = await asyncio.wait_for(watch, 5.0)
        assert noticed - stopped < 0.1
        await wait_until_async(lambda: manager.state is not PoolState.HEALTHY, 0.1)


async def test_a_held_connection_that_is_lost_is_counted_until_its_release(server):
    async with open_pool(named(server.url, "held"), min_size=2, max_size=2) as manager:
        async with manager.acquire() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            server.sql(f"SELECT pg_terminate_backend({backend})")
            await wait_until_async(lambda: manager.get_statistics().connections_lost == 1, 1.0)
            s = manager.get_statistics()
            assert s.active_connections == 1
            assert s.total_connections == s.idle_connections + s.active_connections
            with pytest.raises(LOST):
                await connection.fetchval("SELECT 1")
        await assert_sound(manager)
        await assert_same_sessions(server, "held", manager)


# ---- surviving ----


async def test_a_killed_idle_session_is_replaced_and_nobody_notices(server):
    async with open_pool(named(server.url, "idle"), min_size=3, max_size=3) as manager:
        for _ in range(5):
            server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idle'"
            )
            assert await manager.fetchval("SELECT 1") == 1
        await wait_until_async(lambda: is_healthy(manager), 2.0)
        await assert_sound(manager)
        await assert_same_sessions(server, "idle", manager)


async def test_a_backend_that_is_killed_hard_fails_its_statement_and_the_pool_recovers(flaky):
    """The server then ends every session of its own accord, and comes back by itself."""
    async with open_pool(named(flaky.url, "hard"), min_size=3, max_size=3, timeout=20.0) as manager:
        async with manager.acquire() as connection:
            victim = await connection.fetchval("SELECT pg_backend_pid()")
            statement = asyncio.ensure_future(connection.fetchval("SELECT pg_sleep(30)"))
            await asyncio.sleep(0)
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(LOST):
                await statement
        await wait_until_async(lambda: manager.get_statistics().connections_lost >= 3)
        assert await manager.fetchval("SELECT 1") == 1
        await wait_until_async(lambda: is_healthy(manager), 5.0)
        await assert_sound(manager)
        await assert_same_sessions(flaky, "hard", manager)


@pytest.mark.parametrize("mode", ["immediate", "fast"])
async def test_a_restart_amid_a_hundred_statements_loses_none_of_them(flaky, mode: StopMode):
    ended: dict[int, int | Exception] = {}
    async with open_pool(named(flaky.url, "busy"), min_size=10, max_size=10, timeout=30.0) as manager:

        async def run(number: int) -> None:
            statement = f"SELECT {number} FROM pg_sleep(0.1)"
            try:
                ended[number] = await manager.fetchval(statement)
            except ConnectionPoolError as error:
                ended[number] = error

        tasks = [asyncio.ensure_future(run(number)) for number in range(100)]
        await wait_until_async(lambda: len(ended) > 10)
        await asyncio.to_thread(flaky.restart, mode)
        done, hanging = await asyncio.wait(tasks, timeout=30.0)
        assert not hanging
        for task in done:
            task.result()
        errors = [end for end in ended.values() if isinstance(end, Exception)]
        assert all(isinstance(error, LOST) for error in errors)
        assert len(errors) <= 10, "only what was running can have been lost"
        assert all(end == number for number, end in ended.items() if not isinstance(end, Exception))
        await assert_sound(manager)
        await wait_until_async(lambda: is_healthy(manager), 2.0)
        await assert_same_sessions(flaky, "busy", manager)


async def test_outages_cost_no_descriptors_and_no_sessions(flaky):
    async with open_pool(named(flaky.url, "cycle"), min_size=5, max_size=5, timeout=20.0) as manager:
        await manager.fetchval("SELECT 1")  # what is made on first use is there now
        before = open_descriptors()
        for mode in ("immediate", "fast", "immediate"):
            flaky.stop(mode)
            await wait_until_async(lambda: manager.get_statistics().total_connections == 0, 2.0)
            waiting = asyncio.ensure_future(manager.fetchval("SELECT 1"))
            await asyncio.to_thread(flaky.start)
            assert await waiting == 1
            await wait_until_async(lambda: manager.get_statistics().idle_connections == 5, 5.0)
        await wait_until_async(lambda: open_descriptors() <= before, 2.0)
        await assert_sound(manager)
        await assert_same_sessions(flaky, "cycle", manager)


# ---- waiting and recovering ----


async def test_the_pool_recovers_within_a_second_where_somebody_waits_and_is_healthy_at_once(flaky):
    async with open_pool(named(flaky.url, "back"), min_size=2, max_size=10, timeout=30.0) as manager:
        flaky.stop("immediate")
        waiting = [asyncio.ensure_future(manager.fetchval("SELECT $1::int", n)) for n in range(20)]
        # Long enough for the backoff to have grown beyond what recovery may take.
        await wait_until_async(lambda: manager.get_statistics().connection_failures >= 4)
        assert manager.get_statistics().waiting_requests == 20
        await asyncio.to_thread(flaky.start)
        accepting = time.monotonic()
        assert await asyncio.gather(*waiting) == list(range(20))
        assert time.monotonic() - accepting < 1.0
        await wait_until_async(lambda: is_healthy(manager), accepting + 1.0 - time.monotonic())
        assert manager.state is PoolState.HEALTHY
        await assert_sound(manager)
        await assert_same_sessions(flaky, "back", manager)


async def test_a_pool_whose_health_is_asked_recovers_within_seconds_though_nobody_waits(flaky):
    async with open_pool(flaky.url, min_size=2, max_size=4) as manager:
        flaky.stop("immediate")
        await wait_until_async(lambda: manager.get_statistics().connection_failures >= 2, 15.0)
        await asyncio.to_thread(flaky.start)
        await wait_until_async(lambda: is_healthy(manager), 3.0, interval=0.1)
        await assert_sound(manager)


async def test_acquires_end_by_their_timeout_and_on_time_while_the_server_is_down(flaky):
    async with open_pool(flaky.url, min_size=2, max_size=4, timeout=0.8) as manager:
        flaky.stop("immediate")
        await wait_until_async(lambda: manager.get_statistics().total_connections == 0, 2.0)

        async def wait_for(patience: float | None) -> float:
            began = time.monotonic()
            with pytest.raises(PoolTimeoutError, match="not reachable"):
                await manager.acquire(timeout=patience)
            return time.monotonic() - began

        waits = await asyncio.gather(wait_for(0.2), wait_for(None), wait_for(1.4))
        for waited, patience in zip(waits, (0.2, 0.8, 1.4), strict=True):
            assert abs(waited - patience) < 0.1
        assert manager.get_statistics().waiting_requests == 0
        await asyncio.to_thread(flaky.start)
        assert await manager.fetchval("SELECT 1") == 1
        await assert_sound(manager)


async def test_a_statement_whose_connection_has_to_be_replaced_keeps_to_its_own_timeout(flaky):
    async with open_pool(flaky.url, timeout=10.0) as manager:
        async with manager.acquire() as connection:
            flaky.stop("immediate")
            await wait_until_async(lambda: manager.get_statistics().connections_lost == 1, 2.0)
            began = time.monotonic()
            with pytest.raises(PoolTimeoutError):
                await connection.fetchval("SELECT 1", timeout=0.4)
            assert abs(time.monotonic() - began - 0.4) < 0.1
        await asyncio.to_thread(flaky.start)
        assert await manager.fetchval("SELECT 1") == 1
        await assert_sound(manager)


async def test_a_lease_that_outlives_the_outage_goes_on_with_another_connection(flaky):
    async with open_pool(flaky.url, timeout=20.0) as manager, manager.acquire() as connection:
        flaky.stop("immediate")
        await wait_until_async(lambda: manager.get_statistics().connections_lost == 1, 2.0)
        statement = asyncio.ensure_future(connection.fetchval("SELECT 6 * 7"))
        await asyncio.to_thread(flaky.start)
        assert await statement == 42
        assert manager.get_statistics().leases_out == 1
