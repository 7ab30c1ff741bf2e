"""A `docker` for scripts that stop and start their PostgreSQL container: ``docker_stand_in.py SOCKET ARG…``.

There is no container. Whatever name the script uses, it means the one server that ./dev scenario started; the
request goes to the scenario's socket, and the answer looks like docker's.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys

CONTAINER_ID = "5f0d1c3a9b7e"
_DEFAULT_NAME = "postgres"
_KNOWN = "ps, stop, start, restart, kill, inspect, logs, version"


def ask(control: str, order: str) -> str:
    """Sends one order (stop, kill, start, restart, status, logs); raises OSError with the refusal."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(control)
        line.sendall(order.encode())
        line.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: line.recv(65536), b"")).decode()
    outcome, _, text = answer.partition("\n")
    if outcome != "ok":
        raise OSError(text or "the scenario gave no answer")
    return text


def main(control: str, arguments: list[str]) -> int:
    if arguments[:1] == ["container"]:
        arguments = ["ps" if word == "ls" else word for word in arguments[1:]]
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        if command in ("version", "--version", "-v", "info"):
            print("Docker version 0.0.0, the stand-in of ./dev scenario")
        elif command == "ps":
            _ps(control, rest)
        elif command in ("stop", "start", "restart", "kill"):
            _drive(control, command, rest)
        elif command == "inspect":
            _inspect(control, rest)
        elif command == "logs":
            print(ask(control, "logs"))
        else:
            raise OSError(f"'{command}' is not a command of the stand-in, which knows {_KNOWN}")
    except OSError as error:
        print(f"Error response from daemon: {error}", file=sys.stderr)
        return 1
    return 0


def _ps(control: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="docker ps")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-a", "--all", action="store_true")
    parser.add_argument("--no-trunc", action="store_true")
    parser.add_argument("-f", "--filter", action="append", default=[])
    parser.add_argument("--format")
    options = parser.parse_args(arguments)
    filters = dict(text.split("=", 1) for text in options.filter if "=" in text)
    name = filters.get("name", _DEFAULT_NAME).strip("^$/")
    running = ask(control, "status") == "running"
    wanted = filters.get("status")
    shown = running or options.all or wanted is not None
    if wanted is not None:
        shown = wanted == ("running" if running else "exited")
    status = "Up" if running else "Exited (0)"
    if options.quiet:
        lines = [CONTAINER_ID] if shown else []
    elif options.format:
        lines = [_fill(options.format, ID=CONTAINER_ID, Names=name, Status=status)] if shown else []
    else:
        lines = ["CONTAINER ID   IMAGE      STATUS       NAMES"]
        lines += [f"{CONTAINER_ID}   postgres   {status:<12} {name}"] if shown else []
    for line in lines:
        print(line)


def _drive(control: str, command: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"docker {command}")
    parser.add_argument("-t", "--time", "--timeout")
    parser.add_argument("-s", "--signal")
    parser.add_argument("containers", nargs="+")
    for container in parser.parse_args(arguments).containers:
        ask(control, command)
        print(container)


def _inspect(control: str, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="docker inspect")
    parser.add_argument("-f", "--format")
    parser.add_argument("containers", nargs="+")
    options = parser.parse_args(arguments)
    running = ask(control, "status") == "running"
    status = "running" if running else "exited"
    for container in options.containers:
        if options.format:
            print(
                _fill(
                    options.format,
                    **{
                        "Id": CONTAINER_ID,
                        "Name": f"/{container}",
                        "State.Status": status,
                        "State.Running": str(running).lower(),
                        "State.Health.Status": "healthy" if running else "unhealthy",
                    },
                )
            )
        else:
            state = {"Status": status, "Running": running}
            print(json.dumps([{"Id": CONTAINER_ID, "Name": f"/{container}", "State": state}], indent=4))


def _fill(template: str, **values: str) -> str:
    for name, value in values.items():
        template = template.replace(f"{{{{.{name}}}}}", value)
    if "{{" in template:
        raise OSError(f"the stand-in cannot fill the format {template!r}")
    return template


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
