"""The settings of a pool: where each comes from, and its type.

Bounds, and how settings must fit together, are checked by the core.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, Field, InitVar, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast

from . import _pqpool
from ._dump import Mode, jsonable
from ._redact import mask_url, mask_value
from .exceptions import PoolConfigurationError

__all__ = ["PoolConfig"]

T = TypeVar("T")

_BLANKS = " \t\n\r\f\v"  # the core's
_CHOICES = frozenset(option["name"] for option in _pqpool.options() if option["type"] == "enum")
_LONGEST_SHOWN = 80  # characters of a bad value that a message repeats


class _Unset:
    def __repr__(self) -> str:
        return "<not given>"


_UNSET = _Unset()
EnvFile: TypeAlias = str | os.PathLike[str] | None
_USUAL: EnvFile = cast(Any, _UNSET)  # what POOL_ENV_FILE says, else `.env`


def _option(default: T) -> T:
    """A field that, where the constructor is not given it, is looked up elsewhere."""
    return cast(T, field(default_factory=lambda: _UNSET, metadata={"default": default}))


@dataclass(frozen=True, slots=True, repr=False)
class PoolConfig:
    """The settings of a pool; immutable, so any thread may read it and pools may share it.

    Each field comes from the constructor; else from the environment variable POOL_<NAME>
    (database_url then also from DATABASE_URL); else from the same names in a file `.env` in the
    working directory; else its default. An empty variable counts as not set. Durations are
    seconds. Raises PoolConfigurationError, with every problem in its message, when a value is
    missing, of the wrong type or out of bounds.

    Whoever can write the `.env` file rules the pool. `env_file`, or else the environment variable
    POOL_ENV_FILE, names another file, or with None or "" none.

    `database_url` reads as it was given; the repr masks its password.
    """

    database_url: str = _option("")
    """Required: postgresql:// or postgres://, a +driver suffix allowed, or libpq keywords."""
    _: KW_ONLY
    min_size: int = _option(2)
    """Connections kept open."""
    max_size: int = _option(10)
    """Connections at most."""
    max_queries: int = _option(50_000)
    """Statements before a connection is replaced."""
    max_idle_time: float = _option(60.0)
    """Idle time before a connection above min_size is closed."""
    timeout: float = _option(30.0)
    """Wait for a connection, at most."""
    command_timeout: float = _option(60.0)
    """One statement, at most; then it is cancelled."""
    max_connection_lifetime: float = _option(3600.0)
    """Age before a connection is replaced."""
    leak_detection_timeout: float = _option(30.0)
    """Hold time before a leak warning; 0 = off."""
    enable_leak_detection: bool = _option(True)
    """Whether leases held too long are reported."""
    connect_timeout: float = _option(10.0)
    """Opening one connection, at most."""
    validation: Literal["always", "blocking", "idle", "never"] = _option("always")
    """When a connection is checked: in the packet of the lease's first statement, before acquire
    returns, after validation_idle_time unused, or never."""
    validation_idle_time: float = _option(30.0)
    """Unused time after which validation="idle" checks."""
    validation_await_time: float = _option(10.0)
    """Unused time after which the check's answer is awaited before the statement is written."""
    reset: Literal["auto", "always", "never"] = _option("auto")
    """Session state undone between leases: what the lease changed, all, nothing."""
    statement_cache_size: int = _option(100)
    """Prepared statements kept per connection; 0 = none."""
    max_waiting: int = _option(0)
    """Requests that may wait at once; 0 = no cap."""
    keepalive_interval: float = _option(0.0)
    """Idle connections are checked this often; 0 = off."""
    init_sql: str = _option("")
    """Statements run on each new connection."""
    name: str = _option("")
    """What the log calls the pool; empty = host:port/database."""
    log_file: str = _option("")
    """File for JSON log lines; empty = none."""
    log_level: Literal["debug", "info", "warning", "error"] = _option("info")
    """Lines below it are not made."""
    env_file: InitVar[EnvFile] = _USUAL

    def __post_init__(self, env_file: EnvFile) -> None:
        variables = _Variables(env_file)
        problems = []
        for option in fields(self):
            value = getattr(self, option.name)
            try:
                # os.environ.get(...) is a common argument here, so None is "not given".
                if value is _UNSET or (value is None and option.name == "database_url"):
                    value = variables.read(option)
                else:
                    value = _checked(option, value)
            except _Problem as problem:
                problems.append(str(problem))
            else:
                object.__setattr__(self, option.name, value)
        if problems:
            raise PoolConfigurationError("\n".join(dict.fromkeys(problems)))
        _pqpool.check_options(self.model_dump())

    @classmethod
    def from_env(cls, env_file: EnvFile = _USUAL) -> Self:
        """The settings from the environment, `.env` (or `env_file`; None: no file) and the defaults."""
        return cls(env_file=env_file)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked anew; the environment is not read again."""
        return replace(self, **changes)

    def model_dump(self, *, mode: Mode = "python") -> dict[str, Any]:
        """All fields by name; database_url with its password, as it was given."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return jsonable(values) if mode == "json" else values

    def __repr__(self) -> str:
        values = jsonable(self.model_dump(), mask_value)
        return f"PoolConfig({', '.join(f'{name}={value!r}' for name, value in values.items())})"


