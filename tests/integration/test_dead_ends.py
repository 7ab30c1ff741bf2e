"""Servers and networks that answer nothing, or nothing of use.

What hangs holds up nothing else, and nothing is tried at full speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pqpool import (
    ConnectionPoolError,
    ConnectionPoolManager,
    PoolConfig,
    PoolInitializationError,
    PoolTimeoutError,
    QueryError,
    StatementTimeoutError,
)
from pqpool.throwaway import ThrowawayServer
from support.fault_proxy import Action, Direction, Fault, FaultProxy
from support.pools import assert_sound, named, open_pool, sessions_of
from support.wait import wait_until_async

SESSIONS_ENDED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'"


@pytest.fixture(scope="module")
def lone_server() -> Iterator[ThrowawayServer]:
    """A server that stands still for a while; each test leaves it as it was."""
    with ThrowawayServer() as server:
        yield server


async def status(manager: ConnectionPoolManager) -> str:
    return (await manager.health_check()).status.value


@contextmanager
def frozen(server: ThrowawayServer) -> Iterator[None]:
    """The server's processes stand still, as on a machine that hangs: nothing is closed or answered."""
    os.kill(server.pid, signal.SIGSTOP)  # first, so that it makes and reaps none of the others meanwhile
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    family = [server.pid, *map(int, children)]
    for process in family[1:]:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in family:
            with contextlib.suppress(ProcessLookupError):  # one that had ended, and was reaped just now
                os.kill(process, signal.SIGCONT)


