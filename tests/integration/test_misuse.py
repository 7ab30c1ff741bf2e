"""Bad input and wrong use: a named error each, with words that help and no password in them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pqpool import (
    Connection,
    ConnectionPoolError,
    ConnectionPoolManager,
    InvalidArgumentError,
    LeaseBusyError,
    LeaseReleasedError,
    PoolClosedError,
    PoolConfig,
    PoolConfigurationError,
    PoolInitializationError,
    PoolNotInitializedError,
    PoolState,
    QueryError,
    TooManyRequestsError,
)
from pqpool.throwaway import ThrowawayServer, free_port
from support.pools import assert_sound, named, open_pool, sessions_of
from support.wait import wait_until, wait_until_async

SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def guarded() -> Iterator[ThrowawayServer]:
    """A server that asks one of its roles for a password."""
    with ThrowawayServer(hba=["host all alice 127.0.0.1/32 scram-sha-256"]) as server:
        server.sql(f"CREATE ROLE alice LOGIN PASSWORD '{SECRET}'")
        yield server


# ---- settings ----

URL = "postgresql://app@db.example/app"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"min_size": 10, "max_size": 5},
            [
                "min_size (10) cannot be greater than max_size (5)",
                "max_size (5) must be >= min_size (10)",
                "Suggestion: Increase POOL_MAX_SIZE to 10 or reduce POOL_MIN_SIZE to 5",
            ],
        ),
        ({"database_url": "invalid://url"}, ["database_url must use postgresql"]),
        ({"min_size": -1}, ["min_size must be positive", "-1"]),
        ({"timeout": 600}, ["timeout must be less than 300.0 seconds", "600"]),
        ({"timeout": 0}, ["timeout must be greater than 0.0"]),
        (
            {"database_url": f"host=db password={SECRET} prot=5432"},
            ["database_url", "invalid connection option"],
        ),
    ],
    ids=["sizes", "scheme", "negative", "too long", "zero", "keyword"],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_opened(settings, words):
    with pytest.raises(PoolConfigurationError) as caught:
        PoolConfig(**{"database_url": URL, **settings})
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)
    assert SECRET not in str(caught.value)


# ---- initialization ----


async def fails_to_initialize(url: str, caplog: pytest.LogCaptureFixture, **settings: object) -> str:
    """The error's whole text; neither it nor the log may hold the password."""
    manager = ConnectionPoolManager()
    with caplog.at_level(logging.DEBUG, "pqpool"), pytest.raises(PoolInitializationError) as caught:
        await manager.initialize(PoolConfig(url, **settings))  # type: ignore[arg-type]
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert SECRET not in told + logged
    assert manager.state is PoolState.TERMINATED
    with pytest.raises(PoolNotInitializedError):
        manager.get_statistics()
    return str(caught.value)


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ({"role": "alice", "password": f"wrong-{SECRET}"}, 'password authentication failed for user "alice"'),
        ({"role": "alice"}, "no password supplied"),
        ({"role": "postgres", "database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"role": "nobody_here"}, 'role "nobody_here" does not exist'),
    ],
    ids=["wrong password", "no password", "unknown database", "unknown role"],
)
async def test_what_the_server_refuses_for_good_is_reported_at_once_in_its_words(
    guarded, caplog, account, words
):
    url = named(guarded.url_for(**account), "refused")
    began = time.monotonic()
    told = await fails_to_initialize(url, caplog, min_size=3)
    assert time.monotonic() - began < 1.0
    assert words in told
    assert "127.0.0.1" in told and str(guarded.port) in told and "Suggestion:" in told
    assert sessions_of(guarded, "refused") == []


async def test_the_right_password_opens_the_pool_and_is_shown_nowhere(guarded, caplog):
    with caplog.at_level(logging.DEBUG, "pqpool"):
        async with open_pool(guarded.url_for("alice", SECRET)) as manager:
            assert await manager.fetchval("SELECT current_user") == "alice"
            shown = f"{manager.get_statistics()} {await manager.health_check()} {manager.holders()}"
            guarded.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'alice'")
            assert await manager.fetchval("SELECT 1") == 1
    shown += "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert SECRET not in shown + repr(PoolConfig(guarded.url_for("alice", SECRET)))


