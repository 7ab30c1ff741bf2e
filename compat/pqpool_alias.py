"""Makes a package name an alias of `pqpool`: the same module objects, never a second copy."""

from __future__ import annotations

import importlib
import sys

SUBMODULES = ("config", "manager", "health", "statistics", "exceptions", "pool_logging")


def install(alias: str) -> None:
    """Enter pqpool and all its modules under the alias; called by the alias package itself."""
    for name in SUBMODULES:
        importlib.import_module(f"pqpool.{name}")
    for name, module in list(sys.modules.items()):
        if name == "pqpool" or name.startswith("pqpool."):
            sys.modules[alias + name.removeprefix("pqpool")] = module
