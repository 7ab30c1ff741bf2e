"""clang-tidy over core, capi and bindings, each file again only when something that it sees has changed.

``tidy.py CLANG_TIDY BUILD`` with a configured build folder. What was found clean is kept beside it, by a hash
of the source, the headers of ours that it includes, its compiler command, .clang-tidy and the tool's version.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from running import ROOT

ROOMS = ("core", "capi", "bindings")
INCLUDED_FROM = (ROOT, ROOT / "capi" / "include")


def commands(build: Path) -> Iterator[tuple[Path, str]]:
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = Path(entry["directory"], entry["file"]).resolve()
        if source.is_relative_to(ROOT) and source.relative_to(ROOT).parts[0] in ROOMS:
            yield source, entry["command"]


def headers_of(source: Path, seen: set[Path]) -> set[Path]:
    """Those of ours, and what they include in turn."""
    for name in re.findall(rb"^\s*#\s*include\s*[<\"]([^>\"]+)[>\"]", source.read_bytes(), re.MULTILINE):
        for folder in (source.parent, *INCLUDED_FROM):
            header = (folder / os.fsdecode(name)).resolve()
            if header.is_file() and header.is_relative_to(ROOT) and header not in seen:
                seen.add(header)
                headers_of(header, seen)
    return seen


def hash_of(source: Path, command: str, judge: bytes) -> str:
    text = hashlib.sha256(judge + command.encode())
    for file in (source, *sorted(headers_of(source, set()))):
        text.update(hashlib.sha256(file.read_bytes()).digest())
    return text.hexdigest()


def main(tidy: str, build: Path) -> int:
    store = build.parent / "tidy.json"
    kept: dict[str, str] = json.loads(store.read_text()) if store.exists() else {}
    judge = subprocess.check_output([tidy, "--version"]) + (ROOT / ".clang-tidy").read_bytes()
    wanted = {
        str(source.relative_to(ROOT)): hash_of(source, command, judge) for source, command in commands(build)
    }
    clean = {name: key for name, key in wanted.items() if kept.get(name) == key}
    changed = [name for name in wanted if name not in clean]

    def look(name: str) -> tuple[str, int, str]:
        # gcc's own warnings have names that clang does not know.
        command = [tidy, "-p", str(build), "--quiet", "--extra-arg=-Wno-unknown-warning-option", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        # On stderr it counts what it has kept to itself, and tells what kept it from its work.
        return name, done.returncode, done.stdout or done.stderr * (done.returncode != 0)

    failed = not wanted
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, code, said in threads.map(look, changed):
            if code == 0:
                clean[name] = wanted[name]
                store.write_text(
                    json.dumps({name: clean[name] for name in clean if name in wanted}, indent=1)
                )
            else:
                failed = True
                print(said.strip(), flush=True)
    print(f"{len(wanted)} files, {len(changed)} of them looked at anew", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
