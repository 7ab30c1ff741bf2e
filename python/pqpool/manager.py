"""ConnectionPoolManager: the pool for asyncio."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import pool_logging
from ._pqpool import Acquire, Driver
from ._pqpool import Pool as NativePool
from .config import PoolConfig
from .connection import Connection
from .exceptions import (
    InvalidArgumentError,
    PoolConfigurationError,
    PoolNotInitializedError,
    PoolTimeoutError,
)
from .health import HealthStatus, PoolState, health_from_native
from .statistics import PoolStatistics

__all__ = ["ConnectionPoolManager", "Holder", "PoolState"]

_LEVELS = ("debug", "info", "warning", "error")
# Whose frames say nothing about who acquired.
_OURS = tuple(str(Path(__file__).with_name(name)) for name in ("manager.py", "connection.py"))
_ASYNCIO = str(Path(asyncio.__file__).parent)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a connection: since when, with which last statement, acquired where."""

    held_seconds: float
    backend_pid: int
    last_statement: str
    stack: str
    """The acquire's place in the code, innermost last; empty where leak detection is off."""


class ConnectionPoolManager:
    """A pool of PostgreSQL connections.

    Constructing it opens nothing. `await initialize(config)` opens `min_size` connections;
    `async with ConnectionPoolManager(config) as manager:` does that and shuts down at the end.

    One manager may be shared by the event loops of several threads: each loop drives its own
    statements, on its own thread. `get_statistics` and the other plain functions may be called
    from any thread. No function here blocks the event loop.
    """

    def __init__(self, config: PoolConfig | None = None) -> None:
        self._config = config
        self._native: NativePool | None = None
        self._drivers: dict[asyncio.AbstractEventLoop, Driver] = {}
        self._log_loop: asyncio.AbstractEventLoop | None = None  # the one that hands the log on
        self._process = os.getpid()
        self._drivers_of_parent: list[Driver] = []
        self._failed = False

    # ---- life ----

    async def initialize(self, config: PoolConfig | None = None) -> None:
        """Open `min_size` connections in parallel and check each.

        Raises `PoolInitializationError` where the server cannot be reached in three attempts, or
        at once where it refuses for good (password, role, database): nothing stays open then, and
        `initialize` may be called again. Raises `PoolConfigurationError` for a missing config and
        `InvalidArgumentError` where the pool is open already.
        """
        if self._native is not None and self.state is not PoolState.TERMINATED:
            raise InvalidArgumentError("the pool is initialized already. Suggestion: shut it down first")
        config = config or self._config
        if config is None:
            raise PoolConfigurationError(
                "initialize needs a PoolConfig. Suggestion: initialize(PoolConfig(...))"
            )
        self._config = config
        self._native = NativePool(config.model_dump())
        self._drivers.clear()
        if pool_logging.get_pool_logger().isEnabledFor(logging.DEBUG):
            self._native.set_log_level(0)
        driver = self._driver()
        self._native.start()
        try:
            await driver.await_open()
        except BaseException:
            self._failed = True
            with suppress(Exception):
                await driver.shutdown(0)
            driver.take_log()
            self._close_driver(asyncio.get_running_loop(), driver)
            self._native = None
            raise
        self._failed = False
        driver.take_log()

    async def shutdown(self, timeout: float | None = 30.0) -> None:
        """Shut the pool down gracefully, in at most `timeout` seconds and a moment.

        New acquires are refused at once and waiting ones fail with `PoolClosedError`. Leases out
        are waited for; past the timeout (None: no limit) their connections are broken, with a
        warning that names each. Idempotent, and two at once are one.
        """
        native = self._pool()
        loop = asyncio.get_running_loop()
        if native.state() == "terminated" and loop not in self._drivers:
            return
        driver = self._driver()
        await driver.shutdown(timeout)
        driver.take_log()
        for other in list(self._drivers):
            if other is loop:
                self._close_when_unused(loop)
            elif not other.is_closed():
                other.call_soon_threadsafe(self._close_when_unused, other)

    async def __aenter__(self) -> ConnectionPoolManager:
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    # ---- connections ----

    def acquire(
        self, timeout: float | None = None, *, leak_timeout: float | None = None
    ) -> Acquire[Connection]:
        """A connection: `async with m.acquire() as conn`, or `conn = await m.acquire()`.

        First come, first served. timeout: seconds to wait at most (None: the config's; 0: do not
        wait); past it `PoolTimeoutError`, which names the counts and who holds the connections.
        leak_timeout: seconds of holding before a leak warning (None: the config's; 0: none).
        Raises `PoolNotInitializedError`, `PoolClosedError`, `TooManyRequestsError`.
        """
        if self._native is None:
            self._pool()
        return Acquire(self, self._drivers, timeout, leak_timeout)

    async def release(self, connection: Connection) -> None:
        """Give back what `await acquire()` gave. `LeaseReleasedError` for a second release."""
        connection._release()

    @property
    def pool(self) -> ConnectionPoolManager:
        """The object whose `acquire` and `release` may be used interchangeably with these."""
        return self

    async def fetchval(self, query: str, *args: object, column: int = 0, timeout: float | None = None) -> Any:
        """Acquire, `Connection.fetchval`, release."""
        async with self.acquire() as connection:
            return await connection.fetchval(query, *args, column=column, timeout=timeout)

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """Acquire, `Connection.execute`, release."""
        async with self.acquire() as connection:
            return await connection.execute(query, *args, timeout=timeout)

    # ---- looking ----

    @property
    def state(self) -> PoolState:
        """The pool's state in its life."""
        if self._native is None:
            return PoolState.TERMINATED if self._failed else PoolState.INITIALIZING
        return PoolState(self._native.state())

    @property
    def _state(self) -> PoolState:
        return self.state

    def get_statistics(self) -> PoolStatistics:
        """A consistent snapshot of this instant. Never waits for a statement."""
        return PoolStatistics._from_native(self._pool().statistics())

    async def health_check(self) -> HealthStatus:
        """The pool's health, from what it knows: no database query."""
        native = self._native or self._pool()
        return health_from_native(native.health(), native.statistics)

    def holders(self) -> list[Holder]:
        """Who holds a connection, longest first."""
        stacks = {lease._handle: lease._stack() for d in self._drivers.values() for lease in d.leases()}
        return [
            Holder(
                h["held_seconds"], h["backend_pid"], h["last_statement"], _text(stacks.get(h["lease"], []))
            )
            for h in self._pool().holders()
        ]

    # ---- steering ----

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the bounds. `PoolConfigurationError` as with PoolConfig."""
        self._pool().resize(min_size, max_size)
        self._have_drivers_look()

    def drain(self) -> None:
        """Replace every connection of now: idle ones at once, leased ones at their release."""
        self._pool().drain()

    def pause(self) -> None:
        """Make acquires wait until `resume`."""
        self._pool().pause()

    def resume(self) -> None:
        """End `pause`."""
        self._pool().resume()
        self._have_drivers_look()

    # ---- the event loops ----

    def _have_drivers_look(self) -> None:
        # What a call on a loop's own thread has granted does not make its descriptor readable.
        for loop, driver in list(self._drivers.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(driver.drain)

    def _pool(self) -> NativePool:
        if self._native is None:
            raise PoolNotInitializedError(
                "the pool is not initialized. Suggestion: call `await manager.initialize(config)` first"
            )
        return self._native

    def _driver(self) -> Driver:
        loop = asyncio.get_running_loop()
        return self._drivers.get(loop) or self._new_driver(loop)

    def _new_driver(self, loop: asyncio.AbstractEventLoop) -> Driver:
        if self._process != os.getpid():  # after a fork: the parent's stay as they are
            self._process = os.getpid()
            self._drivers_of_parent += self._drivers.values()
            self._drivers.clear()
        for other in [other for other in self._drivers if other.is_closed()]:
            self._drivers.pop(other).close()
        config = self._config
        keeps_stacks = (
            config is not None and config.enable_leak_detection and config.leak_detection_timeout > 0
        )
        driver = Driver(self._pool(), loop, Connection, self._on_log, keeps_stacks)
        loop.add_reader(driver.fileno(), driver.drain)
        if self._log_loop not in self._drivers:
            driver.follow_log()
            self._log_loop = loop
        self._drivers[loop] = driver
        return driver

    def _close_driver(self, loop: asyncio.AbstractEventLoop, driver: Driver) -> None:
        self._drivers.pop(loop, None)
        if not loop.is_closed():
            loop.remove_reader(driver.fileno())
        driver.close()

    def _close_when_unused(self, loop: asyncio.AbstractEventLoop) -> None:
        # A lease that shutdown has broken may still be used; its tasks learn of that through the driver.
        driver = self._drivers.get(loop)
        if driver is None:
            return
        if driver.leases():
            loop.call_later(0.1, self._close_when_unused, loop)
        else:
            self._close_driver(loop, driver)

    def _wait_failed(self, error: BaseException) -> None:
        """A wait for a connection ended with an error; called by `Acquire`."""
        if isinstance(error, PoolTimeoutError):
            for holder in self.holders()[:3]:
                error.add_note(f"Held for {holder.held_seconds:.1f} s, acquired at:\n{holder.stack}")

    def _on_log(self, level: int, message: str, context: str, timestamp: float, lease: int) -> None:
        fields = json.loads(context)
        if lease and level >= 2:
            for driver in list(self._drivers.values()):
                for known in driver.leases():
                    if known._handle == lease:
                        fields["stack"] = _text(known._stack())
        pool_logging.emit_native(_LEVELS[level], message, fields, timestamp)


def _text(stack: list[tuple[str, int, str]]) -> str:
    """The stack as a traceback writes it, without the pool's own frames and asyncio's."""
    frames = [
        frame for frame in reversed(stack) if frame[0] not in _OURS and not frame[0].startswith(_ASYNCIO)
    ]
    return "\n".join(f'  File "{file}", line {line}, in {name}' for file, line, name in frames)
