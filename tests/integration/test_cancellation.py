"""Tasks cancelled or timed out anywhere: nothing is lost, and nobody gets another's answer or cancel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from random import Random

import pytest

from pqpool import (
    Connection,
    ConnectionPoolManager,
    LeaseReleasedError,
    PoolTimeoutError,
    StatementTimeoutError,
)
from support.pools import assert_sound, named, open_pool, sessions_of
from support.wait import wait_until, wait_until_async

_numbers = itertools.count(1)


async def ask(connection: Connection, milliseconds: float, timeout: float | None = None) -> None:
    """A statement whose answer nobody else's has."""
    number = next(_numbers)
    answer = await connection.fetchval(
        "SELECT $1::bigint FROM pg_sleep($2)", number, milliseconds / 1000.0, timeout=timeout
    )
    assert answer == number


async def use(manager: ConnectionPoolManager, random: Random) -> None:
    """What an application does with a connection, in its several ways."""
    way = random.randrange(4)
    if way == 0:
        connection = await manager.acquire()
        try:
            await ask(connection, 1)
        finally:
            await manager.release(connection)
    elif way == 1:
        async with manager.acquire() as connection, connection.transaction():
            await ask(connection, 0)
            await ask(connection, 1)
    elif way == 2:
        async with manager.acquire() as connection:
            try:
                await ask(connection, 2)
            finally:
                await ask(connection, 0)  # also after a cancel, on the same connection
    else:
        async with manager.acquire() as connection:
            await ask(connection, 0)


