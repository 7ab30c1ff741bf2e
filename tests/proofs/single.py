"""One fault in one life of a pool: at every byte of what goes out and of what comes back.

Each case opens a pool of one connection, uses it a few times, arms the fault, asks for an effect, and then
for another one, which must be done. A pool of its own for each case: one whose sessions end early is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from pqpool import ConnectionPoolManager
from proofs.ledger import Label, Ledger
from proofs.numbers import Numbers
from proofs.stand import Route, Stand
from proofs.ways import Way
from support.fault_proxy import Action, Direction, Fault
from support.wait import wait_until_async

__all__ = ["ENDS", "HALF_DEAD", "Case", "Spot", "cases_of", "run_cases", "sizes"]

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
_WORKERS = 3
_CASES_PER_PROXY = 75
_PATIENCE = 8.0


@dataclass(frozen=True)
class Spot:
    action: Action
    direction: Direction

    @property
    def name(self) -> str:
        return f"{self.action.value} {self.direction.value}"


ENDS = [
    *(Spot(action, TO_SERVER) for action in (Action.CUT, Action.RESET, Action.END, Action.DIE)),
    *(Spot(action, TO_CLIENT) for action in (Action.CUT, Action.RESET, Action.DIE, Action.DIE_RESET)),
]
HALF_DEAD = [
    Spot(Action.SWALLOW, TO_SERVER),
    Spot(Action.DEAF, TO_SERVER),
    Spot(Action.MUTE, TO_CLIENT),
    Spot(Action.STALL, TO_SERVER),
    Spot(Action.STALL, TO_CLIENT),
]
_WITHOUT_END = (Action.SWALLOW, Action.DEAF, Action.MUTE)


@dataclass(frozen=True)
class Case:
    way: Way
    spot: Spot
    byte: int
    uses: int  # of the statement on the connection before: its packet differs

    @property
    def is_slow(self) -> bool:
        return self.spot.action in _WITHOUT_END


@contextlib.asynccontextmanager
async def used_pool(
    route: Route, way: Way, uses: int, ledger: Ledger, numbers: Numbers, label: Label, limit: float
):
    """A pool of one connection on which the way was used so often."""
    async with route.opener(route.url, timeout=20.0, command_timeout=limit, log_level="error") as pool:
        if uses == 0:
            await pool.fetchval("SELECT 1")
        for _ in range(uses):
            await way.do(pool, ledger, label, numbers.take(way.size))
        yield pool


async def sizes(route: Route, way: Way, uses: int, ledger: Ledger, numbers: Numbers) -> dict[Direction, int]:
    """The bytes of one use, each way, without a fault."""
    label = Label(f"{route.mode}: no fault", way.name)
    async with used_pool(route, way, uses, ledger, numbers, label, 30.0) as pool:
        before = {one: route.proxy.traffic(one).size for one in Direction}
        await way.do(pool, ledger, label, numbers.take(way.size))
        return {one: route.proxy.traffic(one).size - before[one] for one in Direction}


async def cases_of(
    route: Route,
    way: Way,
    spots: Iterable[Spot],
    uses: int,
    ledger: Ledger,
    numbers: Numbers,
    share: float,
    random: Random,
) -> list[Case]:
    """A case for every byte; for a share of them, chosen at random, where that is below 1."""
    size = await sizes(route, way, uses, ledger, numbers)
    found = []
    for spot in spots:
        places = range(size[spot.direction] + 1)
        wanted = min(len(places), max(1, round(share * min(len(places), 600))))
        chosen = places if wanted == len(places) else sorted(random.sample(places, wanted))
        found += [Case(way, spot, byte, uses) for byte in chosen]
    return found


async def run_case(route: Route, case: Case, ledger: Ledger, numbers: Numbers) -> None:
    label = Label(
        f"{route.mode}: {case.spot.name}", f"{case.way.name} after {case.uses} uses, byte {case.byte}"
    )
    limit = 0.5 if case.is_slow else 20.0
    async with used_pool(route, case.way, case.uses, ledger, numbers, label, limit) as pool:
        sessions = route.proxy.sessions
        fault = Fault.at_byte(case.spot.action, case.spot.direction, case.byte)
        for session in sessions:
            session.arm(fault)
        resuming = asyncio.create_task(_resume(sessions)) if case.spot.action is Action.STALL else None
        was_done = await case.way.do(pool, ledger, label, numbers.take(case.way.size))
        if any(session.fired.is_set() for session in sessions):
            ledger.struck[label.row] += 1
        if resuming is not None:
            await resuming
        await _expect_recovery(route, pool, case, ledger, numbers, label, was_done)


async def _resume(sessions: list) -> None:
    """When the stall has struck, or after a while: it may have been placed behind the last byte."""
    for _ in range(20):
        await asyncio.sleep(0.01)
        if any(session.fired.is_set() for session in sessions):
            break
    for session in sessions:
        session.disarm()
        session.resume()


async def _expect_recovery(
    route: Route,
    pool: ConnectionPoolManager,
    case: Case,
    ledger: Ledger,
    numbers: Numbers,
    label: Label,
    was_done: bool,
) -> None:
    """The next one must be done. A fault behind the last answer may hit the next one instead."""
    struck = [session for session in route.proxy.sessions if session.fired.is_set()]
    for session in route.proxy.sessions:
        if session not in struck:
            session.disarm()
        elif case.is_slow:
            session.strike(Action.RESET)
    if case.spot.action in (Action.DIE, Action.DIE_RESET):
        await wait_until_async(lambda: all(session.closed.is_set() for session in struck))
    after = Label(f"{route.mode}: after a fault", f"{label.row}, {label.detail}")
    for tries_left in (1, 0):
        if await case.way.do(pool, ledger, after, numbers.take(case.way.size)):
            return
        if not tries_left or not was_done:
            ledger.faults.append(f"{after.detail}: the next statement failed too: {ledger.last_words}")
            return


async def run_cases(
    stand: Stand,
    mode: str,
    cases: list[Case],
    ledger: Ledger,
    numbers: Numbers,
    progress: Callable[[int, int], None],
    **bouncer: str | int,
) -> None:
    """All of them, a few at a time, each worker on a route of its own."""
    left = iter(cases)
    done = 0

    async def work() -> None:
        nonlocal done
        while batch := list(itertools.islice(left, _CASES_PER_PROXY)):
            with stand.route(mode, **bouncer) as route:
                for case in batch:
                    began = time.monotonic()
                    await run_case(route, case, ledger, numbers)
                    if (seconds := time.monotonic() - began) > _PATIENCE:
                        ledger.faults.append(f"{mode}: {case} took {seconds:.1f} s")
                    done += 1
                    progress(done, len(cases))

    await asyncio.gather(*(work() for _ in range(_WORKERS)))
