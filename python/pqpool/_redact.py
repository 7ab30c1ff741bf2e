"""Masking of passwords in anything that may be shown: messages, log lines, reprs.

In doubt these functions mask too much rather than too little.
"""

from __future__ import annotations

import re

MASK = "***"

_SECRET_NAME = r"[a-z_]*(?:password|passwd|pwd|secret|client_key|server_key)"
_USERINFO = re.compile(r"(://[^\s:/@?]*:)\S*@")
# In a string known to be one URL, the password may hold blanks too.
_WHOLE_USERINFO = re.compile(r"(://[^:/@?]*:).*@", re.DOTALL)
_QUERY_PARAMETER = re.compile(rf"([?&]{_SECRET_NAME}=)[^&#\s]*", re.IGNORECASE)
_KEYWORD = re.compile(
    rf"(?<![?&a-z_])({_SECRET_NAME}\s*=\s*)(?:'(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\])+)",
    re.IGNORECASE | re.DOTALL,
)
_SECRET_KEY = re.compile(rf"^{_SECRET_NAME}$", re.IGNORECASE)


def mask_passwords(text: str) -> str:
    """Mask the passwords of every URL and libpq keyword string inside free text."""
    if "://" in text:
        text = _USERINFO.sub(rf"\1{MASK}@", text)
    if "=" in text:
        text = _QUERY_PARAMETER.sub(rf"\1{MASK}", text)
        text = _KEYWORD.sub(rf"\1{MASK}", text)
    return text


def mask_url(url: str) -> str:
    """Mask the password of a string that as a whole is a URL or a libpq keyword string."""
    return mask_passwords(_WHOLE_USERINFO.sub(rf"\1{MASK}@", url))


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a password or the like."""
    return _SECRET_KEY.match(name) is not None


def mask_value(name: str, text: str) -> str:
    """Mask a named text: entirely where the name says secret, as a URL where it says URL."""
    if is_secret_name(name):
        return MASK
    lowered = name.lower()
    if "url" in lowered or "dsn" in lowered or "conninfo" in lowered:
        return mask_url(text)
    return mask_passwords(text)
