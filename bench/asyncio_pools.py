"""asyncio pools side by side: pqpool, asyncpg's pool and psycopg_pool, in one run, interleaved.

    ./dev with-db ./dev python bench/asyncio_pools.py [--rounds 5] [--seconds 1.0] [--json FILE] [--strict]

Each round measures, one after another, every pool on the default event loop, then every pool on uvloop if it
is installed. A turn opens a fresh pool of 10 connections, warms it up until every connection has run the
statement, measures one task (latency) in short stretches with the bare libpq round trip (floor.c) before,
between and after them, then 100 tasks (throughput), and closes it. Printed ratios are medians of the rounds'
own, and of the stretches' own where the bare round trip is concerned: a slow spell of the machine, which may
last a second and double every figure, favours nobody.

How each is set up, always with 10 connections open from the start and the statement prepared on the server:

- pqpool: its defaults, with validation ``always`` (every lease checked) and with validation ``never``.
- asyncpg: its defaults (statement cache of 100, session reset at release, no validation).
- psycopg_pool: psycopg with its C speed-ups, ``prepare_threshold=0`` (prepared at first use), autocommit,
  because its default opens and ends a transaction around each lease, binary results, no check.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import harness
import health_checks

CONNECTIONS = 10
TASKS = 100
STATEMENT = "SELECT 1"
MOST_SAMPLES = 50_000
WARM_UP_SECONDS = 0.3
STRETCHES = 6
FLOOR_STATEMENTS = 800

Lease = Callable[[], Awaitable[Any]]
"""One lease with one statement, as a user would write it; returns the statement's value."""


@dataclass(frozen=True)
class Peer:
    name: str
    opened: Callable[[str], contextlib.AbstractAsyncContextManager[Lease]]


@contextlib.asynccontextmanager
async def pqpool_opened(url: str, validation: Literal["always", "never"]) -> AsyncIterator[Lease]:
    import pqpool

    config = pqpool.PoolConfig(
        database_url=url, min_size=CONNECTIONS, max_size=CONNECTIONS, validation=validation
    )
    async with pqpool.ConnectionPoolManager(config) as pool:

        async def lease() -> Any:
            async with pool.acquire() as conn:
                return await conn.fetchval(STATEMENT)

        yield lease


@contextlib.asynccontextmanager
async def asyncpg_opened(url: str) -> AsyncIterator[Lease]:
    import asyncpg

    async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:

        async def lease() -> Any:
            async with pool.acquire() as conn:
                return await conn.fetchval(STATEMENT)

        yield lease


@contextlib.asynccontextmanager
async def psycopg_opened(url: str) -> AsyncIterator[Lease]:
    import psycopg
    import psycopg_pool

    if psycopg.pq.__impl__ == "python":
        harness.stop("psycopg runs without its C speed-ups. Install psycopg[binary] or psycopg[c].")
    pool = psycopg_pool.AsyncConnectionPool(
        url,
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        open=False,
        kwargs={"autocommit": True, "prepare_threshold": 0},
    )
    async with pool:
        await pool.wait()

        async def lease() -> Any:
            async with pool.connection() as conn:
                cursor = await conn.execute(STATEMENT, binary=True)
                row = await cursor.fetchone()
                return None if row is None else row[0]

        yield lease


PEERS = [
    Peer("pqpool, validation always", lambda url: pqpool_opened(url, "always")),
    Peer("pqpool, validation never", lambda url: pqpool_opened(url, "never")),
    Peer("asyncpg", asyncpg_opened),
    Peer("psycopg_pool", psycopg_opened),
]
OURS, OURS_BARE, ASYNCPG, PSYCOPG = (peer.name for peer in PEERS)


async def latencies_us(lease: Lease, seconds: float) -> list[float]:
    """One task, one lease after another, for ``seconds``."""
    samples: list[float] = []
    clock = time.perf_counter
    deadline = clock() + seconds
    start = clock()
    while start < deadline and len(samples) < MOST_SAMPLES:
        value = await lease()
        end = clock()
        if value != 1:
            raise AssertionError(f"{STATEMENT} returned {value!r}")
        samples.append((end - start) * 1e6)
        start = clock()
    return samples


async def statements_per_second(lease: Lease, seconds: float) -> tuple[float, float]:
    """``TASKS`` tasks, each one lease after another, until ``seconds`` have passed.

    Also the processor time of this process for each statement, in microseconds: what the pool costs,
    apart from the server's share of the machine.
    """
    clock = time.perf_counter
    start, used = clock(), time.process_time()
    deadline = start + seconds

    async def work() -> int:
        done = 0
        while clock() < deadline:
            if await lease() != 1:
                raise AssertionError(f"{STATEMENT} did not return 1")
            done += 1
        return done

    done = sum(await asyncio.gather(*(work() for _ in range(TASKS))))
    return done / (clock() - start), (time.process_time() - used) / done * 1e6


async def latency_beside_floor(
    lease: Lease, floor: harness.Floor, url: str, seconds: float
) -> dict[str, float]:
    """One task's latency, and its ratio to the bare round trips just before and just after."""
    floors = [floor.measure(url, FLOOR_STATEMENTS)["p50_us"]]
    samples: list[float] = []
    ratios: list[float] = []
    for _ in range(STRETCHES):
        stretch = await latencies_us(lease, seconds / STRETCHES)
        floors.append(floor.measure(url, FLOOR_STATEMENTS)["p50_us"])
        ratios.append(harness.percentile(stretch, 50) / ((floors[-2] + floors[-1]) / 2))
        samples += stretch
    return {
        "p50_us": harness.percentile(samples, 50),
        "p95_us": harness.percentile(samples, 95),
        "floor_p50_us": median(floors),
        "p50_over_floor": median(ratios),
    }


