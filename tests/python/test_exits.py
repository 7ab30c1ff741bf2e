"""A process that ends with a pool open, and one that holds a second interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("imported", [True, False])
def test_a_second_interpreter_is_refused_with_the_cure(isolated: bool, imported: bool) -> None:
    """Isolated, and one that shares the process's lock, as mod_wsgi makes them."""
    program = """
import faulthandler, sys
isolated, imported = "isolated" in sys.argv, "imported" in sys.argv
try:
    import _interpreters as interpreters
    made = interpreters.create("isolated" if isolated else "legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    made = interpreters.create(isolated=isolated)
if imported:
    import pqpool
faulthandler.dump_traceback_later(20.0, exit=True)
interpreters.run_string(made, '''
try:
    import pqpool
except ImportError as error:
    print("refused:", error, flush=True)
''')
interpreters.destroy(made)
import asyncio, pqpool
print("end", flush=True)
"""
    code, output = run_python(program, "isolated" * isolated, "imported" * imported)
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
        active = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        while not await pool.fetchval(active):
            await asyncio.sleep(0.01)
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


def test_a_daemon_that_closed_its_descriptors_uses_the_pool_and_keeps_its_own_files(
    database_url: str, tmp_path: Path
) -> None:
    """The numbers of the parent's sockets name the child's files by then."""
    program = """
import asyncio, os, sys, warnings
from pqpool import ConnectionPoolManager, PoolConfig
pool = ConnectionPoolManager(PoolConfig(sys.argv[1], min_size=3, max_size=4))
loop = asyncio.new_event_loop()
loop.run_until_complete(pool.initialize())
async def hold():
    return await pool.acquire()
held = loop.run_until_complete(hold())
warnings.simplefilter("ignore")  # of a fork() beside threads, from 3.12 on
child = os.fork()
if child == 0:
    os.closerange(3, 256)
    files = [open(f"{sys.argv[2]}/{n}", "w+") for n in range(40)]
    print(asyncio.run(pool.fetchval("SELECT 42")), flush=True)
    asyncio.run(pool.shutdown(1.0))
    for n, file in enumerate(files):
        file.write(str(n))
        file.close()
        assert open(f"{sys.argv[2]}/{n}").read() == str(n), n
    print("kept", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(loop.run_until_complete(held.fetchval("SELECT 43")), flush=True)
loop.run_until_complete(pool.release(held))
loop.run_until_complete(pool.shutdown(1.0))
loop.close()
"""
    code, output = run_python(program, database_url, str(tmp_path))
    assert (code, output) == (0, "42\nkept\n43\n"), output
