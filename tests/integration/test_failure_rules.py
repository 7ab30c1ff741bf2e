"""When a connection dies under a lease's first statement: what is sent again, and what is reported instead.

Every rule is met at the exact byte or message where it begins to hold. The statements write into a table
without a key, so that anything executed twice would be seen there.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest

from pqpool import (
    Connection,
    ConnectionLostError,
    ConnectionPoolManager,
    ConnectionValidationError,
    PoolTimeoutError,
    StatementTimeoutError,
)
from pqpool.throwaway import ThrowawayServer
from support.fault_proxy import Action, Direction, Fault, FaultProxy
from support.pools import assert_sound, open_pool
from support.wait import wait_until, wait_until_async

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
UNKNOWN = "whether it was executed is unknown"
WRITE = "INSERT INTO writes VALUES ($1)"

_ids = itertools.count(1)


@pytest.fixture(scope="module")
def table(server: ThrowawayServer) -> Iterator[ThrowawayServer]:
    server.sql("CREATE TABLE writes (id int)")
    yield server
    server.sql("DROP TABLE writes")


@pytest.fixture
async def pool(table: ThrowawayServer, proxy: FaultProxy) -> AsyncIterator[ConnectionPoolManager]:
    """One connection, through the proxy, on which the write is prepared already."""
    async with open_pool(proxy.url(table.url)) as manager:
        await use_thrice(manager)
        yield manager


@pytest.fixture
def fresh() -> int:
    return next(_ids)


async def use_thrice(manager: ConnectionPoolManager) -> None:
    for _ in range(3):
        await manager.execute(WRITE, 0)


def times_written(server: ThrowawayServer, number: int) -> int:
    return int(server.sql(f"SELECT count(*) FROM writes WHERE id = {number}"))


def losses(manager: ConnectionPoolManager) -> int:
    return manager.get_statistics().connections_lost


# ---- nothing of the packet was written ----


async def test_hang_up_of_an_idle_connection_is_not_noticed_by_the_caller(pool, table, proxy, fresh):
    proxy.strike_all(Action.CUT)
    await wait_until_async(lambda: losses(pool) == 1)
    await pool.execute(WRITE, fresh)
    assert times_written(table, fresh) == 1
    await assert_sound(pool)


@pytest.mark.parametrize("action", [Action.CUT, Action.RESET])
async def test_hang_up_between_acquire_and_the_first_statement_is_silent(pool, table, proxy, fresh, action):
    async with pool.acquire() as connection:
        proxy.strike_all(action)
        await wait_until_async(lambda: losses(pool) == 1)
        assert await connection.execute(WRITE, fresh) == "INSERT 0 1"
    assert times_written(table, fresh) == 1
    await assert_sound(pool)


async def test_hang_up_after_the_first_statement_is_reported_as_not_executed(pool, table, proxy, fresh):
    async with pool.acquire() as connection:
        await connection.fetchval("SELECT 1")
        proxy.strike_all(Action.CUT)
        await wait_until_async(lambda: losses(pool) == 1)
        with pytest.raises(ConnectionLostError, match="it was not executed"):
            await connection.execute(WRITE, fresh)
    assert times_written(table, fresh) == 0
    await assert_sound(pool)


async def test_a_whole_shelf_of_dead_connections_costs_the_caller_nothing(table, proxy, fresh):
    async with open_pool(proxy.url(table.url), min_size=8, max_size=8) as pool:
        proxy.strike_all(Action.RESET)
        await wait_until_async(lambda: losses(pool) == 8)
        began = time.monotonic()
        await asyncio.gather(*(pool.execute(WRITE, fresh) for _ in range(8)))
        assert time.monotonic() - began < 1.0
        assert times_written(table, fresh) == 8
        await assert_sound(pool)


# ---- the check under its own Sync: everything that is not an ordinary read ----

ENDS = {
    "nothing reaches the server": Fault.at_byte(Action.CUT, TO_SERVER, 0),
    "half of the check reaches the server": Fault.at_byte(Action.CUT, TO_SERVER, 9),
    "the check reaches the server": Fault.after(Action.CUT, b"S", 1, TO_SERVER),
    "half of the write reaches the server": Fault.at_byte(Action.CUT, TO_SERVER, 70),
    "all reaches the server": Fault.after(Action.CUT, b"S", 2, TO_SERVER),
}


@pytest.mark.parametrize("fault", ENDS.values(), ids=ENDS)
async def test_an_end_without_the_servers_word_proves_nothing(pool, table, proxy, fresh, fault):
    """A proxy can die having passed everything on, and its end looks the same."""
    session = proxy.sessions[0]
    session.arm(fault)
    with pytest.raises(ConnectionValidationError, match=UNKNOWN):
        await pool.execute(WRITE, fresh)
    assert session.fired.is_set()
    assert times_written(table, fresh) <= 1
    await assert_sound(pool)


@pytest.mark.parametrize("action", [Action.CUT, Action.RESET, Action.END])
@pytest.mark.parametrize("byte", [0, 9])
async def test_after_a_while_unused_the_check_is_answered_before_the_write_is_sent(
    table, proxy, fresh, action, byte
):
    async with open_pool(proxy.url(table.url), validation_await_time=0) as pool:
        await use_thrice(pool)
        session = proxy.sessions[0]
        session.arm(Fault.at_byte(action, TO_SERVER, byte))
        assert await pool.execute(WRITE, fresh) == "INSERT 0 1"
        assert session.fired.is_set()
        assert times_written(table, fresh) == 1
        await assert_sound(pool)


async def test_a_write_is_sent_again_after_a_fatal_error_before_the_check_is_answered(table, fresh):
    async with open_pool(table.url) as pool, pool.acquire() as connection:
        backend = pool.holders()[0].backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            write = asyncio.ensure_future(connection.execute(WRITE, fresh))
            await asyncio.sleep(0)  # the packet is written now
            os.kill(backend, signal.SIGTERM)
        finally:
            os.kill(backend, signal.SIGCONT)
        assert await write == "INSERT 0 1"
        assert times_written(table, fresh) == 1
        assert await connection.fetchval("SELECT pg_backend_pid()") != backend


AFTER_THE_ANSWER = {
    "cut behind the check's answer": Fault.after(Action.CUT, b"Z"),
    "reset behind the check's answer": Fault.after(Action.RESET, b"Z"),
    "cut in front of the write's answer": Fault.before(Action.CUT, b"C", 2),
    "cut behind the write's answer": Fault.after(Action.CUT, b"C", 2),
    "end behind the check": Fault.after(Action.END, b"S", 1, TO_SERVER),
    "end within the write": Fault.at_byte(Action.END, TO_SERVER, 70),
}


@pytest.mark.parametrize("fault", AFTER_THE_ANSWER.values(), ids=AFTER_THE_ANSWER)
async def test_a_write_lost_after_the_check_is_answered_is_reported_as_unknown(
    pool, table, proxy, fresh, fault
):
    proxy.sessions[0].arm(fault)
    with pytest.raises(ConnectionValidationError, match=UNKNOWN):
        await pool.execute(WRITE, fresh)
    assert times_written(table, fresh) <= 1
    await assert_sound(pool)


RESETS = {
    "nothing reaches the server": Fault.at_byte(Action.RESET, TO_SERVER, 0),
    "the check reaches the server": Fault.after(Action.RESET, b"S", 1, TO_SERVER),
    "all reaches the server": Fault.after(Action.RESET, b"S", 2, TO_SERVER),
    "nothing of the check's answer comes back": Fault.at_byte(Action.RESET, TO_CLIENT, 0),
    "half of the check's answer comes back": Fault.at_byte(Action.RESET, TO_CLIENT, 20),
}


@pytest.mark.parametrize("fault", RESETS.values(), ids=RESETS)
async def test_a_reset_under_a_write_is_reported_as_unknown(pool, table, proxy, fresh, fault):
    """A reset may destroy an answer that was on its way, so the missing answer proves nothing."""
    proxy.sessions[0].arm(fault)
    with pytest.raises(ConnectionValidationError, match=UNKNOWN):
        await pool.execute(WRITE, fresh)
    assert times_written(table, fresh) <= 1
    await assert_sound(pool)


async def test_a_write_is_not_sent_again_where_part_of_the_checks_answer_came(pool, table, proxy, fresh):
    """A server's end tears no answer apart: something in between lost bytes, perhaps more of them."""
    proxy.sessions[0].arm(Fault.at_byte(Action.CUT, TO_CLIENT, 20))
    with pytest.raises(ConnectionValidationError, match=UNKNOWN):
        await pool.execute(WRITE, fresh)
    await asyncio.to_thread(wait_until, lambda: times_written(table, fresh) == 1)
    await assert_sound(pool)