@contextmanager
def listener(serve: Callable[[socket.socket], None] | None = None) -> Iterator[int]:
    """A port that takes connections; `serve` is called with each, else nothing is ever said on it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection = listening.accept()[0]
                except OSError:
                    return
                taken.append(connection)
                if serve is not None:
                    serve(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5.0)
            for connection in taken:
                connection.close()


# ---- health ----


async def test_a_frozen_server_is_not_healthy_and_a_thawed_one_is(lone_server):
    async with open_pool(
        lone_server.url, min_size=2, max_size=4, timeout=0.3, command_timeout=0.3, connect_timeout=5.0
    ) as manager:
        with frozen(lone_server):
            ends = await asyncio.gather(
                *(manager.fetchval("SELECT 1") for _ in range(4)), return_exceptions=True
            )
            assert {type(end) for end in ends} == {StatementTimeoutError, PoolTimeoutError}
            assert await status(manager) == "degraded"  # requests have timed out
            await wait_until_async(lambda: manager.get_statistics().live_connections == 0, 0.5)
            for _ in range(4):
                assert await status(manager) == "unhealthy"
                with pytest.raises(PoolTimeoutError):
                    await manager.fetchval("SELECT 1")
            s = manager.get_statistics()
            assert s.opening_connections <= 5, "a server that hangs does not collect connects"

        async def is_healthy() -> bool:
            return await status(manager) == "healthy"

        await wait_until_async(is_healthy, 5.0)
        await assert_sound(manager)


@pytest.mark.parametrize("validation", ["always", "blocking"])
async def test_a_frozen_server_is_noticed_by_a_check_that_it_does_not_answer(lone_server, validation):
    async with open_pool(
        lone_server.url, min_size=2, max_size=2, validation=validation, keepalive_interval=0.2
    ) as manager:
        with frozen(lone_server):

            async def is_unhealthy() -> bool:
                return await status(manager) == "unhealthy"

            await wait_until_async(is_unhealthy, 2.0)
        await assert_sound(manager)
        assert await status(manager) == "healthy"


@pytest.mark.parametrize("timeout", [0.0, 0.05])
async def test_an_acquire_that_timed_out_is_remembered(server, timeout):
    async with open_pool(server.url) as manager:
        async with manager.acquire():
            with pytest.raises(PoolTimeoutError):
                await manager.acquire(timeout=timeout)
        assert await status(manager) == "degraded"
        assert manager.get_statistics().last_slow_acquisition_time is not None
        assert manager.get_statistics().total_timeouts == 1


async def test_an_acquire_whose_check_is_not_answered_counts_as_a_timeout(lone_server):
    async with open_pool(lone_server.url, min_size=1, max_size=1, validation="blocking") as manager:
        with frozen(lone_server):
            with pytest.raises(PoolTimeoutError):
                await manager.acquire(timeout=0.2)
            assert manager.get_statistics().total_timeouts == 1
            assert await status(manager) != "healthy"
        await assert_sound(manager)


# ---- sessions that are of no use ----


async def test_sessions_that_end_at_once_are_not_opened_at_full_speed(lone_server):
    lone_server.sql("CREATE ROLE brief LOGIN")
    async with open_pool(lone_server.url_for("brief"), min_size=4, max_size=10, timeout=20.0) as manager:
        lone_server.sql("ALTER ROLE brief SET idle_session_timeout = '1ms'")
        lone_server.sql(SESSIONS_ENDED.format("brief"))

        def attempts() -> int:
            s = manager.get_statistics()
            return s.connections_opened + s.connection_failures

        for at_once in (4 + 4 + 8, 0):  # at first each is replaced, and so are some of their successors
            before, began = attempts(), time.monotonic()
            while time.monotonic() - began < 2.0:  # somebody waits all the time
                with contextlib.suppress(ConnectionPoolError):
                    await manager.fetchval("SELECT 1", timeout=0.5)
            assert attempts() - before <= at_once + 4 * (time.monotonic() - began) + 2
            assert await status(manager) != "healthy"

        lone_server.sql("ALTER ROLE brief RESET idle_session_timeout")
        began = time.monotonic()
        assert await manager.fetchval("SELECT 1") == 1
        assert time.monotonic() - began < 1.0
        await wait_until_async(lambda: manager.get_statistics().idle_connections == 4, 2.0)
        assert await status(manager) == "healthy"
        await assert_sound(manager)


async def test_a_pool_whose_first_sessions_end_at_once_fails_to_open(lone_server):
    lone_server.sql("CREATE ROLE briefer LOGIN")
    lone_server.sql("ALTER ROLE briefer SET idle_session_timeout = '1ms'")
    manager = ConnectionPoolManager()
    began = time.monotonic()
    try:
        await manager.initialize(PoolConfig(lone_server.url_for("briefer"), min_size=20, max_size=20))
    except PoolInitializationError as error:
        assert "closed the connection" in str(error) or "idle-session timeout" in str(error)
        assert "server's log" in str(error)
    else:  # all of them stood for one moment
        assert await status(manager) != "healthy"
        await manager.shutdown(1.0)
    assert time.monotonic() - began < 3.0


async def test_a_server_that_is_full_is_asked_four_times_a_second_at_most(lone_server):
    lone_server.sql("CREATE ROLE crowd LOGIN CONNECTION LIMIT 2")
    async with open_pool(lone_server.url_for("crowd"), min_size=2, max_size=20, timeout=1.5) as manager:
        async with manager.acquire(), manager.acquire():
            began = time.monotonic()
            ends = await asyncio.gather(*(manager.acquire() for _ in range(10)), return_exceptions=True)
            waited = time.monotonic() - began
        assert {type(end) for end in ends} == {PoolTimeoutError}
        assert 3 <= manager.get_statistics().connection_failures <= 4 * waited + 3
        assert "too many connections" in (manager.get_statistics().last_error or "")
        await assert_sound(manager)


async def test_a_server_that_refuses_writes_serves_reads_and_is_not_reconnected_to_at_full_speed(lone_server):
    async with open_pool(named(lone_server.url, "readers"), min_size=4, max_size=4) as manager:
        await manager.execute("CREATE TABLE written (n int)")
        lone_server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        lone_server.sql("SELECT pg_reload_conf()")

        async def refuses() -> bool:
            try:
                await manager.execute("INSERT INTO written VALUES (1)")
            except QueryError as error:
                return error.sqlstate == "25006"
            return False

        await wait_until_async(refuses, 5.0)
        opened, began = manager.get_statistics().connections_opened, time.monotonic()
        while time.monotonic() - began < 2.0:
            assert await refuses()
            assert await manager.fetchval("SELECT count(*) FROM written") >= 0
        assert manager.get_statistics().connections_opened - opened <= 4 + 4 * 2 + 1

        lone_server.sql("ALTER SYSTEM RESET default_transaction_read_only")
        lone_server.sql("SELECT pg_reload_conf()")

        async def takes() -> bool:
            return not await refuses()

        await wait_until_async(takes, 5.0)
        await assert_sound(manager)
        assert len(sessions_of(lone_server, "readers")) == 4


# ---- what hangs ----


async def test_a_connect_that_hangs_does_not_hold_up_who_waits(server, proxy: FaultProxy):
    async with open_pool(proxy.url(server.url), min_size=2, max_size=4, timeout=30.0) as manager:
        proxy.delay_connects(600)
        await asyncio.to_thread(proxy.strike_all, Action.CUT)
        await wait_until_async(lambda: manager.get_statistics().total_connections == 0, 2.0)
        waiting = [asyncio.ensure_future(manager.fetchval("SELECT $1::int", n)) for n in range(8)]
        await wait_until_async(lambda: manager.get_statistics().opening_connections >= 3, 5.0)
        await asyncio.to_thread(proxy.resume)  # connects that come from now on get through
        began = time.monotonic()
        assert await asyncio.gather(*waiting) == list(range(8))
        assert time.monotonic() - began < 1.0
        await wait_until_async(lambda: manager.get_statistics().opening_connections == 0, 2.0)
        assert await status(manager) == "healthy"
        await assert_sound(manager)


async def test_a_cancel_that_hangs_delays_no_other_and_is_sent_again(server, proxy: FaultProxy):
    url = named(proxy.url(server.url), "cancels")
    async with open_pool(url, min_size=3, max_size=3) as manager:
        proxy.plan_next(Fault.at_byte(Action.SWALLOW, Direction.TO_SERVER, 0))

        async def too_long(number: int) -> None:
            await wait_until_async(lambda: number == 0 or any(c.fired.is_set() for c in proxy.connections))
            with pytest.raises(StatementTimeoutError):
                await manager.execute(f"SELECT pg_sleep({20 + number})", timeout=0.2)

        await asyncio.gather(*(too_long(number) for number in range(3)))

        def running() -> int:
            return int(
                server.sql(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE application_name = 'cancels' AND state = 'active'"
                )
            )

        await wait_until_async(lambda: running() <= 1, 0.7)
        await wait_until_async(lambda: running() == 0, 3.0)
        began = time.monotonic()
    assert time.monotonic() - began < 1.0  # nor does it hold up the shutdown


async def test_a_host_that_answers_nothing_does_not_hide_the_one_after_it(server):
    with listener() as silent:
        hosts = f"host=127.0.0.1,{server.host} port={silent},{server.port} dbname=postgres user=postgres"
        began = time.monotonic()
        async with open_pool(hosts, min_size=2, max_size=2, connect_timeout=4.0) as manager:
            assert time.monotonic() - began < 3.0
            server.sql(
                SESSIONS_ENDED.format("postgres")
                + " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            began = time.monotonic()
            assert await manager.fetchval("SELECT 1") == 1
            assert time.monotonic() - began < 2.0
            await assert_sound(manager)


# ---- reasons ----


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (None, r"no answer within connect_timeout \(0\.5 s\)"),
        (lambda connection: connection.close(), "closed"),
        (lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "."),
    ],
    ids=["silent", "closes", "speaks_http"],
)
async def test_a_port_that_is_no_server_is_named_with_what_it_did(serve, reason):
    with listener(serve) as port:
        manager = ConnectionPoolManager()
        with pytest.raises(PoolInitializationError, match=reason) as caught:
            await manager.initialize(
                PoolConfig(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=0.5)
            )
        for word in ("127.0.0.1", str(port), "Suggestion"):
            assert word in str(caught.value)


async def test_a_session_whose_first_statements_fail_or_hang_is_named_with_what_it_did(server):
    for init_sql, reason in (("SELECT 1/0", "division by zero"), ("SELECT pg_sleep(60)", "first statements")):
        manager = ConnectionPoolManager()
        with pytest.raises(PoolInitializationError, match=reason) as caught:
            await manager.initialize(PoolConfig(server.url, init_sql=init_sql, connect_timeout=0.5))
        for word in (server.host, str(server.port), "init_sql", "Suggestion"):
            assert word in str(caught.value)
