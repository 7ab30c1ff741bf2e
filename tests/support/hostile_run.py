"""Pools against hostile servers, one for each seed: `python -m support.hostile_run FIRST LAST [TOGETHER]`.

A process of its own, so that a crash, a hang or memory without bound is its end alone. It prints a line where
a property does not hold, and which seeds are under way; 0 where nothing was found.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import itertools
import re
import sys
import time
from pathlib import Path
from random import Random
from typing import Literal

from pqpool import (
    ConnectionLostError,
    ConnectionPoolError,
    ConnectionPoolManager,
    ConnectionValidationError,
    InternalPoolError,
    InvalidArgumentError,
    PoolConfig,
    PoolTimeoutError,
    QueryError,
    StatementTimeoutError,
)
from support.fake_server import FakeServer
from support.hostile import Hostile

TOGETHER = 40
TASKS, STEPS = 4, 5
TIMEOUT, COMMAND_TIMEOUT, CONNECT_TIMEOUT = 1.0, 0.4, 0.5
VALIDATIONS: list[Literal["always", "blocking", "never"]] = [
    "always",
    "always",
    "always",
    "blocking",
    "never",
]
LATE = 5.0  # beyond its timeouts, on a machine that is busy with many pools
RECOVERY = 15.0
EXPECTED = (
    ConnectionLostError,
    ConnectionValidationError,
    InternalPoolError,  # of a value that cannot be read
    InvalidArgumentError,  # of a transaction's end, where the server says that there is none
    PoolTimeoutError,
    QueryError,
    StatementTimeoutError,
)
MOST_MEMORY = 300  # MB above the beginning
LONGEST = 120.0  # for one seed


class Failures:
    def __init__(self) -> None:
        self.count = 0
        self.outcomes: dict[str, int] = {}

    def add(self, words: str) -> None:
        self.count += 1
        print("FAILED", words, flush=True)

    def note(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Life:
    """One pool's: opened on an honest server that turns hostile, and is honest again."""

    def __init__(self, seed: int, failures: Failures) -> None:
        self._seed = seed
        self._failures = failures
        self._random = Random(-1 - seed)
        self._numbers = itertools.count(1000)
        self._hostile = Hostile(seed)
        self._ways = {
            "pool": self._from_pool,
            "lease": self._from_lease,
            "rows": self._rows,
            "parameter": self._parameter,
            "transaction": self._transaction,
        }

    async def run(self) -> None:
        hostile = self._hostile
        is_hostile_at_first = self._random.random() < 0.1
        hostile.is_over = not is_hostile_at_first
        with FakeServer(send=hostile, cancelled=hostile.cancelled) as server:
            config = PoolConfig(
                server.url,
                min_size=2,
                max_size=3,
                timeout=TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                connect_timeout=CONNECT_TIMEOUT,
                validation=self._random.choice(VALIDATIONS),
                statement_cache_size=self._random.choice([100, 100, 2, 0]),
            )
            pool = ConnectionPoolManager()
            try:
                await pool.initialize(config)
            except ConnectionPoolError as error:
                self._failures.note(type(error).__name__)
                if not is_hostile_at_first:
                    self._fail(f"initialize on an honest server: {error!r}")
                return
            try:
                hostile.is_over = False
                await asyncio.gather(*(self._task(pool) for _ in range(TASKS)))
                hostile.is_over = True
                await self._recover(pool)
            finally:
                began = time.monotonic()
                await pool.shutdown(timeout=2.0)
                if time.monotonic() - began > 2.0 + LATE:
                    self._fail(f"shutdown took {time.monotonic() - began:.1f} s")

    def _fail(self, words: str) -> None:
        self._failures.add(f"seed {self._seed}: {words}")

    async def _task(self, pool: ConnectionPoolManager) -> None:
        for _ in range(STEPS):
            await self._ask(pool, self._random.choice(["pool", "lease", "rows", "parameter", "transaction"]))

    async def _recover(self, pool: ConnectionPoolManager) -> None:
        limit = time.monotonic() + RECOVERY
        sound = 0
        while sound < 3:
            answers = await asyncio.gather(*(self._ask(pool, "lease") for _ in range(4)))
            sound = sound + 1 if all(answers) else 0
            if time.monotonic() > limit:
                return self._fail(f"not recovered within {RECOVERY} s: {pool.get_statistics()}")

    async def _ask(self, pool: ConnectionPoolManager, way: str) -> bool:
        """Whether it was answered; and nothing but its own number may be the answer."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(60):
                await self._ways[way](pool)
            self._failures.note("answered")
            return True
        except EXPECTED as error:
            self._failures.note(type(error).__name__)
        except Exception as error:
            self._fail(f"{way}: {type(error).__name__}: {str(error)[:200]}")
        finally:
            # An acquire, up to four statements and a transaction's end.
            if (spent := time.monotonic() - began) > TIMEOUT + 6 * COMMAND_TIMEOUT + LATE:
                self._fail(f"{way} took {spent:.1f} s")
        return False

    def _same(self, answer: object, asked: object) -> None:
        if answer != asked:
            self._fail(f"{asked!r} was asked for, and {answer!r} came. The server had said:")
            told = re.findall(r"\d+", str(asked))[0]
            binary = repr(int(told).to_bytes(4, "big"))[2:-1]
            for words in self._hostile.said:
                if told in words or binary in words:
                    print(" ", words, flush=True)

    async def _from_pool(self, pool: ConnectionPoolManager) -> None:
        n = next(self._numbers)
        self._same(await pool.fetchval(f"SELECT {n}"), n)

    async def _from_lease(self, pool: ConnectionPoolManager) -> None:
        async with pool.acquire() as connection:
            for _ in range(self._random.randrange(1, 4)):
                n = next(self._numbers)
                self._same(await connection.fetchval(f"SELECT {n}"), n)

    async def _rows(self, pool: ConnectionPoolManager) -> None:
        n, m = next(self._numbers), next(self._numbers)
        async with pool.acquire() as connection:
            self._same([tuple(row) for row in await connection.fetch(f"SELECT {n}")], [(n,)])
            await connection.execute(f"SELECT {m}; SELECT {n}")
            self._same((await connection.fetchrow(f"SELECT {m}") or [None])[0], m)

    async def _parameter(self, pool: ConnectionPoolManager) -> None:
        async with pool.acquire() as connection:
            for n in (next(self._numbers), next(self._numbers)):
                self._same(await connection.fetchval("SELECT $1::int4", n), n)

    async def _transaction(self, pool: ConnectionPoolManager) -> None:
        n, m = next(self._numbers), next(self._numbers)
        async with pool.acquire() as connection, connection.transaction():
            self._same(await connection.fetchval(f"SELECT {n}"), n)
            self._same(await connection.fetchval("SELECT $1::int4", m), m)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory(what: str) -> int:
    """MB of this process: VmRSS now, VmHWM at its highest."""
    found = re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1024


async def _all(seeds: range, together: int, failures: Failures) -> None:
    under_way: set[int] = set()
    waiting = iter(seeds)

    async def take_one_after_another() -> None:
        for seed in waiting:
            under_way.add(seed)
            print("under way", *sorted(under_way), flush=True)
            await Life(seed, failures).run()
            under_way.discard(seed)
            faulthandler.dump_traceback_later(LONGEST, exit=True)

    await asyncio.gather(*(take_one_after_another() for _ in range(together)))


def main(first: int, last: int, together: int = TOGETHER) -> int:
    faulthandler.enable()
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    failures = Failures()
    asyncio.run(_all(range(first, first + 1), 1, failures))  # whatever is made once
    gc.collect()
    descriptors, memory, began = _descriptors(), _memory("VmRSS"), time.monotonic()
    asyncio.run(_all(range(first, last + 1), together, failures))
    limit = time.monotonic() + 20
    while _descriptors() > descriptors and time.monotonic() < limit:
        gc.collect()
        time.sleep(0.05)
    if _descriptors() > descriptors:
        failures.add(f"{_descriptors() - descriptors} descriptors are left")
    if (grown := _memory("VmHWM") - memory) > MOST_MEMORY:
        failures.add(f"{grown} MB above the beginning")
    print(f"{last - first + 1} seeds in {time.monotonic() - began:.1f} s, {grown} MB", failures.outcomes)
    return 1 if failures.count else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
