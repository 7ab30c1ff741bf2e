"""A pool that nobody uses costs nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pqpool import ConnectionPoolManager, PoolConfig

QUIET_SECONDS = 10.0


def sleeps_of_the_pools_threads() -> dict[str, int]:
    """How often each of the pool's threads has gone to sleep, by thread id: one more for each wake-up."""
    counts = {}
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("pqpool"):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    counts[task.name] = int(line.split()[1])
    return counts


async def test_idle_pool_wakes_no_thread_of_its_own(database_url: str) -> None:
    async with ConnectionPoolManager(PoolConfig(database_url=database_url)) as manager:
        async with manager.acquire() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await asyncio.sleep(0.5)  # the opening's last steps; nothing tells when they are over
        before = sleeps_of_the_pools_threads()
        assert before, "the pool has a thread"
        await asyncio.sleep(QUIET_SECONDS)
        assert sleeps_of_the_pools_threads() == before
