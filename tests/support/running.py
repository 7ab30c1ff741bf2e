"""What the ./dev commands with a server share: the server's class, and a child whose end is ours."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 10.0


def load_throwaway() -> ModuleType:
    """The module pqpool.throwaway, by its path: the package itself needs the native module to be built."""
    spec = importlib.util.spec_from_file_location("throwaway", ROOT / "python" / "pqpool" / "throwaway.py")
    if spec is None or spec.loader is None:
        raise ImportError("python/pqpool/throwaway.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["throwaway"] = module
    spec.loader.exec_module(module)
    return module


def say(words: str) -> None:
    print(f"== {words}", file=sys.stderr, flush=True)


def unwind_on_signals() -> None:
    """Makes SIGTERM and SIGHUP unwind like Ctrl-C, so that servers are stopped on the way out."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a command on our terminal and returns its exit code, 128 + n for a signal as shells do.

    If we are told to stop meanwhile, the child is told too, and killed if it does not obey.
    """
    try:
        child = subprocess.Popen(list(command), env=dict(environment))
    except OSError as error:
        say(f"{command[0]} cannot be run: {error.strerror}.")
        return 127
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    return code if code >= 0 else 128 - code
