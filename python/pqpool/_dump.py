"""Turning the package's values into what JSON can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

Mode = Literal["python", "json"]
"""How `model_dump` gives its values: as they are, or as JSON would hold them."""

Mask = Callable[[str, str], str]


def iso_time(moment: datetime) -> str:
    """ISO 8601 in UTC; a naive time counts as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat()


def epoch(moment: datetime) -> float:
    """Seconds since 1970; a naive time counts as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def jsonable(value: Any, mask: Mask | None = None, name: str = "") -> Any:
    """The value as JSON can hold it; what JSON does not know becomes text.

    mask, if given, is called with each text and the name of the mapping's key it stands under.
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return iso_time(value)
    if isinstance(value, Mapping):
        return {str(key): jsonable(item, mask, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item, mask, name) for item in value]
    text = value if isinstance(value, str) else _text_of(value)
    return mask(name, text) if mask is not None else text


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a log line is not lost because something in it cannot describe itself
        return object.__repr__(value)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of a value, in the compact form unless an indent is given."""
    separators = (",", ":") if indent is None else None
    return json.dumps(jsonable(value), indent=indent, separators=separators, ensure_ascii=False)
