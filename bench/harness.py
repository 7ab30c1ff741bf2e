"""What the benchmarks share: the database's URL, percentiles, the floor program, tables and budgets."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Budget:
    """One figure held against its limit; ``at_most`` says which side is the good one."""

    name: str
    value: float
    limit: float
    at_most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def stop(message: str) -> NoReturn:
    """Ends the benchmark with one sentence on stderr and exit code 2."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


def database_url() -> str:
    """``DATABASE_URL`` in the form libpq and all peers take: no ``+driver`` in the scheme."""
    url = os.environ.get("DATABASE_URL", "")
    if not url:
        stop("DATABASE_URL is not set. Run this through ./dev with-db, or set it to a database you may load.")
    return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", url)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` % of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' own ratios: a slow spell of the machine hits both sides of one round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


class Floor:
    """The compiled ``floor.c``: the round trip of one prepared ``SELECT 1`` through bare libpq."""

    def __init__(self) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            stop("No C compiler found for bench/floor.c. Install gcc or clang, or set CC.")
        self._folder = tempfile.TemporaryDirectory(prefix="pqpool-bench-")
        self._program = Path(self._folder.name) / "floor"
        subprocess.run(
            [compiler, "-O2", "-std=c11", str(HERE / "floor.c"), "-o", str(self._program), *libpq_flags()],
            check=True,
        )

    def measure(self, url: str, statements: int) -> dict[str, float]:
        """p50 and p95 in microseconds, over ``statements`` round trips."""
        done = subprocess.run(
            [str(self._program), str(statements)],
            env={**os.environ, "DATABASE_URL": url},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def close(self) -> None:
        self._folder.cleanup()


def libpq_flags() -> list[str]:
    """Where this machine keeps libpq, by pkg-config, else by pg_config."""
    if shutil.which("pkg-config"):
        asked = subprocess.run(["pkg-config", "--cflags", "--libs", "libpq"], capture_output=True, text=True)
        if asked.returncode == 0:
            return asked.stdout.split()
    if shutil.which("pg_config"):
        folder = subprocess.run(["pg_config", "--includedir"], capture_output=True, text=True, check=True)
        return ["-I" + folder.stdout.strip(), "-lpq"]
    stop("Neither pkg-config nor pg_config finds libpq. Install libpq-dev.")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the first left-aligned, the rest to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))


def print_budgets(budgets: Sequence[Budget]) -> bool:
    """Prints each budget with what was reached; true if all were met."""
    print("\nBudgets")
    for budget in budgets:
        side = "<=" if budget.at_most else ">="
        verdict = "reached" if budget.met else "MISSED"
        print(f"  {verdict:8} {budget.name}: {budget.value:,.2f} ({side} {budget.limit:,.2f})")
    return all(budget.met for budget in budgets)


def write_json(path: Path, measured: dict[str, Any], budgets: Sequence[Budget]) -> None:
    """The figures of every round and the budgets, for comparing runs."""
    content = {"measured": measured, "budgets": [{**asdict(b), "met": b.met} for b in budgets]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
