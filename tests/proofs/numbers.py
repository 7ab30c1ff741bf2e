"""Fresh numbers, each of which names one effect."""

from __future__ import annotations

__all__ = ["Numbers"]


class Numbers:
    def __init__(self) -> None:
        self._next = 1

    def take(self, count: int = 1) -> range:
        taken = range(self._next, self._next + count)
        self._next += count
        return taken
