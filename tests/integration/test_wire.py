"""What goes over the wire: how many packets, when a statement is prepared, the same values in each format."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pqpool import Connection, ConnectionPoolManager, QueryError
from pqpool.throwaway import ThrowawayServer
from support.fault_proxy import Direction, FaultProxy, Traffic
from support.pools import assert_sound, open_pool

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
PARSE, BIND, EXECUTE, SYNC = b"P", b"B", b"E", b"S"


@pytest.fixture
async def pool(server: ThrowawayServer, proxy: FaultProxy) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(proxy.url(server.url)) as manager:
        yield manager


class Meter:
    """What passed through the proxy since it was last asked; whoever asks has waited for the answer."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._seen = [Traffic(), Traffic()]
        self.read()

    def read(self) -> tuple[Traffic, Traffic]:
        now = [self._proxy.traffic(TO_SERVER), self._proxy.traffic(TO_CLIENT)]
        passed = (now[0] - self._seen[0], now[1] - self._seen[1])
        self._seen = now
        return passed


# ---- packets ----


async def test_a_validated_read_costs_one_write_and_one_read_from_the_third_use_on(pool, proxy):
    meter = Meter(proxy)
    for use in range(1, 8):
        assert await pool.fetchval("SELECT $1::int + 1", use) == use + 1
        sent, answered = meter.read()
        assert (sent.reads, answered.reads) == (1, 1)
        assert sent.messages[SYNC] == 1
        assert sent.messages[EXECUTE] == 2, "the check and the statement"
        if use >= 3:
            assert sent.messages[PARSE] == 0
            assert sent.messages[BIND] == 2


async def test_a_statement_is_prepared_on_its_second_use_in_the_same_packet(pool, proxy, server):
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT 40 %'"
    meter = Meter(proxy)
    parses = []
    async with pool.acquire() as connection:
        for _ in range(4):
            assert await connection.fetchval("SELECT 40 + $1::int", 2) == 42
            sent, _ = meter.read()
            assert sent.reads == 1
            parses.append(sent.messages[PARSE])
        assert await connection.fetchval(prepared) == 1
    assert parses == [2, 1, 0, 0]  # unnamed, and the check; named; by name alone


async def test_in_a_session_with_other_settings_a_statement_is_described_before_its_first_use(pool, proxy):
    meter = Meter(proxy)
    async with pool.acquire() as connection:
        await connection.execute("SET extra_float_digits = 0")
        meter.read()
        for use in range(3):
            assert await connection.fetchval("SELECT 0.1::float8 + 0.2::float8") == 0.1 + 0.2
            sent, _ = meter.read()
            assert sent.messages[SYNC] == (2 if use == 0 else 1)


@pytest.mark.parametrize("setting", ["SET LOCAL extra_float_digits = 0", 'SET LOCAL "bytea_output" = escape'])
async def test_a_setting_of_the_transaction_changes_no_value_from_one_use_to_the_next(pool, setting):
    async with pool.acquire() as connection:
        await connection.execute("BEGIN")
        await connection.execute(setting)
        for _ in range(4):
            assert await connection.fetchval("SELECT 0.1::float8 + 0.2::float8") == 0.1 + 0.2
            assert await connection.fetchval(r"SELECT '\x00ff'::bytea") == b"\x00\xff"


async def test_a_setting_of_the_database_changes_no_value_from_one_use_to_the_next(server, database_url):
    server.sql("ALTER DATABASE postgres SET extra_float_digits = 0")
    try:
        async with open_pool(database_url) as pool, pool.acquire() as connection:
            for _ in range(4):
                assert await connection.fetchval("SELECT 0.1::float8 + 0.2::float8") == 0.1 + 0.2
    finally:
        server.sql("ALTER DATABASE postgres RESET extra_float_digits")


async def test_only_the_first_statement_of_a_lease_carries_a_check(pool, proxy):
    async with pool.acquire() as connection:
        await connection.fetchval("SELECT 1")
        meter = Meter(proxy)
        for _ in range(3):
            await connection.fetchval("SELECT 1")
            sent, answered = meter.read()
            assert (sent.reads, answered.reads) == (1, 1)
            assert sent.messages[EXECUTE] == 1


async def test_a_write_keeps_its_check_apart_by_a_sync_of_its_own(pool, proxy, server):
    server.sql("CREATE TABLE sent (id int)")
    try:
        await pool.execute("INSERT INTO sent VALUES (1)")
        meter = Meter(proxy)
        await pool.execute("INSERT INTO sent VALUES (1)")
        sent, _ = meter.read()
        assert sent.messages[SYNC] == 2
    finally:
        server.sql("DROP TABLE sent")


