"""Fresh numbers, each of which names one effect."""

from __future__ import annotations

__all__ = ["Numbers"]


class Numbers:
    def __init__(self, first: int = 1) -> None:
        self._next = first

    def take(self, count: int = 1) -> range:
        taken = range(self._next, self._next + count)
        self._next += count
        return taken
