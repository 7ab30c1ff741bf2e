"""Python's values as parameters: what each is on the server, and which are refused."""

from __future__ import annotations

import enum
import os
import re
import subprocess
import sys
import time as clock
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from ipaddress import IPv4Interface
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pqpool import Connection, InvalidArgumentError, QueryError
from support.pools import open_pool

DAY = timedelta(days=1)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[Connection]:
    async with open_pool(database_url) as pool, pool.acquire() as connection:
        yield connection


# ---- what they are ----


@pytest.mark.parametrize(
    "setting",
    [
        "SET IntervalStyle = 'sql_standard'",
        "SET IntervalStyle = 'iso_8601'",
        "SET array_nulls = off",
        "SET DateStyle = 'SQL, DMY'",
        "SET DateStyle = 'German, MDY'",
        "SET DateStyle = 'Postgres, YMD'",
        "SET TimeZone = 'Asia/Tokyo'",
        "SET bytea_output = 'escape'",
        "SET standard_conforming_strings = off",
        "SET extra_float_digits = -10",
    ],
)
async def test_parameter_means_the_same_under_every_setting(conn: Connection, setting: str) -> None:
    await conn.execute(setting)
    east = timezone(timedelta(hours=5, minutes=30))
    for type_name, value, text in [
        ("interval", timedelta(hours=-1), "-3600.000000"),
        ("interval", timedelta(days=-3, microseconds=1), "-259199.999999"),
        ("interval[]", [timedelta(hours=-1), None], None),
        ("date", date(2020, 1, 2), None),
        ("date", date(1, 2, 3), None),
        ("timestamp", datetime(2020, 1, 2, 3, 4), None),
        ("timestamp", datetime(99, 1, 2, 3, 4), None),
        ("timestamptz", datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=east), None),
        ("timetz", time(3, 4, 5, 6, tzinfo=east), None),
        ("date[]", [date(2020, 1, 2), None], None),
        ("timestamptz[]", [datetime(2020, 1, 2, tzinfo=UTC), None], None),
        ("int[]", [1, None], None),
        ("numeric[]", [Decimal("-1.50"), None, 2], None),
        ("float8[]", [0.1 + 0.2, None], None),
        ("text[]", ["a", None, "NULL"], None),
        ("bytea[]", [b"\\x00", b"'\"", None], None),
        ("uuid[]", [uuid.UUID(int=5), None], None),
        ("bool[]", [True, None], None),
        ("text[]", ["a\\b'", 'c"'], None),
    ]:
        if text is not None:
            found = await conn.fetchval(f"SELECT extract(epoch FROM $1::{type_name})::text", value)
            assert found == text
        assert await conn.fetchval(f"SELECT $1::{type_name} IS NOT DISTINCT FROM $2", value, value) is True
        await conn.execute(f"SELECT $1::{type_name} AS v", value)  # the first result may be text
        assert [row["v"] for row in await conn.fetch(f"SELECT $1::{type_name} AS v", value)] == [value]


class Percent(Decimal):
    def __str__(self) -> str:
        return format(self * 100, ".1f")


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Loud(str):
    def __str__(self) -> str:
        return self.upper()


class Odd(float):
    def __repr__(self) -> str:
        return "odd"


class Big(int):
    def __repr__(self) -> str:
        return "big"

    __str__ = __repr__


class Moment(datetime):
    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "now"


class Key(uuid.UUID):
    def __str__(self) -> str:
        return "key"


class Address(IPv4Interface):
    def __str__(self) -> str:
        return "home"


