"""A PgBouncer in front of a throwaway server, in a temporary folder, for one test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

from pqpool.throwaway import ThrowawayServer, free_port

__all__ = ["PgBouncer"]

_START_LIMIT = 10.0


def _program() -> str:
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not os.access(program, os.X_OK):
        raise FileNotFoundError("pgbouncer is missing. Install Debian's package of that name.")
    return program


class PgBouncer:
    """`with PgBouncer(server, "transaction", server_connections=4) as bouncer: bouncer.url`."""

    def __init__(
        self, server: ThrowawayServer, mode: str, server_connections: int, **settings: str | int
    ) -> None:
        program = _program()
        self.port = free_port()
        self.server_port = server.port  # another one leads it through a proxy
        self._program = program
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, str | int] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": server_connections,
            "max_client_conn": 200,
            **settings,
        }

    @property
    def url(self) -> str:
        parts = urlsplit(self._server.url)
        return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{self.port}"))

    def start(self) -> None:
        """Start it, again after a stop on the same port; blocks until it takes connections."""
        lines = [
            "[databases]",
            f"* = host={self._server.host} port={self.server_port} user={self._server.superuser}",
        ]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in self._settings.items())]
        self._folder = Path(tempfile.mkdtemp(prefix="pqpool-pgbouncer-"))
        (self._folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        # PgBouncer refuses to run as root, too.
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if user:
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._process = subprocess.Popen(
            [self._program, "-q", str(self._folder / "pgbouncer.ini")],
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, with every session through it."""
        if self._process is not None:
            # SIGTERM lets the clients end by themselves from 1.23 on.
            self._process.kill()
            self._process.wait()
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PgBouncer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