class _Problem(Exception):
    """One setting that cannot be used, as a sentence for PoolConfigurationError."""


def _shown(value: object) -> str:
    """The value as a message may repeat it: short, and without a password."""
    text = mask_url(value if isinstance(value, str) else repr(value))
    if len(text) > _LONGEST_SHOWN:
        text = text[:_LONGEST_SHOWN] + "…"
    return repr(text) if isinstance(value, str) else text


_WANTED: dict[type, str] = {
    int: "a whole number",
    float: "a finite number of seconds",
    bool: "true or false",
    str: "text",
}


def _type_of(option: Field[Any]) -> type:
    return type(option.metadata["default"])


def _checked(option: Field[Any], value: object) -> object:
    """A value given in Python, in its field's exact type; raises _Problem for a wrong one."""
    kind = _type_of(option)
    if kind is bool:
        if isinstance(value, bool):
            return value
    elif kind is str:
        if isinstance(value, str) and "\0" not in value:
            return str(value.value) if hasattr(value, "value") else str(value)
    elif not isinstance(value, bool):
        if kind is int and isinstance(value, numbers.Integral) and abs(int(value)) < 2**63:
            return int(value)
        if kind is float and isinstance(value, numbers.Real):
            return _finite(option, value)
    raise _Problem(_must_be(option, value))


def _finite(option: Field[Any], value: numbers.Real) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Problem(_must_be(option, value))
    return number


def _must_be(option: Field[Any], value: object) -> str:
    default = option.metadata["default"]
    example = f"such as {default!r}" if default != "" else "in quotes, without NUL characters"
    return (
        f"{option.name} must be {_WANTED[_type_of(option)]} "
        f"(got {_shown(value)}, of type {type(value).__name__}). "
        f"Suggestion: pass a value {example}"
    )


class _Variables:
    """Variables of the environment, then of `.env`; os.environ is never changed."""

    def __init__(self, env_file: EnvFile) -> None:
        self._asked_for = env_file is not _USUAL or "POOL_ENV_FILE" in os.environ
        if env_file is _USUAL:
            env_file = os.environ.get("POOL_ENV_FILE", ".env")
        self._path = Path(env_file) if env_file else None
        self._file: Mapping[str, str] | None = None

    def read(self, option: Field[Any]) -> object:
        """The option from the first variable that sets it, else its default."""
        variable, text, origin = self._find(option)
        if not text:
            return option.metadata["default"]
        kind = _type_of(option)
        if kind is str:
            return text
        with suppress(PoolConfigurationError):
            value = _pqpool.parse_option(option.name, text)
            if kind is not float or math.isfinite(value):  # type: ignore[arg-type]
                return value
        raise _Problem(
            f"{option.name} must be {_WANTED[kind]} (got {variable}={_shown(text)} from "
            f"{origin}). Suggestion: set {variable} to a value such as "
            f"{str(option.metadata['default']).lower()}, or remove it"
        )

    def _find(self, option: Field[Any]) -> tuple[str, str, str]:
        free_text = _type_of(option) is str and option.name not in _CHOICES
        blanks = "" if free_text else _BLANKS  # around these they do not count
        variables = [f"POOL_{option.name.upper()}"]
        if option.name == "database_url":
            variables.append("DATABASE_URL")
        for variable in variables:
            if text := os.environ.get(variable, "").strip(blanks):
                return variable, text, "the environment"
        for variable in variables:
            if text := self._from_file().get(variable, "").strip(blanks):
                return variable, text, f"the file {mask_url(str(self._path))}"
        return variables[0], "", ""

    def _from_file(self) -> Mapping[str, str]:
        if self._file is None:
            self._file = _read_env_file(self._path, self._asked_for) if self._path else {}
        return self._file


def _read_env_file(path: Path, must_exist: bool) -> Mapping[str, str]:
    """The variables a `.env` file sets; empty if there is none and none was asked for.

    python-dotenv reads it where installed. Without it, plain NAME=value lines are understood,
    with comments, `export` and quotes, but no interpolation.
    """
    if not must_exist and not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise _Problem(
            f"the file {mask_url(str(path.absolute()))} cannot be read ({reason}). "
            "Suggestion: make it readable UTF-8 text, or remove it"
        ) from None
    try:
        from dotenv import dotenv_values
    except ImportError:
        return _simple_env(text)
    from io import StringIO

    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value}


def _simple_env(text: str) -> dict[str, str]:
    variables = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.lstrip().startswith("#"):
            continue
        value = value.strip()
        if value[:1] in ("'", '"') and value.find(value[0], 1) > 0:
            value = value[1 : value.index(value[0], 1)]
        else:
            value = value.partition(" #")[0].rstrip()
        variables[name.strip()] = value
    return variables
