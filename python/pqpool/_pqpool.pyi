"""The native module: the core's C ABI for Python."""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

class OptionInfo(TypedDict):
    name: str
    type: Literal["int", "seconds", "bool", "text", "enum"]
    default: int | float | bool | str
    minimum: float
    maximum: float
    help: str
    choices: NotRequired[list[str]]

def options() -> list[OptionInfo]:
    """Every setting, from the core's single list."""

def check_options(values: Mapping[str, object]) -> None:
    """Raise PoolConfigurationError, with every problem in its message, if settings do not fit."""

def calculate_health(statistics: Mapping[str, Any], min_size: int, max_size: int) -> str:
    """The core's health rule.

    statistics: the fields of PoolStatistics, times as Unix seconds or None, and `now`.
    """
