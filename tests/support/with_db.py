"""Runs a command with a throwaway server and DATABASE_URL set: ``with_db.py COMMAND [ARG…]``."""

from __future__ import annotations

import os
import sys

from running import load_throwaway, run_child, say, unwind_on_signals


def main(command: list[str]) -> int:
    if not command:
        say("with-db needs a command, e.g. ./dev with-db ./dev python script.py")
        return 2
    unwind_on_signals()
    throwaway = load_throwaway()
    try:
        with throwaway.ThrowawayServer() as server:
            say(f"PostgreSQL at {server.url}")
            return run_child(command, {**os.environ, "DATABASE_URL": server.url})
    except throwaway.ThrowawayServerError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
