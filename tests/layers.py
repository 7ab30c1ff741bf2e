"""The rules that a compiler does not know: who may include whom, and how long a file may be.

Run by the tests and by ``./dev lint``; docs/architecture.md has the reasons.
Prints each breach and fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 600  # a question, not a reason to cut: a class belongs into one file
SOURCES = {".c", ".cpp", ".h", ".hpp", ".py", ".pyi"}

PYTHON = r"(Python\.h|pybind11/)"
LINUX = r"sys/(epoll|eventfd|timerfd|signalfd|inotify|prctl)\.h|linux/"
# Headers that bring I/O, a thread, a lock or a clock.
IMPURE = (
    r"(thread|mutex|shared_mutex|condition_variable|semaphore|future|atomic|iostream|fstream|time\.h|ctime"
    r"|poll\.h|pthread\.h|unistd\.h|sys/.*|netinet/.*|spdlog/.*)"
)


@dataclass(frozen=True)
class Rule:
    """In `files`, except those named by `allowed`, no include may match `forbidden`."""

    files: str
    forbidden: str
    reason: str
    allowed: str = r"(?!)"


RULES = [
    Rule(r"core/.*", PYTHON, "core knows no Python"),
    Rule(r"core/.*", r"(.*/)?pqpool\.h|capi/|bindings/", "core knows nothing above it"),
    Rule(
        r"core/.*",
        r"libpq-fe\.h|libpq/",
        "libpq is reached through these only",
        r"core/wire/(cancel|channel|connect_plan|connection)\..*",
    ),
    Rule(r"core/.*", LINUX, "the poller alone knows Linux", r"core/run/poller[._].*"),
    Rule(r"core/base/.*", r"core/(?!base/)", "base knows nothing"),
    Rule(r"core/decide/.*", r"core/(?!base/|decide/)", "decide knows base alone"),
    Rule(r"core/wire/.*", r"core/(?!base/|wire/)", "wire knows base alone"),
    Rule(r"core/decide/.*", IMPURE, "decisions do no I/O and read no clock"),
    Rule(
        r"core/wire/.*",
        IMPURE.replace("|atomic", "") + r"|core/wire/(cancel|channel|connection)\.hpp",
        "the protocol and its verdicts do no I/O",
        r"core/wire/(cancel|channel|connect_plan|connection)\..*",
    ),
    Rule(r"(capi|bindings)/.*", r"libpq-fe\.h", "libpq stays inside the core"),
    Rule(r"capi/.*", PYTHON + r"|bindings/", "the C shell knows no Python"),
    Rule(r"capi/include/.*", r"(?!(stddef|stdint|stdbool)\.h$).*", "the header stands alone"),
    Rule(r"bindings/.*", r"core/|capi/|spdlog/", "the bindings are built on pqpool.h alone"),
    Rule(r"examples/.*", r"core/|capi/", "an example shows what a user can do"),
]


def includes_of(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*#\s*include\s*[<\"]([^>\"]+)[>\"]", line):
            yield number, found[1]


def breaches_in(name: str, text: str) -> Iterator[str]:
    for rule in RULES:
        if re.fullmatch(rule.files, name) and not re.fullmatch(rule.allowed, name):
            for number, header in includes_of(text):
                if re.match(rule.forbidden, header):
                    yield f"{name}:{number}: includes {header}: {rule.reason}"
    if name.startswith("capi/") and name != "capi/guard.hpp":
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"\bcatch\s*\(", line.split("//")[0]):
                yield f"{name}:{number}: a catch outside capi/guard.hpp, the one place for it"
    # The header's length is its comments, and it is one contract.
    lines = text.count("\n")
    if lines > LONGEST and name != "capi/include/pqpool.h":
        yield f"{name}: {lines} lines, more than {LONGEST}. Split it by what it decides."


def classes_of(text: str) -> set[str]:
    """Those whose functions are written out in a source file."""
    return set(re.findall(r"^(?:[\w:<>&*,\[\]]+ )*[&*]*([A-Z]\w*)::~?\w+\(", text, re.MULTILINE))


def breaches_between(texts: dict[str, str]) -> Iterator[str]:
    """Files that include each other, and classes whose functions stand in several files."""
    includes = {
        name: {header for _, header in includes_of(text)} & texts.keys() for name, text in texts.items()
    }
    units: dict[str, set[str]] = {}
    for name, headers in includes.items():
        unit = name.rsplit(".", 1)[0]
        units.setdefault(unit, set()).update({header.rsplit(".", 1)[0] for header in headers} - {unit})
    for unit, others in units.items():
        for other in sorted(others):
            if unit < other and unit in units[other]:
                yield f"{unit} and {other} include each other: one of them knows too much"
    homes: dict[str, set[str]] = {}
    for name, text in texts.items():
        if name.endswith(".cpp"):
            for one in classes_of(text):
                homes.setdefault(one, set()).add(name)
    for one, files in sorted(homes.items()):
        if len(files) > 1:
            yield f"{one} stands in {', '.join(sorted(files))}: a class that needs two files is two classes"


def source_files() -> Iterator[Path]:
    for room in ("core", "capi", "bindings", "python", "compat", "tests", "bench", "examples"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix in SOURCES and path.is_file():
                yield path


def main() -> int:
    count = 0
    breaches: list[str] = []
    core: dict[str, str] = {}
    for path in source_files():
        count += 1
        name = path.relative_to(ROOT).as_posix()
        breaches += breaches_in(name, text := path.read_text())
        if name.startswith("core/"):
            core[name] = text
    breaches += breaches_between(core)
    print("\n".join(breaches) or f"{count} files keep to the layers")
    return 1 if breaches or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