@pytest.mark.parametrize(("policy", "executes"), [("never", 1), ("idle", 1), ("always", 2)])
async def test_the_policy_decides_whether_a_check_is_sent(server, proxy, policy, executes):
    async with open_pool(proxy.url(server.url), validation=policy) as pool:
        await pool.fetchval("SELECT 1")
        meter = Meter(proxy)
        await pool.fetchval("SELECT 1")
        assert meter.read()[0].messages[EXECUTE] == executes


async def test_acquire_and_release_alone_send_nothing(pool, proxy):
    await pool.fetchval("SELECT 1")
    meter = Meter(proxy)
    for _ in range(10):
        async with pool.acquire():
            pass
    sent, answered = meter.read()
    assert (sent.size, answered.size) == (0, 0)


async def test_a_reset_is_answered_before_the_next_leases_statement_is_sent(pool, proxy):
    work_mem = "SELECT current_setting('work_mem')"
    await pool.execute("SET work_mem = '1MB'")
    meter = Meter(proxy)
    assert await pool.fetchval(work_mem) == "4MB"
    sent, answered = meter.read()
    assert sent.messages[EXECUTE] == 3, "the reset, the check, the statement"
    assert sent.messages[SYNC] == 3, "each under its own Sync"
    assert answered.reads >= 2


# ---- the cache of prepared statements ----


async def test_the_least_recently_used_statement_gives_way_and_is_deallocated(server):
    async with open_pool(server.url, statement_cache_size=3) as pool, pool.acquire() as connection:
        for number in range(10):
            for _ in range(3):
                assert await connection.fetchval(f"SELECT {number}") == number
        held = await connection.fetchval(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ '^SELECT [0-9]$'"
        )
        assert held <= 3


async def test_without_a_cache_nothing_is_prepared(server):
    async with open_pool(server.url, statement_cache_size=0) as pool:
        for _ in range(4):
            assert await pool.fetchval("SELECT $1::int", 5) == 5
        assert await pool.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_a_statement_whose_plan_no_longer_fits_is_prepared_anew(server):
    server.sql("CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)")
    try:
        async with open_pool(server.url) as pool:
            for _ in range(4):
                assert dict((await pool_row(pool, "SELECT * FROM changing")).items()) == {"a": 1}
            server.sql("ALTER TABLE changing ADD b text DEFAULT 'new'")
            for _ in range(4):
                row = await pool_row(pool, "SELECT * FROM changing")
                assert dict(row.items()) == {"a": 1, "b": "new"}
            assert pool.get_statistics().connections_closed == 0
    finally:
        server.sql("DROP TABLE changing")


async def test_a_statement_whose_preparation_was_lost_is_prepared_anew(pool):
    async with pool.acquire() as connection:
        for _ in range(3):
            assert await connection.fetchval("SELECT 5") == 5
        await connection.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
        for _ in range(3):
            assert await connection.fetchval("SELECT 5") == 5
    assert await pool.fetchval("SELECT 5") == 5
    await assert_sound(pool)


async def test_a_stale_plan_within_a_transaction_is_reported_and_not_repeated(server):
    server.sql("CREATE TABLE changing (a int)")
    try:
        async with open_pool(server.url) as pool, pool.acquire() as connection:
            for _ in range(3):
                await connection.fetch("SELECT * FROM changing")
            with pytest.raises(QueryError, match="cached plan"):
                async with connection.transaction():
                    await connection.execute("ALTER TABLE changing ADD b int")
                    await connection.fetch("SELECT * FROM changing")
            assert await connection.fetch("SELECT * FROM changing") == []
    finally:
        server.sql("DROP TABLE changing")


async def pool_row(pool: ConnectionPoolManager, query: str) -> Any:
    async with pool.acquire() as connection:
        return await connection.fetchrow(query)


# ---- values ----

