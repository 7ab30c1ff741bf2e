"""The command: runs the proofs and prints what each caller was told beside what took effect."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter

from proofs.stand import MODES
from proofs.suite import PROOFS, Load, Outcome, Proof
from support.running import unwind_on_signals

_COLUMNS = ("struck", "asked", "done", "unknown", "took effect", "not executed", "had begun")
_WRONG = ("DOUBLED", "LOST", "DENIED", "NEEDLESS", "nothing")
_SHOWN = 10


def main() -> int:
    unwind_on_signals()
    arguments = _parser().parse_args()
    unknown = [name for name in arguments.names if not _chosen(name)]
    if unknown:
        print(f"no proof is called {', '.join(unknown)}. The names: {', '.join(PROOFS)}", file=sys.stderr)
        return 2
    names = arguments.names or [""]
    proofs = [proof for proof in PROOFS.values() if any(proof in _chosen(name) for name in names)]
    load = Load(arguments.inserts, arguments.seed, injects_double=arguments.inject_double)
    return asyncio.run(_run(proofs, load))


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {proof.name:22}{proof.meaning}" for proof in PROOFS.values()]
    lines += ["", "modes:", *(f"  {name:22}{meaning}" for name, meaning in MODES.items())]
    parser = argparse.ArgumentParser(
        prog="./dev faults",
        description="Proofs under faults: nothing is executed twice, and nothing is told wrongly.\n"
        "Every effect that is asked for has a number; afterwards each that was told done is there once,\n"
        "each told not executed is absent, and each told unknown is there at most once.",
        epilog="proofs (NAME may be a beginning):\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument(
        "--inserts",
        type=int,
        default=Load().inserts,
        metavar="N",
        help="about so many in all (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of everything random (default 1)")
    parser.add_argument(
        "--inject-double",
        action="store_true",
        help="double a row behind the pool's back: every proof must fail",
    )
    return parser


def _chosen(beginning: str) -> list[Proof]:
    return [proof for name, proof in PROOFS.items() if name.startswith(beginning)]


async def _run(proofs: list[Proof], load: Load) -> int:
    failed = []
    total: Counter[str] = Counter()
    effects = 0
    for proof in proofs:
        outcome = await proof.run(load, _Progress(proof.name))
        _print(proof, outcome)
        effects += outcome.effects
        for row in outcome.table.values():
            total += row
        if outcome.faults:
            failed.append(proof.name)
    print(f"\nin all: {effects} effects asked for; {_cells(total)}")
    print(
        f"FAILED: {', '.join(failed)}" if failed else "nothing was executed twice, nothing was told wrongly"
    )
    return 1 if failed else 0


class _Progress:
    """A line that renews itself on a terminal, and none elsewhere."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now > self._next or done >= of):
            self._next = now + 0.2
            print(
                f"\r{self._name}: {done}/{of} \033[K",
                end="\n" if done >= of else "",
                file=sys.stderr,
                flush=True,
            )


def _print(proof: Proof, outcome: Outcome) -> None:
    verdict = f"{len(outcome.faults)} FAULTS" if outcome.faults else "ok"
    print(f"\n{proof.name} ({outcome.seconds:.0f} s): {verdict}")
    width = max(map(len, outcome.table), default=0)
    for name in sorted(outcome.table):
        print(f"  {name:{width}}  {_cells(outcome.table[name])}")
    for line in outcome.notes:
        print(f"  {line}")
    for line in outcome.faults[:_SHOWN]:
        print(f"  ! {' '.join(line.split())}")
    if len(outcome.faults) > _SHOWN:
        print(f"  ! … and {len(outcome.faults) - _SHOWN} more")
    sys.stdout.flush()


def _cells(row: Counter[str]) -> str:
    cells = [f"{name} {row[name]}" for name in _COLUMNS if row[name] or name in ("asked", "done")]
    return ", ".join(cells + [f"{name} {row[name]}" for name in _WRONG if row[name]])


if __name__ == "__main__":
    sys.exit(main())
