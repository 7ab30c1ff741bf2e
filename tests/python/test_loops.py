"""The pool's lives, and the event loops that use it: loops that come, go, stop, and whose threads race."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from pqpool import (
    ConnectionPoolManager,
    InvalidArgumentError,
    LeaseReleasedError,
    PoolClosedError,
    PoolConfig,
    PoolState,
)
from pqpool.pool_logging import get_pool_logger
from support.fault_proxy import FaultProxy
from support.pools import assert_sound, open_pool
from support.wait import wait_until, wait_until_async

T = TypeVar("T")


def small(url: str, **settings: Any) -> PoolConfig:
    return PoolConfig(url, **{"min_size": 1, "max_size": 1, "timeout": 5.0, **settings})


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class LoopThread:
    """An event loop that runs on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> LoopThread:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10.0)
        self.loop.close()

    def start(self, work: Coroutine[Any, Any, T]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self.start(work).result(10.0)
        return result


# ---- lives ----


async def test_what_a_life_left_behind_does_not_end_the_next_one(database_url: str) -> None:
    pool = ConnectionPoolManager(small(database_url))
    await pool.initialize()
    lost = await pool.acquire()
    old = lost._driver
    await pool.shutdown(timeout=0.01)
    await pool.initialize()
    pool.pause()
    waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
    await asyncio.sleep(0)
    lost._release()
    await wait_until_async(old.is_closed)
    pool.resume()
    assert await asyncio.wait_for(waiting, 5.0) == 1
    await pool.shutdown(1.0)


async def test_a_lease_that_outlives_its_pool_keeps_no_timer_running(database_url: str) -> None:
    pool = ConnectionPoolManager(small(database_url))
    await pool.initialize()
    kept = await pool.acquire()
    await pool.shutdown(timeout=0.01)
    await asyncio.sleep(0)
    assert not asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    with pytest.raises(PoolClosedError):
        await kept.fetchval("SELECT 1")
    kept._release()
    await wait_until_async(kept._driver.is_closed)


async def test_a_slow_opening_after_a_shutdown_with_a_lease_out(database_url: str, proxy: FaultProxy) -> None:
    pool = ConnectionPoolManager(small(proxy.url(database_url)))
    await pool.initialize()
    lost = await pool.acquire()
    await pool.shutdown(timeout=0.01)
    proxy.delay_connects(0.3)
    await pool.initialize()
    assert await pool.fetchval("SELECT 1") == 1
    del lost
    await pool.shutdown(1.0)


async def test_a_shutdown_during_initialize_ends_both(database_url: str, proxy: FaultProxy) -> None:
    pool = ConnectionPoolManager(small(proxy.url(database_url)))
    proxy.delay_connects(0.5)
    opening = asyncio.create_task(pool.initialize())
    await asyncio.sleep(0)
    await pool.shutdown(1.0)
    with pytest.raises(PoolClosedError):
        await opening
    assert pool.state is PoolState.TERMINATED
    assert pool.get_statistics().total_connections == 0
    assert (await pool.health_check()).status == "unhealthy"
    with pytest.raises(PoolClosedError):
        await pool.acquire()
    await pool.shutdown()
    await pool.initialize()
    assert await pool.fetchval("SELECT 1") == 1
    await pool.shutdown(1.0)


async def test_an_initialize_cancelled_again_while_it_cleans_up_leaves_nothing(
    database_url: str, proxy: FaultProxy
) -> None:
    pool = ConnectionPoolManager(small(proxy.url(database_url)))
    proxy.delay_connects(30.0)
    opening = asyncio.create_task(pool.initialize())
    for _ in range(3):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert pool._native is None and not pool._drivers
    proxy.resume()
    proxy.delay_connects(0.0)
    await pool.initialize()
    assert await pool.fetchval("SELECT 1") == 1
    await pool.shutdown(1.0)


async def test_a_failing_initialize_does_not_end_the_one_that_follows_it(database_url: str) -> None:
    """The first one's cleaning up is still under way when the pool is open again."""
    pool = ConnectionPoolManager(small(database_url))
    first = asyncio.create_task(pool.initialize())
    await asyncio.sleep(0)
    first.cancel()
    await wait_until_async(lambda: pool.state is PoolState.TERMINATED, interval=0)
    await pool.initialize()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await pool.fetchval("SELECT 1") == 1
    await pool.shutdown(1.0)


async def test_a_cancelled_shutdown_goes_on_and_closes_the_loops_side(database_url: str) -> None:
    pool = ConnectionPoolManager(small(database_url))
    await pool.initialize()
    held = await pool.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.shutdown(None), 0.01)
    driver = held._driver
    assert not driver.is_closed()
    await pool.release(held)
    await wait_until_async(lambda: pool.state is PoolState.TERMINATED and driver.is_closed())
    assert not pool._drivers