async def test_a_killed_write_is_not_sent_again(table, fresh):
    slow = "INSERT INTO writes SELECT $1::int FROM pg_sleep(30)"
    async with open_pool(table.url) as pool:
        write = asyncio.ensure_future(pool.execute(slow, fresh))
        await asyncio.to_thread(wait_until, lambda: terminate_running(table, "INSERT INTO writes"))
        with pytest.raises(ConnectionValidationError, match=UNKNOWN):
            await write
        assert times_written(table, fresh) == 0
        await assert_sound(pool)


def terminate_running(server: ThrowawayServer, beginning: str) -> bool:
    """Ends the session that is executing this; True where there was one."""
    return bool(
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE state = 'active' AND wait_event = 'PgSleep' AND query LIKE '{beginning}%'"
        )
    )


# ---- the check under the statement's Sync: ordinary reads ----


async def test_a_read_is_sent_again_after_a_fatal_error_before_any_answer(table):
    async with open_pool(table.url) as pool, pool.acquire() as connection:
        backend = pool.holders()[0].backend_pid
        os.kill(backend, signal.SIGSTOP)
        try:
            read = asyncio.ensure_future(connection.fetchval("SELECT 7"))
            await asyncio.sleep(0)  # the packet is written now
            os.kill(backend, signal.SIGTERM)
        finally:
            os.kill(backend, signal.SIGCONT)
        assert await read == 7
        assert await connection.fetchval("SELECT pg_backend_pid()") != backend


