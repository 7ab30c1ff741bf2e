"""A hostile server's floods, logins and last words: each call ends in time, and nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
import sys
import time
from collections.abc import Callable

import pytest

from pqpool import (
    ConnectionPoolError,
    ConnectionPoolManager,
    PoolConfig,
    PoolInitializationError,
    StatementTimeoutError,
)
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
from support.hostile_stage import (
    COPY,
    MARK,
    NOTICES,
    QUICK,
    TYPES,
    Change,
    ask,
    ask_marked,
    assert_recovered,
    at_the_mark,
    bounded_memory,
    flooding,
    in_parallel,
    marked_row,
    memory,
    names,
    no_descriptor_left,
    stage,
    with_body,
    with_extra,
)
from support.pools import open_pool
from support.wait import wait_until_async

# ---- too much ----


FLOODS: dict[str, tuple[Callable[[int], bytes], float]] = {
    "notices": (lambda number: NOTICES, 0.0),
    "a long notice": (lambda number: notice(M="n" * 1_000_000), 0.0),
    "parameters of new names": (names, 0.0),
    "one parameter": (lambda number: parameters(application_name="x" * 1000) * 50, 0.0),
    "a parameter that grows": (lambda number: parameters(application_name="x" * min(number, 10**6)), 0.0),
    "encodings": (lambda number: parameters(client_encoding=f"LATIN{number % 9 + 1}") * 50, 0.0),
    "notifications": (lambda number: message(b"A", b"\0\0\0\1channel\0payload\0") * 500, 0.0),
    "errors": (lambda number: error(S="ERROR", V="ERROR", C="22000", M="m") * 100, 0.0),
    "Readys": (lambda number: ready() * 1000, 0.0),
    "ends": (lambda number: command_complete() * 1000, 0.0),
    "descriptions": (lambda number: TYPES * 500, 0.0),
    "COPY data": (lambda number: message(b"d", b"x" * 1000) * 20, 0.0),
    "nothing's bytes": (lambda number: b"\0" * 20_000, 0.0),
    "rows, 20 MB a second": (lambda number: data_row([b"17"]) * 15_000, 0.01),
    "a length of 1 GB, in bits": (lambda number: b"D\x40\0\0\0" if number == 0 else b"x" * 1000, 0.001),
    "a length of 1 GB, at full speed": (lambda number: b"D\x3f\0\0\0" if not number else b"x" * 65536, 0.001),
    "a length of 2 GB": (lambda number: b"D\x7f\xff\xff\xff" if number == 0 else b"x" * 65536, 0.001),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_ends_with_the_statements_time_and_is_not_kept(name):
    """A row, and a message that is announced, may be as large as the server's; they are not kept for ever."""

    async def run() -> None:
        async with stage(flooding(*FLOODS[name])) as (server, pool), bounded_memory(150):
            for _ in range(2):
                assert not await ask_marked(pool)
                await ask(pool)
            server.send = None
            await assert_recovered(pool)

    gc.collect()
    before = memory()
    async with no_descriptor_left():
        await run()
    gc.collect()
    assert memory() - before < 60


async def test_a_server_that_floods_on_after_a_cancel_request_is_left():
    """The session goes, though its server neither ends it nor stops."""
    with FakeServer() as server:
        async with open_pool(server.url, **{**QUICK, "min_size": 1, "max_size": 1}) as pool:
            server.send = flooding(lambda number: NOTICES)
            async with bounded_memory(100):
                with pytest.raises(ConnectionPoolError):
                    await pool.fetchval(f"SELECT {MARK}")
                await assert_recovered(pool)
            assert server.connections == 2


# ---- what the session is said to be ----

CHANGES = {
    "client_encoding": ["LATIN1", "SQL_ASCII", "EUC_JP", "nonsense", ""],
    "standard_conforming_strings": ["off", ""],
    "DateStyle": ["German", "SQL, DMY", "Postgres, MDY", ""],
    "IntervalStyle": ["sql_standard", "iso_8601", ""],
    "integer_datetimes": ["off"],
    "server_version": ["7.0", "99.9devel", "x", ""],
    "default_transaction_read_only": ["on"],
    "in_hot_standby": ["on"],
    "search_path": ["x" * 20_000],
    "unknown": ["\u20ac", "x" * 1000],
}


