"""No leaks over any time: ``pytest tests/integration/test_leak_detection.py --duration=86400``."""

from __future__ import annotations

import asyncio
import sys

import pytest

from pqpool.throwaway import ThrowawayServer
from pqpool.validation.soak import Soak, soak
from pqpool.validation.target import Target


@pytest.fixture(scope="module")
def measured(server: ThrowawayServer, duration: float, request: pytest.FixtureRequest) -> Soak:
    """One soak for the whole module; what it does, and what is judged, is the validation command's SC-006.

    Whoever starts a run of a day wants to see that it goes on, and its figures also where it passes.
    """

    def say(line: str) -> None:
        if sys.stdout.isatty():
            print(f"\r{line} ", end="", flush=True)

    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        result = asyncio.run(soak(Target(server.url, server), duration, say))
        print(f"\n{figures(result)}")
    return result


def figures(measured: Soak) -> str:
    lines = [f"{limit.name}: {limit.value:.3g} {limit.unit}".rstrip() for limit in measured.limits()]
    lines.append(f"memory slope: {measured.memory_slope() / 1024:.3g} KiB/s")
    lines.append(f"{measured.operations} operations in {measured.seconds:.0f} s of judged time")
    lines.append(", ".join(f"{name} {count}" for name, count in measured.refused.most_common()))
    return "\n".join(lines)


def test_load_did_work_and_met_every_kind_of_failure(measured: Soak) -> None:
    """A soak whose load broke down would find no leak either."""
    assert measured.operations > 100
    assert {"QueryError", "PoolTimeoutError"} <= set(measured.refused)


def test_nothing_grows(measured: Soak) -> None:
    grown = [
        f"{limit.name}: {limit.value:g} {limit.unit} where {limit.most:g} is allowed"
        for limit in measured.limits()
        if limit.value > limit.most
    ]
    assert not grown, (
        f"{'; '.join(grown)} after {measured.operations} operations in {measured.seconds:.0f} s, "
        f"memory slope {measured.memory_slope():.0f} bytes/s"
    )
