"""The suite wherever it must pass: ``./dev test --everywhere [WORD…]``.

This machine as it is, each other Python and PostgreSQL on it, the newest PostgreSQL that is on PyPI as a
wheel, and a fresh Debian 13. What each prints is kept in build/everywhere; one line for each is the end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from debian_root import DebianRoot, NotHere
from running import ROOT, load_throwaway, say, unwind_on_signals

DEV = str(ROOT / "dev")
FOLDER = Path(os.environ.get("PQPOOL_BUILD") or ROOT / "build").resolve() / "everywhere"
# The core's tests do not see the Python.
PYTEST = ["python", "-m", "pytest", "-c", "pyproject.toml", "--rootdir", "."]
SUITES = ["tests/python", "tests/integration"]
# What says in the words of gcc, Meson, pytest and ./dev that something is wrong.
TELLING = re.compile(r"^(FAILED|ERROR)\b|\bFAIL\b|\bTIMEOUT\b|\berror:|^E: |: wrong: ")
LINES_SHOWN = 30
PATIENCE = 20.0  # for servers that are stopped on the way out


@dataclass
class Place:
    name: str
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    root: DebianRoot | None = None
    left_out: str = ""  # why

    @property
    def log(self) -> Path:
        return FOLDER / f"{self.name.lower().replace(' ', '-')}.log"

    def run(self) -> bool:
        with self.log.open("wb") as output:
            try:
                with self._entered(output) as words:
                    return run_group([*words, *self.command], self._environment(), output) == 0
            except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                output.write(f"{error}\n".encode())
                return False

    def _environment(self) -> dict[str, str]:
        # What was named for this machine is not there in another root.
        kept = {k: v for k, v in os.environ.items() if not (self.root and k.startswith("PQPOOL_"))}
        return {**kept, **self.environment}

    def _entered(self, output: IO[bytes]) -> AbstractContextManager[Sequence[str]]:
        return self.root.use(ROOT, output) if self.root else nullcontext([])


def run_group(command: list[str], environment: dict[str, str], output: IO[bytes]) -> int:
    """Its exit code. If we are told to stop meanwhile, so is all that it started."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return child.wait()
    except BaseException:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        raise


def gist(lines: list[str]) -> str:
    telling = [line for line in lines[:-LINES_SHOWN] if TELLING.search(line)]
    return "\n".join([*telling[:LINES_SHOWN], *lines[-LINES_SHOWN:]])


def minor_of(program: str) -> tuple[int, int] | None:
    """None for what cannot be run, as a stand-in whose version is not chosen."""
    ask = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    done = subprocess.run([program, "-c", ask], capture_output=True, text=True)
    numbers = done.stdout.split()
    return (int(numbers[0]), int(numbers[1])) if done.returncode == 0 and len(numbers) == 2 else None


def pythons() -> dict[tuple[int, int], str]:
    """One of each minor version that the package takes; the PATH's own first."""
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    folders = [*map(Path, os.get_exec_path()), *sorted(kept.glob("*/bin"), reverse=True)]
    found: dict[tuple[int, int], str] = {}
    for program in (program for folder in folders for program in sorted(folder.glob("python3*"))):
        if re.fullmatch(r"python3(\.\d+)?", program.name):
            minor = minor_of(str(program))
            if minor and minor >= (3, 11):
                found.setdefault(minor, str(program))
    return found


def python_places() -> Iterator[Place]:
    ours = (sys.version_info.major, sys.version_info.minor)
    for minor, program in sorted(pythons().items()):
        name = f"Python {minor[0]}.{minor[1]}"
        if minor == ours:
            continue
        include = "import os, sysconfig as s; os.stat(s.get_path('include') + '/Python.h')"
        if subprocess.run([program, "-c", include], capture_output=True).returncode != 0:
            yield Place(name, left_out=f"{program} has no headers")
            continue
        build = str(FOLDER / name.lower().replace(" ", "-"))
        yield Place(name, [DEV, *PYTEST, *SUITES], {"PQPOOL_BUILD": build, "PQPOOL_PYTHON": program})


def embedded() -> Path | str:
    """The folder of the wheel's programs, or why it is not here."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["dependency-groups"]["everywhere"]
    folder = FOLDER / "embedded"
    stamp = folder / "installed"
    if not stamp.is_file() or stamp.read_text() != str(wanted):
        shutil.rmtree(folder, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*install, "--no-deps", f"--target={folder}", *wanted],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            return f"pip cannot install {' '.join(wanted)}: {done.stderr.strip().splitlines()[-1:]}"
        stamp.write_text(str(wanted))
    found = sorted(folder.glob("**/bin/initdb"))
    return found[0].parent if found else f"{' '.join(wanted)} has no initdb"


def server_places() -> Iterator[Place]:
    ours = load_throwaway().find_binaries()
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        if (folder / "initdb").is_file() and folder.resolve() != ours.resolve():
            yield Place(f"PostgreSQL {folder.parent.name}", [DEV, "test"], {"PQPOOL_PG_BINDIR": str(folder)})
    found = embedded()
    if isinstance(found, str):
        yield Place("PostgreSQL of PyPI", left_out=found)
        return
    said = subprocess.run(
        [found / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    version = said.split()[-1].partition(".")[0]
    yield Place(f"PostgreSQL {version}", [DEV, "test"], {"PQPOOL_PG_BINDIR": str(found)})


def debian_place() -> Place:
    name = "Debian 13"
    try:
        return Place(name, ["./dev", "test"], root=DebianRoot("trixie"))
    except NotHere as reason:
        return Place(name, left_out=str(reason))


def places() -> Iterator[Place]:
    yield Place("Here", [DEV, "test"])
    yield from python_places()
    yield from server_places()
    yield debian_place()


def main(words: list[str]) -> int:
    unwind_on_signals()
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    failed = False
    chosen = [one for one in places() if not words or any(word.lower() in one.name.lower() for word in words)]
    if not chosen:
        say(f"no place is called {' or '.join(words)}; there are: {', '.join(one.name for one in places())}")
        return 2
    for place in chosen:
        if place.left_out:
            lines.append(f"{place.name}: left out: {place.left_out}")
            continue
        say(f"{place.name}; its words go to {place.log}")
        start = time.monotonic()
        passed = place.run()
        failed |= not passed
        lines.append(f"{place.name}: {'pass' if passed else 'FAIL'}, {time.monotonic() - start:.0f} s")
        if not passed:
            print(gist(place.log.read_text(errors="replace").splitlines()), flush=True)
            say(f"all of it: {place.log}")
    print("\n".join(lines), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
