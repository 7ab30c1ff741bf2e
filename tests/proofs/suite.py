"""The proofs by name, each with its load. A proof ends with its table and what must not be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from proofs import pooler
from proofs.ledger import Ledger
from proofs.load import run_load
from proofs.numbers import Numbers
from proofs.restarts import END_KINDS, EndKind, begun_in, run_end
from proofs.single import ENDS, HALF_DEAD, Spot, cases_of, run_cases
from proofs.stand import Stand
from proofs.ways import INSERTS, OUTSIDE, Way

__all__ = ["PROOFS", "Load", "Outcome", "Proof"]

_DEFAULT_INSERTS = 12_000
_POOLED = ("bouncer", "bouncer-session", "behind-bouncer")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Load:
    """How much of a proof: `share` is 1 with the default number of inserts."""

    inserts: int = _DEFAULT_INSERTS
    seed: int = 1
    most_cases: int | None = None  # of a proof that has many
    injects_double: bool = False  # the suite proves that it can fail

    @property
    def share(self) -> float:
        return self.inserts / _DEFAULT_INSERTS

    def count(self, default: int, least: int = 1) -> int:
        return max(least, round(default * self.share))


@dataclass
class Outcome:
    table: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    effects: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


Run = Callable[[Load, Random, Progress], Awaitable[Outcome]]


@dataclass(frozen=True)
class Proof:
    name: str
    meaning: str
    work: Run

    async def run(self, load: Load, progress: Progress) -> Outcome:
        began = time.monotonic()
        outcome = await self.work(load, Random(f"{load.seed} {self.name}"), progress)
        outcome.seconds = time.monotonic() - began
        return outcome


def _concluded(stand: Stand, ledger: Ledger, load: Load) -> Outcome:
    if load.injects_double:
        stand.server.sql("INSERT INTO effects SELECT * FROM effects LIMIT 1")
    table = ledger.judge(stand.effects())
    return Outcome(table, ledger.faults, ledger.size)


def _at_bytes(
    mode: str, ways: dict[str, Way], spots: list[Spot], uses: tuple[int, ...], share: float, most: float = 1.0
) -> Run:
    """A fault at every byte, or at a share of them, of each way with each spot."""

    async def work(load: Load, random: Random, progress: Progress) -> Outcome:
        ledger, numbers = Ledger(), Numbers()
        with Stand() as stand:
            notes = _prepare(stand, ways, load)
            cases = []
            with stand.route(mode) as route:
                for way in ways.values():
                    if way.name.startswith("dblink") and not stand.has_dblink:
                        continue
                    part = min(most, share * load.share)
                    part = part / 20 if way.name == "wide" else part
                    for used in uses:
                        cases += await cases_of(route, way, spots, used, ledger, numbers, part, random)
            random.shuffle(cases)
            await run_cases(stand, mode, cases[: load.most_cases], ledger, numbers, progress)
            outcome = _concluded(stand, ledger, load)
            outcome.notes += notes
            return outcome

    return work


def _prepare(stand: Stand, ways: dict[str, Way], load: Load) -> list[str]:
    if ways is not OUTSIDE:
        return []
    stand.make_sequences(load.count(8000, 800))
    stand.prepare_outside()
    return [] if stand.has_dblink else ["dblink is left out: postgresql-contrib has no extension dblink here"]


def _load(mode: str, inserts: int) -> Run:
    async def work(load: Load, random: Random, progress: Progress) -> Outcome:
        ledger, numbers = Ledger(), Numbers()
        with Stand() as stand, stand.route(mode) as route:
            await run_load(route, load.count(inserts, 50), random, ledger, numbers, progress)
            return _concluded(stand, ledger, load)

    return work


async def _poolers(load: Load, random: Random, progress: Progress) -> Outcome:
    ledger, numbers = Ledger(), Numbers()
    with Stand() as stand:
        for done, mode in enumerate(("bouncer", "bouncer-session")):
            await pooler.run_query_timeout(stand, mode, load.count(80, 20), random, ledger, numbers)
            await pooler.run_kills(stand, mode, load.count(1000, 50), random, ledger, numbers)
            await pooler.run_restarts(stand, mode, load.count(1000, 50), random, ledger, numbers)
            progress(done + 1, 2)
        return _concluded(stand, ledger, load)


def _end(kind: EndKind, rounds: int, sslmode: str = "disable") -> Run:
    async def work(load: Load, random: Random, progress: Progress) -> Outcome:
        sequences = load.count(3000, 200) if kind.is_ordinary else 0
        ledger, numbers = Ledger(), Numbers(sequences + 1)
        # Else a crash loses what was committed last.
        with Stand({"synchronous_commit": "on", "log_statement": "all"}) as stand:
            stand.make_sequences(sequences)
            count = load.count(rounds, 2)
            reads = await run_end(stand, kind, count, random, ledger, numbers, progress, sequences, sslmode)
            outcome = _concluded(stand, ledger, load)
            outcome.table[reads.row] = reads.judge(
                begun_in(stand.server.log_text()), is_ordinary=kind.is_ordinary
            )
            outcome.table[reads.row]["struck"] = ledger.struck[reads.row]
            outcome.faults += reads.faults
            outcome.notes += reads.words()
            return outcome

    return work


_MAIN = {name: INSERTS[name] for name in ("insert", "function", "transaction")}
_OTHERS = {name: way for name, way in INSERTS.items() if name not in _MAIN}


def _all() -> list[Proof]:
    found = [
        Proof(
            "bytes",
            "an insert, a function that inserts, a transaction: every end of a connection at every byte",
            _at_bytes("plain", _MAIN, ENDS, (2,), 1.0),
        ),
        Proof(
            "first-use",
            "the same on a connection that does not know the statement yet, at a share of the bytes",
            _at_bytes("plain", _MAIN, ENDS, (0,), 0.2),
        ),
        Proof(
            "ways",
            "the other kinds of insert, at bytes chosen at random",
            _at_bytes("plain", _OTHERS, ENDS, (0, 2), 0.03),
        ),
        Proof(
            "half-dead",
            "stalls, black holes, and connections that pass one direction only",
            _at_bytes("plain", _MAIN, HALF_DEAD, (0, 2), 0.04),
        ),
        Proof(
            "outside",
            "sequences, dblink and notifications: effects that no rollback undoes",
            _at_bytes("plain", OUTSIDE, ENDS, (0, 2), 0.06),
        ),
    ]
    for mode in ("tls", "tls-ended", "tls-goodbye", *_POOLED):
        found.append(
            Proof(
                f"bytes-{mode}",
                "the same at a share of the bytes",
                _at_bytes(mode, INSERTS, ENDS, (0, 2), 0.012),
            )
        )
    found.append(
        Proof(
            "bytes-c-plain",
            "the same by the C interface",
            _at_bytes("c-plain", INSERTS, ENDS, (0, 2), 0.012),
        )
    )
    for mode in ("plain", "tls", "tls-goodbye", "bouncer", "behind-bouncer", "c-tls"):
        found.append(Proof(f"load-{mode}", "many at once under random faults", _load(mode, 800)))
    found.append(
        Proof("pooler", "PgBouncer's query_timeout and restart, and sessions killed behind it", _poolers)
    )
    meanings = {
        "restart-fast": "an ordinary restart of the server under 100 tasks",
        "terminate-all": "pg_terminate_backend of every session, again and again",
        "terminate-idle": "the same of idle ones",
        "terminate-active": "the same of active ones",
        "restart-immediate": "an immediate restart",
        "kill-backend": "SIGKILL of a session's process",
    }
    for name, kind in END_KINDS.items():
        rounds = 10 if name == "restart-fast" else 5
        found.append(Proof(name, meanings[name], _end(kind, rounds)))
    found.append(
        Proof(
            "restart-fast-tls", "an ordinary restart, with TLS", _end(END_KINDS["restart-fast"], 5, "require")
        )
    )
    return found


PROOFS = {proof.name: proof for proof in _all()}
