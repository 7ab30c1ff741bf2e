"""Waiting for what a real server does in its own time: with a deadline, never for a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], deadline: float = 10.0, interval: float = 0.01) -> T:
    """Asks until the answer is true and returns it; fails the test after `deadline` seconds."""
    limit = time.monotonic() + deadline
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > limit:
            raise AssertionError(_late(predicate, deadline, answer))
        time.sleep(interval)


async def wait_until_async(
    predicate: Callable[[], T | Awaitable[T]], deadline: float = 10.0, interval: float = 0.01
) -> T:
    """The same without holding up the event loop; the predicate may be a coroutine function."""
    limit = time.monotonic() + deadline
    while True:
        given = predicate()
        answer: T = await given if inspect.isawaitable(given) else given
        if answer:
            return answer
        if time.monotonic() > limit:
            raise AssertionError(_late(predicate, deadline, answer))
        await asyncio.sleep(interval)


def _late(predicate: object, deadline: float, answer: object) -> str:
    name = getattr(predicate, "__qualname__", repr(predicate))
    return f"not true within {deadline} s: {name}; its last answer was {answer!r}"
