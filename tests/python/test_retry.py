"""The pause between two attempts."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from pqpool import exponential_backoff_retry


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collects what would be slept, and sleeps nothing."""
    seconds: list[float] = []

    async def sleep(delay: float) -> None:
        seconds.append(delay)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


def test_is_a_coroutine_function() -> None:
    assert inspect.iscoroutinefunction(exponential_backoff_retry)


def test_doubles_up_to_the_longest_delay(slept: list[float]) -> None:
    async def attempts() -> None:
        for attempt in (0, 1, 2, 3, 4, 5, 100_000):
            await exponential_backoff_retry(attempt, jitter_factor=0.0)

    asyncio.run(attempts())
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]


def test_jitter_spreads_within_its_share(slept: list[float]) -> None:
    async def attempts() -> None:
        for _ in range(200):
            await exponential_backoff_retry(3, jitter_factor=0.25)

    asyncio.run(attempts())
    assert all(6.0 <= delay <= 10.0 for delay in slept)
    assert min(slept) < 7.5
    assert max(slept) > 8.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"jitter_factor": -0.1},
        {"jitter_factor": 1.1},
        {"jitter_factor": float("nan")},
        {"max_delay": -1.0},
        {"max_delay": float("nan")},
    ],
)
def test_senseless_arguments_are_refused(slept: list[float], arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        asyncio.run(exponential_backoff_retry(1, **arguments))
    assert slept == []
