"""Masking of passwords in anything that may be shown: messages, log lines, reprs.

The rules are the core's; they mask too much rather than too little.
"""

from __future__ import annotations

from collections.abc import Callable

from . import _pqpool

MASK = "***"


def mask_passwords(text: str) -> str:
    """Mask the passwords of every URL and libpq keyword string inside free text."""
    if "://" not in text and "=" not in text:
        return text
    return _by_pieces(_pqpool.mask_text, text)


def mask_url(url: str) -> str:
    """Mask the password of a string that as a whole is a URL or a libpq keyword string."""
    return _by_pieces(_pqpool.mask_conninfo, url)


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a password or the like."""
    return mask_passwords(f"{name}=x").endswith(MASK)


def mask_value(name: str, text: str) -> str:
    """Mask a named text by what its name says it is: a secret, a URL, a statement, or nothing of it."""
    if is_secret_name(name):
        return MASK
    lowered = name.lower()
    if "url" in lowered or "dsn" in lowered or "conninfo" in lowered:
        return mask_url(text)
    if "sql" in lowered or "statement" in lowered or "query" in lowered:
        text = _by_pieces(_pqpool.mask_statement, text)
    return mask_passwords(text)


def _by_pieces(mask: Callable[[str], str], text: str) -> str:
    # The core's texts end at a NUL.
    return "\0".join(mask(piece) for piece in text.split("\0"))
