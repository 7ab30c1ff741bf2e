"""The C interface, blocking: statements against pgbench, and the bare cost of acquire and release.

    ./dev with-db ./dev python bench/c_pools.py [--rounds 5] [--seconds 2] [--json FILE] [--strict]

Each round runs, one after another: pgbench with 10 clients in 10 threads, protocol ``prepared``, script
``SELECT 1``; blocking_c.c with 10 threads on 10 connections, one ``SELECT 1`` per lease, at the defaults (so
every lease is validated) and with validation off; and blocking_c.c without statements, in 1 thread and in 8.
Everything is bounded by ``--seconds``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

import harness

CLIENTS = 10
BUSY_THREADS = 8
ROOT = harness.HERE.parent


class Programs:
    """pgbench and the compiled blocking_c.c, each giving one figure a run."""

    def __init__(self, url: str, folder: Path, library: Path) -> None:
        self._environment = {**os.environ, "DATABASE_URL": url}
        self._url = url
        self._pgbench = shutil.which("pgbench")
        if self._pgbench is None:
            harness.stop("pgbench is not installed. It comes with the package postgresql.")
        self._script = folder / "select.sql"
        self._script.write_text("SELECT 1;\n")
        self._program = folder / "blocking_c"
        self._compile(library)

    def _compile(self, library: Path) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        found = sorted(library.glob("libpqpool.so*"))
        if compiler is None or not found:
            harness.stop(f"A C compiler and libpqpool.so in {library} are needed. Run ./dev build first.")
        command = [compiler, "-O2", "-std=c11", "-Wall", "-I", str(ROOT / "capi" / "include")]
        command += [str(harness.HERE / "blocking_c.c"), "-o", str(self._program), str(found[0])]
        subprocess.run([*command, "-pthread", f"-Wl,-rpath,{library.resolve()}"], check=True)

    def _run(self, command: list[str], seconds: float) -> str:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=seconds + 60
        )
        if done.returncode != 0:
            harness.stop(f"{command[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def pgbench(self, seconds: float) -> float:
        """Statements per second, without the time it takes to connect."""
        command = [str(self._pgbench), "-n", "-M", "prepared", "-f", str(self._script)]
        command += ["-c", str(CLIENTS), "-j", str(CLIENTS), "-T", str(max(1, round(seconds)))]
        output = self._run([*command, self._url], seconds)
        found = re.search(r"^tps = ([\d.]+) \(without initial connection time\)", output, re.MULTILINE)
        if found is None:
            harness.stop(f"pgbench printed no rate: {output}")
        return float(found[1])

    def blocking(self, mode: str, threads: int, seconds: float, validation: str) -> float:
        """``statements``: statements per second. ``acquire``: nanoseconds per acquire and release."""
        output = self._run([str(self._program), mode, str(threads), str(seconds), validation], seconds)
        return float(json.loads(output)["value"])


def measure(programs: Programs, rounds: int, seconds: float) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        figures["pgbench"].append(programs.pgbench(seconds))
        figures["always"].append(programs.blocking("statements", CLIENTS, seconds, "always"))
        figures["never"].append(programs.blocking("statements", CLIENTS, seconds, "never"))
        figures["alone"].append(programs.blocking("acquire", 1, seconds, "always"))
        figures["busy"].append(programs.blocking("acquire", BUSY_THREADS, seconds, "always"))
    return figures


def print_figures(figures: dict[str, list[float]]) -> None:
    print(f"\n{CLIENTS} connections, {CLIENTS} threads, medians of the rounds")
    rows = [
        [
            name,
            f"{median(figures[key]):,.0f}",
            f"{harness.paired_ratio(figures[key], figures['pgbench']):.2f}",
        ]
        for key, name in (
            ("pgbench", "pgbench"),
            ("always", "pqpool, validation always"),
            ("never", "pqpool, validation never"),
        )
    ]
    harness.print_table(["", "statements/s", "/ pgbench"], rows)
    print(f"acquire + release: {median(figures['alone']):.0f} ns alone, ", end="")
    print(f"{median(figures['busy']):.0f} ns per cycle with {BUSY_THREADS} threads")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement (default 2)")
    parser.add_argument(
        "--library", type=Path, default=ROOT / "build" / "release" / "capi", help="the folder of libpqpool.so"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a budget is missed")
    arguments = parser.parse_args()
    if not (1 <= arguments.rounds <= 100 and 1 <= arguments.seconds <= 60):
        parser.error("--rounds must lie in 1 .. 100 and --seconds in 1 .. 60")

    with tempfile.TemporaryDirectory(prefix="pqpool-bench-") as folder:
        programs = Programs(harness.database_url(), Path(folder), arguments.library)
        figures = measure(programs, arguments.rounds, arguments.seconds)
    print_figures(figures)
    ratio = harness.paired_ratio(figures["always"], figures["pgbench"])
    budgets = [
        harness.Budget("statements/s / pgbench's", ratio, 0.95, at_most=False),
        harness.Budget("acquire + release, ns, alone", median(figures["alone"]), 150, at_most=True),
        harness.Budget(
            f"acquire + release, ns, {BUSY_THREADS} threads", median(figures["busy"]), 300, at_most=True
        ),
    ]
    met = harness.print_budgets(budgets)
    if arguments.json:
        harness.write_json(arguments.json, figures, budgets)
    return 0 if met or not arguments.strict else 1


if __name__ == "__main__":
    sys.exit(main())
