"""The state and the health of a pool.

The rule that turns numbers into a status lives in the core; this module only carries its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _pqpool
from ._dump import Mode, jsonable, to_json
from .statistics import PoolStatistics

if TYPE_CHECKING:
    from .config import PoolConfig

__all__ = [
    "DatabaseStatus",
    "HealthStatus",
    "PoolHealthStatus",
    "PoolState",
    "calculate_health_status",
]

NativeHealth: TypeAlias = tuple[
    str, str, str, int, int, int, int, float | None, str | None, int, float, float, bool
]
"""status, state, database status, total, idle, active, waiting, latency in ms, last error,
leak count, uptime in seconds, Unix time, whether a pooler is in between."""

StatisticsSource: TypeAlias = Callable[[], dict[str, Any]]
"""Reads the native statistics; called at most once, when somebody asks for them."""


class PoolState(StrEnum):
    """Where a pool is in its life."""

    INITIALIZING = "initializing"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    RECOVERING = "recovering"
    SHUTTING_DOWN = "shutting_down"
    TERMINATED = "terminated"


class PoolHealthStatus(StrEnum):
    """Whether a pool can serve: fully, in part, or not."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """What the pool knows about its database, without having asked it now.

    status: connected, connecting, degraded or disconnected.
    pool: the connection counts, by the keys total, idle, active and waiting.
    latency_ms: the last check's round trip, or None before the first.
    last_error: the last error's text, or None. leak_count: leases now held too long.
    behind_pooler: a pooler such as PgBouncer lends out the server's sessions; in its transaction
    mode LISTEN, session settings and session locks do not hold.
    """

    status: str
    pool: dict[str, int] = field(default_factory=dict, hash=False)
    latency_ms: float | None = None
    last_error: str | None = None
    leak_count: int = 0
    behind_pooler: bool = False

    def model_dump(self, *, mode: Mode = "python") -> dict[str, Any]:
        """All fields by name, in a new dict."""
        return {
            "status": self.status,
            "pool": dict(self.pool),
            "latency_ms": jsonable(self.latency_ms) if mode == "json" else self.latency_ms,
            "last_error": self.last_error,
            "leak_count": self.leak_count,
            "behind_pooler": self.behind_pooler,
        }

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """All fields as JSON text."""
        return to_json(self.model_dump(), indent)


class _NativeSnapshot:
    """The slots from which a `HealthStatus` of the pool fills its fields on first use."""

    __slots__ = ("_native", "_statistics")

    _native: NativeHealth
    _statistics: StatisticsSource | None


@dataclass(frozen=True, slots=True)
class HealthStatus(_NativeSnapshot):
    """The health of a pool at one moment; immutable, readable from any thread.

    status: the verdict. timestamp: when it was given (aware UTC). database: what the verdict is
    built on. uptime_seconds: since the pool was created. state: the lifecycle state.
    pool_statistics: the counters; those of a pool's own answer are read when first asked for.

    Health checks are frequent and mostly read `status` alone, so one that the pool gives holds
    only the native snapshot, and its fields are built when first read.
    """

    status: PoolHealthStatus
    timestamp: datetime
    database: DatabaseStatus
    uptime_seconds: float = 0.0
    state: PoolState | None = None
    pool_statistics: PoolStatistics = field(
        default=None,
        compare=False,
        repr=False,  # type: ignore[assignment]
    )

    def __post_init__(self) -> None:
        _set(self, "status", PoolHealthStatus(self.status))
        if self.state is not None:
            _set(self, "state", PoolState(self.state))
        if self.pool_statistics is None:
            _set(self, "pool_statistics", _counts_only(self.database.pool))

    if not TYPE_CHECKING:
        # Reached only while a slot is empty: a field of a native snapshot, read the first time.
        def __getattr__(self, name: str) -> Any:
            build = _BUILDERS.get(name)
            if build is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = build(self)
            _set(self, name, value)
            return value

    @property
    def database_connected(self) -> bool:
        """Whether the pool has live connections to its database."""
        return self.database.status in ("connected", "degraded")

    def model_dump(self, *, mode: Mode = "python") -> dict[str, Any]:
        """All fields by name, nested ones as dicts; with mode="json", times are ISO 8601 text."""
        values = {
            "status": self.status,
            "timestamp": self.timestamp,
            "database": self.database.model_dump(),
            "uptime_seconds": self.uptime_seconds,
            "state": self.state,
            "database_connected": self.database_connected,
            "pool_statistics": self.pool_statistics.model_dump(),
        }
        return jsonable(values) if mode == "json" else values

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """All fields as JSON text; times are ISO 8601 in UTC."""
        return to_json(self.model_dump(), indent)


_set = object.__setattr__
_new_health: Callable[[type[HealthStatus]], HealthStatus] = HealthStatus.__new__
_set_native = _NativeSnapshot.__dict__["_native"].__set__
_set_statistics = _NativeSnapshot.__dict__["_statistics"].__set__


def health_from_native(native: NativeHealth, statistics: StatisticsSource | None = None) -> HealthStatus:
    """Wrap the pool's native answer; about 150 ns, for nothing is built yet."""
    self = _new_health(HealthStatus)
    _set_native(self, native)
    _set_statistics(self, statistics)
    return self


def _counts_only(pool: dict[str, int]) -> PoolStatistics:
    return PoolStatistics(
        total_connections=pool.get("total", 0),
        idle_connections=pool.get("idle", 0),
        active_connections=pool.get("active", 0),
        waiting_requests=pool.get("waiting", 0),
        leases_out=pool.get("active", 0),
    )


def _build_database(self: HealthStatus) -> DatabaseStatus:
    _, _, status, total, idle, active, waiting, latency_ms, last_error, leaks, _, _, pooler = self._native
    pool = {"total": total, "idle": idle, "active": active, "waiting": waiting}
    return DatabaseStatus(status, pool, latency_ms, last_error, leaks, pooler)


def _build_statistics(self: HealthStatus) -> PoolStatistics:
    if self._statistics is None:
        return _counts_only(self.database.pool)
    return PoolStatistics._from_native(self._statistics())


# A plain lookup; calling the enum class would take longer than the whole health check.
_STATUSES = {member.value: member for member in PoolHealthStatus}

_BUILDERS: dict[str, Callable[[HealthStatus], Any]] = {
    "status": lambda self: _STATUSES[self._native[0]],
    "state": lambda self: PoolState(self._native[1]),
    "database": _build_database,
    "uptime_seconds": lambda self: self._native[10],
    "timestamp": lambda self: datetime.fromtimestamp(self._native[11], UTC),
    "pool_statistics": _build_statistics,
}


def calculate_health_status(stats: PoolStatistics, config: PoolConfig) -> PoolHealthStatus:
    """The verdict on a snapshot, by the core's rule and the current time. Pure but for the clock.

    UNHEALTHY: not running, no connection, or under half of min_size. DEGRADED: under 80 % of
    min_size, waiters with every connection out, an acquire that took over 100 ms or timed out, an
    error not recovered from, or a leak warning, each within the last 60 s. HEALTHY: else.
    """
    values = stats._to_native()
    values["now"] = time.time()
    return PoolHealthStatus(_pqpool.calculate_health(values, config.min_size, config.max_size))
