"""A small part of the proofs that `./dev faults` runs whole, and that they can fail."""

from __future__ import annotations

import pytest

from pqpool import ConnectionLostError, QueryError, StatementTimeoutError
from proofs.ledger import Label, Ledger, Told, told_by
from proofs.suite import PROOFS, Load

SMALL = Load(inserts=40, most_cases=40)


def ignore(done: int, of: int) -> None:
    pass


@pytest.mark.parametrize("name", ["bytes", "outside", "bytes-tls-goodbye", "load-plain", "terminate-all"])
async def test_nothing_is_executed_twice_and_nothing_is_told_wrongly(name):
    outcome = await PROOFS[name].run(SMALL, ignore)
    assert outcome.faults == []
    assert outcome.effects > 40
    assert sum(row["struck"] for row in outcome.table.values()) > 1


async def test_a_row_that_is_there_twice_is_seen():
    outcome = await PROOFS["load-plain"].run(Load(inserts=40, injects_double=True), ignore)
    assert len(outcome.faults) == 1 and "DOUBLED" in outcome.faults[0]


def test_the_ledger_finds_what_was_told_wrongly():
    ledger = Ledger()
    ledger.done(Label("done"), range(1, 3))
    ledger.failed(Label("refused"), range(3, 5), QueryError("no", severity="ERROR", sqlstate="23505"))
    ledger.failed(
        Label("unknown"), range(5, 8), ConnectionLostError("lost; whether it was executed is unknown")
    )
    table = ledger.judge({1: 1, 3: 1, 5: 1, 6: 2, 99: 1})
    assert table["done"]["LOST"] == 1
    assert table["refused"]["DENIED"] == 1
    assert table["unknown"]["DOUBLED"] == 1 and table["unknown"]["took effect"] == 2
    assert len(ledger.faults) == 4  # and one that nobody asked for


def test_an_error_that_tells_nothing_is_a_fault():
    ledger = Ledger()
    ledger.failed(Label("lost"), range(1, 2), ConnectionLostError("lost"))
    assert len(ledger.faults) == 1
    assert told_by(ConnectionLostError("lost; it was not executed")) is Told.NOT_DONE
    assert told_by(StatementTimeoutError("late")) is Told.UNKNOWN
