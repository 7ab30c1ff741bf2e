"""How a task waits for the pool: whom an answer wakes, in which context, and what the loop gets done."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import signal
import warnings
from collections.abc import Coroutine
from typing import Any

import pytest

from pqpool import ConnectionPoolManager, PoolClosedError, PoolConfig, QueryError
from pqpool._pqpool import Driver
from support.pools import assert_sound, open_pool
from support.wait import wait_until_async


async def test_a_waiting_task_goes_on_in_its_own_context(database_url: str) -> None:
    name: contextvars.ContextVar[int] = contextvars.ContextVar("name")

    async def one(number: int) -> bool:
        name.set(number)
        async with pool.acquire() as connection:
            acquired = name.get() == number
            return acquired and await connection.fetchval("SELECT $1", number) == name.get() == number

    async with open_pool(database_url, max_size=2) as pool:
        assert all(await asyncio.gather(*(one(number) for number in range(50))))


async def test_a_stepped_task_is_the_loops_current_task(database_url: str) -> None:
    async def one() -> bool:
        task = asyncio.current_task()
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
            return asyncio.current_task() is task

    async with open_pool(database_url, max_size=1) as pool:
        assert all(await asyncio.gather(*(asyncio.create_task(one()) for _ in range(10))))


async def test_tasks_that_hand_a_connection_round_leave_the_loop_its_turns(database_url: str) -> None:
    """Each release wakes the next waiter; timers and other callbacks run in between all the same."""
    turns = 0
    stop = False

    async def hand_round() -> None:
        while not stop:
            async with pool.acquire():
                pass

    async def count_turns() -> None:
        nonlocal turns, stop
        for _ in range(20):
            await asyncio.sleep(0.001)
            turns += 1
        stop = True

    async with open_pool(database_url, max_size=1) as pool:
        held = await pool.acquire()
        tasks = [asyncio.create_task(hand_round()) for _ in range(20)]
        await asyncio.sleep(0)
        counting = asyncio.create_task(count_turns())
        # The answer of a statement on another connection would come through drain(); so does this hand-over.
        asyncio.get_running_loop().call_later(0.01, held._release)
        await asyncio.wait_for(asyncio.gather(counting, *tasks), 20.0)
        assert turns == 20
        await assert_sound(pool)


async def test_statements_without_a_pause_leave_the_loop_its_turns(database_url: str) -> None:
    stop = False

    async def work() -> None:
        while not stop:
            await pool.fetchval("SELECT 1")

    async with open_pool(database_url, max_size=4) as pool:
        tasks = [asyncio.create_task(work()) for _ in range(40)]
        for _ in range(20):
            await asyncio.sleep(0.001)
        stop = True
        await asyncio.wait_for(asyncio.gather(*tasks), 20.0)


def test_an_interrupt_in_one_task_keeps_nothing_from_the_others(database_url: str) -> None:
    """KeyboardInterrupt leaves the event loop out of any callback; what was read by then is not lost."""
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=4, max_size=4))

    async def interrupted() -> None:
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
            raise KeyboardInterrupt

    async def start() -> list[asyncio.Task[Any]]:
        await pool.initialize()
        return [asyncio.create_task(interrupted())] + [
            asyncio.create_task(pool.fetchval("SELECT 2")) for _ in range(20)
        ]

    loop = asyncio.new_event_loop()
    try:
        tasks = loop.run_until_complete(start())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks))
        done = loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20.0))
        assert isinstance(done[0], KeyboardInterrupt)
        assert done[1:] == [2] * 20
        loop.run_until_complete(assert_sound(pool))
        loop.run_until_complete(pool.shutdown())
    finally:
        loop.close()


async def test_cancelling_at_the_moment_of_the_grant_loses_no_connection(database_url: str) -> None:
    async with open_pool(database_url, max_size=1) as pool:
        held = await pool.acquire()

        async def wait() -> None:
            await pool.acquire()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        held._release()  # granted to the waiter, who has not run yet
        waiting.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.wait_for(pool.fetchval("SELECT 1"), 5.0) == 1
        await assert_sound(pool)


async def test_a_cancelled_statement_tells_the_message_and_frees_the_connection(database_url: str) -> None:
    async with open_pool(database_url, max_size=1) as pool, pool.acquire() as connection:
        task = asyncio.create_task(connection.fetchval("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.05)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert raised.value.args == ("why",)
        assert await asyncio.wait_for(connection.fetchval("SELECT 1"), 5.0) == 1


async def test_closing_a_coroutine_ends_its_wait(database_url: str) -> None:
    async with open_pool(database_url, max_size=1) as pool:
        async with pool.acquire() as connection:
            statement = connection.fetchval("SELECT pg_sleep(30)")
            statement.send(None)
            statement.close()
            assert await asyncio.wait_for(connection.fetchval("SELECT 1"), 5.0) == 1
            waiting = pool.acquire().__await__()
            next(waiting)
            waiting.close()
        assert await asyncio.wait_for(pool.fetchval("SELECT 1"), 5.0) == 1
        await assert_sound(pool)


async def test_an_exception_thrown_into_a_wait_ends_it(database_url: str) -> None:
    async with open_pool(database_url, max_size=1) as pool, pool.acquire() as connection:
        statement = connection.fetchval("SELECT pg_sleep(30)")
        statement.send(None)
        with pytest.raises(LookupError):
            statement.throw(LookupError("mine"))
        assert await asyncio.wait_for(connection.fetchval("SELECT 1"), 5.0) == 1


async def test_wait_for_gather_shield_and_wait_take_what_the_pool_gives(database_url: str) -> None:
    async with open_pool(database_url, max_size=2) as pool:
        connection = await asyncio.wait_for(pool.acquire(), 5.0)
        assert await asyncio.shield(connection.fetchval("SELECT 1")) == 1
        assert await asyncio.gather(connection.fetchval("SELECT 2"), pool.fetchval("SELECT 3")) == [2, 3]
        done, _ = await asyncio.wait({asyncio.create_task(connection.fetchval("SELECT 4"))}, timeout=5.0)
        assert [task.result() for task in done] == [4]
        with pytest.raises(QueryError):
            await asyncio.gather(connection.fetchval("SELECT 1/0"))
        await pool.release(connection)
        await assert_sound(pool)


async def test_one_task_waits_for_one_acquire(database_url: str) -> None:
    async with open_pool(database_url, max_size=1) as pool:
        held = await pool.acquire()
        request = pool.acquire()

        async def wait() -> Any:
            return await request

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        with pytest.raises(ValueError, match="another task awaits this already"):
            await second
        held._release()
        (await first)._release()
        await assert_sound(pool)


def test_a_loop_that_ends_in_the_middle_leaves_no_cycle(database_url: str) -> None:
    """Tasks dropped with their loop are collected, and with them what they wait for."""

    async def leave() -> None:
        pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=1))
        await pool.initialize()
        tasks = [asyncio.create_task(pool.fetchval("SELECT pg_sleep(30)")) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in tasks)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(asyncio.wait_for(leave(), 10.0))
        gc.collect()


async def test_what_is_under_way_when_the_loops_side_closes_ends_with_an_error(database_url: str) -> None:
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=1))
    await pool.initialize()
    connection = await pool.acquire()
    task = asyncio.create_task(connection.fetchval("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.05)
    pool._drivers[asyncio.get_running_loop()].close()
    with pytest.raises(PoolClosedError):
        await asyncio.wait_for(task, 5.0)
    pool._drivers.clear()
    await pool.shutdown(0)


def test_a_loop_closed_in_the_middle_does_not_keep_the_next_one_from_the_pool(database_url: str) -> None:
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=2))
    first = asyncio.new_event_loop()

    async def start() -> tuple[Any, asyncio.Task[Any]]:
        await pool.initialize()
        connection = await pool.acquire()
        task = asyncio.create_task(connection.fetchval("SELECT pg_sleep(30)"))
        await asyncio.sleep(0.05)
        return connection, task

    connection, task = first.run_until_complete(start())
    first.close()
    try:
        assert asyncio.run(asyncio.wait_for(pool.fetchval("SELECT 1"), 10.0)) == 1
        asyncio.run(pool.shutdown(2.0))
    finally:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del connection, task


def drivers_alive() -> int:
    return sum(type(thing) is Driver for thing in gc.get_objects())


async def test_a_pool_that_was_shut_down_is_freed_without_the_garbage_collector(database_url: str) -> None:
    gc.collect()
    gc.disable()
    try:
        before = drivers_alive()
        async with open_pool(database_url, max_size=1) as pool:
            await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(5)))
            await pool.fetchval("SELECT 1")
            assert drivers_alive() == before + 1
        del pool
        await wait_until_async(lambda: drivers_alive() == before, 5.0)
    finally:
        gc.enable()


# ---- what goes wrong in the middle of waking ----


class InterruptedLoop(asyncio.SelectorEventLoop):
    """A signal's exception comes out of those calls of call_soon, for an answer, whose number is in `at`."""

    at: set[int]
    before = True

    def __init__(self) -> None:
        super().__init__()
        self.at = set()
        self.seen = 0

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        if type(callback).__name__ != "Answer" or not self.at:
            return super().call_soon(callback, *args, context=context)
        self.seen += 1
        if self.seen not in self.at:
            return super().call_soon(callback, *args, context=context)
        if not self.before:
            super().call_soon(callback, *args, context=context)
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [True, False], ids=["before it is asked", "when it was asked"])
def test_an_interrupt_on_the_way_to_the_loop_loses_no_wake_up(database_url: str, before: bool) -> None:
    loop = InterruptedLoop()
    loop.before = before
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=1))
    steps: list[int] = []

    async def wait(number: int) -> None:
        try:
            await pool.acquire()
        except asyncio.CancelledError:
            steps.append(number)
            await asyncio.sleep(0)
            raise

    async def start() -> tuple[Any, list[asyncio.Task[None]]]:
        await pool.initialize()
        held = await pool.acquire()
        tasks = [asyncio.create_task(wait(number)) for number in range(200)]
        await asyncio.sleep(0)
        return held, tasks

    async def give_up() -> None:  # stepped by drain(), so that what it cancels is drain's to wake
        await held.fetchval("SELECT 1")
        loop.at = {1, 2, 50}
        for task in tasks:
            task.cancel()

    try:
        held, tasks = loop.run_until_complete(start())
        ending = loop.create_task(give_up())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(tasks))
        loop.at = set()
        loop.run_until_complete(asyncio.wait_for(asyncio.wait([ending, *tasks]), 10.0))
        assert all(task.cancelled() for task in tasks)
        assert sorted(steps) == list(range(200))
        loop.run_until_complete(pool.release(held))
        loop.run_until_complete(assert_sound(pool))
        loop.run_until_complete(pool.shutdown(1.0))
    finally:
        loop.close()