async def test_a_shutdown_that_is_refused_ends_nothing(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        driver = pool._drivers[asyncio.get_running_loop()]
        with pytest.raises(InvalidArgumentError):
            await pool.shutdown(-1.0)
        assert await pool.fetchval("SELECT 1") == 1
        assert not driver.is_closed() and pool._drivers[asyncio.get_running_loop()] is driver


async def test_who_comes_while_the_pool_shuts_down_leaves_nothing_open(database_url: str) -> None:
    pool = ConnectionPoolManager(small(database_url))
    await pool.initialize()
    held = await pool.acquire()
    ending = asyncio.create_task(pool.shutdown(None))
    await asyncio.sleep(0)
    with LoopThread() as other:
        with pytest.raises(PoolClosedError):
            await asyncio.wrap_future(other.start(pool.fetchval("SELECT 1")))
        await wait_until_async(lambda: other.loop not in pool._drivers)
        await pool.release(held)
        await ending


async def test_two_shutdowns_and_a_waiter_all_end(database_url: str) -> None:
    pool = ConnectionPoolManager(small(database_url))
    await pool.initialize()
    held = await pool.acquire()
    waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
    await asyncio.sleep(0)
    both = asyncio.gather(pool.shutdown(None), pool.shutdown(None))
    await asyncio.sleep(0)
    await pool.release(held)
    assert await asyncio.wait_for(both, 5.0) == [None, None]
    with pytest.raises(PoolClosedError):
        await waiting


def test_a_connection_is_given_back_to_its_own_pool_only(database_url: str) -> None:
    async def main() -> None:
        async with open_pool(database_url) as a, open_pool(database_url) as b:
            connection = await a.acquire()
            with pytest.raises(InvalidArgumentError, match="another pool"):
                await b.release(connection)
            assert await connection.fetchval("SELECT 1") == 1
            with pytest.raises(InvalidArgumentError, match="NoneType"):
                await a.release(None)  # type: ignore[arg-type]
            await a.release(connection)
            with pytest.raises(LeaseReleasedError):
                await a.release(connection)
            with pytest.raises(InvalidArgumentError, match="another pool"):
                await b.release(connection)
            await assert_sound(a)

    asyncio.run(main())


# ---- loops that end and stop ----


def test_a_loop_that_closes_hands_on_what_its_tasks_held_and_waited_for(
    database_url: str, loop: asyncio.AbstractEventLoop
) -> None:
    """The other loop waits already, so that nobody comes by to see that the first one is gone."""
    pool = ConnectionPoolManager(small(database_url, timeout=20.0))
    ending = asyncio.new_event_loop()

    async def hold() -> tuple[Any, asyncio.Task[Any]]:
        await pool.initialize()
        held = await pool.acquire()
        task = asyncio.create_task(pool.fetchval("SELECT 1"))
        await asyncio.sleep(0)
        return held, task

    held, task = ending.run_until_complete(hold())
    with LoopThread() as other:
        waiting = other.start(pool.fetchval("SELECT 2"))
        wait_until(lambda: pool.get_statistics().waiting_requests == 2)
        ending.close()
        assert waiting.result(5.0) == 2
        assert held._driver.is_closed()
        with pytest.raises(PoolClosedError):
            loop.run_until_complete(held.fetchval("SELECT 1"))
        other.run(assert_sound(pool))
        other.run(pool.shutdown(1.0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_that_stopped_takes_what_it_was_granted_meanwhile(
    database_url: str, loop: asyncio.AbstractEventLoop
) -> None:
    """Two loops of one thread, one after the other."""
    pool = ConnectionPoolManager(small(database_url))
    stopped = asyncio.new_event_loop()

    async def hold() -> Any:
        return await pool.acquire()

    async def wait() -> asyncio.Task[Any]:
        task = asyncio.create_task(pool.fetchval("SELECT 1"))
        await asyncio.sleep(0)
        return task

    try:
        loop.run_until_complete(pool.initialize())
        held = loop.run_until_complete(hold())
        task = stopped.run_until_complete(wait())
        loop.run_until_complete(pool.release(held))
        assert stopped.run_until_complete(asyncio.wait_for(task, 5.0)) == 1

        held = loop.run_until_complete(hold())
        tasks = [stopped.run_until_complete(wait()) for _ in range(20)]
        loop.run_until_complete(pool.release(held))  # granted to a loop that does not run
        assert loop.run_until_complete(pool.fetchval("SELECT 2")) == 2
        done = stopped.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), 5.0))
        assert done == [1] * 20
        loop.run_until_complete(assert_sound(pool))
        loop.run_until_complete(pool.shutdown(1.0))
    finally:
        stopped.close()


def test_the_descriptors_of_a_closed_loop_are_closed_with_it(database_url: str) -> None:
    pool = ConnectionPoolManager(small(database_url))
    asyncio.run(pool.initialize())
    drivers = []

    async def work() -> None:
        async with pool.acquire() as connection:
            drivers.append(connection._driver)

    for _ in range(3):
        asyncio.run(work())
    assert all(driver.is_closed() for driver in drivers)
    asyncio.run(pool.shutdown(1.0))


