"""A connection in your hands, with asyncpg's conventions, and its transactions.

Statement methods are coroutine functions. A statement is written to the socket when its coroutine
first runs; its answer wakes the task on the event loop's own thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias

from ._pqpool import Lease, Record
from .exceptions import InvalidArgumentError

__all__ = ["Connection", "IsolationLevel", "Transaction"]

IsolationLevel: TypeAlias = Literal["serializable", "repeatable_read", "read_committed", "read_uncommitted"]

# What the native side makes of a result.
_VALUE, _ROW, _ROWS, _TAG = range(4)


class Connection(Lease):
    """A leased connection: yours alone from `acquire` to its release.

    Parameters are written $1, $2, … and never become SQL text. Their types follow the Python
    values; a str is left to the server to infer, so that it fits text, date, uuid and enum columns.

    `timeout` is in seconds and bounds one statement; None takes the pool's `command_timeout`. A
    statement that runs past it is cancelled on the server and raises `StatementTimeoutError`.
    Cancelling the task cancels the statement on the server too; the connection stays usable.

    Every statement method raises `QueryError` where the server refuses the statement,
    `LeaseBusyError` where another one is under way on this connection, `LeaseReleasedError` after
    the release, `ConnectionLostError` or `ConnectionValidationError` where the server is lost (the
    message says whether the statement may have been executed), and `InvalidArgumentError` for a
    parameter that has no PostgreSQL type.

    Not thread-safe: use it on the event loop that acquired it.
    """

    __slots__ = ("_depth",)
    _depth: int

    async def fetchval(self, query: str, *args: object, column: int = 0, timeout: float | None = None) -> Any:
        """The value of one column of the first row; None where there is no row."""
        return await self._run(_VALUE, query, args, column, timeout)

    async def fetchrow(self, query: str, *args: object, timeout: float | None = None) -> Record | None:
        """The first row; None where there is none."""
        return await self._run(_ROW, query, args, 0, timeout)  # type: ignore[no-any-return]

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> list[Record]:
        """All rows."""
        return await self._run(_ROWS, query, args, 0, timeout)  # type: ignore[no-any-return]

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """Run one statement; its command tag, as in "INSERT 0 1".

        Without parameters, several statements separated by semicolons run as one implicit
        transaction; the tag is the last one's.
        """
        return await self._run(_TAG, query, args, 0, timeout)  # type: ignore[no-any-return]

    async def executemany(
        self, command: str, args: Iterable[Sequence[object]], *, timeout: float | None = None
    ) -> None:
        """Run the command for each set of parameters, all of them or none."""
        async with self.transaction():
            for one in args:
                await self.execute(command, *one, timeout=timeout)

    def transaction(
        self,
        *,
        isolation: IsolationLevel | None = None,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> Transaction:
        """A transaction for `async with`; one inside another is a savepoint."""
        return Transaction(self, isolation, readonly, deferrable)

    def is_in_transaction(self) -> bool:
        """Whether a `transaction()` of this connection is open."""
        return getattr(self, "_depth", 0) > 0

    def is_closed(self) -> bool:
        """Whether it was given back to the pool."""
        return self._released

    def __repr__(self) -> str:
        return f"<pqpool.Connection {'released' if self._released else 'leased'} {self._handle:#x}>"


class Transaction:
    """BEGIN … COMMIT, or ROLLBACK where the block raises; see `Connection.transaction`."""

    __slots__ = ("_begin", "_connection", "_savepoint", "_state")

    def __init__(
        self,
        connection: Connection,
        isolation: IsolationLevel | None,
        readonly: bool,
        deferrable: bool,
    ) -> None:
        levels = ("serializable", "repeatable_read", "read_committed", "read_uncommitted", None)
        if isolation not in levels:
            raise InvalidArgumentError(
                f"isolation must be one of {', '.join(repr(level) for level in levels)} (got {isolation!r})"
            )
        if deferrable and not (isolation == "serializable" and readonly):
            raise InvalidArgumentError("deferrable needs isolation='serializable' and readonly=True")
        begin = "BEGIN"
        if isolation:
            begin += f" ISOLATION LEVEL {isolation.replace('_', ' ').upper()}"
        if readonly:
            begin += " READ ONLY"
        if deferrable:
            begin += " DEFERRABLE"
        self._begin = begin
        self._connection = connection
        self._savepoint = ""
        self._state = "new"

    async def start(self) -> None:
        """BEGIN, or SAVEPOINT inside another transaction."""
        if self._state != "new":
            raise InvalidArgumentError(f"the transaction was started already; it is {self._state}")
        depth = getattr(self._connection, "_depth", 0)
        if depth:
            if self._begin != "BEGIN":
                raise InvalidArgumentError("a nested transaction takes no isolation, readonly or deferrable")
            self._savepoint = f"pqpool_savepoint_{depth}"
        await self._connection.execute(f"SAVEPOINT {self._savepoint}" if depth else self._begin)
        self._connection._depth = depth + 1
        self._state = "started"

    async def commit(self) -> None:
        """COMMIT, or RELEASE SAVEPOINT. Where the transaction has failed, the server rolls it back."""
        await self._end("committed", "RELEASE SAVEPOINT" if self._savepoint else "COMMIT")

    async def rollback(self) -> None:
        """ROLLBACK, or ROLLBACK TO SAVEPOINT."""
        await self._end("rolled back", "ROLLBACK TO SAVEPOINT" if self._savepoint else "ROLLBACK")

    async def _end(self, state: str, command: str) -> None:
        if self._state != "started":
            raise InvalidArgumentError(
                f"the transaction is {self._state}; it can be ended once, after start()"
            )
        self._state = state
        self._connection._depth -= 1
        await self._connection.execute(f"{command} {self._savepoint}".rstrip())

    async def __aenter__(self) -> Transaction:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._state != "started" or self._connection._released:
            return  # the release of the connection has rolled it back
        if kind is None:
            await self.commit()
        else:
            await self.rollback()
