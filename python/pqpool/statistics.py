"""What a pool has done and what it holds: one immutable snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from ._dump import Mode, epoch, jsonable, to_json

__all__ = ["PoolStatistics"]


_SAME_AS_TOTAL = -1  # in a snapshot built by hand that does not tell


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class PoolStatistics:
    """A snapshot of a pool's counters, all taken at the same moment.

    Always true: total = idle + active; total_acquisitions − total_releases = leases_out;
    peak_active_connections ≥ active_connections; nothing is negative. Times are aware UTC
    datetimes or None for "never". A snapshot never changes, so any thread may read it.
    """

    total_connections: int = 0
    idle_connections: int = 0
    active_connections: int = 0
    waiting_requests: int = 0
    total_acquisitions: int = 0
    total_releases: int = 0
    avg_acquisition_time_ms: float = 0.0
    """Over the last 1000 acquisitions."""
    peak_active_connections: int = 0
    peak_wait_time_ms: float = 0.0
    pool_created_at: datetime = field(default_factory=_now)
    last_health_check: datetime | None = None
    last_error: str | None = None
    last_error_time: datetime | None = None

    state: str = "healthy"
    """The lifecycle state: a value of `PoolState`."""
    live_connections: int = _SAME_AS_TOTAL
    """Open, not known to be lost, and not being checked or cleaned for over 100 ms."""
    opening_connections: int = 0
    """Being opened, checked or replaced by the pool itself; in neither idle nor active."""
    cleaning_connections: int = 0
    """Being cancelled, drained or reset after a lease; in neither idle nor active."""
    leases_out: int = 0
    peak_waiting_requests: int = 0
    total_timeouts: int = 0
    """Requests that ended by their timeout."""
    total_rejected: int = 0
    """Requests refused because max_waiting were waiting."""
    connections_opened: int = 0
    connections_closed: int = 0
    """Lost ones included."""
    connections_lost: int = 0
    """Found dead, by hang-up or by validation."""
    connection_failures: int = 0
    """Attempts to open a connection that failed."""
    last_recovery_time: datetime | None = None
    last_slow_acquisition_time: datetime | None = None
    """When a request last waited over 100 ms, or timed out, with the server up."""
    last_leak_time: datetime | None = None
    leak_count: int = 0
    """Leases out that are held past their leak limit."""
    latency_ms: float | None = None
    """Round trip of the pool's last own check; None before the first."""
    uptime_seconds: float = 0.0
    acquisition_p50_ms: float = 0.0
    acquisition_p95_ms: float = 0.0
    acquisition_p99_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.live_connections == _SAME_AS_TOTAL:
            object.__setattr__(self, "live_connections", self.total_connections)

    @property
    def total_errors(self) -> int:
        """Connections lost and connections that could not be opened."""
        return self.connections_lost + self.connection_failures

    @classmethod
    def _from_native(cls, values: dict[str, Any]) -> PoolStatistics:
        """Build from the native snapshot, whose times are Unix seconds; takes over the dict.

        The dict becomes the object's attributes as it is, which costs about a microsecond where
        the generated constructor would cost ten.
        """
        for name in _TIMES:
            moment = values.get(name)
            if moment is not None:
                values[name] = datetime.fromtimestamp(moment, UTC)
        values.setdefault("live_connections", values["total_connections"])
        self = object.__new__(cls)
        object.__setattr__(self, "__dict__", values)
        return self

    def _to_native(self) -> dict[str, Any]:
        """The reverse of `_from_native`: a new dict, times as Unix seconds."""
        values = {name: getattr(self, name) for name in _NAMES}
        for name in _TIMES:
            if values[name] is not None:
                values[name] = epoch(values[name])
        return values

    def model_dump(self, *, mode: Mode = "python") -> dict[str, Any]:
        """All fields by name; with mode="json", times are ISO 8601 text."""
        values = {name: getattr(self, name) for name in _NAMES}
        return jsonable(values) if mode == "json" else values

    def model_dump_json(self, *, indent: int | None = None) -> str:
        """All fields as JSON text; times are ISO 8601 in UTC."""
        return to_json(self.model_dump(), indent)


_NAMES = tuple(item.name for item in fields(PoolStatistics))
_TIMES = tuple(item.name for item in fields(PoolStatistics) if "datetime" in str(item.type))
