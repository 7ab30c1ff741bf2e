"""A process that ends with a pool open, and one that holds a second interpreter."""

from __future__ import annotations

import subprocess
import sys

from pqpool.throwaway import ThrowawayServer
from support.pools import named, sessions_of
from support.wait import wait_until


def run_python(program: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60.0,
    )
    return done.returncode, done.stdout


def test_a_second_interpreter_is_refused_with_the_cure() -> None:
    program = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import faulthandler
import pqpool
faulthandler.dump_traceback_later(20.0, exit=True)
made = interpreters.create()
interpreters.run_string(made, '''
try:
    import pqpool
except ImportError as error:
    print("refused:", error, flush=True)
''')
interpreters.destroy(made)
import asyncio
print("end", flush=True)
"""
    code, output = run_python(program)
    assert code == 0, output
    assert "refused: pqpool cannot be imported in a second interpreter" in output
    assert "mod_wsgi" in output
    assert output.rstrip().endswith("end")


def test_exits_with_a_pool_open_are_quiet(server: ThrowawayServer, database_url: str) -> None:
    """Never shut down, a connection in a global, a statement under way, a loop that was never closed."""
    program = """
import asyncio, sys
from pqpool import ConnectionPoolManager, PoolConfig
pool = ConnectionPoolManager(PoolConfig(sys.argv[1], min_size=2, max_size=3))
async def main():
    global held, task
    await pool.initialize()
    held = await pool.acquire()
    if sys.argv[2] == "statement":
        task = asyncio.create_task(held.fetchval("SELECT pg_sleep(20)"))
        await asyncio.sleep(0.05)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
if sys.argv[2] == "closed":
    loop.close()
print("end", flush=True)
"""
    for what in ("lease", "closed", "statement"):
        code, output = run_python(program, named(database_url, "exits"), what)
        assert (code, output) == (0, "end\n") or what == "statement", output
        assert code == 0 and output.startswith("end"), output
    wait_until(lambda: not sessions_of(server, "exits"))