@pytest.mark.parametrize("before", [True, False], ids=["before it is asked", "when it was asked"])
def test_an_interrupt_out_of_a_release_reaches_its_caller_and_the_waiter_is_woken(
    database_url: str, before: bool
) -> None:
    loop = InterruptedLoop()
    loop.before = before
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=1))

    async def start() -> tuple[Any, asyncio.Task[Any]]:
        await pool.initialize()
        held = await pool.acquire()
        task = asyncio.create_task(pool.fetchval("SELECT 1"))
        await asyncio.sleep(0)
        return held, task

    try:
        held, task = loop.run_until_complete(start())
        loop.at = {1}
        with pytest.raises(KeyboardInterrupt):
            held._release()
        assert held.is_closed()
        assert loop.run_until_complete(asyncio.wait_for(task, 5.0)) == 1
        loop.run_until_complete(assert_sound(pool))
        loop.run_until_complete(pool.shutdown(1.0))
    finally:
        loop.close()


async def test_a_task_whose_wake_up_the_loop_lost_can_be_cancelled(database_url: str) -> None:
    """asyncio takes a handle from its list before it calls it; an interrupt may come in between."""
    async with open_pool(database_url, max_size=1) as pool:
        held = await pool.acquire()
        task = asyncio.create_task(pool.fetchval("SELECT 1"))
        await asyncio.sleep(0)
        held._release()  # granted, by a handle that never runs
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        lost = [handle for handle in ready if type(handle._callback).__name__ == "Answer"]
        assert len(lost) == 1
        ready.remove(lost[0])
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=5.0)
        assert task.cancelled()
        await assert_sound(pool)