class Index:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("type_name", "value", "expected"),
    [
        ("numeric", Percent("0.255"), Decimal("0.255")),
        ("text", Colour.RED, "red"),
        ("int", Size.LARGE, 3),
        ("text", Loud("quiet"), "quiet"),
        ("float8", Odd(1.5), 1.5),
        ("int", Big(5), 5),
        ("numeric", Big(2**70), Decimal(2**70)),
        ("timestamp", Moment(2020, 1, 2), datetime(2020, 1, 2)),
        ("timestamptz", Moment(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)),
        ("uuid", Key(int=5), uuid.UUID(int=5)),
        ("inet", Address("10.0.0.1/8"), "10.0.0.1/8"),
        ("int", Index(), 7),
    ],
)
async def test_subclass_is_sent_as_its_base_is(
    conn: Connection, type_name: str, value: Any, expected: Any
) -> None:
    assert await conn.fetchval(f"SELECT $1::{type_name}", value) == expected
    found = await conn.fetchrow(f"SELECT $1::{type_name}[] AS v, point(0, 0)", [value, value])
    assert found is not None
    assert found["v"] == ([expected, expected] if type_name != "inet" else "{10.0.0.1/8,10.0.0.1/8}")


@pytest.mark.parametrize(
    ("type_name", "value", "expected"),
    [
        ("int[]", {5}, [5]),
        ("int[]", range(3), [0, 1, 2]),
        ("int[]", {1: "a", 2: "b"}.keys(), [1, 2]),
        ("int[]", deque([1, None]), [1, None]),
        ("int[]", [True, 2], [1, 2]),
        ("int[]", [[]], []),
        ("int[]", [[], []], []),
        ("int[]", [[[[[[1]]]]]], [[[[[[1]]]]]]),
        ("int[]", [None, None], [None, None]),
        ("int8[]", [1, 2**40], [1, 2**40]),
        ("numeric[]", [1, 2**70], [Decimal(1), Decimal(2**70)]),
        ("float8[]", [1, 2.5], [1.0, 2.5]),
        ("numeric[]", [0.1, Decimal("2.50"), 3], [Decimal("0.1"), Decimal("2.50"), Decimal(3)]),
        ("numeric[]", [Decimal("1E+20"), Decimal("1E-7")], [Decimal(10**20), Decimal("1E-7")]),
        ("numeric[]", [Decimal("-0.0000123"), Decimal("0E-5")], [Decimal("-0.0000123"), Decimal("0.00000")]),
        ("numeric[]", [Decimal("9999.9999"), Decimal("10000")], [Decimal("9999.9999"), Decimal("10000")]),
        ("numeric[]", [Decimal("123456.7"), Decimal(0)], [Decimal("123456.7"), Decimal(0)]),
        ("uuid[]", [str(uuid.UUID(int=1)), uuid.UUID(int=2)], [uuid.UUID(int=1), uuid.UUID(int=2)]),
        ("date[]", ["2020-01-02", date(2020, 1, 3)], [date(2020, 1, 2), date(2020, 1, 3)]),
        ("interval[]", ["1 day", timedelta(hours=-1)], [DAY, timedelta(hours=-1)]),
        ("time[]", [time(1, 2, 3, 4), None], [time(1, 2, 3, 4), None]),
        ("bytea[]", [bytearray(b"a"), memoryview(b"xyz")[::2]], [b"a", b"xz"]),
        ("jsonb[]", [{"a": 1}, None], ['{"a": 1}', None]),
        ("text[]", (), []),
    ],
)  # fmt: skip
async def test_collection_is_sent_as_an_array(
    conn: Connection, type_name: str, value: Any, expected: Any
) -> None:
    found = await conn.fetchval(f"SELECT $1::{type_name}", value)
    assert found == expected and repr(found) == repr(expected)


