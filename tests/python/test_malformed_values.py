"""Values that no PostgreSQL sends: each is that value's error, and nothing else happens."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from pqpool import InternalPoolError, UnsupportedError
from support.fake_server import FakeServer, value
from support.pools import open_pool


@dataclass(frozen=True)
class Value:
    type: int
    content: bytes
    binary: bool = True


def numeric(count: int, weight: int, sign: int, scale: int, *digits: int) -> bytes:
    return struct.pack(f"!hhHh{len(digits)}h", count, weight, sign, scale, *digits)


def array(dimensions: int, element: int, sizes: list[int], items: bytes = b"") -> bytes:
    bounds = b"".join(struct.pack("!ii", size, 1) for size in sizes)
    return struct.pack("!iiI", dimensions, 0, element) + bounds + items


ONE_INT = struct.pack("!ii", 4, 1)
WRONG_LENGTHS = {
    "bool": (16, 1),
    "char": (18, 1),
    "int8": (20, 8),
    "int2": (21, 2),
    "int4": (23, 4),
    "oid": (26, 4),
    "tid": (27, 6),
    "xid": (28, 4),
    "float4": (700, 4),
    "float8": (701, 8),
    "macaddr": (829, 6),
    "date": (1082, 4),
    "time": (1083, 8),
    "timestamp": (1114, 8),
    "timestamptz": (1184, 8),
    "interval": (1186, 16),
    "timetz": (1266, 12),
    "uuid": (2950, 16),
    "pg_lsn": (3220, 8),
}
MALFORMED: dict[str, Value] = {
    **{
        f"{name} of {length} bytes": Value(oid, b"\0" * length)
        for name, (oid, right) in WRONG_LENGTHS.items()
        for length in (0, right - 1, right + 1)
        if length != right
    },
    "numeric without header": Value(1700, b"\0\0\0"),
    "numeric with fewer digits than it says": Value(1700, numeric(32767, 32766, 0, 0)),
    "numeric with more digits than it says": Value(1700, numeric(0, 0, 0, 0, 1)),
    "numeric with a negative count": Value(1700, numeric(-5, 3, 0, 3)),
    "numeric with a digit of 12345": Value(1700, numeric(1, 0, 0, 0, 12345)),
    "numeric with a negative digit": Value(1700, numeric(2, 1, 0, 0, 1, -32768)),
    "numeric with a scale of 32767": Value(1700, numeric(1, -32768, 0, 32767, 1)),
    "numeric with an unknown sign": Value(1700, numeric(1, 0, 0x1234, 0, 1)),
    "time of 25 hours": Value(1083, struct.pack("!q", 25 * 3_600_000_000)),
    "time below 0": Value(1083, struct.pack("!q", -1)),
    "timetz in a zone two days off": Value(1266, struct.pack("!qi", 0, 2 * 86_400)),
    "jsonb of version 2": Value(3802, b"\2{}"),
    "jsonb without a version": Value(3802, b""),
    "bit string of negative length": Value(1560, struct.pack("!i", -1)),
    "bit string longer than its bytes": Value(1560, struct.pack("!i", 2**31 - 1) + b"\1"),
    "inet of an unknown family": Value(869, b"\x09\x20\0\4\1\2\3\4"),
    "inet with too many bits": Value(869, b"\2\x21\0\4\1\2\3\4"),
    "inet with fewer bytes than it says": Value(869, b"\2\x20\0\4\1\2\3"),
    "array without header": Value(1007, b""),
    "array of 100000000 dimensions": Value(1007, array(100_000_000, 23, [])),
    "array of -1 dimensions": Value(1007, array(-1, 23, [])),
    "array of 7 dimensions": Value(1007, array(7, 23, [1] * 7, ONE_INT)),
    "array of 20000 dimensions": Value(1007, array(20_000, 23, [1] * 20_000, ONE_INT)),
    "array of negative size": Value(1007, array(1, 23, [-5])),
    "array of 100000000 elements in no byte": Value(1007, array(1, 23, [100_000_000])),
    "array of 2147483647 elements": Value(1007, array(1, 23, [2**31 - 1], ONE_INT)),
    "array of 65536 times 65536": Value(1007, array(2, 23, [65536, 65536], ONE_INT)),
    "array of 100000000 times nothing": Value(1007, array(2, 23, [100_000_000, 0], ONE_INT)),
    "array with an element beyond its end": Value(1009, array(1, 25, [1], struct.pack("!i", 2**31 - 1))),
    "array with an element of length -2": Value(1009, array(1, 25, [1], struct.pack("!i", -2))),
    "array of bytea with more than there is": Value(1001, array(1, 17, [1], struct.pack("!i", 4000))),
    "array of arrays of itself": Value(1007, array(1, 1007, [1], ONE_INT)),
    "array of another element type": Value(1007, array(1, 25, [1], ONE_INT)),
    "array with bytes after its end": Value(1007, array(1, 23, [1], ONE_INT + b"\0")),
    "int2vector of two dimensions": Value(22, array(2, 21, [1, 1], struct.pack("!ih", 2, 1))),
    "int text": Value(23, b"12x", binary=False),
    "int text with a NUL": Value(23, b"12\0", binary=False),
    "int text out of range": Value(21, b"40000", binary=False),
    "int text that is empty": Value(23, b"", binary=False),
    "oid text with a sign": Value(26, b"-1", binary=False),
    "float text": Value(701, b"x", binary=False),
    "float text with an underscore": Value(701, b"1_0", binary=False),
    "bool text": Value(16, b"", binary=False),
    "numeric text": Value(1700, b"abc", binary=False),
    "numeric text with a point at its end": Value(1700, b"1.", binary=False),
    "numeric text of too many digits": Value(1700, b"9" * 200_000, binary=False),
    "uuid text": Value(2950, b"zz", binary=False),
    "uuid text of 33 digits": Value(2950, b"0" * 37, binary=False),
    "bytea text with other letters": Value(17, b"\\xZZ\xff", binary=False),
    "bytea text with half a byte": Value(17, b"\\x123", binary=False),
    "bytea text with an open escape": Value(17, b"a\\1", binary=False),
    "date text": Value(1082, b"-2147483648--2147483648-1", binary=False),
    "date text of no day": Value(1082, b"2023-02-29", binary=False),
    "date text of month 13": Value(1082, b"2023-13-01", binary=False),
    "timestamp text": Value(
        1114, b"2147483647-2147483647-2147483647 9223372036854775807:99999999:99999999", binary=False
    ),
    "timestamptz text without a zone": Value(1184, b"2020-01-01 00:00:00", binary=False),
    "time text with a zone": Value(1083, b"00:00:00+01", binary=False),
    "timetz text": Value(1266, b"00:00:00+2147483647", binary=False),
    "interval text": Value(1186, b"9223372036854775808 days", binary=False),
    "interval text of hours beyond any": Value(1186, b"9223372036854775807:00:00", binary=False),
    "interval text that is empty": Value(1186, b"", binary=False),
    "interval text without a unit": Value(1186, b"5", binary=False),
    "interval text in ISO form, empty": Value(1186, b"P", binary=False),
    "array text of 300000 dimensions": Value(1009, b"{" * 300_000, binary=False),
    "array text of 7 dimensions": Value(1009, b"{" * 7 + b"a" + b"}" * 7, binary=False),
    "array text that ends in an escape": Value(1009, b'{"a\\', binary=False),
    "array text that ends in quotes": Value(1009, b'{"', binary=False),
    "array text that goes on after its end": Value(1009, b"{a}b", binary=False),
    "array text without a brace": Value(1009, b"a", binary=False),
    "array text that is empty": Value(1009, b"", binary=False),
    "array text with a missing element": Value(1009, b"{a,,b}", binary=False),
    "array text with a comma at its end": Value(1009, b"{a,}", binary=False),
}


async def answer(sent: Value) -> Any:
    content = value(sent.type, sent.content, int(sent.binary))
    with FakeServer(lambda sql: content if sql == "SELECT v" else None) as server:
        async with open_pool(server.url) as pool, pool.acquire() as conn:
            try:
                return await asyncio.wait_for(conn.fetchval("SELECT v"), 10)
            finally:
                assert await conn.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_value_is_an_error_that_says_so(sent: Value) -> None:
    with pytest.raises(InternalPoolError, match="the server sent a malformed value of type"):
        await answer(sent)


@pytest.mark.parametrize(
    "sent",
    [
        Value(25, b"\xe9"),
        Value(25, b"a\xff", binary=False),
        Value(114, b'"\xe9"'),
        Value(3802, b'\1"\xe9"'),
        Value(1009, array(1, 25, [1], struct.pack("!i", 1) + b"\xe9")),
        Value(1009, b"{\xe9}", binary=False),
    ],
)
async def test_text_that_is_not_utf8_is_its_own_error(sent: Value) -> None:
    with pytest.raises(UnicodeDecodeError):
        await answer(sent)


@pytest.mark.parametrize("oid", [600, 790, 1041, 3904, 99999])
async def test_binary_form_that_is_not_read_is_no_text(oid: int) -> None:
    with pytest.raises(UnsupportedError, match=f"binary form of the type with OID {oid}"):
        await answer(Value(oid, b"\0\0\0\1abcd"))
