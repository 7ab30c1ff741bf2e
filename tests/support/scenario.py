"""Runs a script that expects a PostgreSQL container, unchanged: ``scenario.py FILE.py [ARG…]``.

A real server comes up on localhost:5432 with the roles and databases that the script's URLs name. A stand-in
for `docker`, first on the PATH, stops and starts exactly that server. The script's output and exit code are
passed through.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from running import ROOT, load_throwaway, run_child, say, unwind_on_signals
from script_urls import Account, accounts_in

_PORT = 5432
throwaway = load_throwaway()


def main(arguments: list[str]) -> int:
    if not arguments:
        say("scenario needs a script, e.g. ./dev scenario check.py")
        return 2
    unwind_on_signals()
    script = Path(arguments[0])
    try:
        accounts = accounts_in(script.read_text(), _PORT)
        _require_free_port()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(_server_for(accounts))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqpool-docker-")))
            stack.enter_context(_Control(server, folder / "control"))
            _write_stand_in(folder)
            _write_start(folder)
            environment = _environment(folder, server, accounts)
            say(f"PostgreSQL on localhost:{_PORT}; docker is a stand-in; running {script}")
            code = run_child([sys.executable, *arguments], environment)
            say(f"{script} ended with exit code {code}")
            return code
    except (OSError, SyntaxError, throwaway.ThrowawayServerError) as error:
        say(f"the scenario cannot run: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _require_free_port() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.settimeout(1.0)
                taken = probe.connect_ex((host, _PORT)) == 0
        except OSError:
            continue  # a machine without IPv6
        if taken:
            raise throwaway.ThrowawayServerError(
                f"port {_PORT} on {host} is taken, and the script needs a server of its own there. "
                "Suggestion: stop the PostgreSQL that is running (Debian: pg_lsclusters names it)."
            )


def _server_for(accounts: list[Account]) -> Any:
    hba = [
        f"host all {_quoted(account.role)} {network} {_method(account)}"
        for account in _by_role(accounts).values()
        for network in ("127.0.0.1/32", "::1/128")
    ]
    server = throwaway.ThrowawayServer(
        port=_PORT, listen_addresses="localhost", superuser="pqpool_scenario", hba=hba
    )
    server.start()
    try:
        for account in _by_role(accounts).values():
            # A superuser, because the container image makes its role one.
            secret = "" if account.password is None else f" PASSWORD {_literal(account.password)}"
            server.sql(f"CREATE ROLE {_quoted(account.role)} LOGIN SUPERUSER{secret}", database="postgres")
        existing = {"postgres", "template0", "template1"}
        for account in accounts:
            if account.database not in existing:
                existing.add(account.database)
                server.sql(
                    f"CREATE DATABASE {_quoted(account.database)} OWNER {_quoted(account.role)}",
                    database="postgres",
                )
            say(f"role {account.role}, database {account.database}")
    except BaseException:
        server.close()
        raise
    return server


def _by_role(accounts: list[Account]) -> dict[str, Account]:
    """The first account of each role: a later one with another password is meant to be refused."""
    roles: dict[str, Account] = {}
    for account in accounts:
        roles.setdefault(account.role, account)
    return roles


def _method(account: Account) -> str:
    return "trust" if account.password is None else "scram-sha-256"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _write_stand_in(folder: Path) -> None:
    stand_in = Path(__file__).with_name("docker_stand_in.py")
    words = [sys.executable, "-I", str(stand_in), str(folder / "control")]
    script = folder / "docker"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    script.chmod(0o755)


def _write_start(folder: Path) -> None:
    """Python runs this before the script: the aliases are there, whatever the script puts on the path."""
    (folder / "sitecustomize.py").write_text("import src.connection_pool, connection_pool\n")


def _environment(folder: Path, server: Any, accounts: list[Account]) -> dict[str, str]:
    environment = dict(os.environ)
    environment["PATH"] = f"{folder}{os.pathsep}{environment.get('PATH', os.defpath)}"
    paths = [str(folder), str(ROOT / "compat"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # A script that names its URL must get that one, not one of an enclosing with-db.
    environment.pop("DATABASE_URL", None)
    if not accounts:
        environment["DATABASE_URL"] = server.url
    return environment


class _Control:
    """Carries out the stand-in's orders, one at a time, in a thread of its own."""

    def __init__(self, server: Any, path: Path) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="docker-stand-in", daemon=True)

    def __enter__(self) -> _Control:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Joined before the server is closed, so that an order under way cannot start it again.
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            with line, contextlib.suppress(OSError):
                self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        order = b"".join(iter(lambda: line.recv(1024), b"")).decode()
        try:
            answer = "ok\n" + self._carry_out(order)
        except Exception as error:
            answer = f"error\n{error}"
        line.sendall(answer.encode())

    def _carry_out(self, order: str) -> str:
        server = self._server
        if order == "status":
            return "running" if server.running else "exited"
        if order == "logs":
            return str(server.log_text())
        say(f"docker {order}")
        if order in ("stop", "restart"):
            # As docker does: the image asks for a fast shutdown; what is left after ten seconds is killed.
            server.stop("fast", deadline=10.0)
        if order == "kill":
            server.stop("immediate")
        if order in ("start", "restart"):
            server.start()
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