@pytest.mark.parametrize("uses", [0, 1, 3])
async def test_a_killed_read_stays_killed(table, uses):
    slow = "SELECT 7 FROM pg_sleep($1)"
    async with open_pool(table.url) as pool:
        for _ in range(uses):
            assert await pool.fetchval(slow, 0.0) == 7
        read = asyncio.ensure_future(pool.fetchval(slow, 30.0))
        await asyncio.to_thread(wait_until, lambda: terminate_running(table, "SELECT 7"))
        with pytest.raises((ConnectionValidationError, ConnectionLostError), match=UNKNOWN):
            await read
        await assert_sound(pool)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.at_byte(Action.RESET, TO_SERVER, 0),
        Fault.at_byte(Action.CUT, TO_SERVER, 0),
        Fault.at_byte(Action.END, TO_SERVER, 30),
        Fault.at_byte(Action.CUT, TO_CLIENT, 0),
        Fault.after(Action.CUT, b"C", 1),
        Fault.after(Action.RESET, b"C", 1),
        Fault.before(Action.CUT, b"Z"),
    ],
    ids=lambda fault: f"{fault.action.value} {fault.direction.value} at {fault.byte}{fault.message.decode()}",
)
async def test_a_read_lost_without_a_fatal_error_is_reported_as_unknown(pool, proxy, fault):
    proxy.sessions[0].arm(fault)
    with pytest.raises(ConnectionValidationError, match=UNKNOWN):
        await pool.fetchval("SELECT 1 + 1")
    await assert_sound(pool)


async def test_a_read_lost_while_it_is_described_was_not_executed(pool, proxy):
    async with pool.acquire() as connection:
        await connection.execute("SET extra_float_digits = 0")
        proxy.sessions[0].arm(Fault.at_byte(Action.CUT, TO_CLIENT, 0))
        with pytest.raises(ConnectionLostError, match="it was not executed"):
            await connection.fetchval("SELECT 1 + 2")
    await assert_sound(pool)


# ---- the other policies ----


@pytest.mark.parametrize(
    "fault",
    [
        Fault.at_byte(Action.CUT, TO_SERVER, 0),
        Fault.at_byte(Action.RESET, TO_SERVER, 0),
        Fault.at_byte(Action.CUT, TO_CLIENT, 5),
        Fault.at_byte(Action.RESET, TO_CLIENT, 5),
    ],
    ids=["cut on the way", "reset on the way", "cut on the way back", "reset on the way back"],
)
async def test_blocking_validation_replaces_a_dead_connection_before_anything_is_sent(
    table, proxy, fresh, fault
):
    async with open_pool(proxy.url(table.url), validation="blocking") as pool:
        proxy.sessions[0].arm(fault)
        async with pool.acquire() as connection:
            await connection.execute(WRITE, fresh)
        assert times_written(table, fresh) == 1
        await assert_sound(pool)


@pytest.mark.parametrize("policy", ["blocking", "never", "idle"])
@pytest.mark.parametrize("action", [Action.CUT, Action.RESET])
async def test_a_statement_without_a_check_in_front_is_never_sent_again(table, proxy, fresh, policy, action):
    async with open_pool(proxy.url(table.url), validation=policy) as pool:
        async with pool.acquire() as connection:
            proxy.sessions[0].arm(Fault.at_byte(action, TO_CLIENT, 0))
            with pytest.raises(ConnectionLostError, match=UNKNOWN):
                await connection.execute(WRITE, fresh)
        await asyncio.to_thread(wait_until, lambda: times_written(table, fresh) == 1)
        await assert_sound(pool)