EAST = timezone(timedelta(hours=5, minutes=30))
VALUES: list[tuple[str, str, Any]] = [
    ("bool", "true", True),
    ("bool", "false", False),
    ("int2", "-32768", -32768),
    ("int2", "32767", 32767),
    ("int4", "-2147483648", -(2**31)),
    ("int4", "2147483647", 2**31 - 1),
    ("int8", "-9223372036854775808", -(2**63)),
    ("int8", "9223372036854775807", 2**63 - 1),
    ("oid", "4294967295", 2**32 - 1),
    ("float4", "1.1", 1.100000023841858),
    ("float4", "-Infinity", -math.inf),
    ("float8", "0.1", 0.1),
    ("float8", "-0", -0.0),
    ("float8", "1.7976931348623157e308", 1.7976931348623157e308),
    ("float8", "5e-324", 5e-324),
    ("float8", "Infinity", math.inf),
    ("float8", "NaN", math.nan),
    ("numeric", "0", Decimal("0")),
    ("numeric", "0.00", Decimal("0.00")),
    ("numeric", "-12345678901234567890.123456789", Decimal("-12345678901234567890.123456789")),
    ("numeric", "0.0000000000000000000012", Decimal("0.0000000000000000000012")),
    ("numeric", "1e20", Decimal("100000000000000000000")),
    ("numeric", "10000", Decimal("10000")),
    ("numeric", "99999999.00010000", Decimal("99999999.00010000")),
    ("numeric", "1" + "0" * 1000, Decimal("1" + "0" * 1000)),
    ("numeric", "1e-1000", Decimal("0." + "0" * 999 + "1")),
    ("numeric", "NaN", Decimal("NaN")),
    ("numeric", "Infinity", Decimal("Infinity")),
    ("numeric", "-Infinity", Decimal("-Infinity")),
    ("text", "", ""),
    ("text", "naïve 日本語 😀 '\"\\ {},\n\t", "naïve 日本語 😀 '\"\\ {},\n\t"),
    ("varchar(9)", "NULL", "NULL"),
    ("char(4)", "ab", "ab  "),
    ("name", "a name", "a name"),
    ("bytea", "\\x", b""),
    ("bytea", "\\x00ff275c7b7d", b"\x00\xff'\\{}"),
    ("date", "2000-01-01", date(2000, 1, 1)),
    ("date", "1999-12-31", date(1999, 12, 31)),
    ("date", "1600-02-29", date(1600, 2, 29)),
    ("date", "0001-01-01", date.min),
    ("date", "9999-12-31", date.max),
    ("date", "infinity", date.max),
    ("date", "-infinity", date.min),
    ("time", "00:00:00", time(0)),
    ("time", "23:59:59.999999", time(23, 59, 59, 999999)),
    ("timetz", "12:30:00.5+05:30", time(12, 30, 0, 500000, tzinfo=EAST)),
    ("timestamp", "1999-12-31 23:59:59.999999", datetime(1999, 12, 31, 23, 59, 59, 999999)),
    ("timestamp", "0001-01-01 00:00:00", datetime.min),
    ("timestamp", "9999-12-31 23:59:59.999999", datetime.max),
    ("timestamp", "infinity", datetime.max),
    ("timestamp", "-infinity", datetime.min),
    ("timestamptz", "2024-02-29 12:00:00+05:30", datetime(2024, 2, 29, 6, 30, tzinfo=UTC)),
    ("timestamptz", "1883-01-01 00:00:00.000001+00", datetime(1883, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ("timestamptz", "infinity", datetime.max),
    ("interval", "0", timedelta()),
    ("interval", "1 year 2 mons 3 days 04:05:06.7", timedelta(days=428, hours=4, minutes=5, seconds=6.7)),
    ("interval", "-1 days -00:00:00.000001", timedelta(days=-1, microseconds=-1)),
    ("interval", "-1 mons +2 days -03:00:00", timedelta(days=-28, hours=-3)),
    ("interval", "2562047788:00:54.775807", timedelta(hours=2562047788, seconds=54, microseconds=775807)),
    ("uuid", "00112233-4455-6677-8899-aabbccddeeff", UUID("00112233445566778899aabbccddeeff")),
    ("json", '{"a": [1, null]}', '{"a": [1, null]}'),
    ("jsonb", '{"a":   [1, null]}', '{"a": [1, null]}'),
    ("inet", "10.0.0.1", "10.0.0.1"),
    ("int4range", "[1,5)", "[1,5)"),
    ("bit(4)", "1010", "1010"),
    ("int4[]", "{}", []),
    ("int4[]", "{1,NULL,-3}", [1, None, -3]),
    ("int4[]", "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
    ("int4[]", "[0:1]={5,6}", [5, 6]),
    ("int2[]", "{7}", [7]),
    ("int8[]", "{9223372036854775807}", [2**63 - 1]),
    ("bool[]", "{t,f,NULL}", [True, False, None]),
    ("float8[]", "{0.1,Infinity}", [0.1, math.inf]),
    ("numeric[]", "{1.10,NaN}", [Decimal("1.10"), Decimal("NaN")]),
    ("text[]", '{"",NULL,"NULL","a,b","q\\"\\\\",naïve}', ["", None, "NULL", "a,b", 'q"\\', "naïve"]),
    ("bytea[]", '{"\\\\x00ff",NULL}', [b"\x00\xff", None]),
    ("date[]", "{1999-12-31,infinity}", [date(1999, 12, 31), date.max]),
    ("timestamptz[]", '{"2024-01-01 00:00:00+00"}', [datetime(2024, 1, 1, tzinfo=UTC)]),
    ("interval[]", '{"1 day",-00:00:01}', [timedelta(days=1), timedelta(seconds=-1)]),
    ("uuid[]", "{00112233-4455-6677-8899-aabbccddeeff}", [UUID("00112233445566778899aabbccddeeff")]),
    ("jsonb[]", '{"{\\"a\\": 1}"}', ['{"a": 1}']),
    ("inet[]", "{10.0.0.1,NULL}", "{10.0.0.1,NULL}"),
]


def same(one: Any, other: Any) -> bool:
    """Equal in type, value and sign, NaN included."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and repr(one) == repr(other)


async def assert_same_on_each_use(connection: Connection, query: str, expected: Any, *args: Any) -> None:
    for use in ("unnamed, in text", "prepared, in binary", "by name", "by name"):
        value = await connection.fetchval(query, *args)
        assert same(value, expected), f"{query} {args}, {use}: {value!r} is not {expected!r}"


@pytest.mark.parametrize("kind", sorted({kind for kind, _, _ in VALUES}))
async def test_values_read_the_same_on_every_use(server, kind):
    async with open_pool(server.url) as pool, pool.acquire() as connection:
        for text, expected in [(text, value) for one, text, value in VALUES if one == kind]:
            literal = text.replace("'", "''")
            await assert_same_on_each_use(connection, f"SELECT '{literal}'::{kind}", expected)
        await assert_same_on_each_use(connection, f"SELECT NULL::{kind}", None)


NOT_WRITTEN = ("int4range", "bit(4)", "inet[]", "char(4)", "float4")  # read as text, or padded, or rounded
WRITTEN: list[tuple[str, Any]] = [
    *[(kind, value) for kind, _, value in VALUES if kind not in NOT_WRITTEN],
    ("numeric", 10**30),
    ("int8", 5),
    ("text", "x" * 200_000),
    ("time", time(1, 2, 3, 4)),
    ("timestamptz", datetime(2024, 2, 29, 12, tzinfo=UTC)),
    ("int4[]", (1, 2)),
]


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in WRITTEN}))
async def test_values_written_as_parameters_come_back_the_same(server, kind):
    async with open_pool(server.url) as pool, pool.acquire() as connection:
        for value in [value for one, value in WRITTEN if one == kind]:
            expected = list(value) if isinstance(value, tuple) else value
            if kind == "numeric" and isinstance(value, int):
                expected = Decimal(value)
            if kind == "int4[]" and value == [[1, 2], [3, 4]]:
                assert await connection.fetchval("SELECT array_ndims($1::int4[])", value) == 2
            await assert_same_on_each_use(connection, f"SELECT $1::{kind}", expected, value)
        await assert_same_on_each_use(connection, f"SELECT $1::{kind}", None, None)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("date", "0044-03-15 BC"),
        ("date", "10000-01-01"),
        ("timestamp", "10000-01-01 00:00:00"),
        ("timestamptz", "0044-03-15 00:00:00+00 BC"),
    ],
)
async def test_a_time_that_python_cannot_hold_is_refused_on_every_use(server, kind, text):
    async with open_pool(server.url) as pool, pool.acquire() as connection:
        for _ in range(4):
            with pytest.raises(OverflowError, match="years 1 to 9999"):
                await connection.fetchval(f"SELECT '{text}'::{kind}")
        assert await connection.fetchval(f"SELECT '{text}'::{kind}::text") == text


async def test_parameters_decide_their_types_where_the_statement_does_not(server):
    async with open_pool(server.url) as pool, pool.acquire() as connection:
        for _ in range(3):
            assert await connection.fetchval("SELECT $1 + $2", 10, 20) == 30
            assert await connection.fetchval("SELECT $1", 5) == 5
            assert await connection.fetchval("SELECT $1", "text") == "text"
            assert await connection.fetchval("SELECT $1 || 'b'", "a") == "ab"
            assert await connection.fetchval("SELECT 1 WHERE 3 = ANY($1)", [1, 2, 3]) == 1
            assert await connection.fetchval("SELECT $1", None) is None