async def test_drain_called_by_a_task_leaves_the_waking_to_the_loop(database_url: str) -> None:
    async with open_pool(database_url, max_size=3) as pool:
        driver = pool._drivers[asyncio.get_running_loop()]
        tasks = [asyncio.create_task(pool.fetchval("SELECT $1::int", n)) for n in range(20)]
        while not all(task.done() for task in tasks):
            driver.drain()
            await asyncio.sleep(0)
        assert [task.result() for task in tasks] == list(range(20))
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")  # drain() steps this task
            driver.drain()
            assert await connection.fetchval("SELECT 2") == 2
        await assert_sound(pool)


# ---- a loop inside a task's step ----


class NestableLoop(asyncio.SelectorEventLoop):
    """Runs itself inside its tasks, as nest_asyncio and the loops of toolkits with dialogs do."""

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        timeout = 0.0 if ready else max(0.0, scheduled[0]._when - self.time()) if scheduled else 1.0
        self._process_events(self._selector.select(timeout))  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._when <= self.time():
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            if ready and not (handle := ready.popleft())._cancelled:
                handle._run()

    def run_nested(self, work: Coroutine[Any, Any, Any]) -> Any:
        outer = asyncio.current_task()
        future = asyncio.ensure_future(work)
        asyncio.tasks._leave_task(self, outer)  # type: ignore[attr-defined]
        try:
            while not future.done():
                self._run_once()
        finally:
            asyncio.tasks._enter_task(self, outer)  # type: ignore[attr-defined]
        return future.result()


