"""Fixtures for every pytest suite: a real server, a proxy in front of it, and how long to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pqpool.throwaway import ThrowawayServer
from support.fault_proxy import FaultProxy


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--duration",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how long the leak detection test runs (86400 for the full day)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that runs as long as it is told must not be ended by the general time limit."""
    for item in items:
        if "duration" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(config.getoption("--duration") + 300))


@pytest.fixture(scope="session")
def duration(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("--duration"))


@pytest.fixture(scope="session")
def server() -> Iterator[ThrowawayServer]:
    """The suite's server. Whoever stops it must start it again; `own_server` may be left as it is."""
    with ThrowawayServer() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[ThrowawayServer]:
    """A server for one test only."""
    with ThrowawayServer() as running:
        yield running


@pytest.fixture
def database_url(server: ThrowawayServer) -> str:
    return server.url


@pytest.fixture
def proxy(server: ThrowawayServer) -> Iterator[FaultProxy]:
    """A fault proxy in front of the server; `proxy.url(database_url)` leads through it."""
    with FaultProxy(server.host, server.port) as running:
        yield running