async def turn(peer: Peer, floor: harness.Floor, url: str, seconds: float) -> dict[str, float]:
    """Opens the peer's pool, warms it up, measures it, closes it; bounded in time."""
    async with asyncio.timeout(4 * seconds + 60), peer.opened(url) as lease:
        await statements_per_second(lease, WARM_UP_SECONDS)
        gc.collect()
        latency = await latency_beside_floor(lease, floor, url, seconds)
        rate, cpu_us = await statements_per_second(lease, seconds)
    return {**latency, "statements_per_s": rate, "client_cpu_us": cpu_us}


def event_loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"default": asyncio.new_event_loop}
    try:
        import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    except ImportError:
        print("uvloop is not installed: the default event loop alone is measured.")
    return loops


Rounds = dict[str, list[dict[str, float]]]
"""The figures of each round, by peer."""


def measure(url: str, rounds: int, seconds: float) -> dict[str, Rounds]:
    """All rounds of each event loop, by its name."""
    loops = event_loops()
    pools: dict[str, Rounds] = {name: defaultdict(list) for name in loops}
    floor = harness.Floor()
    try:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            for name, factory in loops.items():
                # Who goes first changes from round to round.
                for peer in PEERS[number % len(PEERS) :] + PEERS[: number % len(PEERS)]:
                    with asyncio.Runner(loop_factory=factory) as runner:
                        pools[name][peer.name].append(runner.run(turn(peer, floor, url, seconds)))
    finally:
        floor.close()
    return pools


def series(rounds: Rounds, peer: str, figure: str) -> list[float]:
    return [each[figure] for each in rounds[peer]]


def print_loop(name: str, rounds: Rounds) -> None:
    print(f"\n{name} event loop, medians of the rounds")
    rows = []
    for peer in PEERS:
        p50 = series(rounds, peer.name, "p50_us")
        rate = series(rounds, peer.name, "statements_per_s")
        rows.append(
            [
                peer.name,
                f"{median(p50):.1f}",
                f"{median(series(rounds, peer.name, 'p95_us')):.1f}",
                f"{median(series(rounds, peer.name, 'p50_over_floor')):.2f}",
                f"{median(rate):,.0f}",
                f"{median(series(rounds, peer.name, 'client_cpu_us')):.1f}",
                f"{harness.paired_ratio(series(rounds, OURS, 'statements_per_s'), rate):.2f}",
            ]
        )
    harness.print_table(
        [
            "",
            "1 task p50 us",
            "p95 us",
            "p50 / floor",
            f"{TASKS} tasks statements/s",
            "client CPU us",
            "pqpool always is × times it",
        ],
        rows,
    )


def budgets_of(rounds: Rounds, checks_per_s: float) -> list[harness.Budget]:
    """The project's budgets; they hold on the default event loop, with validation on."""
    p50 = series(rounds, OURS, "p50_us")
    rate = series(rounds, OURS, "statements_per_s")
    return [
        harness.Budget(
            "p50 of one lease / bare libpq round trip",
            median(series(rounds, OURS, "p50_over_floor")),
            1.25,
            True,
        ),
        harness.Budget(
            "p50 of one lease / asyncpg's",
            harness.paired_ratio(p50, series(rounds, ASYNCPG, "p50_us")),
            0.45,
            True,
        ),
        harness.Budget(
            f"statements/s at {TASKS} tasks / asyncpg's",
            harness.paired_ratio(rate, series(rounds, ASYNCPG, "statements_per_s")),
            4.0,
            False,
        ),
        harness.Budget(
            f"statements/s at {TASKS} tasks / psycopg_pool's",
            harness.paired_ratio(rate, series(rounds, PSYCOPG, "statements_per_s")),
            7.0,
            False,
        ),
        harness.Budget("health checks/s", checks_per_s, health_checks.BUDGET_PER_S, False),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The database: DATABASE_URL.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default 1.0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a budget is missed")
    arguments = parser.parse_args()
    if not (1 <= arguments.rounds <= 100 and 0.05 <= arguments.seconds <= 60):
        parser.error("--rounds must lie in 1 .. 100 and --seconds in 0.05 .. 60")

    url = harness.database_url()
    pools = measure(url, arguments.rounds, arguments.seconds)
    health = asyncio.run(health_checks.measure(url, arguments.seconds))

    floor = [
        p50
        for rounds in pools.values()
        for peer in PEERS
        for p50 in series(rounds, peer.name, "floor_p50_us")
    ]
    print(f"\nbare libpq round trip: p50 {median(floor):.1f} us")
    for name, rounds in pools.items():
        print_loop(name, rounds)
    health_checks.print_figures(health)
    budgets = budgets_of(pools["default"], health["health_checks_per_s"])
    met = harness.print_budgets(budgets)
    if arguments.json:
        harness.write_json(arguments.json, {"pools": pools, "health": health}, budgets)
    return 0 if met or not arguments.strict else 1


if __name__ == "__main__":
    sys.exit(main())
