"""Pools for the integration tests, and what must hold of every pool afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from pqpool import ConnectionPoolError, ConnectionPoolManager, PoolConfig
from pqpool.throwaway import ThrowawayServer
from support.wait import wait_until_async

__all__ = ["assert_sound", "named", "open_pool", "sessions_of"]

SMALL: dict[str, Any] = {"min_size": 1, "max_size": 1, "timeout": 5.0, "command_timeout": 10.0}


def named(url: str, name: str) -> str:
    """The URL with an application_name, by which the server can be asked for this pool's sessions."""
    return f"{url}{'&' if '?' in url else '?'}application_name={name}"


@contextlib.asynccontextmanager
async def open_pool(url: str, **settings: Any) -> AsyncIterator[ConnectionPoolManager]:
    """A pool, of one connection unless the settings say otherwise; shut down at the end."""
    manager = ConnectionPoolManager()
    await manager.initialize(PoolConfig(url, **{**SMALL, **settings}))
    try:
        yield manager
    finally:
        await manager.shutdown(timeout=2.0)


def sessions_of(server: ThrowawayServer, name: str) -> list[int]:
    """The process ids of the server's sessions with this application_name."""
    found = server.sql(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{name}' ORDER BY pid")
    return [int(line) for line in found.split()]


async def assert_sound(manager: ConnectionPoolManager, deadline: float = 10.0) -> None:
    """Nothing is out, the counts agree, and every connection that the pool counts answers for itself.

    Somebody asks for a connection first: a pool whose sessions ended early waits before it opens another.
    """
    with contextlib.suppress(ConnectionPoolError):
        await manager.fetchval("SELECT 1")

    def quiet() -> bool:
        s = manager.get_statistics()
        pending = s.opening_connections + s.cleaning_connections
        return s.active_connections == s.waiting_requests == pending == 0 and s.total_connections > 0

    await wait_until_async(quiet, deadline)
    before = manager.get_statistics()
    assert before.total_connections == before.idle_connections + before.active_connections
    assert before.total_acquisitions - before.total_releases == before.leases_out == 0
    total = before.total_connections
    connections = await asyncio.gather(*(manager.acquire() for _ in range(total)))
    try:
        answers = [await one.fetchval("SELECT $1::int", n) for n, one in enumerate(connections)]
        assert answers == list(range(total))
        backends = {await one.fetchval("SELECT pg_backend_pid()") for one in connections}
        assert len(backends) == total
        held = manager.get_statistics()
        assert (held.active_connections, held.leases_out) == (total, total)
        assert held.total_connections == held.idle_connections + held.active_connections
    finally:
        for one in connections:
            await manager.release(one)
