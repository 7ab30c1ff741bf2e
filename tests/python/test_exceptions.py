"""The errors: their families, their attributes, and how the core's kinds become classes."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest

from pqpool import exceptions
from pqpool.exceptions import (
    KINDS,
    ConnectionPoolError,
    InternalPoolError,
    PoolInitializationError,
    PoolTimeoutError,
    QueryError,
    make_error,
)

CORE_KINDS = [
    "configuration",
    "initialization",
    "timeout",
    "closed",
    "validation",
    "not_initialized",
    "too_many_requests",
    "connection_lost",
    "query",
    "statement_timeout",
    "cancelled",
    "released",
    "busy",
    "forked",
    "invalid_argument",
    "unsupported",
    "internal",
]


def test_every_kind_of_the_core_has_a_class_of_its_own() -> None:
    assert list(KINDS) == CORE_KINDS
    assert len(set(KINDS.values())) == len(KINDS)
    assert all(issubclass(cls, ConnectionPoolError) for cls in KINDS.values())


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("configuration", ValueError),
        ("invalid_argument", ValueError),
        ("timeout", asyncio.TimeoutError),
        ("statement_timeout", asyncio.TimeoutError),
        ("not_initialized", RuntimeError),
        ("released", RuntimeError),
        ("forked", RuntimeError),
    ],
)
def test_is_caught_as_the_builtin_error_callers_expect(kind: str, builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="what happened"):
        raise make_error(kind, "what happened", None)


def test_all_classes_are_exported() -> None:
    assert {cls.__name__ for cls in KINDS.values()} <= set(exceptions.__all__)


def test_attributes_default_to_none() -> None:
    error = PoolInitializationError("no server")
    assert (error.message, str(error)) == ("no server", "no server")
    assert (error.hint, error.sqlstate, error.severity, error.detail) == (None,) * 4


def test_attributes_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        ConnectionPoolError("message", "hint")  # type: ignore[call-arg]


def test_hint_is_told_once() -> None:
    assert str(PoolTimeoutError("late.", hint="wait")) == "late. Suggestion: wait"
    assert str(PoolTimeoutError("late. Suggestion: wait", hint="wait")) == "late. Suggestion: wait"


def test_query_error_carries_the_servers_fields() -> None:
    error = make_error(
        "query",
        "duplicate key value",
        {
            "sqlstate": "23505",
            "severity": "ERROR",
            "detail": "Key (id)=(1) already exists.",
            "hint": "Use another.",
            "position": "8",
            "constraint_name": "t_pkey",
            "table_name": "t",
            "schema_name": "public",
            "column_name": "",
        },
    )
    assert isinstance(error, QueryError)
    assert (error.sqlstate, error.severity, error.position) == ("23505", "ERROR", 8)
    assert (error.constraint_name, error.table_name) == ("t_pkey", "t")
    assert (error.schema_name, error.column_name) == ("public", None)
    assert str(error).splitlines() == [
        "duplicate key value",
        "DETAIL:  Key (id)=(1) already exists.",
        "HINT:  Use another.",
    ]


def test_fields_a_class_does_not_have_are_dropped() -> None:
    error = make_error("connection_lost", "gone", {"sqlstate": "57P01", "table_name": "t", "x": "y"})
    assert error.sqlstate == "57P01"
    assert not hasattr(error, "table_name")


def test_unknown_kind_becomes_an_internal_error_that_names_it() -> None:
    error = make_error("surprise", "what happened", {"hint": "none"})
    assert type(error) is InternalPoolError
    assert "what happened" in str(error)
    assert "surprise" in str(error)


@pytest.mark.parametrize("kind", CORE_KINDS)
def test_survives_pickling_and_copying(kind: str) -> None:
    error = make_error(kind, "message", {"hint": "do this", "sqlstate": "57014"})
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.sqlstate) == (str(error), "57014")
