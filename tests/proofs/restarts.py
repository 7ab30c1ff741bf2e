"""Ends that the server or its administrator brings about, under a hundred tasks that read and write.

The server logs each statement when it begins to execute it, so that for every error it can be told whether
the statement had begun: an ordinary end (a fast restart, pg_terminate_backend) must reach nobody whose
statement had not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from pqpool import ConnectionPoolError, ConnectionPoolManager
from proofs.ledger import Label, Ledger, Told, Wrong, told_by
from proofs.numbers import Numbers
from proofs.stand import APPLICATION, Stand
from proofs.ways import INSERTS, INTERRUPTED, number_of
from support.pools import named, open_pool

__all__ = ["END_KINDS", "Reads", "begun_in", "run_end"]

_TASKS = 100
_SHARE_THAT_WRITES, _SHARE_THAT_DRAWS = 0.3, 0.05
_LONGEST_SILENCE = 20.0
_BEFORE, _AFTER = 0.4, 0.4
_READS = (
    "SELECT $1::bigint AS number",
    "SELECT $1::bigint AS number, 'x' AS filling",
    "VALUES ($1::bigint)",
    "SELECT number FROM effects WHERE number = -1 UNION ALL SELECT $1::bigint",
    "SELECT $1::bigint FROM pg_sleep(0.002)",
)


@dataclass
class Failure:
    number: int
    at: float
    told: Told
    words: str


@dataclass
class Reads:
    """Each read asks for its own number. `judge` holds the errors against the server's log."""

    row: str
    asked: int = 0
    failures: list[Failure] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    longest_strike: float = 0.0
    longest_silence: float = 0.0  # from the end of the strike to the next answer

    async def ask(self, pool: ConnectionPoolManager, number: int, text: str) -> None:
        self.asked += 1
        try:
            number_of(await pool.fetchval(text, number), number)
        except Wrong as error:
            self.faults.append(f"{self.row}: WRONG ANSWER: {error}")
        except Exception as error:
            self.failures.append(
                Failure(number, time.time(), told_by(error), f"{type(error).__name__}: {error}")
            )

    def judge(self, begun: set[int], *, is_ordinary: bool) -> Counter[str]:
        counts = Counter(asked=self.asked, done=self.asked - len(self.failures))
        for failure in self.failures:
            counts[failure.told.value] += 1
            has_begun = failure.number in begun
            where = f"{self.row}: read {failure.number} at {failure.at:.3f}: {failure.words}"
            if has_begun:
                counts["had begun"] += 1
            if failure.told is Told.NOTHING:
                self.faults.append(f"{where}: says nothing about what became of it")
            elif failure.told is Told.NOT_DONE and has_begun:
                counts["DENIED"] += 1
                self.faults.append(f"{where}: the server had begun it")
            elif is_ordinary and not has_begun:
                counts["NEEDLESS"] += 1
                self.faults.append(f"{where}: an error although the server had not begun it")
        return counts

    def words(self) -> list[str]:
        """What the callers heard, each once, without the numbers."""
        heard = Counter(re.sub(r"-?\d{2,}", "…", failure.words) for failure in self.failures)
        lines = [f"{times} × {' '.join(words.split())}" for words, times in heard.most_common()]
        return [
            f"served again {self.longest_silence:.1f} s after it at most; "
            f"to bring it about took {self.longest_strike:.1f} s at most",
            *lines,
        ]


Strike = Callable[[Stand, Random], Awaitable[None]]


async def _restart(stand: Stand, random: Random) -> None:
    await asyncio.to_thread(stand.server.restart, "fast")


async def _crash(stand: Stand, random: Random) -> None:
    await asyncio.to_thread(stand.server.restart, "immediate")


async def _kill(stand: Stand, random: Random) -> None:
    """The server then ends all sessions and starts anew by itself."""
    pids = await _backends(stand, "true")
    if pids:
        os.kill(random.choice(pids), signal.SIGKILL)


async def _terminate_idle(stand: Stand, random: Random) -> None:
    await _terminate(stand, "state = 'idle'")


