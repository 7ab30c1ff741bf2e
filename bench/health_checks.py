"""How many health checks and statistics snapshots a second pqpool answers from Python.

./dev with-db ./dev python bench/health_checks.py [--seconds 1.0] [--json FILE] [--strict]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import harness

BUDGET_PER_S = 300_000.0
BATCH = 1000  # calls between two looks at the clock


async def measure(url: str, seconds: float) -> dict[str, float]:
    """Both rates, on an open pool of 10 connections, each over ``seconds``."""
    import pqpool

    clock = time.perf_counter
    config = pqpool.PoolConfig(database_url=url, min_size=10, max_size=10)
    async with pqpool.ConnectionPoolManager(config) as pool:
        health_check, get_statistics = pool.health_check, pool.get_statistics

        checks = 0
        start = clock()
        while clock() - start < seconds:
            for _ in range(BATCH):
                await health_check()
            checks += BATCH
        checks_per_s = checks / (clock() - start)

        snapshots = 0
        start = clock()
        while clock() - start < seconds:
            for _ in range(BATCH):
                get_statistics()
            snapshots += BATCH
        snapshots_per_s = snapshots / (clock() - start)
    return {"health_checks_per_s": checks_per_s, "statistics_per_s": snapshots_per_s}


def print_figures(figures: dict[str, float]) -> None:
    print(
        f"\nhealth checks/s {figures['health_checks_per_s']:,.0f}, "
        f"statistics/s {figures['statistics_per_s']:,.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default 1.0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if the budget is missed")
    arguments = parser.parse_args()
    if not 0.05 <= arguments.seconds <= 60:
        parser.error("--seconds must lie in 0.05 .. 60")

    figures = asyncio.run(measure(harness.database_url(), arguments.seconds))
    print_figures(figures)
    budgets = [harness.Budget("health checks/s", figures["health_checks_per_s"], BUDGET_PER_S, False)]
    met = harness.print_budgets(budgets)
    if arguments.json:
        harness.write_json(arguments.json, figures, budgets)
    return 0 if met or not arguments.strict else 1


if __name__ == "__main__":
    sys.exit(main())
