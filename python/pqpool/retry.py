"""The pause between two attempts, for callers that retry on their own."""

from __future__ import annotations

import asyncio

__all__ = ["exponential_backoff_retry"]

_LARGEST_EXPONENT = 64  # far past any max_delay, and far from overflowing a float


async def exponential_backoff_retry(
    attempt: int, max_delay: float = 16.0, jitter_factor: float = 0.1
) -> None:
    """Sleep min(2^attempt, max_delay) seconds, lengthened or shortened by a random share.

    The share is at most jitter_factor of the delay, so that many callers do not retry in step.
    Raises ValueError when jitter_factor is outside [0, 1] or max_delay is negative.
    """
    if not 0.0 <= jitter_factor <= 1.0:
        raise ValueError(f"jitter_factor ({jitter_factor}) must be between 0 and 1. Suggestion: use 0.1")
    if not max_delay >= 0.0:
        raise ValueError(f"max_delay ({max_delay}) must not be negative. Suggestion: use 16.0")
    import random  # costs every start two milliseconds, for what few ever call

    delay = min(2.0 ** min(attempt, _LARGEST_EXPONENT), max_delay)
    await asyncio.sleep(delay * (1.0 + random.uniform(-jitter_factor, jitter_factor)))