class DeclaredNestableLoop(NestableLoop):
    """Its run_forever tells that it is none of asyncio's own."""

    def run_forever(self) -> None:
        super().run_forever()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [NestableLoop, DeclaredNestableLoop])
def test_a_loop_run_inside_a_stepped_task_gets_its_answers(
    database_url: str, kind: type[NestableLoop]
) -> None:
    loop = kind()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    async def nested(depth: int) -> int:
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")  # its answer steps this task
            with pytest.raises(TimeoutError):  # woken by the nested loop's timer, not by an answer
                loop.run_nested(asyncio.wait_for(connection.fetchval("SELECT pg_sleep(30)"), 0.02))
            value = loop.run_nested(nested(depth - 1)) if depth else 0
            return value + await connection.fetchval("SELECT 1")

    async def main() -> None:
        await pool.initialize()
        others = [asyncio.create_task(pool.fetchval("SELECT $1::int", n)) for n in range(20)]
        assert await nested(2) == 3
        assert await asyncio.gather(*others) == list(range(20))
        await assert_sound(pool)
        await pool.shutdown(1.0)

    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=4))
    try:
        loop.run_until_complete(asyncio.wait_for(main(), 30.0))
    finally:
        loop.close()
    assert not told


@pytest.mark.timeout(60)
def test_what_waits_for_its_step_is_served_by_a_declared_nested_loop(database_url: str) -> None:
    """The stepped task gives its connection to another task, then runs the loop until that one is done."""
    loop = DeclaredNestableLoop()
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=1, max_size=1))

    async def main() -> None:
        await pool.initialize()
        held = await pool.acquire()

        async def take() -> None:
            async with pool.acquire():
                pass

        waiting = asyncio.create_task(take())
        await held.fetchval("SELECT 1")

        async def until_done() -> None:
            await asyncio.wait({waiting}, timeout=5.0)

        held._release()
        loop.run_nested(until_done())
        assert waiting.done()
        await pool.shutdown(1.0)

    try:
        loop.run_until_complete(asyncio.wait_for(main(), 30.0))
    finally:
        loop.close()


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore:coroutine .* was never awaited"
)  # of what it cut off
def test_interrupts_at_any_place_reach_the_caller_and_lose_no_wake_up(database_url: str) -> None:
    """A timer's signal, again and again, while tasks hand connections round."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()  # what is raised in one of the test tools' own is lost
    loop = asyncio.new_event_loop()
    pool = ConnectionPoolManager(PoolConfig(database_url, min_size=2, max_size=2, timeout=20.0))
    stop = False

    async def work(number: int) -> None:
        while not stop:
            assert await pool.fetchval("SELECT $1::int", number) == number

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    loop.run_until_complete(pool.initialize())
    old = signal.signal(signal.SIGALRM, interrupt)
    tasks = [loop.create_task(work(number)) for number in range(10)]
    try:
        for step in range(300):
            watchdog = loop.call_later(10.0, loop.stop)
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + step % 17 * 0.0003)
                loop.run_forever()
            watchdog.cancel()
            for index, task in enumerate(tasks):
                if task.done():  # the interrupt came in its own code
                    assert isinstance(task.exception(), KeyboardInterrupt)
                    tasks[index] = loop.create_task(work(index))
        stop = True
        _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=10.0))
        assert not pending
        loop.run_until_complete(pool.shutdown(1.0))
    finally:
        gc.callbacks[:] = callbacks
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)
        loop.close()
