"""Values of a result: the same in the text and the binary form, under every setting of the session."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pqpool import Connection, UnsupportedError
from support.pools import open_pool


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[Connection]:
    async with open_pool(database_url) as pool, pool.acquire() as connection:
        yield connection


async def as_binary(conn: Connection, expression: str) -> Any:
    for _ in range(2):  # the first may be text
        await conn.execute(f"SELECT {expression} AS v")
        found = await conn.fetch(f"SELECT {expression} AS v")
    return found[0]["v"]


async def as_text(conn: Connection, expression: str) -> Any:
    """A point has no binary form here, and so the whole result comes as text."""
    row = await conn.fetchrow(f"SELECT {expression} AS v, point(1, 2) AS p")
    assert row is not None and row["p"] == "(1,2)"
    return row["v"]


async def assert_gives(conn: Connection, expression: str, expected: Any) -> None:
    for found in (await as_binary(conn, expression), await as_text(conn, expression)):
        assert found == expected or (found != found and expected != expected)
        assert type(found) is type(expected)
        assert repr(found) == repr(expected)  # -0.0, the digits of a Decimal


# ---- results ----

DAY = timedelta(days=1)
RESULTS: list[tuple[str, Any]] = [
    ("true", True),
    ("'-32768'::int2", -32768),
    ("'-9223372036854775808'::int8", -(2**63)),
    ("4294967295::oid", 4294967295),
    ("0.1::float8 + 0.2", 0.1 + 0.2),
    ("0.1::float4", 0.10000000149011612),
    ("'1e-45'::float4", 1.401298464324817e-45),
    ("'5e-324'::float8", 5e-324),
    ("'-0'::float8", -0.0),
    ("'-Infinity'::float4", float("-inf")),
    ("'NaN'::float8", float("nan")),
    ("'NaN'::numeric", Decimal("NaN")),
    ("0.00::numeric", Decimal("0.00")),
    ("-0.5::numeric", Decimal("-0.5")),
    ("10000::numeric", Decimal(10000)),
    ("100000000::numeric", Decimal(100000000)),
    ("12345.6789::numeric", Decimal("12345.6789")),
    ("0.0001::numeric", Decimal("0.0001")),
    ("0.000012340::numeric", Decimal("0.000012340")),
    ("12345678901234567890.123456789000::numeric", Decimal("12345678901234567890.123456789000")),
    ("(10::numeric ^ 130)::numeric(140, 3)", Decimal("1" + "0" * 130 + ".000")),
    ("'Grüße'::varchar", "Grüße"),
    ("'abc'::char(5)", "abc  "),
    ("'x'::name", "x"),
    ("'a'::\"char\"", "a"),
    ("''::\"char\"", ""),
    ("'\\x00ff415c78'::bytea", b"\x00\xffA\\x"),
    ("''::bytea", b""),
    ("'{\"a\": 1}'::json", '{"a": 1}'),
    ("'{\"a\": 1}'::jsonb", '{"a": 1}'),
    ("'12345678-1234-5678-1234-567812345678'::uuid", uuid.UUID("12345678123456781234567812345678")),
    ("timestamp '1997-12-17 07:37:16.5'", datetime(1997, 12, 17, 7, 37, 16, 500000)),
    ("timestamp '9999-12-31 23:59:59.999999'", datetime.max),
    ("timestamp 'infinity'", datetime.max),
    ("timestamp '-infinity'", datetime.min),
    ("timestamptz 'infinity'", datetime.max),
    ("timestamptz '-infinity'", datetime.min),
    ("date 'infinity'", date.max),
    ("date '-infinity'", date.min),
    ("time '12:34:56.789'", time(12, 34, 56, 789000)),
    (
        "timetz '12:34:56-05:30:15'",
        time(12, 34, 56, tzinfo=timezone(-timedelta(hours=5, minutes=30, seconds=15))),
    ),
    ("interval '100000 hours'", timedelta(hours=100000)),
    (
        "interval '-1 year -2 mons +3 days -4:05:06.7'",
        timedelta(days=-422, seconds=-14706, microseconds=-700000),
    ),
    ("'{}'::int[]", []),
    ("'[0:1]={1,2}'::int[]", [1, 2]),
    ("'[-2:-1][5:6]={{1,2},{3,NULL}}'::int[]", [[1, 2], [3, None]]),
    ("array[[[[[[1]]]]]]", [[[[[[1]]]]]]),
    (
        "array['a\"b', 'c\\d', '{x}', '', 'null', 'NULL', ' ', NULL]",
        ['a"b', "c\\d", "{x}", "", "null", "NULL", " ", None],
    ),
    ("array['\\x41'::bytea, '\\x225c2c'::bytea]", [b"A", b'"\\,']),
    ("array[interval '1 day', NULL]", [DAY, None]),
    ("array[timestamp '2020-01-02 03:04']", [datetime(2020, 1, 2, 3, 4)]),
    ("array[0.1::float8 + 0.2]", [0.1 + 0.2]),
    ("array['1.50'::numeric]", [Decimal("1.50")]),
    ("'{t,f,NULL}'::bool[]", [True, False, None]),
    ("array['{\"a\": 1}'::jsonb]", ['{"a": 1}']),
    ("inet '10.0.0.1/8'", "10.0.0.1/8"),
    ("inet '10.0.0.1'", "10.0.0.1"),
    ("cidr '10.0.0.0/8'", "10.0.0.0/8"),
    ("inet '::ffff:1.2.3.4'", "::ffff:1.2.3.4"),
    ("inet '1:0:0:2:0:0:0:3/64'", "1:0:0:2::3/64"),
    ("inet '0:0:3:0:0:0:7:0'", "0:0:3::7:0"),
    ("inet '1:2:3:4:5:6:0:0'", "1:2:3:4:5:6::"),
    ("inet '1:0:2:3:4:5:6:7'", "1:0:2:3:4:5:6:7"),
    ("inet '::'", "::"),
    ("macaddr '08:00:2b:01:02:ff'", "08:00:2b:01:02:ff"),
    ("macaddr8 '08:00:2b:01:02:ff:fe:00'", "08:00:2b:01:02:ff:fe:00"),
    ("B'1010101011'", "1010101011"),
    ("B''::varbit", ""),
    ("'FFFFFFFF/1A'::pg_lsn", "FFFFFFFF/1A"),
    ("'(4294967295,65535)'::tid", "(4294967295,65535)"),
    ("'4294967295'::xid", "4294967295"),
    ("'7'::cid", "7"),
    ("'1 -2 3'::int2vector", "1 -2 3"),
    ("''::oidvector", ""),
    ("'$.a[*]'::jsonpath", '$."a"[*]'),
    ("pg_sleep(0)", None),
]
SETTINGS = [
    "",
    "SET IntervalStyle = 'iso_8601'",
    "SET IntervalStyle = 'sql_standard'",
    "SET IntervalStyle = 'postgres_verbose'",
    "SET bytea_output = 'escape'",
    "SET DateStyle = 'German'",
    "SET DateStyle = 'ISO, DMY'",
    "SET TimeZone = 'America/New_York'",
    "SET lc_monetary = 'C'",
]


@pytest.mark.parametrize("setting", SETTINGS)
async def test_value_is_the_same_in_text_and_binary_form(conn: Connection, setting: str) -> None:
    if setting:
        await conn.execute(setting)
    for expression, expected in RESULTS:
        if "timestamptz" in expression and "German" in setting and "infinity" not in expression:
            continue
        await assert_gives(conn, expression, expected)


async def test_high_byte_of_char_is_written_in_octal(conn: Connection) -> None:
    assert await as_binary(conn, 'chr(200)::"char"') == await as_text(conn, 'chr(200)::"char"') == "\\303"


async def test_timestamptz_is_the_same_moment_in_every_time_zone(conn: Connection) -> None:
    for zone in ("UTC", "America/New_York", "Asia/Kolkata", "Europe/Amsterdam"):
        await conn.execute(f"SET TimeZone = '{zone}'")
        await assert_gives(
            conn,
            "timestamptz '2020-06-01 12:00:00.25+00'",
            datetime(2020, 6, 1, 12, 0, 0, 250000, tzinfo=UTC),
        )
        await assert_gives(conn, "timestamptz '1850-01-01 00:00+00'", datetime(1850, 1, 1, tzinfo=UTC))
        await assert_gives(conn, "timestamptz '0001-01-02 00:00+00'", datetime(1, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize("order", ["MDY", "DMY", "YMD"])
@pytest.mark.parametrize("style", ["Postgres", "SQL"])
async def test_date_whose_text_leaves_the_day_open_is_refused(
    conn: Connection, style: str, order: str
) -> None:
    await conn.execute(f"SET DateStyle = '{style}, {order}'")
    for expression in ("date '2001-02-03'", "array[date '2001-02-25']", "timestamptz '2001-02-03 04:05+00'"):
        with pytest.raises(UnsupportedError, match="SET DateStyle = 'ISO'"):
            await as_text(conn, expression)
    assert await as_binary(conn, "date '2001-02-03'") == date(2001, 2, 3)
    timestamp = "timestamp '2001-02-03 04:05:06.7'"
    if style == "Postgres":  # the month has its name
        assert await as_text(conn, timestamp) == datetime(2001, 2, 3, 4, 5, 6, 700000)
    else:
        with pytest.raises(UnsupportedError):
            await as_text(conn, timestamp)
    assert await as_text(conn, "date 'infinity'") == date.max


async def test_german_dates_are_read(conn: Connection) -> None:
    await conn.execute("SET DateStyle = 'German'")
    assert await as_text(conn, "date '2001-02-03'") == date(2001, 2, 3)
    assert await as_text(conn, "timestamp '2001-02-03 04:05:06.7'") == datetime(2001, 2, 3, 4, 5, 6, 700000)


INTERVAL_PARTS = st.tuples(
    st.integers(-5000, 5000) | st.just(0),
    st.integers(-100_000, 100_000) | st.just(0),
    st.integers(-(10**15), 10**15) | st.integers(-1000, 1000),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(INTERVAL_PARTS, min_size=20, max_size=20))
async def test_interval_is_read_in_every_style(conn: Connection, parts: list[tuple[int, int, int]]) -> None:
    expected = [
        timedelta(
            days=int(months / 12) * 365 + (abs(months) % 12) * 30 * (1 if months >= 0 else -1) + days,
            microseconds=us,
        )
        for months, days, us in parts
    ]
    query = """SELECT m * interval '1 month' + d * interval '1 day' + u * interval '1 microsecond' AS v,
        point(0, 0) FROM unnest($1::int[], $2::int[], $3::bigint[]) AS t(m, d, u)"""
    for style in ("postgres", "postgres_verbose", "sql_standard", "iso_8601"):
        await conn.execute(f"SET IntervalStyle = '{style}'")
        rows = await conn.fetch(query, *(list(part) for part in zip(*parts, strict=True)))
        assert [row["v"] for row in rows] == expected


# ---- what Python cannot hold ----


@pytest.mark.parametrize(
    ("expression", "kind", "words"),
    [
        ("time '24:00'", ValueError, "hour must be in 0..23"),
        ("timetz '24:00+03'", ValueError, "hour must be in 0..23"),
        ("array[time '24:00']", ValueError, "hour must be in 0..23"),
        ("date '10000-01-01'", OverflowError, "the date is outside"),
        ("date '0001-01-01 BC'", OverflowError, "the date is outside"),
        ("timestamp '10000-01-01'", OverflowError, "the timestamp is outside"),
        ("timestamp '4713-01-01 BC'", OverflowError, "the timestamp is outside"),
        ("timestamptz '294276-12-31 23:59:59.999999+00'", OverflowError, "the timestamp"),
        ("timestamptz '0001-01-01 BC'", OverflowError, "the timestamp"),
        ("interval '5900000 years'", OverflowError, "Suggestion: select it as text"),
        ("interval '10000000 years'", OverflowError, "Suggestion: select it as text"),
        ("interval '-178000000 years'", OverflowError, "Suggestion: select it as text"),
        ("interval '-2147483648 days'", OverflowError, "Suggestion: select it as text"),
        ("array[interval '5900000 years']", OverflowError, "Suggestion: select it as text"),
    ],
)
async def test_value_outside_pythons_range_is_an_error_with_a_cure(
    conn: Connection, expression: str, kind: type[Exception], words: str
) -> None:
    for form in (as_binary, as_text):
        with pytest.raises(kind, match=re.escape(words)):
            await form(conn, expression)
    assert await conn.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("days", [-999_999_999, 999_999_999])
async def test_longest_intervals_of_python_are_read(conn: Connection, days: int) -> None:
    await assert_gives(conn, f"interval '{days} days'", timedelta(days=days))