DECIMALS = st.decimals(
    allow_nan=False, allow_infinity=False, places=None, min_value=-(10**40), max_value=10**40
)
FAR = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(-999, 99999), st.integers(-60, 60)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(FAR | DECIMALS | st.floats(allow_nan=False, allow_infinity=False), max_size=30),
    moments=st.lists(st.datetimes(timezones=st.just(UTC)), max_size=10),
    days=st.lists(st.dates(), max_size=10),
    clocks=st.lists(st.times(), max_size=10),
    spans=st.lists(st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)), max_size=10),
)
async def test_lists_come_back_as_they_were(
    conn: Connection,
    numbers: list[Decimal | float],
    moments: list[datetime],
    days: list[date],
    clocks: list[time],
    spans: list[timedelta],
) -> None:
    query = "SELECT $1::numeric[], $2::timestamptz[], $3::date[], $4::time[], $5::interval[]"
    decimals = [Decimal(str(number)) for number in numbers]
    found = await conn.fetchrow(query, [Decimal(0), *numbers], moments, days, clocks, spans)
    assert found is not None and tuple(found)[1:] == (moments, days, clocks, spans)
    assert found[0][1:] == decimals
    # The server reads the same from the text of each.
    assert found[0][1:] == [await conn.fetchval("SELECT $1::numeric", number) for number in decimals]


async def test_list_without_elements_is_no_json(conn: Connection) -> None:
    for type_name in ("jsonb", "json"):
        with pytest.raises(QueryError, match="invalid input syntax"):
            await conn.fetchval(f"SELECT $1::{type_name}", [])
    for type_name in ("int[]", "text[]", "jsonb[]", "timestamptz[]"):
        assert await conn.fetchval(f"SELECT $1::{type_name}", []) == []


def holding_itself() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def nested(depth: int) -> list[Any]:
    deep: list[Any] = [1]
    for _ in range(depth - 1):
        deep = [deep]
    return deep


