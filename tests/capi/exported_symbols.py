"""Compares what libpqpool.so exports with its version script and with its header: LIBRARY MAP HEADER."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def exported_by(library: str) -> dict[str, str]:
    """Each exported symbol with the version node it carries; the nodes themselves are left out."""
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", "--with-symbol-versions", library],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    symbols = {}
    for line in listed.splitlines():
        kind, name = line.split()[-2:]
        symbol, _, node = name.partition("@")
        if kind != "A":
            symbols[symbol] = node.lstrip("@")
    return symbols


def named_in_map(text: str) -> dict[str, str]:
    """Each global name of the version script with its node."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"#.*", " ", text)
    names = {}
    for node, body in re.findall(r"(\w+)\s*\{(.*?)\}", text, flags=re.S):
        open_part = body.split("local:")[0].replace("global:", " ")
        for name in re.split(r"[;\s]+", open_part.strip()):
            if name:
                names[name] = node
    return names


def declared_in(text: str) -> set[str]:
    """Each function the header declares; macros, types and inline functions are not."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)
    text = re.sub(r"^[ \t]*#(?:[^\n\\]|\\\n|\\.)*", "", text, flags=re.M)
    text = re.sub(r"\bstatic\s+inline\b[^{;]*\{[^}]*\}", " ", text)
    return set(re.findall(r"\b(pqpool_\w+)\s*\(", text))


def main(library: str, map_file: str, header: str) -> int:
    exported = exported_by(library)
    mapped = named_in_map(Path(map_file).read_text())
    declared = declared_in(Path(header).read_text())
    complaints = []
    for name in sorted(exported.keys() | mapped.keys() | declared):
        if "*" in name:
            complaints.append(f"{name}: a pattern in the map. Name every function.")
            continue
        missing = [
            where
            for where, names in (("library", exported), ("map", mapped), ("header", declared))
            if name not in names
        ]
        if missing:
            complaints.append(f"{name}: missing in the {' and the '.join(missing)}")
        elif exported[name] != mapped[name]:
            complaints.append(f"{name}: exported as {exported[name]}, but {mapped[name]} in the map")
    print("\n".join(complaints) or f"{len(exported)} functions, the same in library, map and header")
    return 1 if complaints or not exported else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