async def _terminate_active(stand: Stand, random: Random) -> None:
    await _terminate(stand, "state = 'active'")


async def _terminate_all(stand: Stand, random: Random) -> None:
    await _terminate(stand, "true")


async def _terminate(stand: Stand, which: str) -> None:
    for _ in range(5):
        await asyncio.to_thread(
            stand.server.sql,
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            f"WHERE application_name = '{APPLICATION}' AND {which}",
        )
        await asyncio.sleep(0.05)


async def _backends(stand: Stand, which: str) -> list[int]:
    text = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION}' AND {which}"
    return [int(line) for line in (await asyncio.to_thread(stand.server.sql, text)).split()]


@dataclass(frozen=True)
class EndKind:
    name: str
    strike: Strike
    is_ordinary: bool  # the server itself says goodbye to each session


END_KINDS = {
    kind.name: kind
    for kind in (
        EndKind("restart-fast", _restart, True),
        EndKind("terminate-all", _terminate_all, True),
        EndKind("terminate-idle", _terminate_idle, True),
        EndKind("terminate-active", _terminate_active, True),
        EndKind("restart-immediate", _crash, False),
        EndKind("kill-backend", _kill, False),
    )
}


async def run_end(
    stand: Stand,
    kind: EndKind,
    rounds: int,
    random: Random,
    ledger: Ledger,
    numbers: Numbers,
    progress: Callable[[int, int], None],
    sequences: int,
    sslmode: str = "disable",
) -> Reads:
    """`sequences`: how many, with the first numbers. Only an ordinary end leaves them as they were."""
    reads = Reads(f"{kind.name}: reads")
    writes = Label(f"{kind.name}: writes")
    ways = [way for way in INSERTS.values() if way.name != "wide"]
    drawing = Label(f"{kind.name}: effects")
    left = iter(range(1, sequences + 1))
    ended = False

    async def work(pool: ConnectionPoolManager) -> None:
        while not ended:
            chance = random.random()
            if chance > _SHARE_THAT_WRITES + _SHARE_THAT_DRAWS:
                await reads.ask(pool, numbers.take()[0], random.choice(_READS))
            elif chance > _SHARE_THAT_DRAWS:
                way = random.choice(ways)
                await way.do(pool, ledger, Label(writes.row, way.name), numbers.take(way.size))
            elif (number := next(left, None)) is not None:
                await INTERRUPTED.do(pool, ledger, drawing, range(number, number + 1))

    url = named(f"{stand.server.url}?sslmode={sslmode}", APPLICATION)
    async with open_pool(url, min_size=10, max_size=10, timeout=60.0, log_level="error") as pool:
        tasks = [asyncio.create_task(work(pool)) for _ in range(_TASKS)]
        for turn in range(rounds):
            await asyncio.sleep(_BEFORE * (0.5 + random.random()))
            began = time.monotonic()
            await kind.strike(stand, random)
            struck = time.monotonic()
            for row in (reads.row, writes.row, drawing.row):
                ledger.struck[row] += 1
            await _until_served(pool)
            served = time.monotonic()
            reads.longest_strike = max(reads.longest_strike, struck - began)
            reads.longest_silence = max(reads.longest_silence, served - struck)
            await asyncio.sleep(_AFTER)
            progress(turn + 1, rounds)
        ended = True
        await asyncio.gather(*tasks)
    if reads.longest_silence > _LONGEST_SILENCE:
        reads.faults.append(f"{reads.row}: nobody was served for {reads.longest_silence:.1f} s")
    return reads


async def _until_served(pool: ConnectionPoolManager) -> None:
    for _ in range(100):
        with contextlib.suppress(ConnectionPoolError):
            await pool.fetchval("SELECT 1")
            return
    raise AssertionError("the pool serves nobody any more")


def begun_in(log: str) -> set[int]:
    """The numbers of the statements that the server began to execute, by its log."""
    return {int(found) for found in re.findall(r"[Pp]arameters: \$1 = '(\d+)'", log)}