async def test_a_refused_port_is_reported_in_under_two_seconds(caplog):
    port = free_port()
    began = time.monotonic()
    told = await fails_to_initialize(f"postgresql://app:{SECRET}@127.0.0.1:{port}/shop", caplog)
    assert time.monotonic() - began < 2.0
    for word in ("Connection refused", "127.0.0.1", str(port), "shop", "Suggestion:"):
        assert word in told


async def test_a_port_that_is_no_number_is_reported_in_libpqs_words(caplog):
    told = await fails_to_initialize(f"postgresql://app:{SECRET}@127.0.0.1:nonsense/shop", caplog)
    assert "nonsense" in told


async def test_a_host_that_cannot_be_resolved_is_reported_in_the_systems_words(caplog):
    told = await fails_to_initialize(f"postgresql://app:{SECRET}@nowhere.invalid/shop", caplog)
    assert "nowhere.invalid" in told
    assert "known" in told or "name resolution" in told or "associated" in told


async def test_a_manager_can_be_initialized_after_a_failure(server, caplog):
    manager = ConnectionPoolManager()
    with pytest.raises(PoolInitializationError):
        await manager.initialize(PoolConfig(server.url_for("postgres", database="nowhere")))
    await manager.initialize(PoolConfig(server.url))
    assert await manager.fetchval("SELECT 1") == 1
    with pytest.raises(InvalidArgumentError, match="initialized already"):
        await manager.initialize(PoolConfig(server.url))
    await manager.shutdown()


async def test_nothing_can_be_done_before_initialize():
    manager = ConnectionPoolManager()
    for use in (manager.get_statistics, manager.health_check, manager.acquire, manager.shutdown):
        with pytest.raises(PoolNotInitializedError, match="initialize") as caught:
            outcome = use()
            if asyncio.iscoroutine(outcome):
                await outcome
        assert isinstance(caught.value, RuntimeError) and isinstance(caught.value, ConnectionPoolError)


# ---- leases ----


async def test_use_after_release_and_a_second_release_are_named_errors(server):
    async with open_pool(server.url) as manager:
        connection = await manager.acquire()
        await manager.release(connection)
        assert connection.is_closed()
        for use in (connection.fetchval, connection.fetchrow, connection.fetch, connection.execute):
            with pytest.raises(LeaseReleasedError, match="released already"):
                await use("SELECT 1")
        with pytest.raises(LeaseReleasedError, match="released already"):
            await manager.release(connection)
        async with manager.acquire() as other:
            with pytest.raises(LeaseReleasedError):
                await connection.fetchval("SELECT 1")
            assert await other.fetchval("SELECT 2") == 2
        await assert_sound(manager)


async def test_a_second_statement_at_the_same_time_on_one_connection_is_refused(server):
    async with open_pool(server.url) as manager, manager.acquire() as connection:
        first = asyncio.ensure_future(connection.fetchval("SELECT 1 FROM pg_sleep(0.1)"))
        await asyncio.sleep(0)
        with pytest.raises(LeaseBusyError, match="another statement is under way"):
            await connection.fetchval("SELECT 2")
        assert await first == 1
        assert await connection.fetchval("SELECT 3") == 3


async def test_an_error_of_the_server_leaves_the_connection_usable(server):
    async with open_pool(server.url) as manager, manager.acquire() as connection:
        for statement, state in (
            ("SELEC 1", "42601"),
            ("SELECT 1 / 0", "22012"),
            ("SELECT nothing", "42703"),
        ):
            with pytest.raises(QueryError) as caught:
                await connection.fetchval(statement)
            assert caught.value.sqlstate == state
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_parameter_without_a_postgresql_type_sends_nothing(server):
    async with open_pool(server.url) as manager, manager.acquire() as connection:
        for bad in (object(), [object()], "a\0b", lambda: None):
            with pytest.raises(InvalidArgumentError, match=r"parameter \$2"):
                await connection.fetchval("SELECT $1::int, $2", 1, bad)
        for bad_timeout in (-1, float("nan")):
            with pytest.raises(InvalidArgumentError, match="timeout"):
                await connection.fetchval("SELECT 1", timeout=bad_timeout)
        assert await connection.fetchval("SELECT 1") == 1


