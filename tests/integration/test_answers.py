"""An answer belongs to its question, or the connection is dead; and nothing is executed twice."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from pqpool import Connection, ConnectionPoolManager, PoolInitializationError, QueryError
from pqpool.exceptions import ConnectionLostError, ConnectionPoolError, ConnectionValidationError
from pqpool.throwaway import ThrowawayServer
from support.fake_server import (
    FakeServer,
    command_complete,
    data_row,
    error,
    message,
    notice,
    ready,
    row_description,
    value,
)
from support.pools import assert_sound, open_pool
from support.wait import wait_until

UNKNOWN = "whether it was executed is unknown"


@pytest.fixture(scope="module")
def tables(server: ThrowawayServer) -> Iterator[ThrowawayServer]:
    server.sql("CREATE TABLE parent (id int PRIMARY KEY)")
    server.sql("CREATE TABLE child (p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    server.sql(
        "CREATE FUNCTION orphan() RETURNS int LANGUAGE sql AS 'INSERT INTO child VALUES (98) RETURNING p'"
    )
    server.sql("CREATE TABLE ledger (n int)")
    server.sql("CREATE SEQUENCE calls")
    yield server
    server.sql("DROP TABLE child, parent, ledger CASCADE; DROP FUNCTION orphan; DROP SEQUENCE calls")


@pytest.fixture(params=["always", "blocking", "never"])
async def pool(
    request: pytest.FixtureRequest, tables: ThrowawayServer
) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(tables.url, validation=request.param) as manager:
        yield manager


async def assert_in_step(connection: Connection) -> None:
    for number in range(3):
        assert await connection.fetchval("SELECT $1::int", number) == number
    with pytest.raises(QueryError, match="division by zero"):
        await connection.fetchval("SELECT 1/0")
    assert await connection.fetchval("SELECT 'mine'") == "mine"


# ---- errors that come at the end of a statement ----

AT_THE_END = {
    "a write": "INSERT INTO child VALUES (99)",
    "a script": "INSERT INTO ledger VALUES (1); INSERT INTO child VALUES (77)",
    "a script that reads last": "INSERT INTO child VALUES (77); SELECT 5",
    "a read of a function that writes": "SELECT orphan()",
    "a CTE that writes": "WITH w AS (INSERT INTO child VALUES (96) RETURNING p) SELECT p FROM w",
    "a DO block": "DO $$ BEGIN INSERT INTO child VALUES (95); END $$",
    "COMMIT": "BEGIN; INSERT INTO child VALUES (94); COMMIT",
}


@pytest.mark.parametrize("statement", AT_THE_END.values(), ids=AT_THE_END)
async def test_an_error_at_the_end_is_the_statements_own(pool, tables, statement):
    for _ in range(4):  # unnamed, named, by name
        async with pool.acquire() as connection:
            with pytest.raises(QueryError) as caught:
                await connection.execute(statement)
            assert caught.value.sqlstate == "23503"
            await assert_in_step(connection)
        async with pool.acquire() as connection:
            await assert_in_step(connection)
            with pytest.raises(QueryError, match="violates foreign key"):
                await connection.execute(statement)
            await assert_in_step(connection)
    assert tables.sql("SELECT (SELECT count(*) FROM child) + (SELECT count(*) FROM ledger)") == "0"
    assert pool.get_statistics().connections_lost == 0


async def test_a_value_is_not_given_for_a_statement_that_fails_at_its_end(pool):
    for _ in range(4):
        async with pool.acquire() as connection:
            with pytest.raises(QueryError, match="violates foreign key"):
                await connection.fetchval("SELECT orphan()")
            with pytest.raises(QueryError, match="violates foreign key"):
                await connection.fetch("INSERT INTO child VALUES (93) RETURNING p")
            await assert_in_step(connection)


async def test_an_error_at_the_end_ends_a_transaction(pool, tables):
    async with pool.acquire() as connection:
        with pytest.raises(QueryError, match="violates foreign key"):
            async with connection.transaction():
                await connection.execute("INSERT INTO child VALUES (92)")
        assert not connection.is_in_transaction()
        with pytest.raises(QueryError, match="violates foreign key"):
            await connection.executemany("INSERT INTO child VALUES ($1)", [(1,), (2,)])
        await assert_in_step(connection)
    assert tables.sql("SELECT count(*) FROM child") == "0"


async def test_a_conflict_at_commit_is_reported(tables):
    async with open_pool(tables.url, min_size=2, max_size=2) as pool:
        outcomes = []
        async with pool.acquire() as one, pool.acquire() as other:
            for connection in (one, other):
                await connection.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
                await connection.fetchval("SELECT count(*) FROM ledger")
            for connection in (one, other):
                await connection.execute("INSERT INTO ledger VALUES (1)")
            for connection in (one, other):
                try:
                    outcomes.append(await connection.execute("COMMIT"))
                except QueryError as refused:
                    outcomes.append(refused.sqlstate)
                await assert_in_step(connection)
        assert sorted(outcomes) == ["40001", "COMMIT"]
    tables.sql("TRUNCATE ledger")


async def test_an_opening_that_fails_at_its_end_names_the_reason(tables):
    with pytest.raises(PoolInitializationError, match="violates foreign key"):
        async with open_pool(tables.url, init_sql="INSERT INTO child VALUES (91)"):
            pass
    assert tables.sql("SELECT count(*) FROM child") == "0"


# ---- nothing is executed twice ----


async def test_an_error_from_inside_a_statement_is_no_stale_plan(pool, tables):
    tables.sql(
        "CREATE OR REPLACE PROCEDURE pay(n int, state text) LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO ledger VALUES (n); COMMIT; RAISE EXCEPTION 'no' USING ERRCODE = state; END $$"
    )
    for number, state in enumerate(["0A000", "26000", "42P05", "57P01", "57014", "08006"] * 4):
        with pytest.raises(QueryError) as caught:
            await pool.execute("CALL pay($1, $2)", number, state)
        assert caught.value.sqlstate == state
    assert tables.sql("SELECT count(*) = 24 AND count(*) = count(DISTINCT n) FROM ledger") == "t"
    tables.sql("TRUNCATE ledger; DROP PROCEDURE pay")
    assert pool.get_statistics().connections_closed <= 24


async def test_a_name_missing_inside_a_function_is_the_statements_own_error(pool, tables):
    tables.sql(
        "CREATE OR REPLACE FUNCTION inner_name() RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM nextval('calls'); EXECUTE 'EXECUTE nosuch'; RETURN 1; END $$"
    )
    before = int(tables.sql("SELECT nextval('calls')"))
    for _ in range(5):
        with pytest.raises(QueryError, match="nosuch"):
            await pool.fetchval("SELECT inner_name()")
    assert int(tables.sql("SELECT nextval('calls')")) == before + 6
    tables.sql("DROP FUNCTION inner_name")


async def test_a_plan_that_is_stale_inside_a_function_is_its_own_error(pool, tables):
    tables.sql("CREATE TABLE shape (a int); INSERT INTO shape VALUES (1)")
    tables.sql(
        "CREATE FUNCTION reshape() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('calls'); "
        "EXECUTE 'PREPARE inner_plan AS SELECT * FROM shape'; EXECUTE 'EXECUTE inner_plan'; "
        "ALTER TABLE shape ADD b int; EXECUTE 'EXECUTE inner_plan'; RETURN 1; END $$"
    )
    before = int(tables.sql("SELECT nextval('calls')"))
    for _ in range(4):
        async with pool.acquire() as connection:
            with pytest.raises(QueryError, match="cached plan"):
                await connection.fetchval("SELECT reshape()")
            await connection.execute("DEALLOCATE ALL")
    assert int(tables.sql("SELECT nextval('calls')")) == before + 5
    tables.sql("DROP FUNCTION reshape; DROP TABLE shape")


@pytest.mark.parametrize("uses", [0, 1, 2, 5])
async def test_a_statement_killed_by_an_administrator_ran_once(tables, uses):
    async with open_pool(tables.url) as pool:
        slow = "SELECT nextval('calls'), pg_sleep($1)"
        for _ in range(uses):
            await pool.fetchval(slow, 0.0)
        before = int(tables.sql("SELECT nextval('calls')"))
        killed = asyncio.ensure_future(pool.fetchval(slow, 30.0))
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE wait_event = 'PgSleep' AND query LIKE 'SELECT nextval%'"
        )
        await asyncio.to_thread(wait_until, lambda: bool(tables.sql(kill)))
        with pytest.raises((ConnectionValidationError, ConnectionLostError), match=UNKNOWN):
            await killed
        assert int(tables.sql("SELECT nextval('calls')")) == before + 2
        await assert_sound(pool)


async def test_errors_of_other_servers_or_of_functions_condemn_no_connection(tables):
    async with open_pool(tables.url) as pool:
        backend = await pool.fetchval("SELECT pg_backend_pid()")
        for state in ("57P01", "57P03", "08006", "08001", "25006"):
            async with pool.acquire() as connection:
                with pytest.raises(QueryError):
                    await connection.execute(
                        f"DO $$ BEGIN RAISE EXCEPTION 'app' USING ERRCODE = '{state}'; END $$"
                    )
        assert await pool.fetchval("SELECT pg_backend_pid()") == backend


# ---- answers that nobody expects ----

ONE = struct.pack("!i", 1)
COPY_BODY = b"\0" + struct.pack("!h", 0)
TWO_COLUMNS = row_description([(b"a", 23, 1), (b"b", 23, 1)])
HOSTILE = {
    "COPY out": message(b"H", COPY_BODY),
    "COPY in": message(b"G", COPY_BODY),
    "COPY both": message(b"W", COPY_BODY),
    "a whole COPY": message(b"H", COPY_BODY) + message(b"d", b"x\n") + message(b"c") + command_complete(),
    "two results": value(23, ONE) + value(23, struct.pack("!i", 2)),
    "a result, then Ready, then a result": value(23, ONE) + ready() + value(23, ONE),
    "many Readys": ready() * 100 + value(23, ONE),
    "many ends": command_complete() * 100,
    "nothing": b"",
    "no rows' end": row_description([(b"a", 23, 1)]),
    "two errors": error(S="ERROR", V="ERROR", C="22000", M="m") * 2,
    "an error behind the result": value(23, ONE)
    + error(S="ERROR", V="ERROR", C="22000", M="m")
    + error(S="ERROR", V="ERROR", C="22000", M="m"),
    "an error without a message": error(S="ERROR", V="ERROR", C="22000"),
    "an error without a code": error(S="ERROR", V="ERROR", M="m"),
    "an error of only a code": error(C="22000"),
    "an empty error": message(b"E", b"\0"),
    "a row too short": TWO_COLUMNS + data_row([ONE]) + command_complete(),
    "a row without a description": data_row([ONE]) + command_complete(),
    "an unknown message": message(b"?", b"xx"),
    "a length of -1": b"D" + struct.pack("!i", -1),
    "a length of 2 GB": b"D" + struct.pack("!i", 2**31 - 1) + b"x",
    "suspended": row_description([(b"a", 23, 1)]) + message(b"s"),
}


@pytest.mark.parametrize("validation", ["always", "never"])
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
async def test_an_answer_out_of_place_fails_the_statement_and_ends_the_connection(answer, validation):
    with FakeServer(lambda sql: answer if sql == "SELECT x" else None) as server:
        async with open_pool(server.url, validation=validation) as pool:
            for connections in (1, 2, 3):
                async with pool.acquire() as connection:
                    assert await connection.fetchval("SELECT 2") == 2
                    with pytest.raises(ConnectionPoolError, match=UNKNOWN):
                        await connection.fetchval("SELECT x", timeout=2.0)
                    with pytest.raises(ConnectionPoolError, match="it was not executed"):
                        await connection.fetchval("SELECT 2")
                assert server.connections == connections
            assert await pool.fetchval("SELECT 3") == 3


@pytest.mark.parametrize("method", ["fetch", "fetchrow", "fetchval", "execute"])
async def test_no_way_of_asking_takes_such_an_answer_for_success(method):
    for name in ("COPY out", "two results", "nothing", "an empty error"):
        answer = HOSTILE[name]
        with FakeServer(lambda sql, answer=answer: answer if sql == "SELECT x" else None) as server:
            async with open_pool(server.url) as pool, pool.acquire() as connection:
                with pytest.raises(ConnectionPoolError, match=UNKNOWN):
                    await getattr(connection, method)("SELECT x", timeout=2.0)


async def test_what_is_left_over_is_not_the_next_statements_answer():
    """A whole further answer behind Ready, in the same packet or in one of its own, between two leases."""

    def together(client: socket.socket) -> None:
        client.sendall(value(23, ONE) + ready() + value(23, struct.pack("!i", 66)) + ready())
        client.recv(1)

    with FakeServer(lambda sql: together if sql == "SELECT x" else None) as server:
        async with open_pool(server.url, validation="never") as pool:
            async with pool.acquire() as connection:
                with pytest.raises(ConnectionPoolError):
                    await connection.fetchval("SELECT x")
            assert await pool.fetchval("SELECT 3") == 3


async def test_a_farewell_between_statements_is_not_an_answer():
    def leave(client: socket.socket) -> None:
        client.sendall(value(23, ONE) + ready())
        client.sendall(error(S="FATAL", V="FATAL", C="57P01", M="bye", R="ProcessInterrupts"))

    with FakeServer(lambda sql: leave if sql == "SELECT x" else None) as server:
        async with open_pool(server.url) as pool:
            assert await pool.fetchval("SELECT x") == 1
            assert await pool.fetchval("SELECT 2") == 2


async def test_floods_are_not_kept():
    flood = (
        message(b"A", struct.pack("!i", 1) + b"channel\0payload\0") * 20_000
        + message(b"S", b"parameter\0value\0") * 5_000
        + notice(S="NOTICE", V="NOTICE", C="00000", M=b"n" * 1000) * 5_000
    )
    with FakeServer(lambda sql: flood + value(23, ONE) if sql == "SELECT x" else None) as server:
        async with open_pool(server.url) as pool:
            for _ in range(3):
                assert await pool.fetchval("SELECT x") == 1
