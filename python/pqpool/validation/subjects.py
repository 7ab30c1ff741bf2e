"""Programs that are measured from outside, each run as ``python subjects.py NAME`` in a process of its own.

The database's URL comes in ``DATABASE_URL``. Each prints JSON lines; ``load`` obeys commands on its stdin.
Nothing of the package is imported before a subject asks for it, so that the bare interpreter stays bare.
"""

import os
import sys
import time
from typing import Any


def report(**answer: Any) -> None:
    import json

    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def resident_bytes() -> int:
    # Plain open: pathlib would be part of what is measured.
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def bare() -> None:
    """The memory of an interpreter that has done nothing."""
    report(resident_bytes=resident_bytes())


def bare_asyncio() -> None:
    """The memory of an interpreter whose event loop has run once."""
    import asyncio

    asyncio.run(asyncio.sleep(0))
    report(resident_bytes=resident_bytes())


def memory() -> None:
    """The memory of an interpreter with a pool of 10 connections, all open and all used."""
    import asyncio

    import pqpool

    async def main() -> None:
        config = pqpool.PoolConfig(database_url=os.environ["DATABASE_URL"], min_size=2, max_size=10)
        async with pqpool.ConnectionPoolManager(config) as manager:
            held = [await manager.acquire() for _ in range(10)]
            await asyncio.gather(*(conn.fetch("SELECT n FROM generate_series(1, 100) AS n") for conn in held))
            connections = manager.get_statistics().active_connections
            used = resident_bytes()
            for conn in held:
                await manager.release(conn)
            report(resident_bytes=used, connections=connections)

    asyncio.run(main())


def startup() -> None:
    """Seconds from the import to an initialized pool, and of one bare connect; asyncio already runs."""
    import asyncio

    async def main() -> None:
        start = time.perf_counter()
        import pqpool

        imported = time.perf_counter()
        manager = pqpool.ConnectionPoolManager()
        await manager.initialize(
            pqpool.PoolConfig(database_url=os.environ["DATABASE_URL"], min_size=2, max_size=10)
        )
        ready = time.perf_counter()
        await manager.shutdown()
        report(import_s=imported - start, ready_s=ready - start, raw_connect_s=raw_connect_seconds())

    asyncio.run(main())


def raw_connect_seconds() -> float:
    """One connect through the libpq that the pool has loaded, fastest of three; 0 if it is linked in."""
    import ctypes
    import re

    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123
        paths = {line.split()[-1] for line in maps if re.search(r"/libpq[-.]\S*$", line)}
    if not paths:
        return 0.0
    libpq = ctypes.CDLL(paths.pop())
    libpq.PQconnectdb.restype = ctypes.c_void_p
    libpq.PQstatus.argtypes = libpq.PQfinish.argtypes = [ctypes.c_void_p]
    url = re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", os.environ["DATABASE_URL"]).encode()
    took = []
    for _ in range(3):
        start = time.perf_counter()
        connection = libpq.PQconnectdb(url)
        end = time.perf_counter()
        connected = libpq.PQstatus(connection) == 0
        libpq.PQfinish(connection)
        if not connected:
            raise RuntimeError("the bare connect failed where the pool's succeeded")
        took.append(end - start)
    return min(took)


def load() -> None:
    """Thirty tasks use a pool without pause. ``healthy`` waits for health, ``finish`` ends everything.

    While requests wait with every connection out, a pool is degraded by its rule: for the look at its health
    the load rests.
    """
    import asyncio
    import collections
    import resource

    import pqpool

    # A crash is to leave its core in the working folder, where it is looked for.
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    done = 0
    errors: collections.Counter[str] = collections.Counter()
    going_on = True
    at_work = asyncio.Event()
    at_work.set()

    async def work(manager: Any) -> None:
        nonlocal done
        while going_on:
            await at_work.wait()
            try:
                async with manager.acquire() as conn:
                    await conn.fetchval("SELECT pg_sleep(0.001)")
                done += 1
            except Exception as error:  # counted by kind, and judged by the parent
                errors[type(error).__name__] += 1
                await asyncio.sleep(0.02)

    async def main() -> None:
        nonlocal going_on
        config = pqpool.PoolConfig(
            database_url=os.environ["DATABASE_URL"], min_size=2, max_size=10, timeout=20.0
        )
        async with pqpool.ConnectionPoolManager(config) as manager:
            tasks = [asyncio.create_task(work(manager)) for _ in range(30)]
            report(ready=True)
            while (command := (await asyncio.to_thread(sys.stdin.readline)).strip()) == "healthy":
                at_work.clear()
                # No event tells of health: asking is how a service learns of it.
                for _ in range(3000):
                    if (await manager.health_check()).status.value == "healthy":
                        break
                    await asyncio.sleep(0.01)
                health = await manager.health_check()
                at_work.set()
                report(done=done, health=health.status.value)
            going_on = False
            ended, pending = await asyncio.wait(tasks, timeout=30)
            seen = manager.get_statistics()
        report(
            command=command,
            done=done,
            errors=errors,
            ended=len(ended),
            pending=len(pending),
            total=seen.total_connections,
            idle=seen.idle_connections,
            active=seen.active_connections,
            leases_out=seen.total_acquisitions - seen.total_releases,
        )

    asyncio.run(main())


SUBJECTS = {subject.__name__: subject for subject in (bare, bare_asyncio, memory, startup, load)}

if __name__ == "__main__":
    SUBJECTS[sys.argv[1]]()