async def test_requests_beyond_max_waiting_are_refused_at_once(server):
    async with open_pool(server.url, max_waiting=2) as manager:
        async with manager.acquire():
            waiting = [asyncio.ensure_future(manager.fetchval("SELECT 1")) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(TooManyRequestsError, match="POOL_MAX_WAITING"):
                await manager.acquire()
        assert await asyncio.gather(*waiting) == [1, 1]


# ---- loops and threads ----


def in_another_thread(work: object) -> BaseException | None:
    """How a coroutine function ends on an event loop of another thread."""
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            ended.append(asyncio.run(work()))  # type: ignore[operator]
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20.0)
    assert ended, "the other thread hangs"
    return ended[0]


async def test_a_connection_used_on_another_threads_loop_is_refused_and_stays_usable(server):
    async with open_pool(server.url) as manager, manager.acquire() as connection:
        error = await asyncio.to_thread(in_another_thread, lambda: connection.fetchval("SELECT 1"))
        assert isinstance(error, InvalidArgumentError)
        assert "thread" in str(error)
        assert await connection.fetchval("SELECT 2") == 2


def test_a_connection_used_on_another_loop_of_the_same_thread_is_refused(server):
    manager = ConnectionPoolManager(PoolConfig(server.url, min_size=1, max_size=1))
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(manager.initialize())

        async def acquire() -> Connection:
            return await manager.acquire()

        connection = first.run(acquire())
        with pytest.raises(InvalidArgumentError, match="another event loop"):
            second.run(connection.fetchval("SELECT 1"))
        assert first.run(connection.fetchval("SELECT 2")) == 2
        first.run(manager.release(connection))
        assert second.run(manager.fetchval("SELECT 3")) == 3
        first.run(manager.shutdown())


def test_a_manager_may_be_used_by_one_event_loop_after_another(server):
    manager = ConnectionPoolManager(PoolConfig(server.url, min_size=2, max_size=2))
    asyncio.run(manager.initialize())
    for number in range(5):
        assert asyncio.run(manager.fetchval("SELECT $1::int", number)) == number
    asyncio.run(assert_sound(manager))
    asyncio.run(manager.shutdown())
    assert manager.state is PoolState.TERMINATED


