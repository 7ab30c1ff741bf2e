"""A PostgreSQL server of one's own, in a temporary folder, that leaves nothing behind.

Used by the tests, by ``./dev``, and by ``python -m pqpool validate`` when no database is given. Only the
standard library is needed, so that this file can be loaded before the native module is built.

The methods block (initdb takes about a second); call them in a thread from asyncio. One object belongs to one
thread at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

__all__ = ["StopMode", "ThrowawayServer", "ThrowawayServerError", "find_binaries", "free_port"]

StopMode = Literal["smart", "fast", "immediate"]

# https://www.postgresql.org/docs/current/server-shutdown.html
_STOP_SIGNALS: dict[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# A unix socket's path has at most 107 bytes; ".s.PGSQL.65535" and the folder's own name need about 40.
_LONGEST_PARENT = 60


class ThrowawayServerError(RuntimeError):
    """The server cannot be made, started or asked; the message says what to do about it."""


class ThrowawayServer:
    """A PostgreSQL server in a temporary folder, listening on loopback and on a unix socket.

    PostgreSQL refuses to run as root, so root hands the folder to ``postgres`` or ``nobody`` and starts the
    server as that user. Everybody is trusted unless `hba` says otherwise. Durability is switched off: an
    immediate stop may lose the rows that were committed last.

    The programs are those of the folder that PQPOOL_PG_BINDIR names, else the newest PostgreSQL found.
    Use it as a context manager, or call `start` and `close`. `close` also runs at interpreter exit.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        *,
        port: int | None = None,
        listen_addresses: str = "127.0.0.1",
        max_connections: int = 200,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = (),
        database: str = "postgres",
        superuser: str = "postgres",
    ) -> None:
        """Nothing is created before `start`.

        `settings` are added to postgresql.conf. `hba` are lines of pg_hba.conf that go before the trusting
        ones, e.g. ``"host all alice 127.0.0.1/32 scram-sha-256"``; the superuser on the unix socket is
        always trusted, so `sql` works whatever they say. `database` is created if it is not ``postgres``.
        """
        self.superuser = superuser
        self.database = database
        self._port = port
        self._hba = tuple(hba)
        self._settings = {
            "listen_addresses": listen_addresses,
            "max_connections": str(max_connections),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **(settings or {}),
        }
        self._bindir = Path()
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ThrowawayServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port, the same over all restarts."""
        if self._port is None:
            raise ThrowawayServerError("The server has no port before its first start. Call start().")
        return self._port

    @property
    def socket_dir(self) -> Path:
        """The folder of the unix socket; usable as libpq's ``host``."""
        return self._folder / "socket"

    @property
    def url(self) -> str:
        """The superuser's URL over TCP."""
        return self.url_for(self.superuser)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None or self._process.poll() is not None:
            raise ThrowawayServerError("The server is not running. Call start().")
        return self._process.pid

    def url_for(self, role: str, password: str | None = None, database: str | None = None) -> str:
        """The URL over TCP for a role."""
        secret = "" if password is None else ":" + quote(password, safe="")
        where = quote(database or self.database, safe="")
        return f"postgresql://{quote(role, safe='')}{secret}@{self.host}:{self.port}/{where}"

    def start(self, port: int | None = None, deadline: float = 30.0) -> None:
        """Starts the server and returns when it accepts connections; no effect when it runs.

        The first start makes the data folder and, without a port, picks a free one. Raises
        `ThrowawayServerError` with the end of the server's log when it does not come up.
        """
        if self.running:
            return
        first = self._directory is None
        if first:
            self._create()
        if port is not None:
            self._port = port
        tries = 5 if self._port is None else 1
        for left in reversed(range(tries)):
            if tries > 1:
                self._port = free_port()
            try:
                self._launch(time.monotonic() + deadline)
                break
            except ThrowawayServerError as error:
                # Somebody can take a picked port between the look and the start.
                if left == 0 or "could not bind" not in str(error):
                    raise
        if first and self.database != "postgres":
            self.sql(f'CREATE DATABASE "{self.database}"', database="postgres")

    def stop(self, mode: StopMode = "fast", deadline: float = 30.0) -> None:
        """Stops the server; `immediate` is a crash without a goodbye. No effect when it does not run.

        The data folder stays. Past the deadline the postmaster is killed; its children notice and leave.
        """
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(_STOP_SIGNALS[mode])
            try:
                process.wait(deadline)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stops and starts on the same port with the same data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stops the server at once and removes its folder. Idempotent."""
        atexit.unregister(self.close)
        self.stop("immediate")
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def sql(self, statement: str, database: str | None = None) -> str:
        """Runs SQL as superuser through psql on the unix socket, apart from any pool.

        Returns psql's unaligned output without headers: rows as lines, columns parted by ``|``.
        """
        command = [
            str(self._bindir / "psql"),
            *("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"),
            *("-h", str(self.socket_dir), "-p", str(self.port)),
            *("-U", self.superuser, "-d", database or self.database, "-c", statement),
        ]
        done = subprocess.run(
            command, env=_clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise ThrowawayServerError(f"{statement!r} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def log_text(self) -> str:
        """What the server has logged so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "log").read_text(errors="replace")
        return ""

    @property
    def _folder(self) -> Path:
        if self._directory is None:
            raise ThrowawayServerError("The server has no folder before start() and after close().")
        return self._directory

    def _create(self) -> None:
        self._bindir = find_binaries()
        account = _account_to_run_as()
        directory = Path(tempfile.mkdtemp(prefix="pqpool-server-", dir=_parent_folder()))
        self._directory = directory
        atexit.register(self.close)
        # psql and the clients run as the caller, the server as another user: both must reach the socket.
        directory.chmod(0o755)
        for folder, mode in ((directory / "data", 0o700), (directory / "socket", 0o755)):
            folder.mkdir()
            folder.chmod(mode)
            if account is not None:
                os.chown(folder, account.pw_uid, account.pw_gid)
        options = ["-U", self.superuser, "-A", "trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = self._spawn(["initdb", "-D", str(directory / "data"), *options])
        output, _ = done.communicate()
        if done.returncode != 0:
            words = output.decode(errors="replace").strip()
            self.close()
            raise ThrowawayServerError(f"initdb failed: {words}")
        self._configure(directory / "data")

    def _configure(self, data: Path) -> None:
        settings = {"unix_socket_directories": str(self.socket_dir), **self._settings}
        with (data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        lines = [
            f'local all "{self.superuser}" trust',
            *self._hba,
            "local all all trust",
            "host all all 127.0.0.1/32 trust",
            "host all all ::1/128 trust",
        ]
        (data / "pg_hba.conf").write_text("\n".join(lines) + "\n")

    def _launch(self, deadline: float) -> None:
        log = self._folder / "log"
        seen = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = self._spawn(
                ["postgres", "-D", str(self._folder / "data"), "-p", str(self.port)], output=output
            )
        self._process = process
        while not self._accepts():
            died = process.poll() is not None
            if died or time.monotonic() > deadline:
                self.stop("immediate")
                what = "ended at once" if died else "did not accept connections in time"
                said = log.read_bytes()[seen:].decode(errors="replace").strip()
                raise ThrowawayServerError(f"PostgreSQL on port {self.port} {what}. Its log: {said}")
            time.sleep(0.01)

    def _spawn(self, command: list[str], output: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
        account = _account_to_run_as()
        drop: dict[str, Any] = {}
        if account is not None:
            drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            [str(self._bindir / command[0]), *command[1:]],
            cwd=self._folder,
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C in the terminal is the owner's to handle, not the server's.
            start_new_session=True,
            **drop,
        )

    def _accepts(self) -> bool:
        """Whether a session can begin: the port is open before the server is ready to serve."""
        fields = f"user\0{self.superuser}\0database\0postgres\0\0".encode()
        # Through the unix socket: on the TCP port another server may answer while this one fails to bind it.
        address = str(self.socket_dir / f".s.PGSQL.{self.port}")
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(5.0)
                probe.connect(address)
                probe.sendall(struct.pack("!ii", len(fields) + 8, 196608) + fields + b"X\0\0\0\4")
                # Reading up to the end waits for the backend to be gone, so that no test counts it.
                answer = b"".join(iter(lambda: probe.recv(4096), b""))
        except OSError:
            return False
        # 57P03 is cannot_connect_now; any other answer, also a refusal by pg_hba.conf, is a server at work.
        return bool(answer) and b"C57P03\0" not in answer


def free_port() -> int:
    """A free TCP port on loopback, outside the range that outgoing connections take theirs from.

    Inside it, a client that retries while the server is down can be given the server's own port, which then
    connects to itself and keeps the server from coming back.
    """
    low = 32768
    with contextlib.suppress(OSError, ValueError):
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = [random.randrange(10000, low) for _ in range(50)] if low > 11000 else []
    for port in [*candidates, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ThrowawayServerError("No TCP port is free on 127.0.0.1.")


def find_binaries() -> Path:
    """The folder with initdb and postgres, which distributions keep off the PATH."""
    if named := os.environ.get("PQPOOL_PG_BINDIR"):
        if _has_server(Path(named)):
            return Path(named)
        raise ThrowawayServerError(
            f"PQPOOL_PG_BINDIR is {named!r}, a folder without initdb, postgres and psql. "
            "Suggestion: name one that has them, such as /usr/lib/postgresql/17/bin, or unset it."
        )
    folders = []
    if pg_config := shutil.which("pg_config"):
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        folders.append(Path(done.stdout.strip()))
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(installed, key=lambda path: _version_of(path.parent.name), reverse=True)
    if initdb := shutil.which("initdb"):
        folders.append(Path(initdb).resolve().parent)
    for folder in filter(_has_server, folders):
        return folder
    raise ThrowawayServerError(
        "PostgreSQL's server is not installed: no folder has initdb, postgres and psql. Suggestion: install "
        "the package postgresql (Debian: apt-get install postgresql), or give a database URL."
    )


def _has_server(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("initdb", "postgres", "psql"))


def _version_of(name: str) -> int:
    return int(name) if name.isdigit() else 0


def _account_to_run_as() -> pwd.struct_passwd | None:
    """Whom root hands the server to; None for any other user, who runs it as is."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ThrowawayServerError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as. "
        "Suggestion: create the user postgres, or run this as another user."
    )


def _parent_folder() -> str:
    """The temporary folder, or /tmp where that is too deep for a socket or closed to the server's user."""
    folder = Path(tempfile.gettempdir()).resolve()
    reachable = all(path.stat().st_mode & 0o001 for path in (folder, *folder.parents))
    return str(folder) if reachable and len(str(folder)) <= _LONGEST_PARENT else "/tmp"


def _clean_environment() -> dict[str, str]:
    """The environment without what would steer the server's programs or load a sanitizer into them."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PG") and not name.endswith("SAN_OPTIONS") and name != "LD_PRELOAD"
    }
    return {**kept, "LC_ALL": "C"}
