"""Every error the package raises, and the table from the core's error kinds to these classes.

`ConnectionPoolError` catches them all. Several also derive from a built-in that callers
already catch (`ValueError`, `RuntimeError`, `asyncio.TimeoutError`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

__all__ = [
    "KINDS",
    "ConnectionLostError",
    "ConnectionPoolError",
    "ConnectionValidationError",
    "ForkedProcessError",
    "InternalPoolError",
    "InvalidArgumentError",
    "LeaseBusyError",
    "LeaseReleasedError",
    "PoolClosedError",
    "PoolConfigurationError",
    "PoolInitializationError",
    "PoolNotInitializedError",
    "PoolTimeoutError",
    "QueryError",
    "StatementCancelledError",
    "StatementTimeoutError",
    "TooManyRequestsError",
    "UnsupportedError",
    "make_error",
]


class ConnectionPoolError(Exception):
    """The base of all errors of this package.

    message: what happened, to what, with which values.
    hint: what to do about it; part of `str(error)` unless the message already says it.
    sqlstate, severity, detail: the server's words, where a server spoke; else None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        sqlstate: str | None = None,
        severity: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.sqlstate = sqlstate
        self.severity = severity
        self.detail = detail

    def __str__(self) -> str:
        if not self.hint or self.hint in self.message:
            return self.message
        return f"{self.message} Suggestion: {self.hint}"


class PoolConfigurationError(ConnectionPoolError, ValueError):
    """A setting is missing, of the wrong type or out of bounds; nothing was opened."""


class PoolInitializationError(ConnectionPoolError):
    """The first connections could not be opened; no half-open pool is left behind."""


class PoolTimeoutError(ConnectionPoolError, asyncio.TimeoutError):
    """No connection became free within the timeout."""


class ConnectionValidationError(ConnectionPoolError):
    """A connection failed its check in a way that leaves unknown whether the statement ran."""


class PoolClosedError(ConnectionPoolError):
    """The pool is shutting down or terminated, and takes no more requests."""


class PoolNotInitializedError(ConnectionPoolError, RuntimeError):
    """The manager was used before `initialize(config)`."""


class TooManyRequestsError(ConnectionPoolError):
    """As many requests as `max_waiting` allows are waiting already."""


class ConnectionLostError(ConnectionPoolError):
    """The connection broke while a statement was under way."""


class QueryError(ConnectionPoolError):
    """The server rejected a statement; the connection is still usable.

    The attributes are the fields of PostgreSQL's error message (libpq, PQresultErrorField);
    each is None where the server sent none. `position` counts characters from 1.
    """

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        sqlstate: str | None = None,
        severity: str | None = None,
        detail: str | None = None,
        position: str | int | None = None,
        context: str | None = None,
        schema_name: str | None = None,
        table_name: str | None = None,
        column_name: str | None = None,
        data_type_name: str | None = None,
        constraint_name: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, sqlstate=sqlstate, severity=severity, detail=detail)
        self.position = _whole_number(position)
        self.context = context
        self.schema_name = schema_name
        self.table_name = table_name
        self.column_name = column_name
        self.data_type_name = data_type_name
        self.constraint_name = constraint_name

    def __str__(self) -> str:
        lines = [self.message]
        if self.detail:
            lines.append(f"DETAIL:  {self.detail}")
        if self.hint:
            lines.append(f"HINT:  {self.hint}")
        return "\n".join(lines)


def _whole_number(text: str | int | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:  # a server may send anything
        return None


class StatementTimeoutError(ConnectionPoolError, asyncio.TimeoutError):
    """A statement ran past its timeout and was cancelled."""


class StatementCancelledError(ConnectionPoolError):
    """A statement's lease was released while the statement was under way.

    One that somebody else cancels on the server is a `QueryError` with sqlstate 57014.
    """


class LeaseReleasedError(ConnectionPoolError, RuntimeError):
    """A connection was used, or released again, after it had gone back to the pool."""


class LeaseBusyError(ConnectionPoolError):
    """The connection still executes another statement."""


class ForkedProcessError(ConnectionPoolError, RuntimeError):
    """A pool or connection of the parent process was used after a fork."""


class InvalidArgumentError(ConnectionPoolError, ValueError):
    """An argument of a call, or a parameter of a statement, cannot be used."""


class UnsupportedError(ConnectionPoolError):
    """This build, server or connection cannot do what was asked."""


class InternalPoolError(ConnectionPoolError):
    """A defect of the pool itself; please report it with its message."""


KINDS: dict[str, type[ConnectionPoolError]] = {
    "configuration": PoolConfigurationError,
    "initialization": PoolInitializationError,
    "timeout": PoolTimeoutError,
    "closed": PoolClosedError,
    "validation": ConnectionValidationError,
    "not_initialized": PoolNotInitializedError,
    "too_many_requests": TooManyRequestsError,
    "connection_lost": ConnectionLostError,
    "query": QueryError,
    "statement_timeout": StatementTimeoutError,
    "cancelled": StatementCancelledError,
    "released": LeaseReleasedError,
    "busy": LeaseBusyError,
    "forked": ForkedProcessError,
    "invalid_argument": InvalidArgumentError,
    "unsupported": UnsupportedError,
    "internal": InternalPoolError,
}
"""The core's error kinds, by name."""

_BASE_FIELDS = ("hint", "sqlstate", "severity", "detail")
_QUERY_FIELDS = (
    *_BASE_FIELDS,
    "position",
    "context",
    "schema_name",
    "table_name",
    "column_name",
    "data_type_name",
    "constraint_name",
)


def make_error(kind: str, message: str, fields: Mapping[str, str] | None = None) -> ConnectionPoolError:
    """Build the error for a kind of the core; called by the native module.

    Fields the class does not have are dropped and empty ones read None. An unknown kind gives an
    `InternalPoolError` that names it: while an error is being raised, nothing else may fail.
    """
    cls = KINDS.get(kind)
    if cls is None:
        return InternalPoolError(f"{message} (unknown error kind {kind!r})")
    if not fields:
        return cls(message)
    names = _QUERY_FIELDS if cls is QueryError else _BASE_FIELDS
    return cls(message, **{name: fields[name] for name in names if fields.get(name)})