async def test_a_parameter_that_changes_changes_no_answer():
    """Before the answer, within it, behind it; on every use of the statement."""

    async def run(case: tuple[str, str, int]) -> None:
        name, text, place = case

        def change(messages: list[bytes], row: int) -> list[bytes]:
            return [*messages[: row + place], parameters(**{name: text}), *messages[row + place :]]

        async with stage(at_the_mark(change), command_timeout=5.0) as (_, pool):
            for _ in range(4):
                assert await ask_marked(pool)
                await ask(pool)
            async with pool.acquire() as connection:
                for number in (-5, 0, 2**31 - 1):
                    assert await connection.fetchval("SELECT $1::int4", number) == number

    cases = [(name, text, place) for name, texts in CHANGES.items() for text in texts for place in (-3, 0, 3)]
    await in_parallel(cases, run)


async def test_the_encoding_is_set_back_before_the_next_statement():
    latin = parameters(client_encoding="LATIN1")
    async with stage(at_the_mark(with_extra(latin, 1)), max_size=1, min_size=1) as (server, pool):
        for use in range(1, 4):
            assert await ask_marked(pool)
            await ask(pool)
            repaired = [one for one in server.asked if "client_encoding" in one and "UTF8" in one]
            assert len(repaired) >= use
        assert server.connections == 1


# ---- the login ----

AUTHENTICATED = message(b"R", struct.pack("!i", 0))
ENCODING = parameters(server_version="15.0", client_encoding="UTF8", standard_conforming_strings="on")
LOGIN = AUTHENTICATED + ENCODING + message(b"K", b"\0\0\x10\x92four") + ready()