class NoOffset(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None


class Broken(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta | None:
        raise KeyError("lost")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (holding_itself(), "more than 6 dimensions"),
        (nested(7), "more than 6 dimensions"),
        (nested(100_000), "more than 6 dimensions"),
        ([[1], [2, 3]], "of different lengths"),
        ([1, [2]], "of different lengths"),
        ([[1], 2], "of different lengths"),
        ([[], [1]], "of different lengths"),
        ([None, [1]], "of different lengths"),
        (["a", ["b"]], "of different lengths"),
        ([uuid.UUID(int=1), 1.5], "of different types"),
        ([2**60, 0.5], "an int that no float can hold"),
        ([Decimal("1E+200000")], "numeric cannot hold"),
        ([Decimal("1E-20000")], "numeric cannot hold"),
        ([1, {"a": 1}, object()], "a list with an element of type object"),
        (["a\0b"], "holds a NUL"),
        ([{"b": object()}], "cannot be converted: Object of type object"),
        ("\udc80", "surrogates not allowed"),
        (["\udc80"], "surrogates not allowed"),
        (object, "is a type, for which there is no PostgreSQL type"),
        ({"a": object()}, "cannot be converted: Object of type object"),
        (time(1, tzinfo=NoOffset()), "no offset without a date"),
        (time(1, tzinfo=timezone(timedelta(microseconds=5))), "no whole number of seconds"),
        (
            datetime(2020, 1, 1, tzinfo=Broken()),
            "parameter \\$1, a datetime.datetime, cannot be converted: 'lost'",
        ),
        (10**5000, "cannot be converted: Exceeds the limit"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, str) else type(value).__name__,
)
async def test_value_that_cannot_be_sent_is_refused_before_anything_is(
    conn: Connection, value: Any, words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        await conn.fetchval("SELECT $1", value)
    assert "parameter $1" in str(caught.value)
    assert await conn.fetchval("SELECT 1") == 1


async def test_list_that_changes_while_it_is_read_is_refused_or_sent_whole(conn: Connection) -> None:
    class Cutting(tzinfo):
        def utcoffset(self, _: datetime | None) -> timedelta | None:
            values.clear()
            return timedelta(0)

    values: list[Any] = [datetime(2020, 1, 1, tzinfo=Cutting()), datetime(2020, 1, 2, tzinfo=UTC)]
    with pytest.raises(InvalidArgumentError, match="of different lengths"):
        await conn.fetchval("SELECT $1::timestamptz[]", values)


async def test_conversion_may_run_a_statement_of_its_own(database_url: str) -> None:
    async with open_pool(database_url, max_size=2) as pool, pool.acquire() as conn, pool.acquire() as other:
        begun = []

        class Nosy(tzinfo):
            def utcoffset(self, _: datetime | None) -> timedelta | None:
                begun.append(other.fetchval("SELECT $1, $2", "x" * 1000, 5))
                begun[-1].send(None)
                begun[-1].close()
                return timedelta(0)

        query = "SELECT $1::bytea, $2::timestamptz, $3::int"
        for _ in range(2):
            found = await conn.fetchrow(query, bytearray(b"y" * 1000), datetime(2020, 1, 1, tzinfo=Nosy()), 7)
            assert found is not None
            assert tuple(found) == (b"y" * 1000, datetime(2020, 1, 1, tzinfo=UTC), 7)
        assert begun


# ---- datetimes without a zone ----


@pytest.fixture(params=["America/New_York", "Asia/Kolkata", "UTC"])
def local_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    clock.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    clock.tzset()


async def test_naive_datetime_is_in_the_clients_time_zone(conn: Connection, local_zone: str) -> None:
    await conn.execute(
        "SET TimeZone = 'Asia/Tokyo'; CREATE TEMP TABLE t (tz timestamptz, ts timestamp, d date)"
    )
    for naive in (
        datetime(2026, 1, 1, 12, 30, 15, 250001),
        datetime(2026, 7, 1),
        datetime(2026, 11, 1, 1, 30),
        datetime(2026, 11, 1, 1, 30, fold=1),
        datetime(1850, 6, 1, 12),
        datetime(1, 1, 1, 0, 0, 1),
        datetime(9999, 12, 31, 23, 59, 59),
    ):
        if 1 < naive.year < 9999:
            moment = naive.astimezone(UTC)
            await conn.execute("INSERT INTO t VALUES ($1, $2, $3)", naive, naive, naive)
            query = """SELECT count(*) FROM t
                WHERE tz = $1 AND ts = $2 AND d = $3::date AND tz = ANY($4) AND ts = ANY($5)"""
            assert await conn.fetchval(query, naive, naive, naive, [naive, None], [naive, None]) == 1
            assert await conn.fetchval("SELECT tz FROM t") == moment
            assert await conn.fetchval("SELECT d FROM t") == naive.date()
            found = await conn.fetchval("SELECT $1::timestamptz[]", [naive, moment, naive.date()])
            assert found == [moment, moment, datetime.combine(naive.date(), time()).astimezone(UTC)]
            await conn.execute("DELETE FROM t")
        assert await conn.fetchval("SELECT $1::timestamp", naive) == naive.replace(fold=0)
    await conn.execute("DROP TABLE t")


@pytest.mark.parametrize(
    ("type_name", "value", "text"),
    [
        ("date", date.max, "infinity"),
        ("date", date.min, "-infinity"),
        ("date[]", [date.max], "{infinity}"),
        ("timestamp", datetime.max, "infinity"),
        ("timestamptz", datetime.min, "-infinity"),
        ("timestamptz", datetime.max.replace(tzinfo=UTC), "infinity"),
        ("timestamptz", datetime.min.replace(tzinfo=UTC), "-infinity"),
        (
            "timestamptz",
            datetime.max.replace(tzinfo=timezone(timedelta(hours=1))),
            "9999-12-31 22:59:59.999999+00",
        ),
        (
            "timestamptz[]",
            [datetime.max, datetime(2020, 1, 1, tzinfo=UTC)],
            '{infinity,"2020-01-01 00:00:00+00"}',
        ),
    ],
)
async def test_ends_of_pythons_calendar_are_infinity(
    conn: Connection, type_name: str, value: Any, text: str
) -> None:
    await conn.execute("SET TimeZone = 'UTC'")
    assert await conn.fetchval(f"SELECT $1::{type_name}::text", value) == text


# ---- how many, and how large ----


@pytest.mark.parametrize(
    ("query", "values", "words"),
    [
        ("SELECT 1", (5,), "the server expects 0 arguments for this query, 1 was passed"),
        ("SELECT $1::int", (1, 2), "the server expects 1 argument for this query, 2 were passed"),
        (
            "SELECT $1::int, $3::int",
            (1, 2, 3, 4),
            "the server expects 3 arguments for this query, 4 were passed",
        ),
        ("SELECT $11::int", tuple(range(12)), "the server expects 11 arguments"),
        ("SELECT $tag$ x $tag$", ("a",), "the server expects 0 arguments"),
        ("SELECT 'costs $2', $1::int -- $3", (1, 2), "the server expects 1 argument"),
        ("SELECT 1", tuple(range(70_000)), "65535 parameters at most"),
    ],
)
async def test_surplus_argument_is_refused(
    conn: Connection, query: str, values: tuple[Any, ...], words: str
) -> None:
    for call in (conn.fetchval, conn.fetchrow, conn.fetch, conn.execute):
        with pytest.raises(InvalidArgumentError, match=re.escape(words)):
            await call(query, *values)
    with pytest.raises(InvalidArgumentError, match=re.escape(words)):
        await conn.executemany(query, [values])
    with pytest.raises(QueryError):
        await conn.fetchval("SELECT $1::int, $2::int", 1)
    assert await conn.fetchval("SELECT $02::int + $1", 1, 2) == 3


async def test_column_number_beyond_any_is_an_index_error(conn: Connection) -> None:
    for column in (2**31, 2**40, -(2**40)):
        with pytest.raises(IndexError, match="out of range"):
            await conn.fetchval("SELECT 1", column=column)


HUGE = """
import asyncio, resource, sys
from pqpool import ConnectionPoolError, ConnectionPoolManager, PoolConfig

async def main():
    async with ConnectionPoolManager(PoolConfig(sys.argv[1], min_size=1, max_size=1)) as pool:
        value = {value}
        resource.setrlimit(resource.RLIMIT_AS, ({limit} * 2**20,) * 2)
        for _ in range(2):
            async with pool.acquire() as conn:
                try:
                    found = await conn.fetchval({query!r}, value)
                    print(len(found) if isinstance(found, (str, bytes)) else found)
                except (MemoryError, ConnectionPoolError) as error:
                    print(type(error).__name__)
                else:
                    break
            del value
            value = {small}
        async with pool.acquire() as conn:
            print(await conn.fetchval("SELECT 1"))

asyncio.run(main())
"""


@pytest.mark.skipif("PQPOOL_SANITIZER" in os.environ, reason="a sanitizer's shadow memory is over any limit")
@pytest.mark.parametrize("limit", [300, 450])
@pytest.mark.parametrize(
    ("query", "value", "small"),
    [
        ("SELECT length($1)", "bytes(100 * 2**20)", "b'ab'"),
        ("SELECT length($1)", "'x' * (100 * 2**20)", "'ab'"),
        ("SELECT length($1)", "bytearray(100 * 2**20)", "bytearray(b'ab')"),
        ("SELECT repeat('x', $1)", "100 * 2**20", "2"),
        ("SELECT decode(repeat('78', $1), 'hex')", "100 * 2**20", "2"),
        ("SELECT length(($1::text[])[1])", "['x' * (100 * 2**20)]", "['ab']"),
        ("SELECT length(($1::bytea[])[1])", "[bytes(100 * 2**20)]", "[b'ab']"),
    ],
)
def test_memory_that_ends_is_an_error(
    database_url: str, query: str, value: str, small: str, limit: int
) -> None:
    script = HUGE.format(query=query, value=value, small=small, limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", script, database_url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-1000:]
    lines = done.stdout.split()
    assert lines[-1] == "1" and lines[-2] in ("2", str(100 * 2**20)), lines


async def test_parameters_of_more_than_a_gigabyte_are_refused(conn: Connection) -> None:
    value = bytes(600 * 2**20)
    with pytest.raises(InvalidArgumentError, match=r"the longest is \$2 with 629145600"):
        await conn.fetchval("SELECT $1, $2, $3", 1, value, value)
    assert await conn.fetchval("SELECT 1") == 1
