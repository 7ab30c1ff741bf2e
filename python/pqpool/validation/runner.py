"""A validation run from its choice of checks to its report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from .. import ConnectionPoolError, __version__
from ..throwaway import ThrowawayServerError
from .criteria import CRITERIA
from .progress import Progress
from .registry import Check, Outcome, run_check
from .report import Report
from .scenarios import SCENARIOS
from .target import Target, own_server


class ValidationImpossible(Exception):
    """There is nothing to validate against, or nothing to validate; the message says why and what to do."""


def choose_checks(keys: Sequence[str]) -> tuple[list[Check], list[Check]]:
    """The scenarios and criteria of these keys, all of them without any; ``1`` and ``SC-001`` are keys."""
    wanted = {key.strip().upper() for key in keys if key.strip()}
    known = {check.key for check in (*SCENARIOS, *CRITERIA)}
    if unknown := sorted(wanted - known):
        raise ValidationImpossible(
            f"No check is called {', '.join(unknown)}. Suggestion: validate --list names them all."
        )

    def chosen(checks: Sequence[Check]) -> list[Check]:
        return [check for check in checks if not wanted or check.key in wanted]

    return chosen(SCENARIOS), chosen(CRITERIA)


def validate(url: str | None, keys: Sequence[str], progress: Progress) -> Report:
    """Runs the chosen checks against the URL, or against a server of this run's own."""
    scenarios, criteria = choose_checks(keys)
    # What the caller's shell sets for his own pools must not change what is measured here.
    for name in [name for name in os.environ if name.startswith("POOL_")]:
        del os.environ[name]
    with opened_target(url, progress) as target:
        return asyncio.run(run(target, scenarios, criteria, progress))


@contextlib.contextmanager
def opened_target(url: str | None, progress: Progress) -> Iterator[Target]:
    if url is not None:
        yield Target(url)
        return
    progress.tell("Starting a PostgreSQL server of this run's own")
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(own_server())
        except (ThrowawayServerError, OSError) as error:
            raise ValidationImpossible(
                f"No PostgreSQL server could be started: {error} "
                "Suggestion: install PostgreSQL's server (Debian: apt-get install postgresql) or pass --url."
            ) from error
        yield target


async def run(
    target: Target, scenarios: Sequence[Check], criteria: Sequence[Check], progress: Progress
) -> Report:
    started_at = datetime.now(UTC)
    start = time.monotonic()
    try:
        server = await target.describe()
    except ConnectionPoolError as error:
        raise ValidationImpossible(target.scrub(f"The database cannot be used: {error}")) from error
    progress.tell(f"pqpool {__version__} against {server}\n")

    async def outcomes(checks: Sequence[Check]) -> list[Outcome]:
        done = []
        for check in checks:
            progress.begin(check)
            done.append(await run_check(check, target, progress.step))
            progress.end(done[-1])
        return done

    return Report(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        server=server,
        started_at=started_at,
        scenarios=await outcomes(scenarios),
        criteria=await outcomes(criteria),
        seconds=time.monotonic() - start,
    )
