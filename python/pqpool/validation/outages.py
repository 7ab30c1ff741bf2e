"""SC-004 and SC-009: a server that really goes away and comes back, without traffic and under load."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from .. import ConnectionPoolManager
from .measure import Stopwatch, Subject, percentile, wait_until
from .registry import Probe
from .scenarios import is_healthy, text

# Of different lengths, so that the server returns at different points of the pause between two attempts.
QUIET_OUTAGES_SECONDS = (1.0, 2.0, 3.0)

# What a statement or an acquire may end with while the server is away. Anything else is a defect.
OUTAGE_ERRORS = {"ConnectionLostError", "ConnectionValidationError", "PoolTimeoutError"}


async def recovery(probe: Probe) -> None:
    """Recovery is timed from the moment the server accepts connections."""
    times = []
    async with probe.target.pool() as manager:
        for number, outage in enumerate(QUIET_OUTAGES_SECONDS, 1):
            probe.say(f"outage {number} of {len(QUIET_OUTAGES_SECONDS)}, {outage:g} s, no traffic")
            times.append(await recovery_seconds(probe, manager, outage))
        probe.say("an outage with a request waiting")
        waiting = await waiting_request_seconds(probe, manager)
        seen = manager.get_statistics()
    probe.below("p95", percentile(times, 95), 30, "s")
    probe.note("each", ", ".join(f"{seconds:.2f}" for seconds in times), "s")
    probe.below("with a request waiting", waiting, 1, "s")
    probe.at_least("connections after", seen.total_connections, 2)
    probe.equal(
        "total - idle - active", seen.total_connections - seen.idle_connections - seen.active_connections, 0
    )


async def recovery_seconds(probe: Probe, manager: ConnectionPoolManager, outage: float) -> float:
    await probe.target.stop_server("immediate")
    await asyncio.sleep(outage)
    await probe.target.start_server()
    with Stopwatch() as watch:
        recovered = await wait_until(lambda: is_healthy(manager), 45, 0.01)
    async with manager.acquire() as conn:
        await conn.fetchval("SELECT 1")
    return watch.seconds if recovered is not None else float("inf")


async def waiting_request_seconds(probe: Probe, manager: ConnectionPoolManager) -> float:
    """How long after the server's return a request that waited through the outage has its answer."""

    async def request() -> None:
        async with manager.acquire() as conn:
            await conn.fetchval("SELECT 1")

    await probe.target.stop_server("immediate")
    waiter = asyncio.create_task(request())
    await asyncio.sleep(4)  # by now the pauses between attempts have grown past a second
    await probe.target.start_server()
    with Stopwatch() as watch:
        await waiter
    await wait_until(lambda: is_healthy(manager), 30)
    return watch.seconds


def core_dumps(folder: str) -> list[str]:
    return [path.name for path in Path(folder).glob("*core*")]


async def outage_under_load(probe: Probe) -> None:
    """The load runs in a process of its own: a crash must end that one alone, and be seen."""
    with tempfile.TemporaryDirectory(prefix="pqpool-load-") as folder:
        subject = await Subject.start("load", probe.target.url, folder)
        try:
            await subject.answer(30)
            before = await subject.ask("healthy", 40)
            for mode in ("fast", "immediate"):
                probe.say(f"a stop ({mode}) under load")
                await asyncio.sleep(0.5)
                await probe.target.stop_server("fast" if mode == "fast" else "immediate")
                await asyncio.sleep(1.5)
                await probe.target.start_server()
                after = await subject.ask("healthy", 40)
                probe.equal(f"health after {mode}", text(after["health"]), "healthy")
            await asyncio.sleep(0.5)
            final = await subject.ask("finish", 60)
            code, errors = await subject.end(30)
        finally:
            subject.kill()
        cores = core_dumps(folder)
    probe.equal("exit code", code, 0)
    probe.equal("core dumps", len(cores), 0)
    probe.equal("stderr", errors.strip()[-300:] or "empty", "empty")
    probe.equal("tasks that never ended", final["pending"], 0)
    probe.equal("leases lost", final["leases_out"], 0)
    probe.equal("total - idle - active", final["total"] - final["idle"] - final["active"], 0)
    probe.above("statements after the outages", final["done"] - after["done"], 0)
    unexpected = sorted(set(final["errors"]) - OUTAGE_ERRORS)
    probe.equal("errors of another kind", ", ".join(unexpected) or "none", "none")
    probe.note("statements", final["done"])
    probe.note("statements before the first", before["done"])
    probe.note("statements and acquires that failed", sum(final["errors"].values()))
