"""What a proof runs on: a server, and the proxy, TLS and PgBouncer in front of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator

from pqpool.throwaway import ThrowawayServer, ThrowawayServerError, find_binaries
from proofs.c_pool import open_c_pool
from proofs.ways import SCHEMA
from support.certificate import Certificate
from support.fault_proxy import FaultProxy
from support.pgbouncer import PgBouncer
from support.pools import named, open_pool
from support.wait import wait_until

__all__ = ["MODES", "Listener", "Route", "Stand"]

APPLICATION = "proof"
_ELSEWHERE = "elsewhere"
_BY_C = "c-"

MODES = {
    "plain": "proxy, server",
    "tls": "proxy that passes TLS on, server",
    "tls-ended": "proxy that ends TLS and closes without close_notify, server",
    "tls-goodbye": "proxy that ends TLS and says close_notify when it closes, server",
    "bouncer": "proxy, PgBouncer (transaction mode), server",
    "bouncer-session": "proxy, PgBouncer (session mode), server",
    "behind-bouncer": "PgBouncer (transaction mode), proxy, server",
    "c-…": "the same by the C interface, in threads",
}


class Listener:
    """Counts the notifications of a channel, on a wire that shares nothing with what it judges."""

    def __init__(self, server: ThrowawayServer, channel: str) -> None:
        self._line = socket.create_connection((server.host, server.port), timeout=10.0)
        fields = f"user\0{server.superuser}\0database\0{server.database}\0\0".encode()
        self._line.sendall(struct.pack("!ii", len(fields) + 8, 196608) + fields)
        self._counts: dict[int, int] = {}
        self._to_ready()
        self._ask(f"LISTEN {channel}")

    def counts(self) -> dict[int, int]:
        """All up to now: the server sends what is committed before it answers."""
        self._ask("SELECT 1")
        return dict(self._counts)

    def close(self) -> None:
        self._line.close()

    def _ask(self, text: str) -> None:
        body = text.encode() + b"\0"
        self._line.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        self._to_ready()

    def _to_ready(self) -> None:
        kind = b""
        while kind != b"Z":
            kind = self._read(1)
            body = self._read(struct.unpack("!i", self._read(4))[0] - 4)
            if kind == b"E":
                raise ConnectionError(f"the listener was refused: {body!r}")
            if kind == b"A":
                payload = int(body[4:].split(b"\0")[1])
                self._counts[payload] = self._counts.get(payload, 0) + 1

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._line.recv(size - len(data))
            if not more:
                raise ConnectionError("the listener lost its session")
            data += more
        return data


def _is_built_with_tls() -> bool:
    done = subprocess.run(
        [find_binaries() / "pg_config", "--configure"], capture_output=True, text=True, check=True
    )
    return "ssl" in done.stdout


class Route:
    """One mode: the proxy in its place, and the URL that a pool uses."""

    def __init__(self, mode: str, proxy: FaultProxy, url: str, bouncer: PgBouncer | None = None) -> None:
        self.mode = mode
        self.opener = open_pool
        self.proxy = proxy
        self.bouncer = bouncer
        self.url = named(url, APPLICATION)


class Stand:
    """The server with the tables of the proofs. `route(mode)` gives a way to it."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self.certificate = Certificate()
        self.has_tls = _is_built_with_tls()
        tls = {
            "ssl": "on",
            "ssl_cert_file": str(self.certificate.certificate),
            "ssl_key_file": str(self.certificate.key),
        }
        self.server = ThrowawayServer(
            max_connections=300, settings={**(tls if self.has_tls else {}), **(settings or {})}
        )
        self.has_dblink = False
        self._listener: Listener | None = None

    def __enter__(self) -> Stand:
        try:
            self.server.start()
            self.server.sql(SCHEMA)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.server.close()
        self.certificate.close()

    @contextlib.contextmanager
    def route(self, mode: str, **bouncer: str | int) -> Iterator[Route]:
        """`c-` in front of a mode: by the C interface."""
        if mode.startswith(_BY_C):
            with self.route(mode.removeprefix(_BY_C), **bouncer) as route:
                route.mode = mode
                route.opener = open_c_pool
                yield route
            return
        server = self.server
        if mode == "tls" and not self.has_tls:
            raise ThrowawayServerError(
                "this PostgreSQL was built without TLS. Suggestion: name another by PQPOOL_PG_BINDIR"
            )
        with contextlib.ExitStack() as stack:
            if mode.startswith("bouncer"):
                kind = "session" if mode == "bouncer-session" else "transaction"
                size = 60 if kind == "session" else 6
                pooler = stack.enter_context(PgBouncer(server, kind, size, **bouncer))
                proxy = stack.enter_context(FaultProxy("127.0.0.1", pooler.port))
                yield Route(mode, proxy, proxy.url(pooler.url), pooler)
                return
            ended = mode in ("tls-ended", "tls-goodbye")
            proxy = stack.enter_context(
                FaultProxy(
                    server.host,
                    server.port,
                    tls_context=self.certificate.context() if ended else None,
                    says_goodbye=mode == "tls-goodbye",
                )
            )
            url = proxy.url(server.url)
            if mode == "behind-bouncer":
                behind = PgBouncer(server, "transaction", 6, server_login_retry=0, **bouncer)
                behind.server_port = proxy.port
                yield Route(mode, proxy, stack.enter_context(behind).url, behind)
                return
            yield Route(mode, proxy, f"{url}?sslmode={'disable' if mode == 'plain' else 'require'}")

    def make_sequences(self, count: int) -> None:
        """s_1, s_2, … and so on."""
        self.server.sql(
            f"DO $$ BEGIN FOR i IN 1..{count} LOOP EXECUTE 'CREATE SEQUENCE s_' || i; END LOOP; END $$"
        )

    def prepare_outside(self) -> None:
        """A listener, and a second database where dblink is at hand."""
        self._listener = Listener(self.server, "effects")
        with contextlib.suppress(ThrowawayServerError):
            self.server.sql("CREATE EXTENSION dblink")
            self.has_dblink = True
        if not self.has_dblink:
            return
        self.server.sql(f"CREATE DATABASE {_ELSEWHERE}")
        self.server.sql("CREATE TABLE effects (number bigint)", _ELSEWHERE)
        server = self.server
        where = f"dbname={_ELSEWHERE} host={server.socket_dir} port={server.port} user={server.superuser}"
        self.server.sql(
            f"CREATE FUNCTION where_else() RETURNS text LANGUAGE sql AS $$SELECT '{where}'$$;"
            "CREATE FUNCTION add_elsewhere(number bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM dblink_exec(where_else(), 'INSERT INTO effects VALUES (' || number || ')'); "
            "RETURN number; END $$"
        )

    def settle(self) -> None:
        """Until no session executes anything: what was told as unknown has then happened or never will."""
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' "
            "AND pid <> pg_backend_pid() AND state <> 'idle' AND usename IS NOT NULL"
        )
        wait_until(lambda: self.server.sql(busy) == "0", 30.0, 0.05)

    def effects(self) -> dict[int, int]:
        """How often each number's effect is there, of all ways."""
        self.settle()
        found = [
            _counted(self.server.sql("SELECT number, count(*) FROM effects GROUP BY 1")),
            _counted(
                self.server.sql(
                    "SELECT substr(sequencename, 3), last_value FROM pg_sequences WHERE last_value > 0"
                )
            ),
        ]
        if self._listener is not None:
            found.append(self._listener.counts())
        if self.has_dblink:
            found.append(
                _counted(self.server.sql("SELECT number, count(*) FROM effects GROUP BY 1", _ELSEWHERE))
            )
        total: dict[int, int] = {}
        for one in found:
            for number, times in one.items():
                total[number] = total.get(number, 0) + times
        return total

    def forget_effects(self) -> None:
        self.server.sql("TRUNCATE effects")


def _counted(output: str) -> dict[int, int]:
    return {int(number): int(times) for number, times in (line.split("|") for line in output.split())}
