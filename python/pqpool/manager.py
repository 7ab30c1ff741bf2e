"""ConnectionPoolManager: the pool for asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import pool_logging
from ._pqpool import Acquire, Driver, Lease, Reader
from ._pqpool import Pool as NativePool
from .config import PoolConfig
from .connection import Connection
from .exceptions import (
    InvalidArgumentError,
    PoolClosedError,
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
        # One life of the pool. Each initialize() begins another; what an earlier one left ends by itself.
        self._native: NativePool | None = None
        self._ending: NativePool | None = None  # shutdown() was called in this life
        self._drivers: dict[asyncio.AbstractEventLoop, Driver] = {}
        self._log_level = self._native_level = _LEVELS.index("info")
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
        native = NativePool(config.model_dump())
        self._retire(self._drivers)
        self._config, self._native, self._drivers = config, native, {}
        self._log_level = self._native_level = _LEVELS.index(config.log_level)
        self._follow_log_level()
        try:
            driver = self._driver()
            native.start()
            await self._opened(native, driver)
        except BaseException:
            if native is self._native and native is not self._ending:
                self._failed, self._native = True, None
            raise
        self._failed = False
        driver.take_log()

    async def _opened(self, native: NativePool, driver: Driver) -> None:
        try:
            await driver.await_open()
        except BaseException:
            try:
                if native is not self._ending:
                    with suppress(Exception):
                        await driver.shutdown(0)
            finally:
                driver.take_log()
                if native is not self._ending:
                    self._close_driver(driver)
            raise

    async def shutdown(self, timeout: float | None = 30.0) -> None:
        """Shut the pool down gracefully, in at most `timeout` seconds and a moment.

        New acquires are refused at once and waiting ones fail with `PoolClosedError`. Leases out
        are waited for; past the timeout (None: no limit) their connections are broken, with a
        warning that names each. Idempotent, and two at once are one.
        """
        native, drivers = self._pool(), self._drivers
        try:
            driver = self._driver()
        except PoolClosedError:
            return
        ended = driver.shutdown(timeout)
        self._ending = native
        try:
            await ended
        finally:
            driver.take_log()
            self._retire(drivers)

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
        """Give back what `await acquire()` gave. May run on any thread and any event loop.

        `LeaseReleasedError` for a second release, `InvalidArgumentError` for what is no connection
        of this pool.
        """
        if not isinstance(connection, Lease):
            raise InvalidArgumentError(
                f"release takes a connection that acquire() gave (got {type(connection).__name__})"
            )
        if connection._driver.owner is not self:
            raise InvalidArgumentError(
                "the connection is one of another pool. Suggestion: give it back to the pool that it was "
                "acquired from"
            )
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
        stacks = {
            lease._handle: lease._stack()
            for driver in list(self._drivers.values())
            for lease in driver.leases()
        }
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

    def set_log_level(self, level: pool_logging.LogLevel | str) -> None:
        """Make log lines of this level and above from now on, in place of the config's `log_level`.

        While the logger `pqpool` is enabled for DEBUG, all are made: the pool looks at that when it
        starts, whenever it hands a line on, and ten times a second while it is used. This function
        need be called only where that is too late.
        """
        self._log_level = min(pool_logging.LogLevel(level).number // 10 - 1, len(_LEVELS) - 1)
        self._follow_log_level()

    def _follow_log_level(self) -> None:
        level = 0 if pool_logging.get_pool_logger().isEnabledFor(logging.DEBUG) else self._log_level
        if level != self._native_level and self._native is not None:
            self._native_level = level
            self._native.set_log_level(level)

    # ---- the event loops ----

    # Loops come and go on threads of their own: the table is looked through in copies, which list() makes in
    # one step.

    def _have_drivers_look(self) -> None:
        # What a call on a loop's own thread has granted does not make its descriptor readable.
        for driver in list(self._drivers.values()):
            driver.wake()

    def _pool(self) -> NativePool:
        if self._native is None:
            raise PoolNotInitializedError(
                "the pool is not initialized. Suggestion: call `await manager.initialize(config)` first"
            )
        return self._native

    def _driver(self) -> Driver:
        return self._new_driver(asyncio.get_running_loop())

    def _new_driver(self, loop: asyncio.AbstractEventLoop) -> Driver:
        """The running loop's driver, made where there is none yet; called by `Acquire` too."""
        if self._process != os.getpid():  # after a fork: the parent's stay as they are
            self._process = os.getpid()
            self._drivers_of_parent += self._drivers.values()
            self._drivers.clear()
        native, drivers, config = self._pool(), self._drivers, self._config
        known = drivers.get(loop)
        if known is not None and not known.is_closed():
            return known
        if native.state() == "terminated":
            raise PoolClosedError("the pool is closed. Suggestion: call `await manager.initialize()` again")
        for other in list(drivers):
            if other.is_closed() and (gone := drivers.pop(other, None)) is not None:
                gone.close()
        keeps_stacks = (
            config is not None and config.enable_leak_detection and config.leak_detection_timeout > 0
        )
        driver = Driver(native, loop, Connection, self, keeps_stacks)
        try:
            # add_reader keeps a copy of the context, which must not be that of the first request.
            contextvars.Context().run(loop.add_reader, driver.fileno(), Reader(driver))
        except NotImplementedError:
            raise InvalidArgumentError(
                f"the event loop {type(loop).__name__} cannot watch a descriptor (it has no add_reader). "
                "Suggestion: use asyncio's SelectorEventLoop, or uvloop"
            ) from None
        drivers[loop] = driver
        if native is self._ending:
            driver.retire()
        return driver

    def _retire(self, drivers: dict[asyncio.AbstractEventLoop, Driver]) -> None:
        # A lease that shutdown has broken may still be used; its tasks learn of that through the driver.
        for driver in list(drivers.values()):
            driver.retire()

    def _close_driver(self, driver: Driver) -> None:
        """Called on the driver's own loop: here, or by a driver that has retired."""
        loop = driver.loop
        if self._drivers.get(loop) is driver:
            del self._drivers[loop]
        if not driver.is_closed() and not loop.is_closed():
            loop.remove_reader(driver.fileno())
        driver.close()

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
        # Whoever's task or thread happens to hand it on, the line is not about them.
        contextvars.Context().run(pool_logging.emit_native, _LEVELS[level], message, fields, timestamp)
        self._follow_log_level()


def _text(stack: list[tuple[str, int, str]]) -> str:
    """The stack as a traceback writes it, without the pool's own frames and asyncio's."""
    frames = [
        frame for frame in reversed(stack) if frame[0] not in _OURS and not frame[0].startswith(_ASYNCIO)
    ]
    return "\n".join(f'  File "{file}", line {line}, in {name}' for file, line, name in frames)
