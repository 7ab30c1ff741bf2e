"""The leak test: a pool under everything that tends to leak, measured whenever it has come to rest.

The load runs in cycles. After each, every task has ended and the pool is back at its full size, so that
descriptors, sessions and objects can be compared exactly, and memory without the noise of work under way.
``python -m pqpool validate`` runs it for seconds, the test suite's leak test for as long as it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import ConnectionPoolManager
from .measure import open_descriptors, resident_bytes, wait_until
from .target import Target

SIZE = 8  # minimum and maximum: the number of connections at rest is known
WORKERS = 24
MEMORY_LIMIT_BYTES = 4 * 2**20
OBJECT_LIMIT = 200  # caches of Python and asyncio may still fill; a leak per operation makes thousands


@dataclass(frozen=True)
class Sample:
    """The process and the server at rest, after one cycle."""

    at_seconds: float
    operations: int
    resident_bytes: int
    descriptors: int
    sessions: int
    objects: int


@dataclass(frozen=True)
class Limit:
    """One figure of the soak and the most it may be."""

    name: str
    value: float
    most: float
    unit: str = ""


@dataclass(frozen=True)
class Soak:
    """All samples after the warm-up, and what they say."""

    samples: tuple[Sample, ...]
    refused: Counter[str]  # statements and acquires that failed, by the error's class; the load provokes some
    leases_out: int
    waiting: int

    def limits(self) -> list[Limit]:
        """What "no leak" means, as figures."""
        first, last = self.samples[0], self.samples[-1]
        return [
            Limit("resident memory growth", self.memory_growth() / 2**20, MEMORY_LIMIT_BYTES / 2**20, "MiB"),
            Limit("descriptors gained", last.descriptors - first.descriptors, 0),
            Limit("server sessions beyond the pool's", max(s.sessions for s in self.samples) - SIZE, 0),
            Limit("live objects gained", last.objects - first.objects, OBJECT_LIMIT),
            Limit("leases out at the end", self.leases_out, 0),
            Limit("requests waiting at the end", self.waiting, 0),
        ]

    def memory_growth(self) -> float:
        """Bytes gained over the measured time, from the median of the first third to that of the last."""
        third = max(1, len(self.samples) // 3)
        early = statistics.median(sample.resident_bytes for sample in self.samples[:third])
        return statistics.median(sample.resident_bytes for sample in self.samples[-third:]) - early

    def memory_slope(self) -> float:
        """Bytes gained per second, by least squares."""
        times = [sample.at_seconds for sample in self.samples]
        return statistics.linear_regression(times, [float(s.resident_bytes) for s in self.samples]).slope

    @property
    def operations(self) -> int:
        return self.samples[-1].operations

    @property
    def seconds(self) -> float:
        return self.samples[-1].at_seconds - self.samples[0].at_seconds


def cycle_seconds(duration: float) -> float:
    """About 24 cycles; from half a second to a minute each, so that a day has 1,440 samples at most."""
    return min(60.0, max(0.5, duration / 24))


async def soak(target: Target, duration: float, say: Callable[[str], None] = lambda text: None) -> Soak:
    """Loads a pool for ``duration`` seconds; the first quarter (a minute at most) warms up, unjudged."""
    name = target.session_name()
    load = Load(target, cycle_seconds(duration))
    samples: list[Sample] = []
    options = {"min_size": SIZE, "max_size": SIZE, "timeout": 10.0, "leak_detection_timeout": 60.0}
    with kept_from_collectors():
        async with target.observer() as observer, target.pool(name, **options) as manager:
            start = time.monotonic()
            warm = start + min(60.0, duration / 4)
            while (now := time.monotonic()) - start < duration or len(samples) < 3:
                await load.cycle(manager)
                sample = await take(
                    target, observer, manager, name, load.operations, time.monotonic() - start
                )
                if now >= warm:
                    samples.append(sample)
                say(f"{sample.at_seconds:.0f} of {duration:.0f} s, {load.operations} operations")
            at_rest = manager.get_statistics()
    return Soak(tuple(samples), load.refused, at_rest.active_connections, at_rest.waiting_requests)


@contextlib.contextmanager
def kept_from_collectors() -> Iterator[None]:
    """Keeps the pool's log lines from the handlers around, which may pile them up, as pytest's do."""
    logger = logging.getLogger("pqpool")
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before


async def take(
    target: Target,
    observer: ConnectionPoolManager,
    manager: ConnectionPoolManager,
    name: str,
    operations: int,
    at_seconds: float,
) -> Sample:
    """Waits for rest, then measures."""

    def resting() -> bool:
        seen = manager.get_statistics()
        return seen.idle_connections == SIZE and seen.waiting_requests == 0

    if await wait_until(resting, 30) is None:
        raise RuntimeError(f"the pool did not come to rest within 30 s: {manager.get_statistics()}")
    sessions = await target.sessions_settle_at(observer, name, SIZE)
    gc.collect()
    return Sample(at_seconds, operations, resident_bytes(), open_descriptors(), sessions, live_objects())


def live_objects() -> int:
    """Objects that a leak would pile up: the package's own, futures, tasks, frames and tracebacks.

    Objects that the garbage collector does not track, such as plain numbers and bytes, show in the memory.
    """
    counted = ("Future", "Task", "coroutine", "frame", "traceback", "Record")
    found = 0
    for thing in gc.get_objects():
        kind = type(thing)
        package = str(kind.__module__).removeprefix("_").partition(".")
        # The validation's own samples pile up on purpose.
        if kind.__name__ in counted or (package[0] == "pqpool" and not package[2].startswith("validation")):
            found += 1
    return found


class Load:
    """Cycles of everything: statements, errors, timeouts, cancels, killed sessions, pools opened."""

    def __init__(self, target: Target, seconds: float) -> None:
        self._target = target
        self._seconds = seconds
        self._random = random.Random(20240229)  # the same load in every run
        self._until = 0.0
        self.operations = 0
        self.refused: Counter[str] = Counter()

    async def cycle(self, manager: ConnectionPoolManager) -> None:
        """Runs until this cycle's time is over and every task of it has ended."""
        self._until = time.monotonic() + self._seconds
        async with asyncio.timeout(self._seconds + 60), asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(manager, number))
            group.create_task(self._be_impatient(manager))
            group.create_task(self._cancel(manager))
            group.create_task(self._look(manager))
            group.create_task(self._kill_one(manager))
            group.create_task(self._open_another())

    def _going_on(self) -> bool:
        return time.monotonic() < self._until

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """One operation. Errors are counted: the load provokes them, and none may leave anything behind."""
        self.operations += 1
        try:
            yield
        except Exception as error:
            self.refused[type(error).__name__] += 1

    async def _work(self, manager: ConnectionPoolManager, number: int) -> None:
        turn = number
        while self._going_on():
            turn += 1
            with self._counted():
                async with manager.acquire() as conn:
                    await self._statement(conn, turn)
            # A pool that refuses at once must not spin the loop.
            await asyncio.sleep(0)

    async def _statement(self, conn: Any, turn: int) -> None:
        match turn % 10:
            case 0:
                await conn.fetchval("SELECT 1 / $1::int", 0)
            case 1:
                await conn.execute("SET work_mem = '5MB'")
            case 2:
                async with conn.transaction():
                    await conn.execute("CREATE TEMP TABLE scratch (n int) ON COMMIT DROP")
            case 3:
                await conn.fetch("SELECT n, n::text AS name FROM generate_series(1, 50) AS n")
            case 4:
                await conn.fetchval(f"SELECT {turn}")  # new text each time: the statement cache evicts
            case 5:
                await conn.execute("BEGIN")  # left open for the pool to roll back
            case _:
                await conn.fetchval("SELECT $1::int", turn)

    async def _be_impatient(self, manager: ConnectionPoolManager) -> None:
        while self._going_on():
            with self._counted():
                async with manager.acquire(timeout=0.0003) as conn:
                    await conn.fetchval("SELECT 1")
            await asyncio.sleep(0.002)

    async def _cancel(self, manager: ConnectionPoolManager) -> None:
        async def victim() -> None:
            async with manager.acquire() as conn:
                await conn.fetchval("SELECT pg_sleep(0.05)")

        while self._going_on():
            task = asyncio.create_task(victim())
            await asyncio.sleep(self._random.uniform(0, 0.03))
            task.cancel()
            with self._counted(), contextlib.suppress(asyncio.CancelledError):
                await task

    async def _look(self, manager: ConnectionPoolManager) -> None:
        while self._going_on():
            with self._counted():
                (await manager.health_check()).model_dump()
                manager.get_statistics().model_dump()
            await asyncio.sleep(0.01)

    async def _kill_one(self, manager: ConnectionPoolManager) -> None:
        with self._counted():
            async with manager.acquire() as conn:
                await conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async def _open_another(self) -> None:
        with self._counted():
            async with self._target.pool(min_size=2, max_size=2) as other, other.acquire() as conn:
                await conn.fetchval("SELECT 1")
