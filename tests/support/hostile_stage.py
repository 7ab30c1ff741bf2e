"""A pool against a server that answers one statement wrongly, `SELECT 17`; the tests say how."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from pqpool import ConnectionPoolError, ConnectionPoolManager
from support.fake_server import (
    FakeServer,
    Session,
    command_complete,
    data_row,
    message,
    notice,
    parameters,
    ready,
    row_description,
)
from support.pools import open_pool
from support.wait import wait_until_async

MARK = 17  # the statement that is answered wrongly
MARKED = data_row([b"17"])
MARKED_BINARY = data_row([struct.pack("!i", 17)])
COPY = b"\0" + struct.pack("!h", 0)
TYPES = row_description([(b"c", 23, 0)])
ORDINARY = [message(b"1"), message(b"2"), TYPES, MARKED, command_complete(), ready()]
NOTICES = notice(S="NOTICE", V="NOTICE", C="00000", M="n" * 1000) * 50
QUICK: dict[str, Any] = {"min_size": 2, "max_size": 3, "timeout": 5.0, "command_timeout": 0.4}
_numbers = itertools.count(1000)


def memory() -> float:
    """MB of this process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


@contextlib.asynccontextmanager
async def bounded_memory(most: float) -> AsyncIterator[None]:
    """No moment within may be `most` MB above the beginning."""
    gc.collect()
    start = peak = memory()
    is_over = False

    async def watch() -> None:
        nonlocal peak
        while not is_over:
            peak = max(peak, memory())
            await asyncio.sleep(0.02)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        is_over = True
        await watching
    assert peak - start < most, f"{peak - start:.0f} MB above the beginning"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.asynccontextmanager
async def no_descriptor_left() -> AsyncIterator[None]:
    gc.collect()
    before = descriptors()
    yield
    await wait_until_async(lambda: gc.collect() >= 0 and descriptors() <= before, interval=0.1)


async def ask(pool: ConnectionPoolManager, timeout: float | None = None) -> None:
    """A number of its own, which is to be the answer."""
    number = next(_numbers)
    assert await pool.fetchval(f"SELECT {number}", timeout=timeout) == number


async def ask_marked(pool: ConnectionPoolManager) -> bool:
    """Whether it was answered, beside another that has to be. The answer can be its own alone."""

    async def rows() -> list[tuple[Any, ...]]:
        async with pool.acquire() as connection:
            return [tuple(row) for row in await connection.fetch(f"SELECT {MARK}")]

    began = time.monotonic()
    marked, other = await asyncio.gather(rows(), ask(pool), return_exceptions=True)
    assert time.monotonic() - began < 4.0
    if isinstance(other, BaseException):
        raise other
    if isinstance(marked, ConnectionPoolError):
        return False
    if isinstance(marked, BaseException):
        raise marked
    if marked != [(MARK,)]:
        raise AssertionError(f"it was answered with {marked}")
    return True


async def in_parallel(cases: Iterable[Any], run: Callable[[Any], Awaitable[None]], most: int = 16) -> None:
    """Each with a server and a pool of its own. All that fail are told."""
    free = asyncio.Semaphore(most)
    failures: list[str] = []

    async def one(case: Any) -> None:
        async with free:
            try:
                await run(case)
            except Exception as failure:
                failures.append(f"{case!r}: {type(failure).__name__}: {str(failure)[:300]}")

    await asyncio.gather(*(one(case) for case in cases))
    assert not failures, "\n".join([f"{len(failures)} failed:", *failures])


@contextlib.asynccontextmanager
async def stage(
    send: Callable[[Session, list[bytes]], None] | None = None, **settings: Any
) -> AsyncIterator[tuple[FakeServer, ConnectionPoolManager]]:
    """An honest server's pool; then the server sends as it is told. A cancel request ends the session."""
    with FakeServer(cancelled=lambda session: session.socket.shutdown(socket.SHUT_RDWR)) as server:
        async with open_pool(server.url, **{**QUICK, **settings}) as pool:
            server.send = send
            yield server, pool


async def assert_recovered(pool: ConnectionPoolManager, deadline: float = 12.0) -> None:
    async def sound() -> bool:
        results = await asyncio.gather(*(ask(pool) for _ in range(6)), return_exceptions=True)
        for one in results:
            if isinstance(one, BaseException) and not isinstance(one, ConnectionPoolError):
                raise one
        return not any(results)

    limit = time.monotonic() + deadline
    while not await sound():
        assert time.monotonic() < limit, f"not recovered within {deadline} s"
        await asyncio.sleep(0.01)


Change = Callable[[list[bytes], int], list[bytes]]


def at_the_mark(change: Change) -> Callable[[Session, list[bytes]], None]:
    """Changes the answer that holds the marked row, by its messages and the row's place among them."""

    def send(session: Session, messages: list[bytes]) -> None:
        if (row := marked_row(messages)) is not None:
            messages = change(list(messages), row)
        session.socket.sendall(b"".join(messages))

    return send


def marked_row(messages: list[bytes]) -> int | None:
    return next((at for at, one in enumerate(messages) if one in (MARKED, MARKED_BINARY)), None)


async def is_refused(change: Change, uses: int = 1, may_answer: bool = False) -> None:
    """The marked statement fails, as often as it is asked, and harms no other."""
    async with stage(at_the_mark(change)) as (_, pool):
        for _ in range(uses):
            if await ask_marked(pool) and not may_answer:
                raise AssertionError("it was taken")
            await asyncio.gather(*(ask(pool) for _ in range(3)))


def with_extra(extra: bytes, place: int) -> Change:
    return lambda messages, row: [*messages[: row + place], extra, *messages[row + place :]]


def with_body(kind: bytes, body: bytes) -> Change:
    """The nearest message of that kind has another body."""

    def change(messages: list[bytes], row: int) -> list[bytes]:
        places = [*range(row, -1, -1), *range(row + 1, len(messages))]
        at = next(at for at in places if messages[at][:1] == kind)
        return [*messages[:at], message(kind, body), *messages[at + 1 :]]

    return change


def flooding(unit: Callable[[int], bytes], pause: float = 0.0) -> Callable[[Session, list[bytes]], None]:
    """In place of the marked row, until the client has enough. Each unit is told its number."""

    def send(session: Session, messages: list[bytes]) -> None:
        if (row := marked_row(messages)) is None:
            return session.socket.sendall(b"".join(messages))
        session.socket.sendall(b"".join(messages[:row]))
        for number in itertools.count():
            session.socket.sendall(unit(number))
            time.sleep(pause)

    return send


def names(number: int) -> bytes:
    return b"".join(parameters(**{f"made.up{number}x{one}": "v" * 200}) for one in range(100))
