"""A connection in your hands, with asyncpg's conventions, and its transactions.

Statement methods are coroutine functions. A statement is written to the socket when its coroutine
first runs; its answer wakes the task on the event loop's own thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias

from ._pqpool import Lease, Record
from .exceptions import InvalidArgumentError, QueryError

__all__ = ["Connection", "IsolationLevel", "Transaction"]

IsolationLevel: TypeAlias = Literal["serializable", "repeatable_read", "read_committed", "read_uncommitted"]

# What the native side makes of a result.
_VALUE, _ROW, _ROWS, _TAG = range(4)
_NO_TRANSACTION = 0
_names = itertools.count(1)


class Connection(Lease):
    """A leased connection: yours alone from `acquire` to its release.

    Parameters are written $1, $2, … and never become SQL text. Their types follow the Python
    values; a str is left to the server to infer, so that it fits text, date, uuid and enum columns,
    and so is a datetime without a zone, which is in the client's local time.

    `timeout` is in seconds and bounds one statement; None takes the pool's `command_timeout`. A
    statement that runs past it is cancelled on the server and raises `StatementTimeoutError`.
    Cancelling the task cancels the statement on the server too; the connection stays usable.

    Every statement method raises `QueryError` where the server refuses the statement,
    `LeaseBusyError` where another one is under way on this connection, `LeaseReleasedError` after
    the release, `ConnectionLostError` or `ConnectionValidationError` where the server is lost (the
    message says whether the statement may have been executed), and `InvalidArgumentError` for a
    parameter that has no PostgreSQL type and for more arguments than the statement has places.
    A value that Python cannot hold is an `OverflowError`, and the time 24:00 a `ValueError`.

    Not thread-safe: use it on the event loop that acquired it.
    """

    __slots__ = ()

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
        """Run the command for each set of parameters, all of them or none.

        Inside a transaction it is part of that one, and a failure fails it.
        """
        if self.is_in_transaction():
            for one in args:
                await self.execute(command, *one, timeout=timeout)
            return
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
        """A transaction for `async with`; one inside another, however that was begun, is a savepoint."""
        return Transaction(self, isolation, readonly, deferrable)

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open, by the server's word, whatever began it."""
        return self._transaction_status() != _NO_TRANSACTION

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
        if self._connection.is_in_transaction():
            if self._begin != "BEGIN":
                raise InvalidArgumentError("a nested transaction takes no isolation, readonly or deferrable")
            self._savepoint = f"pqpool_savepoint_{next(_names)}"
        await self._connection.execute(f"SAVEPOINT {self._savepoint}" if self._savepoint else self._begin)
        self._state = "started"

    async def commit(self) -> None:
        """COMMIT, or RELEASE SAVEPOINT.

        Raises `QueryError` with SQLSTATE 25P02 where an error in it was passed over, so that the
        server has rolled the transaction back instead.
        """
        tag = await self._end("committed", "RELEASE SAVEPOINT" if self._savepoint else "COMMIT")
        if tag == "ROLLBACK":
            raise QueryError(
                "the transaction was rolled back instead of committed, because a statement in it had failed. "
                "Suggestion: let the error leave the transaction's block, or run what may fail in a nested "
                "transaction()",
                sqlstate="25P02",
            )

    async def rollback(self) -> None:
        """ROLLBACK, or ROLLBACK TO SAVEPOINT."""
        await self._end("rolled back", "ROLLBACK TO SAVEPOINT" if self._savepoint else "ROLLBACK")

    async def _end(self, state: str, command: str) -> str:
        if self._state != "started":
            raise InvalidArgumentError(
                f"the transaction is {self._state}; it can be ended once, after start()"
            )
        if not self._connection.is_in_transaction():
            self._state = "ended by another statement"
            raise InvalidArgumentError(
                "the transaction was ended already, by a COMMIT or ROLLBACK of its own. "
                "Suggestion: leave its end to transaction()"
            )
        self._state = state
        return await self._connection.execute(f"{command} {self._savepoint}".rstrip())

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
        elif self._connection.is_in_transaction():  # else there is nothing left to roll back
            await self.rollback()