async def run_all(
    manager: ConnectionPoolManager, count: int, start: object, at_once: int = 250
) -> Counter[str]:
    """Runs `start()` so many times, some hundred at once; how each ended, by the exception's name."""
    ends: Counter[str] = Counter()
    for _ in range(count // at_once):
        tasks = [start() for _ in range(at_once)]  # type: ignore[operator]
        _, hanging = await asyncio.wait(tasks, timeout=30.0)
        assert not hanging
        for task in tasks:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            ends[type(error).__name__] += 1
            if error is not None and not isinstance(error, asyncio.CancelledError | TimeoutError):
                raise error
    return ends


def hold_up_the_loop(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


# ---- in masses ----


async def test_ten_thousand_tasks_cancelled_anywhere_leave_every_connection_usable_and_counted(server):
    random = Random(7)
    loop = asyncio.get_running_loop()
    spared: list[asyncio.Task[None]] = []
    async with open_pool(
        named(server.url, "masses"), min_size=10, max_size=10, timeout=30.0, command_timeout=30.0
    ) as manager:

        def cancelled_soon() -> asyncio.Task[None]:
            task = asyncio.ensure_future(use(manager, random))
            loop.call_later(random.uniform(0.0, 0.02), task.cancel)
            if random.random() < 0.1:
                spared.append(asyncio.ensure_future(use(manager, random)))
            return task

        ends = await run_all(manager, 10_000, cancelled_soon, at_once=50)
        await asyncio.gather(*spared)  # none of them was cancelled, so none may have failed
        assert ends["CancelledError"] > 1_000
        assert ends["NoneType"] > 1_000
        await assert_sound(manager)
        statistics = manager.get_statistics()
        assert statistics.total_connections == 10
        assert statistics.connections_lost == 0
        await asyncio.to_thread(wait_until, lambda: len(sessions_of(server, "masses")) == 10)


async def test_a_thousand_tasks_timed_out_anywhere_leave_every_connection_usable_and_counted(server):
    random = Random(11)
    async with open_pool(server.url, min_size=5, max_size=5, timeout=30.0) as manager:

        async def hurried() -> None:
            way = random.randrange(3)
            patience = random.uniform(0.0, 0.03)
            if way == 0:
                async with asyncio.timeout(patience):
                    await use(manager, random)
            elif way == 1:
                async with manager.acquire() as connection:
                    try:
                        await ask(connection, random.uniform(0, 5), timeout=patience / 5)
                    except StatementTimeoutError:
                        await ask(connection, 0)  # at once, on the same connection
                        raise
            else:
                async with manager.acquire(timeout=patience) as connection:
                    await ask(connection, 1)

        ends = await run_all(manager, 1_000, lambda: asyncio.ensure_future(hurried()))
        assert min(ends["TimeoutError"], ends["StatementTimeoutError"], ends["PoolTimeoutError"]) > 20
        await assert_sound(manager)
        assert manager.get_statistics().connections_lost == 0


async def test_a_late_cancel_never_hits_the_next_statement(server):
    """The cancel request travels on a connection of its own, and may come when its statement is long done."""
    random = Random(13)
    async with open_pool(server.url) as manager, manager.acquire() as connection:
        for _ in range(400):
            first = asyncio.ensure_future(ask(connection, 0))
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
            await ask(connection, random.choice([0, 2]))


# ---- one by one ----


async def test_a_task_cancelled_while_it_waits_loses_no_connection_and_no_place(server):
    async with open_pool(server.url) as manager:
        held = await manager.acquire()
        order: list[int] = []

        async def wait_turn(number: int) -> None:
            async with manager.acquire():
                order.append(number)

        tasks = []
        for number in range(5):
            tasks.append(asyncio.ensure_future(wait_turn(number)))
            await asyncio.sleep(0)
        assert manager.get_statistics().waiting_requests == 5
        for number in (0, 3):
            tasks[number].cancel()
        await wait_until_async(lambda: manager.get_statistics().waiting_requests == 3)
        await manager.release(held)
        await asyncio.wait(tasks)
        assert order == [1, 2, 4]
        await assert_sound(manager)


@pytest.mark.parametrize("others", [0, 1])
async def test_a_task_cancelled_just_as_it_is_handed_a_connection_gives_it_back(server, others):
    async with open_pool(server.url) as manager:
        for released_first in (True, False) * 20:
            held = await manager.acquire()
            waiter = asyncio.ensure_future(manager.acquire().__aenter__())
            await asyncio.sleep(0)
            next_ones = [asyncio.ensure_future(manager.fetchval("SELECT 1")) for _ in range(others)]
            await asyncio.sleep(0)
            assert manager.get_statistics().waiting_requests == 1 + others
            if released_first:
                held._release()
                waiter.cancel()
            else:
                waiter.cancel()
                held._release()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            assert await asyncio.gather(*next_ones) == [1] * others
        await assert_sound(manager)


async def test_a_connection_handed_to_a_waiter_that_timed_out_meanwhile_is_not_lost(server):
    async with open_pool(server.url) as manager:
        for _ in range(20):
            held = await manager.acquire()
            waiter = asyncio.ensure_future(manager.acquire(timeout=0.02).__aenter__())
            await asyncio.sleep(0)
            hold_up_the_loop(0.02)  # so that the timeout and the release come to it at once
            await manager.release(held)
            with contextlib.suppress(PoolTimeoutError):
                await manager.release(await waiter)
        await assert_sound(manager)


async def test_asyncio_timeout_ends_the_statement_on_the_server_and_leaves_the_connection_usable(server):
    async with open_pool(named(server.url, "timed")) as manager, manager.acquire() as connection:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.fetchval("SELECT pg_sleep(30)")
        assert await connection.fetchval("SELECT 7") == 7
        assert time.monotonic() - began < 1.0
        assert manager.get_statistics().connections_closed == 0


async def test_a_statement_past_its_timeout_ends_on_time_and_leaves_the_connection_usable(server):
    async with open_pool(server.url, command_timeout=0.5) as manager, manager.acquire() as connection:
        for patience, expected in ((0.2, 0.2), (None, 0.5)):
            began = time.monotonic()
            with pytest.raises(StatementTimeoutError):
                await connection.fetchval("SELECT pg_sleep(30)", timeout=patience)
            assert abs(time.monotonic() - began - expected) < 0.1
            assert await connection.fetchval("SELECT 7") == 7


async def test_a_cancelled_task_frees_its_slot_at_once_and_its_statement_ends_on_the_server(server):
    async with open_pool(named(server.url, "freed")) as manager:

        async def hold() -> None:
            async with manager.acquire() as connection:
                await connection.execute("SELECT pg_sleep(30)")

        task = asyncio.ensure_future(hold())
        running = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'freed' AND state = 'active'"
        )
        await asyncio.to_thread(wait_until, lambda: server.sql(running) == "1")
        task.cancel()
        began = time.monotonic()
        assert await manager.fetchval("SELECT 1") == 1
        assert time.monotonic() - began < 0.5
        await asyncio.to_thread(wait_until, lambda: server.sql(running) == "0")
        await assert_sound(manager)


async def test_a_transaction_of_a_cancelled_task_is_rolled_back(server):
    server.sql("CREATE TABLE cancelled (id int)")
    try:
        async with open_pool(server.url) as manager:

            async def write() -> None:
                async with manager.acquire() as connection, connection.transaction():
                    await connection.execute("INSERT INTO cancelled VALUES (1)")
                    written.set()
                    await connection.fetchval("SELECT pg_sleep(30)")

            written = asyncio.Event()
            task = asyncio.ensure_future(write())
            await written.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await manager.fetchval("SELECT count(*) FROM cancelled") == 0
            await assert_sound(manager)
    finally:
        server.sql("DROP TABLE cancelled")


async def test_a_statement_is_ended_by_the_release_of_its_connection(server):
    async with open_pool(server.url) as manager:
        connection = await manager.acquire()
        statement = asyncio.ensure_future(connection.fetchval("SELECT pg_sleep(30)"))
        await asyncio.sleep(0)
        await manager.release(connection)
        with pytest.raises(Exception, match="released while the statement was under way"):
            await statement
        with pytest.raises(LeaseReleasedError):
            await connection.fetchval("SELECT 1")
        assert await manager.fetchval("SELECT 1") == 1
        await assert_sound(manager)