async def test_a_loop_that_cannot_watch_descriptors_is_told_so(database_url: str) -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
            raise NotImplementedError

    def run() -> None:
        loop = Proactor()
        pool = ConnectionPoolManager(small(database_url))
        try:
            with pytest.raises(InvalidArgumentError, match=r"Proactor cannot watch .* SelectorEventLoop"):
                loop.run_until_complete(pool.initialize())
            assert pool.state is PoolState.TERMINATED
        finally:
            loop.close()

    await asyncio.to_thread(run)


# ---- threads ----


def test_the_table_of_loops_may_change_while_it_is_looked_through(
    database_url: str, loop: asyncio.AbstractEventLoop
) -> None:
    """What another thread does in the middle, done where the table asks its members."""
    pool = ConnectionPoolManager(small(database_url))
    loop.run_until_complete(pool.initialize())

    class Coming(asyncio.SelectorEventLoop):
        def is_closed(self) -> bool:
            if self in pool._drivers:
                del pool._drivers[self]
                pool._drivers[object()] = gone  # type: ignore[index]
            return super().is_closed()

    coming = Coming()
    coming.run_until_complete(pool.fetchval("SELECT 1"))
    gone = pool._drivers[coming]
    other = asyncio.new_event_loop()
    assert other.run_until_complete(pool.fetchval("SELECT 1")) == 1
    pool.resize(1, 1)
    other.close()
    coming.close()
    loop.run_until_complete(pool.shutdown(1.0))


def test_holders_and_steering_from_threads_whose_loops_come_and_go(
    database_url: str, loop: asyncio.AbstractEventLoop
) -> None:
    pool = ConnectionPoolManager(small(database_url, min_size=2, max_size=4))
    loop.run_until_complete(pool.initialize())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    errors: list[BaseException] = []
    stop = threading.Event()

    def come_and_go() -> None:
        try:
            for _ in range(40):
                assert asyncio.run(pool.fetchval("SELECT 1")) == 1
        except BaseException as error:
            errors.append(error)

    def look() -> None:
        try:
            while not stop.is_set():
                pool.holders()
                pool.resize(2, 4)
        except BaseException as error:
            errors.append(error)

    try:
        threads = [threading.Thread(target=come_and_go) for _ in range(6)]
        looker = threading.Thread(target=look)
        for thread in [*threads, looker]:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        stop.set()
        looker.join(10.0)
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    loop.run_until_complete(assert_sound(pool))
    loop.run_until_complete(pool.shutdown(1.0))


# ---- the log ----


class Lines(logging.Handler):
    """The pool's lines, with what `look` sees where they are handed on."""

    def __init__(self, look: Any = None) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []
        self._look = look or (lambda: None)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.getMessage(), self._look()))

    def has(self, words: str) -> bool:
        return any(words in message for message, _ in self.seen)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = get_pool_logger()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.parametrize("ends", ["closes", "stops"])
def test_another_loop_hands_the_log_on_where_the_first_one(
    ends: str, database_url: str, loop: asyncio.AbstractEventLoop, lines: Lines
) -> None:
    pool = ConnectionPoolManager(small(database_url))
    loop.run_until_complete(pool.initialize())
    with LoopThread() as other:
        assert other.run(pool.fetchval("SELECT 1")) == 1
        if ends == "closes":
            loop.close()

        async def hold() -> Any:
            return await pool.acquire(leak_timeout=0.05)

        held = other.run(hold())
        wait_until(lambda: lines.has("leak"))  # no statement brings it along
        other.run(pool.release(held))
        other.run(pool.shutdown(1.0))
    assert lines.has("terminated")


async def test_lines_are_handed_on_in_nobodys_context(database_url: str, lines: Lines) -> None:
    class Payload:
        pass

    request: contextvars.ContextVar[Payload | None] = contextvars.ContextVar("request", default=None)
    lines._look = request.get
    pool = ConnectionPoolManager(small(database_url))

    async def first() -> weakref.ref[Payload]:
        payload = Payload()
        request.set(payload)
        await pool.initialize()
        return weakref.ref(payload)

    async def second() -> None:
        request.set(Payload())
        async with pool.acquire(leak_timeout=0.05):
            await wait_until_async(lambda: lines.has("leak"))

    payload = await asyncio.create_task(first())
    await asyncio.sleep(0)
    assert payload() is None
    await asyncio.create_task(second())
    await pool.shutdown(1.0)
    assert lines.has("initialized") and lines.has("terminated")
    assert {seen for _, seen in lines.seen} == {None}


async def test_a_line_whose_handler_raises_keeps_no_other_back(database_url: str, lines: Lines) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def refuse(record: logging.LogRecord) -> bool:
        if "leak" in record.getMessage() and not told:
            raise LookupError("a filter's own")
        return True

    get_pool_logger().addFilter(refuse)
    try:
        async with (
            open_pool(database_url, min_size=2, max_size=2) as pool,
            pool.acquire(leak_timeout=0.05),
            pool.acquire(leak_timeout=0.05),
        ):
            await wait_until_async(lambda: told and lines.has("leak"))
    finally:
        get_pool_logger().removeFilter(refuse)
    assert [type(context["exception"]) for context in told] == [LookupError]
