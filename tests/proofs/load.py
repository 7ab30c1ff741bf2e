"""Many inserts at once through one pool, every connection of which meets a fault at some byte of its use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from pqpool import ConnectionPoolManager
from proofs.ledger import Label, Ledger
from proofs.numbers import Numbers
from proofs.stand import Route
from proofs.ways import INSERTS, Way
from support.fault_proxy import Action, Direction, Fault, ProxiedConnection
from support.pools import assert_sound

__all__ = ["run_load"]

_TASKS = 12
_BYTES_TO_A_FAULT = 3000
_INSERTS_TO_A_FAULT = 40  # at most, else there are more inserts
_ACTIONS = [
    (action, way)
    for way in Direction
    for action in (Action.CUT, Action.RESET, Action.DIE, Action.DIE_RESET, Action.END)
    if (action, way) != (Action.END, Direction.TO_CLIENT)
]


async def run_load(
    route: Route,
    inserts: int,
    random: Random,
    ledger: Ledger,
    numbers: Numbers,
    progress: Callable[[int, int], None],
) -> None:
    ways = [way for way in INSERTS.values() if way.name != "wide"]
    asked = 0

    def struck() -> int:
        return sum(one.fired.is_set() for one in route.proxy.connections)

    async def work(pool: ConnectionPoolManager) -> None:
        nonlocal asked
        while asked < inserts or struck() * _INSERTS_TO_A_FAULT < inserts:
            way: Way = random.choice(ways)
            asked += way.size
            await way.do(
                pool, ledger, Label(f"{route.mode}: random faults", way.name), numbers.take(way.size)
            )
            progress(asked, inserts)

    async with route.opener(route.url, min_size=4, max_size=6, timeout=60.0, log_level="error") as pool:
        arming = asyncio.create_task(_arm(route, random))
        try:
            await asyncio.gather(*(work(pool) for _ in range(_TASKS)))
        finally:
            arming.cancel()
            await asyncio.gather(arming, return_exceptions=True)
        ledger.struck[f"{route.mode}: random faults"] += struck()
        for session in route.proxy.sessions:
            session.disarm()
        if "bouncer" not in route.mode and isinstance(
            pool, ConnectionPoolManager
        ):  # behind a pooler in transaction mode sessions are nobody's
            await assert_sound(pool)


async def _arm(route: Route, random: Random) -> None:
    """Each session, a moment after it came in: encrypted, nobody sees when it is ready."""
    armed: set[ProxiedConnection] = set()
    seen = 0
    while True:
        connections = route.proxy.connections
        fresh = [one for one in connections[seen:] if not one.closed.is_set()]
        seen = len(connections)
        await asyncio.sleep(0.02)
        for session in fresh:
            if not session.is_cancel_request and session not in armed:
                armed.add(session)
                action, direction = random.choice(_ACTIONS)
                session.arm(Fault.at_byte(action, direction, int(random.expovariate(1 / _BYTES_TO_A_FAULT))))
