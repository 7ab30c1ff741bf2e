"""SC-010: every documented event is provoked on real pools, then looked for in the log files."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from .. import ConnectionPoolError
from ..pool_logging import add_log_file, get_pool_logger
from .events import EVENTS, Log, Origin, malformation, shortcoming
from .measure import wait_until
from .registry import Probe
from .target import Target


async def log_messages(probe: Probe) -> None:
    target = probe.target
    wanted = [event for event in EVENTS if target.server is not None or not event.own_server]
    with tempfile.TemporaryDirectory(prefix="pqpool-log-") as folder:
        log = Log(Path(folder))
        with logger_file(log.logger_file):
            await provoke(probe, log)
            if target.server is not None:
                await provoke_failed_validation(target, log)
            await appears(log, *(event.name for event in wanted))
        lines = log.lines()
        for event in wanted:
            probe.equal(event.name, shortcoming(event, log), "found")
        probe.equal("the leak's stack names its place", leak_names(log, provoke.__name__), "yes")
    wrong = [f"{problem}: {line[:200]}" for line in lines if (problem := malformation(line))]
    probe.equal("malformed lines", wrong[0] if wrong else 0, 0)
    probe.equal("lines with the password", sum(target.holds_password(line) for line in lines), 0)
    probe.note("lines", len(lines))
    if left_out := [event.name for event in EVENTS if event not in wanted]:
        probe.leave_out(f"not provoked on a server that must not be stopped: {', '.join(left_out)}")


async def provoke(probe: Probe, log: Log) -> None:
    """Makes one pool do everything that it must log, and shuts it down with a lease still out."""
    target = probe.target
    name = target.session_name()
    options = {"max_queries": 1000, "leak_detection_timeout": 1.0, **logged(log, "pool")}
    async with target.observer() as observer, target.pool(name, **options) as manager:
        probe.say("a lease, a leak, a recycled connection")
        async with manager.acquire() as conn:
            await conn.fetchval("SELECT 1")
            await appears(log, "leak")
        async with manager.acquire() as conn:
            for _ in range(1001):
                await conn.fetchval("SELECT 1")
        await appears(log, "recycled")

        probe.say("lost connections")
        async with observer.acquire() as conn:
            await conn.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", name
            )
        await appears(log, "lost")

        if target.server is not None:
            probe.say("an outage")
            await target.stop_server("immediate")
            await appears(log, "reconnection attempt", timeout=10)
            await target.start_server()
            await appears(log, "recovered", timeout=30)

        probe.say("a shutdown by force")
        held = await manager.acquire()  # a lease that nobody refers to would be given back
        await manager.shutdown(timeout=0.2)
        await manager.release(held)


async def provoke_failed_validation(target: Target, log: Log) -> None:
    """A connection that breaks under its validation, at a moment when no hang-up could have told before."""
    assert target.server is not None
    async with CuttableProxy(target.server.host, target.server.port).listening() as proxy:
        url = target.url_through("127.0.0.1", proxy.port)
        async with target.pool(database_url=url, **logged(log, "validation")) as manager:
            # Replaced silently, or reported to the caller: both are right. Silence in the log is not.
            with contextlib.suppress(ConnectionPoolError):
                async with manager.acquire() as conn:
                    proxy.cut_at_next_byte = True
                    await conn.fetchval("SELECT 1")
            await appears(log, "validation failed")


async def appears(log: Log, *events: str, timeout: float = 5.0) -> None:
    """Waits for the events to stand in the log; what did not come is told by the judging, not here."""
    await wait_until(lambda: log.has(*events), timeout, 0.1)


def leak_names(log: Log, function: str) -> str:
    stacks = [entry["context"].get("stack", "") for entry in log.entries(Origin.LOGGER)]
    return "yes" if any(f"in {function}" in stack for stack in stacks) else "no"


@contextlib.contextmanager
def logger_file(path: Path) -> Iterator[None]:
    """All that reaches the logger ``pqpool``, in a file beside the ones that the pools write themselves."""
    logger = get_pool_logger()
    level = logger.level
    handler = add_log_file(path, "debug")
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def logged(log: Log, name: str) -> dict[str, Any]:
    return {"log_file": str(log.folder / f"{name}.log"), "log_level": "debug"}


class CuttableProxy:
    """Passes bytes on to the server until told to cut: then the next client that writes is hung up on."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.port = 0
        self.cut_at_next_byte = False
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[CuttableProxy]:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._serve(client, to_client)))

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self._upstream)
        back = asyncio.create_task(self._pass_on(server, to_client))
        try:
            while data := await client.read(65536):
                if self.cut_at_next_byte:
                    self.cut_at_next_byte = False
                    break
                to_server.write(data)
                await to_server.drain()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            to_server.close()
            to_client.close()

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()
