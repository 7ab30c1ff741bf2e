"""Measuring: time, percentiles, memory, descriptors, waiting for a condition, and programs run aside."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

SUBJECTS = Path(__file__).with_name("subjects.py")


class Stopwatch:
    """``with Stopwatch() as watch: ...`` then ``watch.seconds`` and ``watch.ms``."""

    def __enter__(self) -> Stopwatch:
        self.seconds = 0.0
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start

    @property
    def ms(self) -> float:
        return self.seconds * 1000


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that ``percent`` % of the values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("percentile of no values")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def resident_bytes() -> int:
    """This process's resident memory (``VmRSS``)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS. Resident memory can only be measured on Linux.")


def open_descriptors() -> int:
    """This process's open file descriptors, without the one that looks."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


async def wait_until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], timeout: float, interval: float = 0.01
) -> float | None:
    """Seconds until the condition held, or None if it did not within ``timeout``."""
    start = time.monotonic()
    while True:
        held = condition()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return time.monotonic() - start
        if time.monotonic() - start > timeout:
            return None
        await asyncio.sleep(interval)


class Subject:
    """One of the programs in subjects.py, in a process of its own, speaking JSON lines.

    The URL travels in the environment, never in the arguments, which every user of the machine can read.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, name: str, url: str, folder: str | None = None, **variables: str) -> Subject:
        environment = {
            **os.environ,
            "DATABASE_URL": url,
            "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
            **variables,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # this folder's modules are no top-level modules
            str(SUBJECTS),
            name,
            env=environment,
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def answer(self, timeout: float) -> dict[str, Any]:
        """The next line it prints."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        if not line:
            code, errors = await self.end(timeout)
            raise RuntimeError(f"the process under measurement ended with code {code}: {errors[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def ask(self, command: str, timeout: float) -> dict[str, Any]:
        """Sends one command and returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        await self._process.stdin.drain()
        return await self.answer(timeout)

    async def end(self, timeout: float) -> tuple[int, str]:
        """Waits for its end; gives the exit code (negative: a signal) and what it wrote to stderr."""
        try:
            _, errors = await asyncio.wait_for(self._process.communicate(), timeout)
        except TimeoutError:
            self.kill()
            raise
        assert self._process.returncode is not None
        return self._process.returncode, errors.decode(errors="replace")

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


async def run_subject(name: str, url: str, timeout: float = 30.0, **variables: str) -> dict[str, Any]:
    """Runs a subject that prints one line and ends."""
    subject = await Subject.start(name, url, **variables)
    try:
        answer = await subject.answer(timeout)
        code, errors = await subject.end(timeout)
    finally:
        subject.kill()
    if code != 0:
        raise RuntimeError(f"the process under measurement ended with code {code}: {errors[-2000:]}")
    return answer