@pytest.mark.parametrize("loops", ["default", "uvloop"])
def test_event_loops_of_several_threads_share_one_pool(server, loops):
    factory = None if loops == "default" else pytest.importorskip("uvloop").new_event_loop
    manager = ConnectionPoolManager(PoolConfig(server.url, min_size=3, max_size=3))

    async def ask(number: int) -> None:
        async with manager.acquire() as connection:
            assert await connection.fetchval("SELECT $1::int FROM pg_sleep(0.001)", number) == number

    async def work(first: int) -> None:
        for begin in range(first, first + 300, 30):
            await asyncio.gather(*(ask(number) for number in range(begin, begin + 30)))

    def on_own_loop(first: int) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work(first))

    async def everything() -> None:
        await manager.initialize()
        await asyncio.gather(*(asyncio.to_thread(on_own_loop, 1000 * n) for n in range(4)), work(9000))
        await assert_sound(manager)
        assert manager.get_statistics().peak_active_connections == 3
        await manager.shutdown(2.0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(everything())


def test_the_pool_works_under_uvloop(server):
    uvloop = pytest.importorskip("uvloop")

    async def flow() -> None:
        async with open_pool(server.url, min_size=2, max_size=4) as manager:

            async def ask(number: int) -> int:
                async with manager.acquire() as connection:
                    return int(await connection.fetchval("SELECT $1::int FROM pg_sleep(0.001)", number))

            assert await asyncio.gather(*(ask(n) for n in range(200))) == list(range(200))
            async with manager.acquire() as connection:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await connection.execute("SELECT pg_sleep(30)")
                with pytest.raises(QueryError):
                    await connection.execute("SELECT 1 / 0")
                async with connection.transaction():
                    assert [
                        row["n"] for row in await connection.fetch("SELECT generate_series(1, 3) AS n")
                    ] == [1, 2, 3]
            tasks = [asyncio.ensure_future(ask(n)) for n in range(50)]
            await asyncio.sleep(0.005)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.wait(tasks)
            await assert_sound(manager)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(flow())


# ---- shutdown ----


async def test_shutdown_with_a_lease_nobody_returns_comes_back_on_time_and_ends_its_session(server, caplog):
    manager = ConnectionPoolManager(PoolConfig(named(server.url, "kept"), min_size=2, max_size=2))
    await manager.initialize()
    connection = await manager.acquire()
    statement = asyncio.ensure_future(connection.fetchval("SELECT pg_sleep(30)"))
    await asyncio.sleep(0)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "pqpool"):
        await manager.shutdown(timeout=0.5)
    assert 0.45 < time.monotonic() - began < 1.5
    assert manager.state is PoolState.TERMINATED
    assert "closed by force" in caplog.text
    with pytest.raises(PoolClosedError):
        await statement
    await asyncio.to_thread(wait_until, lambda: sessions_of(server, "kept") == [], 2.0)
    with pytest.raises(ConnectionPoolError):
        await connection.fetchval("SELECT 1")
    await manager.release(connection)
    after = manager.get_statistics()
    assert (after.total_connections, after.leases_out) == (0, 0)
    assert (await manager.health_check()).status == "unhealthy"


async def test_acquires_are_refused_and_waiting_ones_fail_as_soon_as_shutdown_begins(server):
    manager = ConnectionPoolManager(PoolConfig(server.url, min_size=1, max_size=1))
    await manager.initialize()
    connection = await manager.acquire()
    waiting = asyncio.ensure_future(manager.fetchval("SELECT 1"))
    await asyncio.sleep(0)
    shutdown = asyncio.ensure_future(manager.shutdown(timeout=5.0))
    await wait_until_async(lambda: manager.state is PoolState.SHUTTING_DOWN, 1.0)
    with pytest.raises(PoolClosedError, match="shutting down"):
        await manager.acquire()
    with pytest.raises(PoolClosedError):
        await waiting
    assert await connection.fetchval("SELECT 1") == 1  # who has a connection may finish
    assert not shutdown.done()
    await manager.release(connection)
    await asyncio.wait_for(shutdown, 1.0)
    with pytest.raises(PoolClosedError, match="closed"):
        await manager.acquire()
    await manager.shutdown()


async def test_two_shutdowns_at_once_are_one(server):
    manager = ConnectionPoolManager(PoolConfig(named(server.url, "twice"), min_size=2, max_size=2))
    await manager.initialize()
    connection = await manager.acquire()
    began = time.monotonic()
    await asyncio.gather(manager.shutdown(timeout=0.3), manager.shutdown(timeout=30.0), manager.shutdown(0.3))
    assert time.monotonic() - began < 1.3
    await manager.release(connection)
    await asyncio.to_thread(wait_until, lambda: sessions_of(server, "twice") == [], 2.0)


# ---- fork ----


def test_a_forked_child_gets_named_errors_a_pool_of_its_own_and_disturbs_nobody(server):
    """In a process of its own: the test run itself has threads that a fork would not take along."""
    script = Path(__file__).parents[1] / "support" / "forking.py"
    done = subprocess.run(
        [sys.executable, str(script), named(server.url, "forked")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["child", "parent"]
    wait_until(lambda: sessions_of(server, "forked") == [], 5.0)
