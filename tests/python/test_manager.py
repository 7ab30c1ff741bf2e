"""ConnectionPoolManager against a real server: life, acquire, statistics, steering, and what errors tell."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator

import pytest

from pqpool import (
    Connection,
    ConnectionPoolManager,
    InvalidArgumentError,
    PoolClosedError,
    PoolConfig,
    PoolConfigurationError,
    PoolInitializationError,
    PoolNotInitializedError,
    PoolState,
    PoolStatistics,
    PoolTimeoutError,
    TooManyRequestsError,
)
from pqpool.throwaway import ThrowawayServer, free_port
from support.pools import assert_sound, named, open_pool, sessions_of
from support.wait import wait_until, wait_until_async


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(database_url, min_size=2, max_size=4) as manager:
        yield manager


def assert_invariants(seen: PoolStatistics) -> None:
    assert seen.total_connections == seen.idle_connections + seen.active_connections
    assert seen.total_acquisitions - seen.total_releases == seen.leases_out
    assert seen.peak_active_connections >= seen.active_connections
    numbers = [value for value in seen.model_dump().values() if isinstance(value, (int, float))]
    assert all(value >= 0 for value in numbers)


# ---- life ----


async def test_fresh_pool_shows_its_connections_and_no_acquisition(pool: ConnectionPoolManager) -> None:
    seen = pool.get_statistics()
    assert (seen.total_connections, seen.idle_connections, seen.active_connections) == (2, 2, 0)
    assert (seen.total_acquisitions, seen.total_releases, seen.leases_out) == (0, 0, 0)
    health = await pool.health_check()
    assert (health.status, health.database.status, health.database_connected) == (
        "healthy",
        "connected",
        True,
    )
    assert pool.state is pool._state is PoolState.HEALTHY


async def test_manager_is_a_context_manager(database_url: str) -> None:
    async with ConnectionPoolManager(PoolConfig(database_url)) as manager:
        assert await manager.fetchval("SELECT 1") == 1
    assert manager.state is PoolState.TERMINATED


async def test_manager_can_be_initialized_again_after_shutdown(database_url: str) -> None:
    manager = ConnectionPoolManager()
    for _ in range(2):
        await manager.initialize(PoolConfig(database_url, min_size=1))
        async with manager.acquire() as conn:
            assert await conn.fetchval("SELECT 1") == 1
        with pytest.raises(InvalidArgumentError, match="initialized already"):
            await manager.initialize()
        await manager.shutdown()


async def test_use_before_initialize_tells_what_to_call() -> None:
    manager = ConnectionPoolManager()
    assert manager.state is PoolState.INITIALIZING
    for call in (manager.get_statistics, manager.acquire, manager.holders, manager.drain):
        with pytest.raises(PoolNotInitializedError, match=r"initialize\(config\)") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)
    for wait_for in (manager.health_check, manager.shutdown):
        with pytest.raises(PoolNotInitializedError):
            await wait_for()
    with pytest.raises(PoolConfigurationError, match="PoolConfig"):
        await manager.initialize()


async def test_initialize_that_fails_leaves_nothing_and_may_be_repeated(server: ThrowawayServer) -> None:
    manager = ConnectionPoolManager()
    start = time.monotonic()
    nowhere = f"postgresql://u:verysecret@127.0.0.1:{free_port()}/d"
    with pytest.raises(PoolInitializationError, match="Suggestion") as caught:
        await manager.initialize(PoolConfig(nowhere))
    assert time.monotonic() - start < 2.0
    assert "127.0.0.1" in str(caught.value) and "verysecret" not in str(caught.value)
    assert manager.state is PoolState.TERMINATED
    with pytest.raises(PoolInitializationError, match="no_such_database"):
        await manager.initialize(PoolConfig(server.url_for("postgres", database="no_such_database")))
    await manager.initialize(PoolConfig(server.url, min_size=1))
    assert await manager.fetchval("SELECT 1") == 1
    await manager.shutdown()


async def test_shutdown_is_idempotent_and_the_pool_still_answers(database_url: str) -> None:
    manager = ConnectionPoolManager(PoolConfig(database_url))
    await manager.initialize()
    await asyncio.gather(manager.shutdown(), manager.shutdown())
    await manager.shutdown()
    assert manager.get_statistics().total_connections == 0
    assert (await manager.health_check()).status == "unhealthy"
    with pytest.raises(PoolClosedError, match="closed"):
        await manager.acquire()


async def test_shutdown_refuses_waiting_requests_and_waits_for_leases(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        held = await pool.acquire()
        waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
        await wait_until_async(lambda: pool.get_statistics().waiting_requests == 1)
        end = asyncio.create_task(pool.shutdown(timeout=10))
        with pytest.raises(PoolClosedError):
            await waiting
        assert pool.state is PoolState.SHUTTING_DOWN
        assert await held.fetchval("SELECT 1") == 1
        assert not end.done()
        await pool.release(held)
        await asyncio.wait_for(end, 5)


async def test_shutdown_past_its_timeout_breaks_the_lease(
    server: ThrowawayServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = named(server.url, "broken_by_shutdown")
    async with open_pool(url) as pool:
        held = await pool.acquire()
        assert len(sessions_of(server, "broken_by_shutdown")) == 1
        start = time.monotonic()
        with caplog.at_level(logging.WARNING, "pqpool"):
            await pool.shutdown(timeout=0.3)
        assert 0.25 <= time.monotonic() - start < 1.3
        wait_until(lambda: sessions_of(server, "broken_by_shutdown") == [])
        with pytest.raises(PoolClosedError):
            await held.fetchval("SELECT 1")
        await pool.release(held)
    (warning,) = [r for r in caplog.records if "closed by force" in r.message]
    assert "test_shutdown_past_its_timeout" in warning.context["stack"]  # type: ignore[attr-defined]


async def test_log_tells_a_shutdown_in_its_order(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        caplog.clear()
        with caplog.at_level(logging.INFO, "pqpool"):
            async with open_pool(database_url):
                pass
        said = [record.message for record in caplog.records]
        assert [words.split(":")[0] for words in said] == [
            "Connection pool initialized",
            "Connection pool shutting down",
            "Connection pool terminated",
        ]
        assert [r.created for r in caplog.records] == sorted(r.created for r in caplog.records)


# ---- acquire ----


async def test_acquire_both_ways_and_through_pool(pool: ConnectionPoolManager) -> None:
    async with pool.acquire() as conn:
        assert isinstance(conn, Connection) and await conn.fetchval("SELECT 1") == 1
    assert conn.is_closed()
    conn = await pool.acquire()
    assert await conn.fetchval("SELECT 2") == 2
    await pool.release(conn)
    async with pool.pool.acquire() as conn:
        assert await conn.fetchval("SELECT 3") == 3
    conn = await pool.pool.acquire()
    await pool.pool.release(conn)
    await assert_sound(pool)


async def test_block_that_released_by_hand_may_end(pool: ConnectionPoolManager) -> None:
    async with pool.acquire() as conn:
        await pool.release(conn)
    await assert_sound(pool)


async def test_block_that_raises_gives_its_connection_back(pool: ConnectionPoolManager) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.acquire():
            raise ZeroDivisionError
    await assert_sound(pool)


async def test_connection_that_nobody_holds_any_more_goes_to_who_waits(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        kept = [await pool.acquire()]
        waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
        await wait_until_async(lambda: pool.get_statistics().waiting_requests == 1)
        with pytest.warns(ResourceWarning, match="never released"):
            kept.clear()
        assert await asyncio.wait_for(waiting, 2) == 1
        await assert_sound(pool)


async def test_statements_of_the_manager_take_a_connection_each(pool: ConnectionPoolManager) -> None:
    assert await pool.fetchval("SELECT $1::int", 4) == 4
    assert await pool.execute("SELECT 1") == "SELECT 1"
    seen = pool.get_statistics()
    assert (seen.total_acquisitions, seen.leases_out) == (2, 0)


async def test_requests_are_served_in_their_order(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        served: list[int] = []

        async def request(number: int) -> None:
            async with pool.acquire() as conn:
                served.append(number)
                await conn.fetchval("SELECT 1")

        async with pool.acquire():
            tasks = []
            for number in range(20):
                tasks.append(asyncio.create_task(request(number)))
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert served == list(range(20))
        await assert_sound(pool)


async def hold_for_a_while(pool: ConnectionPoolManager) -> Connection:
    return await pool.acquire()


async def test_acquire_past_its_timeout_tells_counts_and_holders(database_url: str) -> None:
    async with open_pool(database_url, timeout=0.1) as pool:
        held = await hold_for_a_while(pool)
        await held.fetchval("SELECT 'the last statement'")
        start = time.monotonic()
        with pytest.raises(PoolTimeoutError) as caught:
            await pool.acquire()
        assert 0.09 <= time.monotonic() - start < 1.0
        message = str(caught.value)
        for words in (
            "0.1 seconds",
            "total 1",
            "active 1",
            "idle 0",
            "waiting 0",
            "Suggestion",
            "the last statement",
        ):
            assert words in message
        assert isinstance(caught.value, asyncio.TimeoutError)
        assert any("hold_for_a_while" in note for note in caught.value.__notes__)
        with pytest.raises(PoolTimeoutError):
            await pool.acquire(timeout=0)
        await pool.release(held)
        assert pool.get_statistics().total_timeouts == 2
        await assert_sound(pool)


async def test_timeout_of_the_call_wins_over_the_pools(database_url: str) -> None:
    async with open_pool(database_url, timeout=0.05) as pool:
        held = await pool.acquire()
        waiting = asyncio.ensure_future(pool.acquire(timeout=5))
        await asyncio.sleep(0.2)
        await pool.release(held)
        await pool.release(await waiting)


async def test_cancelled_request_takes_no_connection(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        held = await pool.acquire()
        for release_first in (False, True):
            task = asyncio.create_task(hold_for_a_while(pool))
            await wait_until_async(lambda: pool.get_statistics().waiting_requests == 1)
            if release_first:
                await pool.release(held)  # the grant and the cancel in the same turn of the loop
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await assert_sound(pool)


async def test_more_waiting_requests_than_allowed_are_refused(database_url: str) -> None:
    async with open_pool(database_url, max_waiting=1) as pool:
        held = await pool.acquire()
        waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
        await wait_until_async(lambda: pool.get_statistics().waiting_requests == 1)
        with pytest.raises(TooManyRequestsError, match="max_waiting"):
            await pool.acquire()
        await pool.release(held)
        assert await waiting == 1
        assert pool.get_statistics().total_rejected == 1


# ---- looking ----


async def test_statistics_hold_together_under_load(database_url: str) -> None:
    async with open_pool(database_url, min_size=2, max_size=4) as pool:
        done = False

        async def work() -> None:
            for n in range(20):
                async with pool.acquire() as conn:
                    assert await conn.fetchval("SELECT $1::int", n) == n
                    # A fast server would do with fewer connections.
                    await wait_until_async(lambda: pool.get_statistics().peak_active_connections == 4)

        async def look() -> int:
            count = 0
            while not done:
                seen = pool.get_statistics()
                assert_invariants(seen)
                assert seen.active_connections <= 4
                count += 1
                await asyncio.sleep(0)
            return count

        looking = asyncio.create_task(look())
        await asyncio.gather(*(work() for _ in range(20)))
        done = True
        assert await looking > 10
        await assert_sound(pool)
        seen = pool.get_statistics()
        assert seen.peak_active_connections == 4 and seen.peak_waiting_requests >= 16
        assert seen.total_acquisitions >= 400 and seen.avg_acquisition_time_ms > 0


async def test_statistics_show_a_change_at_once(pool: ConnectionPoolManager) -> None:
    held = [await pool.acquire() for _ in range(4)]
    seen = pool.get_statistics()
    assert (seen.total_connections, seen.active_connections, seen.idle_connections) == (4, 4, 0)
    for conn in held:
        await pool.release(conn)
    later = pool.get_statistics()
    assert (later.active_connections, later.idle_connections, later.peak_active_connections) == (0, 4, 4)
    assert seen.active_connections == 4  # a snapshot stays as it was


async def test_holders_tell_who_where_and_what(pool: ConnectionPoolManager) -> None:
    assert pool.holders() == []
    held = await hold_for_a_while(pool)
    backend = await held.fetchval("SELECT pg_backend_pid()")
    (holder,) = pool.holders()
    assert (holder.backend_pid, holder.last_statement) == (backend, "SELECT pg_backend_pid()")
    assert 0 <= holder.held_seconds < 5
    assert holder.stack.splitlines()[-1].endswith("in hold_for_a_while")
    assert "pqpool/manager.py" not in holder.stack and "asyncio" not in holder.stack
    await pool.release(held)
    assert pool.holders() == []


async def test_leak_is_reported_once_with_the_place_of_its_acquire(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(database_url, leak_detection_timeout=0.2) as pool:
        with caplog.at_level(logging.WARNING, "pqpool"):
            held = await hold_for_a_while(pool)
            kept = await asyncio.wait_for(asyncio.shield(asyncio.sleep(0.1, held)), 1)
            await wait_until_async(lambda: caplog.records)
            await asyncio.sleep(0.3)
        (record,) = caplog.records
        assert record.message.startswith("Potential connection leak detected: conn-")
        context = record.context  # type: ignore[attr-defined]
        assert context["held_duration_seconds"] >= 0.2 and "hold_for_a_while" in context["stack"]
        health = await pool.health_check()
        assert (health.database.leak_count, health.status) == (1, "degraded")
        await pool.release(kept)
        assert (await pool.health_check()).database.leak_count == 0


async def test_leak_limit_of_the_call_wins_over_the_pools(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pool(database_url, max_size=2, leak_detection_timeout=0.2) as pool:
        with caplog.at_level(logging.WARNING, "pqpool"):
            async with pool.acquire(leak_timeout=0):
                await asyncio.sleep(0.5)
        assert caplog.records == []
    async with open_pool(database_url, enable_leak_detection=False) as pool:
        with caplog.at_level(logging.WARNING, "pqpool"):
            async with pool.acquire(leak_timeout=0.1):
                await wait_until_async(lambda: caplog.records)
        (record,) = caplog.records
        assert "test_leak_limit_of_the_call" in record.context["stack"]  # type: ignore[attr-defined]


# ---- steering ----


async def test_paused_pool_makes_requests_wait(pool: ConnectionPoolManager) -> None:
    pool.pause()
    waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
    with pytest.raises(PoolTimeoutError):
        await pool.acquire(timeout=0.1)
    assert not waiting.done()
    pool.resume()
    assert await asyncio.wait_for(waiting, 2) == 1


async def test_drain_replaces_idle_connections_now_and_leased_ones_later(pool: ConnectionPoolManager) -> None:
    async with pool.acquire() as leased, pool.acquire() as other:
        before = {await conn.fetchval("SELECT pg_backend_pid()") for conn in (leased, other)}
        pool.drain()
        assert {await conn.fetchval("SELECT pg_backend_pid()") for conn in (leased, other)} == before
    await wait_until_async(lambda: pool.get_statistics().idle_connections == 2)
    async with pool.acquire() as first, pool.acquire() as second:
        after = {await conn.fetchval("SELECT pg_backend_pid()") for conn in (first, second)}
    assert not before & after
    await assert_sound(pool)


async def test_resize_grows_and_shrinks(pool: ConnectionPoolManager) -> None:
    pool.resize(6, 8)
    await wait_until_async(lambda: pool.get_statistics().idle_connections == 6)
    pool.resize(1, 1)
    held = await pool.acquire()
    with pytest.raises(PoolTimeoutError):
        await pool.acquire(timeout=0.05)
    await pool.release(held)
    await wait_until_async(lambda: pool.get_statistics().total_connections == 1)
    with pytest.raises(PoolConfigurationError, match="max_size"):
        pool.resize(5, 2)
    await assert_sound(pool)


# ---- event loops ----


async def test_loops_of_several_threads_share_one_pool(database_url: str) -> None:
    async with open_pool(database_url, min_size=2, max_size=4) as pool:
        sums: list[int] = []

        async def work() -> int:
            async def one(n: int) -> int:
                async with pool.acquire() as conn:
                    return await conn.fetchval("SELECT $1::int", n)

            return sum(await asyncio.gather(*(one(n) for n in range(50))))

        threads = [threading.Thread(target=lambda: sums.append(asyncio.run(work()))) for _ in range(3)]
        for thread in threads:
            thread.start()
        sums.append(await work())
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sums == [sum(range(50))] * 4
        await assert_sound(pool)


def test_pool_outlives_the_loop_that_opened_it(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    manager = ConnectionPoolManager(PoolConfig(database_url, min_size=1))
    asyncio.run(manager.initialize())
    assert asyncio.run(manager.fetchval("SELECT 1")) == 1
    with caplog.at_level(logging.INFO, "pqpool"):
        asyncio.run(manager.shutdown())
    assert manager.state is PoolState.TERMINATED
    assert any("terminated" in record.message for record in caplog.records)