def asks_for(code: int, more: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!i", code) + more)


LOGINS = {
    "nothing": b"",
    "half": LOGIN[:5],
    "half of the parameters": LOGIN[:30],
    "no Ready": LOGIN[:-6],
    "no key data": AUTHENTICATED + ENCODING,
    "unknown authentication": asks_for(77),
    "GSS": asks_for(7),
    "SSPI": asks_for(9),
    "MD5 of a short salt": asks_for(5, b"a"),
    "SASL of no mechanism": asks_for(10, b"\0"),
    "SASL without its end": asks_for(10, b"SCRAM-SHA-256"),
    "SASL of an unknown mechanism": asks_for(10, b"OTHER\0\0"),
    "SASL, and nothing more": asks_for(10, b"SCRAM-SHA-256\0\0"),
    "SASL that goes on with junk": asks_for(10, b"SCRAM-SHA-256\0\0") + asks_for(11, b"r=,s=,i=x"),
    "SASL's end first": asks_for(12, b"v=x"),
    "a length of -5": b"R" + struct.pack("!i", -5),
    "a length of 2 GB": b"R" + struct.pack("!i", 2**31 - 1),
    "an error of 2 GB": b"E" + struct.pack("!i", 2**31 - 1) + b"x" * 100_000,
    "an error of protocol 2": b"EFATAL: old f\xfcr style\n\0",
    "an empty error": message(b"E", b"\0"),
    "an error without its end": message(b"E", b"SFATAL\0C28000\0Mm"),
    "an error in latin1": error(S="FATAL", V="FATAL", C="28000", M=b"f\xfcr \xbbu\xab"),
    "another protocol": message(b"v", struct.pack("!ii", 3 << 16, 1) + b"_pq_.x\0"),
    "a malformed protocol": message(b"v", b"x"),
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "Ready before anything": ready() + LOGIN,
    "a row": data_row([b"1"]) + LOGIN,
    "an error when it is ready": LOGIN + error(S="FATAL", V="FATAL", C="57P01", M="bye"),
    "nothing's bytes": b"\0" * 1000,
}


def log_in_with(words: bytes, ends: bool) -> Callable[[Session, list[bytes]], None]:
    def send(session: Session, messages: list[bytes]) -> None:
        session.socket.sendall(words)
        if ends:
            raise Ended

    return send


async def does_not_open(send: Callable[[Session, list[bytes]], None], most: float = 5.0) -> None:
    began = time.monotonic()
    with FakeServer(send=send) as server, pytest.raises(PoolInitializationError) as caught:
        await ConnectionPoolManager().initialize(
            PoolConfig(
                server.url, min_size=1, max_size=1, timeout=2.0, command_timeout=0.3, connect_timeout=0.3
            )
        )
    assert time.monotonic() - began < most
    str(caught.value).encode()


@pytest.mark.parametrize("ends", [True, False])
async def test_a_hostile_login_is_an_error_in_time(ends):
    async def run() -> None:
        await in_parallel(LOGINS, lambda name: does_not_open(log_in_with(LOGINS[name], ends)))

    async with no_descriptor_left(), bounded_memory(100):
        await run()


async def test_a_login_that_ends_anywhere_is_an_error_in_time():
    async def run() -> None:
        await in_parallel(
            range(len(LOGIN)), lambda length: does_not_open(log_in_with(LOGIN[:length], True), 15.0), 60
        )

    async with no_descriptor_left(), bounded_memory(100):
        await run()


@pytest.mark.parametrize(
    "unit", [names(0), NOTICES, message(b"A", b"\0\0\0\1c\0p\0") * 500, b"\0" * 9000, LOGIN[9:-6] * 100]
)
async def test_a_login_that_floods_is_an_error_in_time_and_not_kept(unit):
    def send(session: Session, messages: list[bytes]) -> None:
        session.socket.sendall(AUTHENTICATED)
        while True:
            session.socket.sendall(unit)

    async with bounded_memory(200):
        await does_not_open(send)


async def test_a_login_byte_by_byte_is_taken_or_given_up_in_time():
    def drip(pause: float) -> Callable[[Session, list[bytes]], None]:
        def send(session: Session, messages: list[bytes]) -> None:
            for one in b"".join(messages):
                session.socket.sendall(bytes([one]))
                time.sleep(0.0 if session.is_open else pause)

        return send

    with FakeServer(send=drip(0.0005)) as server:
        async with open_pool(server.url) as pool:
            await ask(pool)
    await does_not_open(drip(0.05))


async def test_a_pool_recovers_from_hostile_logins():
    async def run(name: str) -> None:
        async with stage(connect_timeout=0.3) as (server, pool):
            opened = server.connections
            server.send = log_in_with(LOGINS[name], True)
            for session in server.sessions:
                session.socket.shutdown(socket.SHUT_RDWR)
            await wait_until_async(lambda: server.connections > opened)
            with contextlib.suppress(ConnectionPoolError):
                await pool.release(await pool.acquire(timeout=0.3))
            server.send = None
            await assert_recovered(pool)

    await in_parallel(LOGINS, run)


# ---- statements that are given up ----

LATE = {
    "nothing": b"",
    "an error without a message": error(S="ERROR", V="ERROR", C="57014") + ready(),
    "an error without anything": message(b"E", b"\0") + ready(),
    "an error in latin1": error(S="ERROR", V="ERROR", C="57014", M=b"f\xfcr") + ready(),
    "two answers": data_row([b"17"])
    + command_complete()
    + ready()
    + data_row([b"66"])
    + command_complete()
    + ready(),
    "a COPY": message(b"G", COPY) + ready(),
    "Ready": ready(),
    "Ready in a transaction": error(S="ERROR", V="ERROR", C="57014", M="m") + ready(b"T"),
    "its answer": data_row([b"17"]) + command_complete() + ready(),
    "half of it": data_row([b"17"])[:-2],
    "an end": error(S="FATAL", V="FATAL", C="57P01", M=b"f\xfcr"),
    "a length of 2 GB": b"D\x7f\xff\xff\xff",
    "a length of -1": b"D\xff\xff\xff\xff",
    "noise": bytes(range(256)),
}


async def test_what_comes_for_a_statement_that_was_given_up_harms_nobody():
    async def run(name: str) -> None:
        def send(session: Session, messages: list[bytes]) -> None:
            row = marked_row(messages)
            session.socket.sendall(b"".join(messages[:row]))

        def cancelled(session: Session) -> None:
            with contextlib.suppress(OSError):
                session.socket.sendall(LATE[name])

        with FakeServer(send=send, cancelled=cancelled) as server:
            async with open_pool(server.url, **QUICK) as pool:
                for _ in range(2):
                    with pytest.raises(StatementTimeoutError):
                        await pool.fetchval(f"SELECT {MARK}")
                    await asyncio.gather(*(ask(pool) for _ in range(3)))
                await assert_recovered(pool)

    await in_parallel(LATE, run)


CANCEL_ANSWERS: dict[str, Callable[[Session], None]] = {
    "waits": lambda session: time.sleep(3.0),
    "ends the session": lambda session: session.socket.shutdown(socket.SHUT_RDWR),
    "resets the session": lambda session: reset(session.socket),
}


async def test_a_cancel_request_that_hangs_delays_no_other_connection():
    async def run(name: str) -> None:
        def send(session: Session, messages: list[bytes]) -> None:
            session.socket.sendall(b"".join(messages[: marked_row(messages)]))

        with FakeServer(send=send, cancelled=CANCEL_ANSWERS[name]) as server:
            async with open_pool(server.url, **{**QUICK, "min_size": 3}) as pool:
                began = time.monotonic()
                with pytest.raises(StatementTimeoutError):
                    await pool.fetchval(f"SELECT {MARK}")
                assert time.monotonic() - began < 2.0
                for _ in range(3):
                    await ask(pool)
                assert time.monotonic() - began < 2.5
                server.send = None
                await assert_recovered(pool)

    await in_parallel(CANCEL_ANSWERS, run)


# ---- what is said about it ----


async def test_hostile_words_are_one_json_line_each_in_the_log(tmp_path):
    words = [
        b'a\n{"level": "ERROR"}',
        b"\x1b[31mred",
        b"\x7f\xc2\x85 \xe2\x80\xa8line",
        b"f\xfcr",
        b"\xe2\x82",
        b"\xff" * 3000,
    ]
    file = tmp_path / "log"
    for one in words:
        full = FakeServer(refusal=error(S="FATAL", V="FATAL", C="53300", M=one))
        with full as server, pytest.raises(PoolInitializationError):
            await ConnectionPoolManager().initialize(PoolConfig(server.url, min_size=1, log_file=str(file)))
        farewell = error(S="FATAL", V="FATAL", C="57P01", M=one, R="ProcessInterrupts")
        async with stage(at_the_mark(with_extra(farewell, 0)), log_file=str(file)) as (_, pool):
            assert not await ask_marked(pool)
            json.loads(pool.get_statistics().model_dump_json())
            json.loads((await pool.health_check()).model_dump_json())
    lines = file.read_bytes().split(b"\n")
    assert len(lines) > 2 * len(words)
    for line in lines[:-1]:
        assert json.loads(line)["component"] == "connection_pool"
        assert not any(byte < 32 or byte == 127 for byte in line)


# ---- what is left ----

EACH_TIME: dict[str, Change] = {
    "errors": lambda messages, row: [
        *messages[:row],
        error(S="ERROR", V="ERROR", C="22000", M="m" * 5000, D="d" * 3000, H="h"),
        messages[row + 2],
    ],
    "values that cannot be read": with_body(b"D", struct.pack("!hi", 1, 3) + b"abc"),
    "notices": with_extra(NOTICES, 0),
    "parameters": with_extra(parameters(application_name="x" * 5000), 0),
    "notifications": with_extra(message(b"A", b"\0\0\0\1channel\0payload\0") * 100, 0),
}


@pytest.mark.parametrize("name", EACH_TIME)
async def test_nothing_is_left_of_what_a_server_says_again_and_again(name):
    async def ask_often(pool: ConnectionPoolManager, count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(Exception):
                await pool.fetchval(f"SELECT {MARK}")

    async with stage(at_the_mark(EACH_TIME[name]), max_size=1, min_size=1, command_timeout=5.0) as (
        server,
        pool,
    ):
        await ask_often(pool, 300)
        gc.collect()
        server.asked.clear()
        blocks, start = sys.getallocatedblocks(), memory()
        await ask_often(pool, 1500)
        gc.collect()
        server.asked.clear()
        assert sys.getallocatedblocks() - blocks < 1000
        assert memory() - start < 5
        assert server.connections == 1
