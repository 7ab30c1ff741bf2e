"""Servers that deviate from the protocol at random: a statement is given its own answer or an error.

PQPOOL_HOSTILE_SEEDS=1000-9999 runs others than the usual ones; support/hostile_run.py repeats a single one.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support.fake_server import command_complete, data_row, error, message, notice, ready, row_description
from support.hostile import is_a_lie
from support.running import ROOT

FIRST, LAST = map(int, os.environ.get("PQPOOL_HOSTILE_SEEDS", "0-299").split("-"))
PROCESSES = 2
SECONDS_FOR_ONE = 0.5  # far above what one takes beside others


@pytest.mark.timeout(120 + SECONDS_FOR_ONE * (LAST - FIRST))
def test_an_answer_is_the_statements_own_whatever_the_server_says():
    """And no crash, no hang, no memory or descriptor for ever; and the pool recovers."""
    share = -(-(LAST + 1 - FIRST) // PROCESSES)
    path = os.pathsep.join([str(ROOT / "tests"), *[one for one in sys.path if one]])
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "support.hostile_run", str(begin), str(min(begin + share - 1, LAST))],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for begin in range(FIRST, LAST + 1, share)
    ]
    try:
        said = [one.communicate()[0] for one in running]
    finally:
        for one in running:
            one.kill()
    for one, words in zip(running, said, strict=True):
        lines = words.splitlines()
        shown = [line for line in lines if not line.startswith("under way")]
        last = next((line for line in reversed(lines) if line.startswith("under way")), "")
        assert one.returncode == 0, "\n".join([f"ended with {one.returncode}; {last}", *shown])
        assert "answered" in lines[-1] and "ConnectionLostError" in lines[-1], lines[-1]


ROW, OTHER = data_row([b"17"]), data_row([b"18"])
TYPES = row_description([(b"c", 23, 0)])
HONEST = [message(b"1"), message(b"2"), TYPES, ROW, command_complete(), ready()]
TWO = [*HONEST, message(b"2"), OTHER, command_complete(), ready()]


@pytest.mark.parametrize(
    ("honest", "stream", "lie"),
    [
        (HONEST, HONEST, False),
        (HONEST, [*HONEST[:3], OTHER, *HONEST[4:]], True),
        (HONEST, [*HONEST[:3], *HONEST[4:]], True),
        (HONEST, [*HONEST[:3], ROW, ROW, *HONEST[4:]], True),
        (HONEST, [*HONEST[:3], notice(M="n"), OTHER, *HONEST[4:]], True),
        (HONEST, [*HONEST[:2], row_description([(b"c", 21, 0)]), *HONEST[3:]], True),
        (HONEST, [*HONEST[:2], row_description([(b"other", 23, 0)]), *HONEST[3:]], False),
        (HONEST, [*HONEST[:3], OTHER, error(M="m"), ready()], False),
        (HONEST, [*HONEST[:3], OTHER, *HONEST[4:5], ready(b"?")], False),
        (HONEST, [*HONEST[:2], OTHER, *HONEST[4:]], False),
        (HONEST, [*HONEST[:3], OTHER], False),
        (HONEST, [*HONEST, *HONEST[:3], OTHER, *HONEST[4:]], False),
        (TWO, TWO, False),
        (TWO, [*HONEST, *HONEST], False),
        (TWO, [*HONEST[:3], *TWO[7:]], True),
    ],
)
def test_what_no_client_can_notice_is_told_from_what_one_can(honest, stream, lie):
    assert is_a_lie(honest, b"".join(stream)) is lie