# ---- black holes ----


async def test_a_black_hole_ends_the_statement_on_time_and_gives_the_slot_back(pool, table, proxy, fresh):
    proxy.sessions[0].arm(Fault.at_byte(Action.SWALLOW, TO_SERVER, 0))
    began = time.monotonic()
    with pytest.raises(StatementTimeoutError):
        await pool.execute(WRITE, fresh, timeout=0.3)
    assert 0.29 < time.monotonic() - began < 0.45
    began = time.monotonic()
    await pool.execute(WRITE, fresh)
    assert time.monotonic() - began < 2.0
    assert times_written(table, fresh) == 1
    proxy.sessions[0].strike(
        Action.RESET
    )  # else the pool waits some seconds more for an answer before it gives up
    await assert_sound(pool)


async def test_a_black_hole_under_blocking_validation_ends_the_acquire_on_time(table, proxy):
    async with open_pool(proxy.url(table.url), validation="blocking") as pool:
        proxy.sessions[0].strike(Action.SWALLOW)
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            async with pool.acquire(timeout=0.3):
                pass
        assert 0.29 < time.monotonic() - began < 0.45
        assert await pool.fetchval("SELECT 1") == 1
        proxy.sessions[0].strike(Action.RESET)
        await assert_sound(pool)


async def test_acquires_time_out_on_time_while_every_new_connection_falls_into_a_black_hole(table, proxy):
    async with open_pool(proxy.url(table.url), connect_timeout=0.5) as pool:
        proxy.plan_each(lambda index: Fault.at_byte(Action.SWALLOW, TO_SERVER, 0))
        proxy.strike_all(Action.CUT)
        await wait_until_async(lambda: losses(pool) == 1)
        for patience in (0.2, 0.7):
            began = time.monotonic()
            with pytest.raises(PoolTimeoutError):
                await pool.acquire(timeout=patience)
            assert abs(time.monotonic() - began - patience) < 0.1
        proxy.resume()
        assert await pool.fetchval("SELECT 1") == 1
        await assert_sound(pool)


async def test_a_release_into_a_black_hole_does_not_hold_the_slot(pool, proxy):
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        proxy.sessions[0].strike(Action.SWALLOW)
    began = time.monotonic()
    assert await pool.fetchval("SELECT 1") == 1
    assert time.monotonic() - began < 2.0
    proxy.sessions[0].strike(Action.RESET)
    await assert_sound(pool)


# ---- all of it at random ----


def any_fault(random: Random) -> Fault:
    """Any fault that the network, a proxy or a server can bring about, at any byte of a connection's use."""
    action, direction = random.choice(
        [
            (Action.RESET, TO_SERVER),
            (Action.RESET, TO_CLIENT),
            (Action.END, TO_SERVER),
            (Action.CUT, TO_SERVER),
            (Action.CUT, TO_CLIENT),
        ]
    )
    return Fault.at_byte(action, direction, int(random.expovariate(1 / 2000)), once_ready=True)


async def test_a_thousand_inserts_under_random_faults_are_each_executed_once_or_reported_as_unknown(
    table, proxy
):
    random = Random(20240607)
    table.sql("CREATE TABLE once (id int, filling text)")
    done: set[int] = set()
    unknown: set[int] = set()
    numbers = iter(range(1000))

    async def insert(connection: Connection, number: int) -> None:
        filling = "x" * random.choice([0, 10, 300, 100_000])
        try:
            await connection.execute("INSERT INTO once VALUES ($1, $2)", number, filling)
            done.add(number)
        except (ConnectionValidationError, ConnectionLostError) as error:
            if UNKNOWN in str(error):
                unknown.add(number)

    async def work(pool: ConnectionPoolManager) -> None:
        for number in numbers:
            async with pool.acquire() as connection:
                await insert(connection, number)
                if random.random() < 0.3 and (another := next(numbers, None)) is not None:
                    await insert(connection, another)

    proxy.plan_each(lambda index: any_fault(random))
    async with open_pool(proxy.url(table.url), min_size=4, max_size=4, timeout=30.0) as pool:
        await asyncio.gather(*(work(pool) for _ in range(8)))
        faults = sum(one.fired.is_set() for one in proxy.connections)
        proxy.plan_each(None)
        for session in proxy.sessions:
            session.disarm()
        await assert_sound(pool)
    rows = [int(line) for line in table.sql("SELECT id FROM once").split()]
    table.sql("DROP TABLE once")
    assert faults > 30, "the faults must have struck, else nothing is proved"
    assert len(rows) == len(set(rows)), "executed twice"
    assert done <= set(rows) <= done | unknown
    assert len(done) > 500
