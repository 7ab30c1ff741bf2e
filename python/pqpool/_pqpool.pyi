"""The native module: the core's C ABI for Python."""

from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Literal, NotRequired, TypeAlias, TypedDict, TypeVar

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

def parse_option(name: str, text: str) -> int | float | bool | str:
    """The value for which a text stands. Raises PoolConfigurationError."""

def mask_conninfo(conninfo: str) -> str:
    """A text that as a whole is a URL or keyword string, with every password as ***."""

def mask_statement(sql: str) -> str:
    """A statement; one that speaks of a password or the like without its literals."""

def mask_text(text: str) -> str:
    """Any text, with every password in it as ***."""

def calculate_health(statistics: Mapping[str, Any], min_size: int, max_size: int) -> str:
    """The core's health rule.

    statistics: the fields of PoolStatistics, times as Unix seconds or None, and `now`.
    """

__version__: str

class Record:
    """A row, readable by index and by name. Immutable; equal to a tuple of the same values."""

    def __getitem__(self, key: int | str | slice) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __contains__(self, name: object) -> bool: ...
    def get(self, name: str, default: Any = None) -> Any: ...
    def keys(self) -> Iterator[str]: ...
    def values(self) -> Iterator[Any]: ...
    def items(self) -> Iterator[tuple[str, Any]]: ...

class NativeHolder(TypedDict):
    lease: int
    backend_pid: int
    held_seconds: float
    tag: str
    last_statement: str

NativeHealth: TypeAlias = tuple[
    str, str, str, int, int, int, int, float | None, str | None, int, float, float, bool
]

class Pool:
    """A pool. Any thread."""

    def __init__(self, options: dict[str, Any]) -> None: ...
    def start(self) -> None: ...
    def statistics(self) -> dict[str, Any]: ...
    def health(self) -> NativeHealth: ...
    def state(self) -> str: ...
    def holders(self) -> list[NativeHolder]: ...
    def resize(self, min_size: int, max_size: int) -> None: ...
    def drain(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def set_log_level(self, level: int) -> None: ...

class Lease:
    """One connection in the hands of one event loop's tasks."""

    _released: bool
    _handle: int
    _driver: Driver
    _operation: int
    def _run(
        self, mode: int, query: str, args: tuple[object, ...], column: int, timeout: float | None
    ) -> Awaitable[Any]: ...
    def _release(self) -> None: ...
    def _transaction_status(self) -> int: ...
    def _stack(self) -> list[tuple[str, int, str]]: ...

_Connection = TypeVar("_Connection", bound=Lease)

class Acquire(Generic[_Connection]):
    """A request for a connection: `async with` it, or await it and release the connection yourself."""

    def __new__(
        cls, manager: Any, drivers: dict[Any, Driver], timeout: float | None, leak_timeout: float | None
    ) -> Acquire[_Connection]: ...
    def __await__(self) -> Generator[Any, None, _Connection]: ...
    async def __aenter__(self) -> _Connection: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

class Driver:
    """One event loop's side of a pool; on that loop's thread only, but for wake() and retire().

    Of its owner it calls `_on_log` with each line of the log, and `_close_driver` when it has
    retired and nobody uses it any more.
    """

    def __init__(
        self,
        pool: Pool,
        loop: AbstractEventLoop,
        lease_type: type[Lease],
        owner: Any,
        keeps_stacks: bool,
    ) -> None: ...
    @property
    def loop(self) -> AbstractEventLoop: ...
    @property
    def owner(self) -> Any: ...
    def drain(self) -> None: ...
    def await_open(self) -> Awaitable[None]: ...
    def shutdown(self, timeout: float | None) -> Awaitable[None]: ...
    def take_log(self) -> None: ...
    def wake(self) -> None: ...
    def retire(self) -> None: ...
    def close(self) -> None: ...
    def is_closed(self) -> bool: ...
    def fileno(self) -> int: ...
    def leases(self) -> list[Lease]: ...

class Reader:
    """What the event loop calls when the driver's descriptor is readable.

    With its last reference, which is the loop's, the driver is closed.
    """

    def __init__(self, driver: Driver) -> None: ...
    def __call__(self) -> None: ...
