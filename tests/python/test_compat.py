"""The documents' names for the package: aliases, never copies."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import pqpool

ALIASES = ("connection_pool", "src.connection_pool")
SUBMODULES = ("config", "manager", "health", "statistics", "exceptions", "pool_logging")
EXPORTED = [
    "ConnectionPoolManager",
    "PoolConfig",
    "PoolState",
    "PoolHealthStatus",
    "HealthStatus",
    "DatabaseStatus",
    "PoolStatistics",
    "calculate_health_status",
    "ConnectionPoolError",
    "PoolConfigurationError",
    "PoolInitializationError",
    "PoolTimeoutError",
    "ConnectionValidationError",
    "PoolClosedError",
    "exponential_backoff_retry",
    "get_pool_logger",
    "get_pool_structured_logger",
    "log_pool_event",
    "log_pool_initialization",
    "log_connection_acquisition",
    "log_reconnection_attempt",
    "log_pool_statistics",
    "LogLevel",
]


@pytest.fixture(autouse=True)
def aliases_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "compat"))


@pytest.mark.parametrize("alias", ALIASES)
def test_package_is_the_same_object(alias: str) -> None:
    assert importlib.import_module(alias) is pqpool


@pytest.mark.parametrize("name", SUBMODULES)
@pytest.mark.parametrize("alias", ALIASES)
def test_submodule_is_the_same_object(alias: str, name: str) -> None:
    module = importlib.import_module(f"{alias}.{name}")
    assert module is importlib.import_module(f"pqpool.{name}")
    assert module is sys.modules[f"pqpool.{name}"]


@pytest.mark.parametrize("alias", ["pqpool", *ALIASES])
def test_every_name_is_exported(alias: str) -> None:
    package = importlib.import_module(alias)
    for name in EXPORTED:
        assert getattr(package, name) is getattr(pqpool, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("config", "PoolConfig"),
        ("exceptions", "PoolTimeoutError"),
        ("health", "PoolHealthStatus"),
        ("manager", "ConnectionPoolManager"),
        ("manager", "PoolState"),
        ("statistics", "PoolStatistics"),
        ("pool_logging", "get_pool_logger"),
    ],
)
@pytest.mark.parametrize("alias", ALIASES)
def test_import_statement_of_the_documents_gives_the_packages_own(alias: str, module: str, name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {alias}.{module} import {name}", namespace)
    assert namespace[name] is getattr(pqpool, name)


def test_native_module_is_not_loaded_a_second_time() -> None:
    importlib.import_module("connection_pool")
    from pqpool import _pqpool

    assert sys.modules["connection_pool._pqpool"] is _pqpool


def test_src_stays_open_to_other_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").write_text("raise RuntimeError('the wrong src')")
    (tmp_path / "src" / "of_somebody_else.py").write_text("ANSWER = 42")
    importlib.import_module("src.connection_pool")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.import_module("src.of_somebody_else").ANSWER == 42
    assert importlib.import_module("src.connection_pool") is pqpool
