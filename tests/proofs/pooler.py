"""What a pooler does by itself: its query_timeout, its restart, the loss of the server's sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

from pqpool import Connection, ConnectionPoolManager
from proofs.ledger import Label, Ledger
from proofs.numbers import Numbers
from proofs.stand import Route, Stand
from proofs.ways import INSERTS, Way, number_of
from support.pools import open_pool

__all__ = ["run_kills", "run_query_timeout", "run_restarts"]

_TASKS = 12
_LEAST_STRIKES = 4

Event = Callable[[], Awaitable[None]]


async def run_query_timeout(
    stand: Stand, mode: str, calls: int, random: Random, ledger: Ledger, numbers: Numbers
) -> None:
    """Its FATAL comes while the server still executes the statement, or just after it has."""

    async def slow(connection: Connection, chosen: range) -> None:
        text = "INSERT INTO effects SELECT $1::bigint FROM pg_sleep($2::float8) RETURNING number"
        number_of(await connection.fetchval(text, chosen[0], random.uniform(0.6, 2.0)), chosen[0])

    label = Label(f"{mode}: query_timeout")
    with stand.route(mode, query_timeout=1) as route:
        # Many pools of one: a pool whose sessions end again and again is slowed down by itself.
        async def work() -> None:
            async with open_pool(route.url, timeout=30.0, command_timeout=20.0, log_level="error") as pool:
                for _ in range(max(1, calls // 20)):
                    await Way("slow", slow).do(pool, ledger, label, numbers.take())

        await asyncio.gather(*(work() for _ in range(20)))
    ledger.struck[label.row] += 1


async def _under(
    route: Route,
    inserts: int,
    label: str,
    event: Event,
    pause: float,
    random: Random,
    ledger: Ledger,
    numbers: Numbers,
) -> None:
    ways = [way for way in INSERTS.values() if way.name != "wide"]
    asked = 0

    async def work(pool: ConnectionPoolManager) -> None:
        nonlocal asked
        while asked < inserts or ledger.struck[label] < _LEAST_STRIKES:
            way = random.choice(ways)
            asked += way.size
            await way.do(pool, ledger, Label(label, way.name), numbers.take(way.size))

    async def strike() -> None:
        while True:
            await asyncio.sleep(pause * (0.5 + random.random()))
            await event()
            ledger.struck[label] += 1

    async with open_pool(route.url, min_size=4, max_size=6, timeout=60.0, log_level="error") as pool:
        striking = asyncio.create_task(strike())
        try:
            await asyncio.gather(*(work(pool) for _ in range(_TASKS)))
        finally:
            striking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await striking


async def run_kills(
    stand: Stand, mode: str, inserts: int, random: Random, ledger: Ledger, numbers: Numbers
) -> None:
    """Ends the sessions that the pooler holds: the pooler, not the server, tells the client."""

    async def kill() -> None:
        text = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() "
            "AND query NOT LIKE 'LISTEN%' AND random() < 0.5"
        )
        await asyncio.to_thread(stand.server.sql, text)

    with stand.route(mode) as route:
        await _under(
            route, inserts, f"{mode}: sessions killed behind it", kill, 0.05, random, ledger, numbers
        )


async def run_restarts(
    stand: Stand, mode: str, inserts: int, random: Random, ledger: Ledger, numbers: Numbers
) -> None:
    with stand.route(mode) as route:
        bouncer = route.bouncer
        assert bouncer is not None

        async def restart() -> None:
            await asyncio.to_thread(bouncer.stop)
            await asyncio.to_thread(bouncer.start)

        await _under(route, inserts, f"{mode}: pooler restarted", restart, 0.2, random, ledger, numbers)
