"""A leased connection's statements: results, records, parameters, timeouts and misuse."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest

from pqpool import (
    Connection,
    ConnectionLostError,
    ConnectionPoolError,
    ConnectionPoolManager,
    InvalidArgumentError,
    LeaseBusyError,
    LeaseReleasedError,
    QueryError,
    Record,
    StatementTimeoutError,
)
from support.pools import assert_sound, open_pool


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(database_url) as manager:
        yield manager


@pytest.fixture
async def conn(pool: ConnectionPoolManager) -> AsyncIterator[Connection]:
    async with pool.acquire() as connection:
        yield connection


# ---- what the statement methods give ----


async def test_fetchval_gives_one_value(conn: Connection) -> None:
    assert await conn.fetchval("SELECT 1") == 1
    assert await conn.fetchval("SELECT 1, 'two'", column=1) == "two"
    assert await conn.fetchval("SELECT 1, 'two'", column=-1) == "two"
    assert await conn.fetchval("SELECT NULL::int") is None
    assert await conn.fetchval("SELECT 1 WHERE false") is None


async def test_fetchval_of_a_column_that_is_not_there_is_an_index_error(conn: Connection) -> None:
    with pytest.raises(IndexError, match="column 2 is out of range"):
        await conn.fetchval("SELECT 1, 2", column=2)
    assert await conn.fetchval("SELECT 1") == 1


async def test_fetchrow_gives_the_first_row_or_none(conn: Connection) -> None:
    row = await conn.fetchrow("SELECT n FROM generate_series(5, 7) AS n")
    assert row is not None and row["n"] == 5
    assert await conn.fetchrow("SELECT 1 WHERE false") is None


async def test_fetch_gives_all_rows(conn: Connection) -> None:
    rows = await conn.fetch("SELECT n, n * n AS square FROM generate_series(1, 1000) AS n")
    assert [row["square"] for row in rows] == [n * n for n in range(1, 1001)]
    assert await conn.fetch("SELECT 1 WHERE false") == []


async def test_execute_gives_the_command_tag(conn: Connection) -> None:
    assert await conn.execute("CREATE TEMP TABLE t (n int)") == "CREATE TABLE"
    assert await conn.execute("INSERT INTO t SELECT generate_series(1, $1)", 3) == "INSERT 0 3"
    assert await conn.execute("UPDATE t SET n = n + 1 WHERE n > $1", 1) == "UPDATE 2"
    assert await conn.execute("DELETE FROM t") == "DELETE 3"
    assert await conn.execute("SELECT 1") == "SELECT 1"


async def test_executemany_runs_each_set_of_parameters(conn: Connection) -> None:
    await conn.execute("CREATE TEMP TABLE t (n int, s text)")
    await conn.executemany("INSERT INTO t VALUES ($1, $2)", [(1, "a"), (2, "b"), (3, None)])
    assert await conn.fetch("SELECT * FROM t ORDER BY n") == [(1, "a"), (2, "b"), (3, None)]
    await conn.executemany("INSERT INTO t VALUES ($1, $2)", [])
    assert await conn.fetchval("SELECT count(*) FROM t") == 3


async def test_executemany_does_all_or_nothing(conn: Connection) -> None:
    await conn.execute("CREATE TEMP TABLE t (n int PRIMARY KEY)")
    with pytest.raises(QueryError) as caught:
        await conn.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,), (1,)])
    assert caught.value.sqlstate == "23505"
    assert await conn.fetchval("SELECT count(*) FROM t") == 0


@pytest.mark.parametrize("repeat", [1, 5], ids=["new", "prepared"])
async def test_statement_gives_the_same_when_it_is_prepared(conn: Connection, repeat: int) -> None:
    for n in range(repeat):
        row = await conn.fetchrow("SELECT $1::int8 AS n, 1.5::numeric AS d, 'x'::text AS s", n)
        assert row == (n, Decimal("1.5"), "x")


def test_statement_methods_are_coroutine_functions() -> None:
    for name in ("fetch", "fetchrow", "fetchval", "execute", "executemany"):
        assert inspect.iscoroutinefunction(getattr(Connection, name)), name


async def test_statement_can_be_a_task(conn: Connection) -> None:
    task = asyncio.create_task(conn.fetchval("SELECT $1 + $2", 10, 20))
    assert await task == 30


# ---- records ----


async def test_record_is_read_by_index_and_by_name(conn: Connection) -> None:
    row = await conn.fetchrow("SELECT 7 AS number, 'seven' AS name, NULL AS nothing")
    assert isinstance(row, Record)
    assert (row[0], row[-2], row["name"], row[1:]) == (7, "seven", "seven", ("seven", None))
    assert (len(row), list(row)) == (3, [7, "seven", None])
    assert list(row.keys()) == ["number", "name", "nothing"]
    assert list(row.values()) == [7, "seven", None]
    assert dict(row.items()) == dict(row) == {"number": 7, "name": "seven", "nothing": None}
    assert (row.get("name"), row.get("other"), row.get("other", 1)) == ("seven", None, 1)
    assert "name" in row and "other" not in row
    assert repr(row) == "<Record number=7 name='seven' nothing=None>"


async def test_record_without_such_a_column_raises_as_python_does(conn: Connection) -> None:
    row = await conn.fetchrow("SELECT 1 AS a")
    assert row is not None
    with pytest.raises(KeyError, match="b"):
        row["b"]
    with pytest.raises(IndexError):
        row[1]


async def test_record_equals_a_tuple_and_cannot_be_changed(conn: Connection) -> None:
    first, second = await conn.fetch("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 1, 'x'")
    assert first == second == (1, "x") and hash(first) == hash(second) == hash((1, "x"))
    assert first != (1, "y") and first < (2, "a") and len({first, second}) == 1
    with pytest.raises(TypeError):
        first["a"] = 2  # type: ignore[index]


async def test_record_outlives_its_connection(pool: ConnectionPoolManager) -> None:
    async with pool.acquire() as conn:
        rows = await conn.fetch("SELECT n, repeat('x', n) AS s FROM generate_series(1, 50) AS n")
    await pool.shutdown()
    assert [len(row["s"]) for row in rows] == list(range(1, 51))


# ---- values ----

KEY = uuid.UUID("12345678-1234-5678-1234-567812345678")
VALUES: list[tuple[str, Any]] = [
    ("bool", True),
    ("int2", -32768),
    ("int4", 2**31 - 1),
    ("int8", -(2**63)),
    ("float8", 0.1),
    ("float8", float("inf")),
    ("numeric", Decimal("12345678901234567890.0987654321")),
    ("numeric", Decimal("-0.00")),
    ("text", "Grüße, 世界 \U0001f600 \\ ' \" {}"),
    ("text", ""),
    ("bytea", bytes(range(256))),
    ("date", date(2024, 2, 29)),
    ("time", time(23, 59, 59, 999999)),
    ("timestamp", datetime(1969, 12, 31, 23, 59, 59, 1)),
    ("timestamptz", datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
    ("interval", timedelta(days=-3, seconds=5, microseconds=7)),
    ("uuid", KEY),
    ("int4[]", [1, None, 3]),
    ("int4[]", [[1, 2], [3, 4]]),
    ("int8[]", [1, 2**40]),
    ("text[]", ["a", "", 'quo"te', "back\\slash", "{", "NULL", None]),
    ("float8[]", [1.5, -2.5]),
    ("bool[]", [True, False]),
    ("date[]", [date(2024, 2, 29)]),
    ("uuid[]", [KEY]),
    ("numeric[]", [Decimal("1.10")]),
    ("int4[]", []),
]


@pytest.mark.parametrize(
    ("type_name", "value"), VALUES, ids=[f"{name}-{value!r:.30}" for name, value in VALUES]
)
async def test_value_goes_to_the_server_and_comes_back(conn: Connection, type_name: str, value: Any) -> None:
    for _ in range(3):  # as text, then in the binary form
        found = await conn.fetchval(f"SELECT $1::{type_name}", value)
        assert found == value and type(found) is type(value)


async def test_none_is_null(conn: Connection) -> None:
    assert await conn.fetchval("SELECT $1::int IS NULL", None) is True


@pytest.mark.parametrize(
    "value", [5, -1, 2**40, 1.5, True, "text", Decimal("2.50"), b"\x00\xff", date(2024, 1, 2)]
)
async def test_parameter_without_a_cast_takes_the_values_type(conn: Connection, value: object) -> None:
    found = await conn.fetchval("SELECT $1", value)
    assert found == value and type(found) is type(value)


async def test_same_text_takes_parameters_of_changing_types(conn: Connection) -> None:
    for value in (1, "one", 1.5, 2**40, 1, "two", Decimal("3.5"), None, 4):
        assert await conn.fetchval("SELECT $1", value) == value


async def test_json_comes_as_text_and_a_dict_goes_as_jsonb(conn: Connection) -> None:
    assert await conn.fetchval("SELECT $1::jsonb ->> 'a'", {"a": "b"}) == "b"
    assert await conn.fetchval("""SELECT '{"a": [1, 2]}'::jsonb""") == '{"a": [1, 2]}'


async def test_text_parameter_fits_whatever_the_server_infers(conn: Connection) -> None:
    assert await conn.fetchval("SELECT $1::date", "2024-02-29") == date(2024, 2, 29)
    assert await conn.fetchval("SELECT $1::int + 1", "41") == 42


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), r"parameter \$2 is a object, for which there is no PostgreSQL type. Suggestion"),
        ([1, object()], r"parameter \$2 is a list with an element"),
        ("a\0b", r"parameter \$2 holds a NUL character"),
    ],
    ids=["object", "list of object", "NUL"],
)
async def test_parameter_without_a_type_is_refused_before_anything_is_sent(
    conn: Connection, value: object, words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        await conn.fetchval("SELECT $1, $2", 1, value)
    assert isinstance(caught.value, ValueError)
    assert await conn.fetchval("SELECT 1") == 1


async def test_missing_parameter_is_the_servers_error(conn: Connection) -> None:
    backend = await conn.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(QueryError) as caught:
        await conn.fetchval("SELECT $1::int, $2::int", 1)
    assert caught.value.sqlstate == "08P01"
    assert await conn.fetchval("SELECT pg_backend_pid()") == backend


@pytest.mark.parametrize("query", [b"SELECT 1", None, "SELECT 1\0"])
async def test_query_that_is_no_text_is_refused(conn: Connection, query: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="the query"):
        await conn.fetchval(query)


# ---- errors ----


async def test_servers_error_has_its_fields_and_leaves_the_connection_usable(conn: Connection) -> None:
    await conn.execute("CREATE TEMP TABLE t (n int CONSTRAINT positive CHECK (n > 0))")
    with pytest.raises(QueryError, match="violates check constraint") as caught:
        await conn.execute("INSERT INTO t VALUES ($1)", -1)
    error = caught.value
    assert (error.sqlstate, error.constraint_name, error.table_name) == ("23514", "positive", "t")
    assert error.severity == "ERROR" and "DETAIL" in str(error)
    with pytest.raises(QueryError) as caught:
        await conn.fetch("SELECT nothing")
    assert (caught.value.sqlstate, caught.value.position) == ("42703", 8)
    assert await conn.fetchval("SELECT count(*) FROM t") == 0


async def test_a_script_runs_as_one_implicit_transaction(conn: Connection) -> None:
    for _ in range(4):  # as text, prepared or not: a script looks the same each time
        tag = await conn.execute(
            "CREATE TEMP TABLE s (i int, t text); INSERT INTO s VALUES (1, 'a;b'), (2, $$;$$);\n"
            "UPDATE s SET i = i + 1; -- the last one's tag counts\n"
        )
        assert tag == "UPDATE 2"
        rows = await conn.fetch("SELECT i, t FROM s ORDER BY i")
        assert [tuple(row) for row in rows] == [(2, "a;b"), (3, ";")]
        assert await conn.execute("DROP TABLE s; SELECT 7") == "SELECT 1"
    with pytest.raises(QueryError) as caught:
        await conn.execute("CREATE TEMP TABLE s (i int); INSERT INTO s SELECT 1 / 0; SELECT 1")
    assert caught.value.sqlstate == "22012"
    assert await conn.fetchval("SELECT to_regclass('pg_temp.s')") is None


async def test_a_script_may_hold_its_own_transaction_and_stands_in_one(conn: Connection) -> None:
    await conn.execute("CREATE TEMP TABLE s (i int)")
    assert await conn.execute("BEGIN; INSERT INTO s VALUES (1); COMMIT") == "COMMIT"
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute("INSERT INTO s VALUES (2); INSERT INTO s VALUES (3)")
            assert await conn.fetchval("SELECT count(*) FROM s") == 3
            raise ZeroDivisionError
    assert await conn.fetchval("SELECT count(*) FROM s") == 1


async def test_init_sql_may_hold_several_statements(database_url: str) -> None:
    init = "SET work_mem = '3MB'; SET application_name = 'a;b';"
    async with open_pool(database_url, init_sql=init) as pool:
        for _ in range(2):  # again after the reset that the first lease made necessary
            async with pool.acquire() as connection:
                assert await connection.fetchval("SHOW work_mem") == "3MB"
                assert await connection.fetchval("SHOW application_name") == "a;b"
                await connection.execute("SET work_mem = '5MB'; SET application_name = 'c'")


async def test_several_statements_take_no_parameters(conn: Connection) -> None:
    with pytest.raises(QueryError, match="one statement per call") as caught:
        await conn.execute("SELECT $1::int; SELECT 2", 1)
    assert caught.value.sqlstate == "42601"


async def test_timeout_cancels_the_statement_and_the_connection_stays_usable(conn: Connection) -> None:
    loop = asyncio.get_running_loop()
    backend = await conn.fetchval("SELECT pg_backend_pid()")
    start = loop.time()
    with pytest.raises(StatementTimeoutError, match="Suggestion") as caught:
        await conn.fetchval("SELECT pg_sleep(10)", timeout=0.1)
    assert isinstance(caught.value, asyncio.TimeoutError)
    assert 0.09 <= loop.time() - start < 2.0
    assert await conn.fetchval("SELECT pg_backend_pid()") == backend


@pytest.mark.parametrize("timeout", [-1, float("nan")])
async def test_timeout_that_is_no_duration_is_refused(conn: Connection, timeout: float) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout"):
        await conn.fetchval("SELECT 1", timeout=timeout)


async def test_second_statement_at_once_is_refused_and_the_first_goes_on(conn: Connection) -> None:
    first = asyncio.create_task(conn.fetchval("SELECT 1 FROM pg_sleep(0.1)"))
    await asyncio.sleep(0)
    with pytest.raises(LeaseBusyError, match="Suggestion"):
        await conn.fetchval("SELECT 2")
    assert await first == 1


async def test_cancelled_task_leaves_the_connection_usable(conn: Connection) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(conn.fetchval("SELECT pg_sleep(10)"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    start = loop.time()
    assert await conn.fetchval("SELECT 2") == 2
    assert loop.time() - start < 2.0


async def test_statement_that_ends_its_own_session_is_sent_once(pool: ConnectionPoolManager) -> None:
    await pool.execute("DROP SEQUENCE IF EXISTS endings; CREATE SEQUENCE endings")
    for ending in range(1, 4):  # also when it is prepared
        with pytest.raises(ConnectionPoolError, match="whether it was executed is unknown"):
            await pool.execute("SELECT nextval('endings'), pg_terminate_backend(pg_backend_pid())")
        assert await pool.fetchval("SELECT last_value FROM endings") == ending
    async with pool.acquire() as conn:
        await conn.fetchval("SELECT 1")
        with pytest.raises(ConnectionLostError, match="whether it was executed is unknown"):
            await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    await assert_sound(pool)


async def test_use_after_release_is_refused(pool: ConnectionPoolManager) -> None:
    conn = await pool.acquire()
    assert not conn.is_closed() and "leased" in repr(conn)
    await pool.release(conn)
    assert conn.is_closed() and "released" in repr(conn)
    with pytest.raises(LeaseReleasedError, match="released already") as caught:
        await conn.fetchval("SELECT 1")
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(LeaseReleasedError):
        await pool.release(conn)
    assert pool.get_statistics().leases_out == 0
