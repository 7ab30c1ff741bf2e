"""An answer that is not as it should be, message by message: an error of its statement, and of no other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time

import pytest

from pqpool import ConnectionPoolError
from support.fake_server import (
    Ended,
    FakeServer,
    Session,
    command_complete,
    data_row,
    error,
    message,
    notice,
    parameters,
    ready,
    reset,
)
from support.hostile import is_a_lie
from support.hostile_stage import (
    COPY,
    MARK,
    MARKED,
    ORDINARY,
    QUICK,
    TYPES,
    ask,
    ask_marked,
    assert_recovered,
    at_the_mark,
    bounded_memory,
    in_parallel,
    is_refused,
    marked_row,
    stage,
    with_extra,
)
from support.pools import open_pool

# ---- messages too many, too few ----

PLACES = {
    "before the description": -1,
    "before the row": 0,
    "before the end": 1,
    "before Ready": 2,
    "last": 3,
}
ERROR = error(S="ERROR", V="ERROR", C="22000", M="m")
MESSAGES = {
    "authentication": message(b"R", struct.pack("!i", 0)),
    "password wanted": message(b"R", struct.pack("!i", 3)),
    "SASL": message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"),
    "key data": message(b"K", b"\0\0\0\1four"),
    "protocol": message(b"v", struct.pack("!ii", 3 << 16, 0)),
    "COPY in": message(b"G", COPY),
    "COPY out": message(b"H", COPY),
    "COPY both": message(b"W", COPY),
    "a whole COPY": message(b"H", COPY) + message(b"d", b"x\n") + message(b"c") + command_complete(b"COPY 1"),
    "COPY data": message(b"d", b"x\n"),
    "COPY end": message(b"c"),
    "row of nothing": data_row([]),
    "row of two": data_row([b"66", b"67"]),
    "description": TYPES,
    "end": command_complete(),
    "Ready": ready(),
    "Ready in a transaction": ready(b"T"),
    "NoData": message(b"n"),
    "suspended": message(b"s"),
    "empty query": message(b"I"),
    "parameter types": message(b"t", struct.pack("!h", 0)),
    "parsed": message(b"1"),
    "bound": message(b"2"),
    "closed": message(b"3"),
    "function's answer": message(b"V", struct.pack("!i", -1)),
    "error": ERROR,
    "error without a code": error(M="m"),
    "empty error": message(b"E", b"\0"),
    "error without any field": message(b"E"),
    "error without its end": message(b"E", b"Mm"),
    "rows of another": data_row([b"66"]) + command_complete() + message(b"2") + TYPES,
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_message_too_many_is_an_error_of_that_statement_alone(place):
    """Behind the end, it comes too late for the statement."""

    async def run(name: str) -> None:
        await is_refused(with_extra(MESSAGES[name], PLACES[place]), 3, may_answer=place == "last")

    await in_parallel(MESSAGES, run)


async def test_a_message_of_any_type_too_many_is_an_error_of_that_statement_alone():
    async def run(extra: bytes) -> None:
        await is_refused(with_extra(extra, 0), may_answer=extra[:1] in (b"N", b"S", b"A"))

    kinds = itertools.product(range(256), (b"", b"\0\0\0\0"))
    await in_parallel([message(bytes([kind]), body) for kind, body in kinds], run)


async def test_a_message_too_few_is_an_error_of_that_statement_alone():
    """All but the row, without which it is a proper answer."""

    async def run(place: int) -> None:
        await is_refused(lambda messages, row: [*messages[: row + place], *messages[row + place + 1 :]])

    await in_parallel([-3, -2, -1, 1, 2], run)


async def test_messages_in_another_order_are_an_error_of_that_statement_alone():
    """But those orders that no client can notice."""

    async def run(order: tuple[int, ...]) -> None:
        def shuffle(messages: list[bytes], row: int) -> list[bytes]:
            shuffled = [*messages[: row - 3], *(messages[row - 3 + one] for one in order)]
            if shuffled == messages or is_a_lie(messages, b"".join(shuffled)):
                return [*messages[:row], ERROR, ready()]
            return shuffled

        await is_refused(shuffle)

    await in_parallel(list(itertools.permutations(range(6)))[1:], run)


ANOTHER = [message(b"1"), message(b"2"), TYPES, data_row([b"66"]), command_complete(), ready()]
LEFT_OVER = {
    "whole": ANOTHER,
    "by name": ANOTHER[1:],
    "by name, its columns known": [ANOTHER[1], *ANOTHER[3:]],
    "row and end": ANOTHER[3:],
    "of a simple query": ANOTHER[2:],
    "twice": ANOTHER * 2,
    "a check's and whole": [ANOTHER[1], TYPES, data_row([b"1"]), *ANOTHER[4:5], *ANOTHER],
}
IN_FRONT = {
    "": b"",
    "key data": message(b"K", b"\0\0\0\1four"),
    "a notice": notice(S="NOTICE", V="NOTICE", C="00000", M="n"),
    "a parameter": parameters(application_name="x"),
    "a notification": message(b"A", b"\0\0\0\1c\0p\0"),
    "Ready": ready(),
    "a closing": message(b"3"),
    "an error": ERROR,
    "nothing's end": ERROR + ready(),
    "COPY data": message(b"d", b"x"),
}


@pytest.mark.parametrize("validation", ["always", "blocking", "never"])
async def test_a_whole_answer_behind_the_end_is_never_another_statements(validation):
    """Behind the login, the first check, or any statement, in one packet with its end."""

    async def run(case: tuple[str, str, int]) -> None:
        extra = IN_FRONT[case[1]] + b"".join(LEFT_OVER[case[0]])
        packets = itertools.count()

        def send(session: Session, messages: list[bytes]) -> None:
            said = b"".join(messages)
            session.socket.sendall(said + extra if next(packets) == case[2] else said)

        with FakeServer(send=send) as server, contextlib.suppress(ConnectionPoolError):
            settings = {**QUICK, "min_size": 1, "max_size": 1, "statement_cache_size": 0}
            async with open_pool(server.url, validation=validation, **settings) as pool:
                for _ in range(4):
                    with contextlib.suppress(ConnectionPoolError):
                        await ask(pool)
                await assert_recovered(pool)

    await in_parallel(itertools.product(LEFT_OVER, IN_FRONT, range(6)), run, 30)


# ---- wrong within ----

LENGTHS = [0, 1, 2, 3, 4, -1, -(2**31), 2**31 - 1, 2**30, 2**30 + 1, 2**30 - 1, 0x7FFFFFF0, 70_000]
ROW_BODY, TYPES_BODY = MARKED[5:], TYPES[5:]
BODIES = {
    b"T": [
        b"",
        b"\0",
        *[struct.pack("!h", count) + TYPES_BODY[2:] for count in (-1, -32768, 0, 2, 1664, 32767)],
        TYPES_BODY.replace(b"c\0", b"c"),
        TYPES_BODY[:-1],
        TYPES_BODY + b"\0",
        TYPES_BODY[:2] + b"c" * 18,
    ],
    b"D": [
        b"",
        b"\0",
        *[struct.pack("!h", count) + ROW_BODY[2:] for count in (-1, -32768, 0, 2, 1664, 32767)],
        *[
            struct.pack("!hi", 1, length) + b"17"
            for length in (-2, -1, -(2**31), 0, 1, 3, 100, 2**30, 2**31 - 1)
        ],
        struct.pack("!hi", 1, 2) + b"1",
        struct.pack("!hi", 1, 2) + b"17\0",
        struct.pack("!h", 1) + b"\0\0",
    ],
    b"C": [b"", b"SELECT 1", b"SELECT 1\0x", b"SELECT 1\0\0"],
    b"Z": [b"", b"?", b"\0", b"i", b"II"],
    b"2": [b"\0", b"x" * 100],
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_malformed_message_is_an_error_of_that_statement_alone(kind):
    """A description may come before, in a packet of its own."""

    async def run(body: bytes) -> None:
        def send(session: Session, messages: list[bytes]) -> None:
            of_kind = [at for at, one in enumerate(messages) if one[:1] == kind]
            row = marked_row(messages)
            if of_kind and (row is not None or (kind == b"T" and f"SELECT {MARK}" in session.asked)):
                at = min(of_kind, key=lambda at: abs(at - (len(messages) if row is None else row)))
                messages = [*messages[:at], message(kind, body), *messages[at + 1 :]]
            session.socket.sendall(b"".join(messages))

        async with stage(send) as (_, pool):
            if await ask_marked(pool):
                raise AssertionError("it was taken")
            await ask(pool)

    await in_parallel(BODIES[kind], run)


async def test_a_wrong_length_is_an_error_of_that_statement_alone():
    async def run(case: tuple[int, int]) -> None:
        place, wrong = case

        def change(messages: list[bytes], row: int) -> list[bytes]:
            one = messages[row + place]
            length = len(one) - 1 + wrong if abs(wrong) == 1 else wrong
            changed = one[:1] + struct.pack("!i", length) + one[5:]
            return [*messages[: row + place], changed, *messages[row + place + 1 :]] if changed != one else []

        async with stage(at_the_mark(change)) as (server, pool):
            assert not await ask_marked(pool)
            await ask(pool)
            server.send = None
            await assert_recovered(pool)

    async with bounded_memory(100):
        await in_parallel(itertools.product(range(-2, 3), [*LENGTHS, 1]), run)


ERRORS = {
    "no message": error(S="ERROR", V="ERROR", C="22000"),
    "only a code": error(C="22000"),
    "no field": message(b"E", b"\0"),
    "nothing": message(b"E"),
    "no end": message(b"E", b"SERROR\0Mm\0"),
    "no NUL": message(b"E", b"SERROR\0Mm"),
    "unknown fields": error(S="ERROR", V="ERROR", C="22000", M="m", x="y", **{"\x7f": "z", "1": ""}),
    "a field twice": message(b"E", b"SERROR\0VERROR\0C22000\0Mm\0Mn\0C23000\0\0"),
    "latin1": error(S="ERROR", V="ERROR", C="22000", M=b"f\xfcr", D=b"\xff", H=b"\xc3", W=b"\xe2\x82"),
    "latin1 in the code": error(S="ERROR", V="ERROR", C=b"\xff\xff\xff\xff\xff", M="m"),
    "a long code": error(S="ERROR", V="ERROR", C="2" * 10_000, M="m"),
    "a position beyond": error(S="ERROR", V="ERROR", C="22000", M="m", P="99999999999999999999"),
    "a negative position": error(S="ERROR", V="ERROR", C="22000", M="m", P="-1"),
    "200 KB": error(S="ERROR", V="ERROR", C="22000", M="\u20ac" * 70_000, D="d" * 10_000),
    "a line of a log": error(S="ERROR", V="ERROR", C="22000", M='a\n{"level": "ERROR"}\x1b[31m\r'),
    "an odd severity": error(S="?", V="", C="22000", M="m"),
    "a warning": error(S="WARNING", V="WARNING", C="01000", M="m"),
    "an end in latin1": error(S="FATAL", V="FATAL", C="57P01", M=b"f\xfcr"),
    "a panic": error(S="PANIC", V="PANIC", C="XX000", M="m"),
    "a stale plan": error(S="ERROR", V="ERROR", C="0A000", M="m", R="RevalidateCachedQuery"),
    "a missing name": error(S="ERROR", V="ERROR", C="26000", M="m", R="FetchPreparedStatement"),
    "a name twice": error(S="ERROR", V="ERROR", C="42P05", M="m", R="StorePreparedStatement"),
    "read-only": error(S="ERROR", V="ERROR", C="25006", M="m", R="PreventCommandIfReadOnly"),
}


@pytest.mark.parametrize("place", [-2, -1, 0, 1, 2])
async def test_an_error_of_any_content_in_any_place_is_an_error_of_that_statement_alone(place):
    """Also one that says, again and again, that the statement is to be prepared anew."""

    async def run(name: str) -> None:
        def fail(messages: list[bytes], row: int) -> list[bytes]:
            return [*messages[: row + place], ERRORS[name], messages[row + 2]]

        async with stage(at_the_mark(fail)) as (server, pool):
            for _ in range(3):
                if await ask_marked(pool):
                    raise AssertionError("it was taken")
                await asyncio.gather(*(ask(pool) for _ in range(3)))
            (await pool.health_check()).model_dump_json(), pool.get_statistics().model_dump_json()
            assert server.asked.count(f"SELECT {MARK}") <= 30

    await in_parallel(ERRORS, run)


async def test_a_huge_error_is_told_and_not_kept():
    huge = error(S="ERROR", V="ERROR", C="22000", M="\u20ac" * 7_000_000, D="d" * 1_000_000)
    async with bounded_memory(400):
        await is_refused(lambda messages, row: [*messages[:row], huge, messages[row + 2]], 2)


# ---- the stream cut into pieces, or off ----


async def test_an_answer_may_come_in_two_pieces_cut_anywhere():
    cut = 0

    def send(session: Session, messages: list[bytes]) -> None:
        stream = b"".join(messages)
        session.socket.sendall(stream[:cut])
        time.sleep(0.001)
        session.socket.sendall(stream[cut:])

    async with stage(send, command_timeout=10.0) as (_, pool), pool.acquire() as connection:
        for cut in range(200):
            assert await connection.fetchval("SELECT $1::int4", cut) == cut


async def test_an_answer_may_come_byte_by_byte():
    def send(session: Session, messages: list[bytes]) -> None:
        for one in b"".join(messages):
            session.socket.sendall(bytes([one]))

    async with stage(send, command_timeout=10.0) as (_, pool):
        await asyncio.gather(*(ask(pool) for _ in range(20)))


@pytest.mark.parametrize("end", ["finish", "reset"])
async def test_an_answer_that_ends_anywhere_is_an_error_of_that_statement_alone(end):
    async def run(cut: int) -> None:
        def send(session: Session, messages: list[bytes]) -> None:
            if marked_row(messages) is None:
                return session.socket.sendall(b"".join(messages))
            session.socket.sendall(b"".join(messages)[:cut])
            if end == "reset":
                reset(session.socket)
            raise Ended

        async with stage(send) as (_, pool):
            if await ask_marked(pool):
                raise AssertionError("it was taken")
            await ask(pool)

    await in_parallel(range(sum(map(len, ORDINARY))), run)
