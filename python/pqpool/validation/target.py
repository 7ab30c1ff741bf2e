"""The database under validation, and the pools opened on it.

Either a server that this run has started, which may then be stopped and started again, or a database given by
its URL, which is only ever connected to.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from .. import ConnectionPoolManager, PoolConfig
from .._redact import MASK, mask_passwords
from ..throwaway import StopMode, ThrowawayServer
from .measure import wait_until

ROLE = "pqpool_validation"

# Every documented field is given, so that no .env file of the caller's changes what is measured.
_DOCUMENTED: dict[str, Any] = {
    "min_size": 2,
    "max_size": 10,
    "max_queries": 50_000,
    "max_idle_time": 60.0,
    "timeout": 30.0,
    "command_timeout": 60.0,
    "max_connection_lifetime": 3600.0,
    "leak_detection_timeout": 30.0,
    "enable_leak_detection": True,
}


class Target:
    """Opens pools on the database, counts their sessions on the server, stops and starts it if it may."""

    def __init__(self, url: str, server: ThrowawayServer | None = None) -> None:
        self.url = url
        self.server = server
        self._password = password_of(url)
        self._names = (f"pqpool-validation-{os.getpid()}-{n}" for n in itertools.count(1))

    def config(self, name: str | None = None, **options: Any) -> PoolConfig:
        """The documents' defaults with ``options`` over them; the server shows the sessions as ``name``."""
        url = with_parameters(
            options.pop("database_url", self.url), application_name=name or self.session_name()
        )
        return PoolConfig(**{**_DOCUMENTED, **options, "database_url": url})

    def session_name(self) -> str:
        """A name for the sessions of one pool that no other pool of this run has."""
        return next(self._names)

    @contextlib.asynccontextmanager
    async def pool(self, name: str | None = None, **options: Any) -> AsyncIterator[ConnectionPoolManager]:
        """An initialized pool, shut down at the end whatever happens."""
        manager = ConnectionPoolManager()
        await manager.initialize(self.config(name, **options))
        try:
            yield manager
        finally:
            await manager.shutdown(timeout=5.0)

    def observer(self) -> contextlib.AbstractAsyncContextManager[ConnectionPoolManager]:
        """A pool of one connection that looks on while another pool is measured."""
        return self.pool(min_size=1, max_size=1, enable_leak_detection=False)

    async def sessions(self, observer: ConnectionPoolManager, name: str) -> int:
        """How many sessions the server holds under this name."""
        async with observer.acquire() as conn:
            count = await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name
            )
        return int(count)

    async def sessions_settle_at(
        self, observer: ConnectionPoolManager, name: str, expected: int, timeout: float = 5.0
    ) -> int:
        """The count of sessions, given time to become ``expected``: the server drops a closed one later."""
        seen = -1

        async def as_expected() -> bool:
            nonlocal seen
            seen = await self.sessions(observer, name)
            return seen == expected

        await wait_until(as_expected, timeout, 0.02)
        return seen

    async def stop_server(self, mode: StopMode = "fast") -> None:
        """Stops the server this run has started; `immediate` is a crash."""
        assert self.server is not None
        await asyncio.to_thread(self.server.stop, mode)

    async def start_server(self) -> None:
        """Starts it again and returns when it accepts connections."""
        assert self.server is not None
        await asyncio.to_thread(self.server.start)

    async def restore(self) -> None:
        """Undoes what a check that broke off may have left: a stopped server."""
        if self.server is not None and not self.server.running:
            await self.start_server()

    async def describe(self) -> str:
        """Which server this is, for the report; raises the pool's own error if it cannot be reached."""
        async with self.observer() as manager, manager.acquire() as conn:
            version = await conn.fetchval("SHOW server_version")
            database = await conn.fetchval("SELECT current_database()")
        whose = "started for this run" if self.server is not None else "given by --url"
        return f"PostgreSQL {version}, database {database}, {whose}"

    def url_through(self, host: str, port: int) -> str:
        """The same database by way of a proxy."""
        return with_parameters(self.url, host=host, port=str(port))

    def holds_password(self, text: str) -> bool:
        return self._password is not None and self._password in text

    def scrub(self, text: str) -> str:
        """The text without any password, whoever wrote it there."""
        if self._password is not None:
            text = text.replace(self._password, MASK)
        return mask_passwords(text)


@contextlib.contextmanager
def own_server() -> Iterator[Target]:
    """A server of this run's own, entered with a role that has a password, as a service would."""
    password = secrets.token_urlsafe(12)
    with ThrowawayServer(hba=(f"host all {ROLE} 127.0.0.1/32 scram-sha-256",)) as server:
        server.sql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
        yield Target(server.url_for(ROLE, password), server)


def with_parameters(url: str, **parameters: str) -> str:
    """The URL or keyword string with libpq parameters added; of one given twice, libpq takes the last."""
    if "://" not in url:
        return " ".join([url, *(f"{name}={value}" for name, value in parameters.items())])
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters, quote_via=quote)}"


def password_of(url: str) -> str | None:
    """The password a URL or a keyword string holds, to keep it out of everything that is written."""
    if "://" in url:
        try:
            found = urlsplit(url).password
        except ValueError:
            found = None
        if found:
            return unquote(found)
    keyword = re.search(r"(?:^|[?&\s])password\s*=\s*(?:'((?:[^'\\]|\\.)*)'|([^&\s]*))", url)
    return None if keyword is None else keyword[1] or keyword[2] or None
