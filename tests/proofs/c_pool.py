"""The C interface behind the face of the Python one, as far as the ways of the proofs need it.

Each call blocks in a thread of its own; what it was told is read there and becomes the error of the package.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, TypeVar

import pqpool
from pqpool.exceptions import make_error

__all__ = ["CPool", "open_c_pool"]

_T = TypeVar("_T")
_DEFAULT = -2
_INTEGERS = (20, 21, 23)  # the OIDs of int8, int2, int4


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("value", c_char_p),
        ("type", c_uint32),
        ("length", c_int32),
        ("binary", c_int32),
        ("reserved", c_int32),
    )


class _Statement(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("result_format", c_int32),
        ("sql", c_char_p),
        ("parameters", POINTER(_Parameter)),
        ("parameter_count", c_size_t),
        ("timeout_ms", c_int64),
    )


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(pqpool.__file__).with_name("libpqpool.so.0")))
    for name in ("error_message", "error_sqlstate", "error_field", "status_name"):
        getattr(library, f"pqpool_{name}").restype = c_char_p
    for name in ("result_value", "result_command_tag"):
        getattr(library, f"pqpool_{name}").restype = c_char_p
    library.pqpool_result_column_type.restype = c_uint32
    return library


_library = _load()


def _check(status: int) -> None:
    if status == 0:
        return
    fields = {"sqlstate": _text(_library.pqpool_error_sqlstate())}
    for name, code in (("severity", "V"), ("detail", "D")):
        fields[name] = _text(_library.pqpool_error_field(ord(code)))
    raise make_error(
        _text(_library.pqpool_status_name(status)), _text(_library.pqpool_error_message()), fields
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode()


class CPool:
    def __init__(self, url: str, settings: dict[str, Any]) -> None:
        self._threads = ThreadPoolExecutor(16)
        self._handle = c_void_p()
        self._url = url
        self._settings = settings

    async def run(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def open(self) -> None:
        options = c_void_p()
        _check(_library.pqpool_options_create(byref(options)))
        try:
            for name, value in {"database_url": self._url, **self._settings}.items():
                _check(_library.pqpool_options_set(options, name.encode(), str(value).encode()))
            _check(_library.pqpool_open(options, byref(self._handle)))
        finally:
            _library.pqpool_options_free(options)

    def close(self) -> None:
        _library.pqpool_shutdown(self._handle, c_int64(2000))
        _library.pqpool_free(self._handle)

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[CConnection]:
        lease = c_uint64()

        def take() -> None:
            _check(_library.pqpool_acquire(self._handle, None, byref(lease)))

        await self.run(take)
        try:
            yield CConnection(self, lease)
        finally:
            _library.pqpool_release(self._handle, lease)

    async def fetchval(self, sql: str, *arguments: object) -> object:
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *arguments)

    def execute(self, lease: c_uint64, sql: str, arguments: Sequence[object]) -> tuple[str, object]:
        """The command tag, and the first value."""
        parameters = (_Parameter * len(arguments))()
        for parameter, argument in zip(parameters, arguments, strict=True):
            parameter.value = str(argument).encode()
        statement = _Statement(
            ctypes.sizeof(_Statement), 0, sql.encode(), parameters, len(arguments), _DEFAULT
        )
        result = c_void_p()
        _check(_library.pqpool_execute(self._handle, lease, byref(statement), byref(result)))
        try:
            value: object = None
            if _library.pqpool_result_rows(result) and _library.pqpool_result_columns(result):
                value = _text(_library.pqpool_result_value(result, 0, 0))
                if _library.pqpool_result_column_type(result, 0) in _INTEGERS:
                    value = int(str(value))
            return _text(_library.pqpool_result_command_tag(result)), value
        finally:
            _library.pqpool_result_free(result)


class CConnection:
    def __init__(self, pool: CPool, lease: c_uint64) -> None:
        self._pool = pool
        self._lease = lease

    async def execute(self, sql: str, *arguments: object) -> str:
        return (await self._pool.run(lambda: self._pool.execute(self._lease, sql, arguments)))[0]

    async def fetchval(self, sql: str, *arguments: object) -> object:
        return (await self._pool.run(lambda: self._pool.execute(self._lease, sql, arguments)))[1]

    async def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        async with self.transaction():
            for row in rows:
                await self.execute(sql, *row)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Without a ROLLBACK: the release has to undo what failed."""
        await self.execute("BEGIN")
        yield
        if await self.execute("COMMIT") != "COMMIT":
            raise make_error("query", "rolled back instead of committed", {"sqlstate": "25P02"})


@contextlib.asynccontextmanager
async def open_c_pool(url: str, **settings: Any) -> AsyncIterator[CPool]:
    pool = CPool(url, {"min_size": 1, "max_size": 1, **settings})
    await pool.run(pool.open)
    try:
        yield pool
    finally:
        await pool.run(pool.close)
        pool._threads.shutdown()
