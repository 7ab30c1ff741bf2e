"""Which roles and databases a script expects of its server, read from the PostgreSQL URLs in its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_URL = re.compile(r"postgres(?:ql)?(?:\+\w+)?://[^\s\"'`<>]+")
_LOCAL_HOSTS = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Account:
    """One role, its password and the database it goes to."""

    role: str
    password: str | None
    database: str


def accounts_in(source: str, port: int) -> list[Account]:
    """The accounts of every URL that names this machine and port, in the order of the text."""
    found: dict[Account, None] = {}
    for text in _strings(ast.parse(source)):
        for url in _URL.findall(text):
            account = _account_of(url.rstrip(".,;)"), port)
            if account is not None:
                found[account] = None
    return list(found)


def _account_of(url: str, port: int) -> Account | None:
    try:
        parts: SplitResult = urlsplit(url)
        local = (parts.hostname or "") in _LOCAL_HOSTS and (parts.port or 5432) == port
    except ValueError:
        return None
    if not local or not parts.username:
        return None
    role = unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Account(role, password, unquote(parts.path.lstrip("/")) or role)


def _strings(tree: ast.Module) -> Iterator[str]:
    """Every string of the script; in f-strings, names of constants are filled in."""
    constants: dict[str, object] = {}
    inside_others: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    constants.setdefault(target.id, node.value.value)
        if isinstance(node, ast.JoinedStr):
            inside_others.update(node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces = [_piece(value, constants) for value in node.values]
            if None not in pieces:
                yield "".join(str(piece) for piece in pieces)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside_others:
            yield node.value


def _piece(value: ast.expr, constants: dict[str, object]) -> str | None:
    if isinstance(value, ast.Constant):
        return str(value.value)
    if isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Name):
        known = constants.get(value.value.id)
        return None if known is None else str(known)
    return None
