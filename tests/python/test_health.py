"""HealthStatus and the rule behind it, as the core judges."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pqpool import (
    DatabaseStatus,
    HealthStatus,
    PoolConfig,
    PoolHealthStatus,
    PoolState,
    PoolStatistics,
    calculate_health_status,
)
from pqpool.health import NativeHealth, health_from_native

NATIVE: NativeHealth = (
    "degraded", "recovering", "connecting", 3, 1, 2, 4, 0.5, "gone", 1, 12.5, 1_700_000_000.25, True
)  # fmt: skip
CONFIG = PoolConfig(database_url="postgresql://h/d", min_size=10, max_size=20)


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def judge(**facts: Any) -> str:
    values = {"total_connections": 10, "idle_connections": 10, **facts}
    return calculate_health_status(PoolStatistics(**values), CONFIG).value


def test_native_answer_is_read_field_by_field() -> None:
    health = health_from_native(NATIVE)
    assert health.status is PoolHealthStatus.DEGRADED
    assert health.state is PoolState.RECOVERING
    assert health.timestamp == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert health.uptime_seconds == 12.5
    assert health.database == DatabaseStatus(
        status="connecting",
        pool={"total": 3, "idle": 1, "active": 2, "waiting": 4},
        latency_ms=0.5,
        last_error="gone",
        leak_count=1,
        behind_pooler=True,
    )


def test_fields_are_built_once() -> None:
    health = health_from_native(NATIVE)
    assert health.database is health.database
    assert health.timestamp is health.timestamp


def test_statuses_compare_and_print_as_text() -> None:
    health = health_from_native(NATIVE)
    assert health.status == "degraded"
    assert f"{health.status}" == "degraded"
    assert health.status.value == "degraded"
    assert [state.value for state in PoolState] == (
        ["initializing", "healthy", "degraded", "unhealthy", "recovering", "shutting_down", "terminated"]
    )


def test_statistics_are_read_when_first_asked_for_and_only_then() -> None:
    reads = []

    def source() -> dict[str, Any]:
        reads.append(1)
        return PoolStatistics(total_connections=7)._to_native()

    health = health_from_native(NATIVE, source)
    assert health.status == "degraded"
    assert reads == []
    assert health.pool_statistics.total_connections == 7
    assert health.pool_statistics is health.pool_statistics
    assert reads == [1]


def test_statistics_without_a_source_hold_the_counts() -> None:
    stats = health_from_native(NATIVE).pool_statistics
    assert (stats.total_connections, stats.idle_connections) == (3, 1)
    assert (stats.active_connections, stats.waiting_requests) == (2, 4)


def test_is_built_by_keyword_too() -> None:
    moment = ago(0)
    health = HealthStatus(
        status="healthy",  # type: ignore[arg-type]
        timestamp=moment,
        database=DatabaseStatus(status="connected", pool={"total": 2, "idle": 2}),
        uptime_seconds=1.0,
    )
    assert health.status is PoolHealthStatus.HEALTHY
    assert health.timestamp is moment
    assert health.database_connected
    assert health.pool_statistics.total_connections == 2


@pytest.mark.parametrize(
    ("status", "connected"),
    [("connected", True), ("degraded", True), ("connecting", False), ("disconnected", False)],
)
def test_database_connected_follows_the_database_status(status: str, connected: bool) -> None:
    native: NativeHealth = (*NATIVE[:2], status, *NATIVE[3:])
    assert health_from_native(native).database_connected is connected


def test_is_immutable() -> None:
    health = health_from_native(NATIVE)
    for name in ("status", "database", "surprise"):
        with pytest.raises((FrozenInstanceError, TypeError, AttributeError)):
            setattr(health, name, "healthy")
    assert health.status == "degraded"


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="healthiness"):
        health_from_native(NATIVE).healthiness  # type: ignore[attr-defined]  # noqa: B018


def test_equal_answers_are_equal_and_survive_copying() -> None:
    health = health_from_native(NATIVE)
    assert health == health_from_native(NATIVE)
    assert copy.deepcopy(health) == health
    assert pickle.loads(pickle.dumps(health)) == health
    assert hash(health) == hash(health_from_native(NATIVE))


def test_dump_nests_plain_dicts() -> None:
    dump = health_from_native(NATIVE).model_dump()
    assert dump["status"] == "degraded"
    assert dump["database"]["pool"] == {"total": 3, "idle": 1, "active": 2, "waiting": 4}
    assert dump["database_connected"] is False
    assert dump["database"]["behind_pooler"] is True
    assert dump["pool_statistics"]["total_connections"] == 3


def test_json_holds_text_and_iso_8601_times() -> None:
    values = json.loads(health_from_native(NATIVE).model_dump_json())
    assert values["status"] == "degraded"
    assert values["timestamp"] == "2023-11-14T22:13:20.250000+00:00"
    assert values["database"]["last_error"] == "gone"
    assert json.loads(DatabaseStatus(status="connected").model_dump_json())["latency_ms"] is None


@pytest.mark.parametrize("live", [0, 1, 4])
def test_under_half_capacity_is_unhealthy(live: int) -> None:
    assert judge(total_connections=live, idle_connections=live) == "unhealthy"


@pytest.mark.parametrize("live", [5, 7])
def test_under_four_fifths_capacity_is_degraded(live: int) -> None:
    assert judge(total_connections=live, idle_connections=live) == "degraded"


@pytest.mark.parametrize("live", [8, 10, 20])
def test_four_fifths_capacity_and_more_is_healthy(live: int) -> None:
    assert judge(total_connections=live, idle_connections=live) == "healthy"


@pytest.mark.parametrize("state", ["initializing", "shutting_down", "terminated"])
def test_pool_that_does_not_run_is_unhealthy(state: str) -> None:
    assert judge(state=state) == "unhealthy"


def test_recovering_with_connections_is_degraded() -> None:
    assert judge(state="recovering") == "degraded"


def test_busy_pool_is_healthy_until_somebody_waits() -> None:
    busy = {"total_connections": 20, "idle_connections": 0, "active_connections": 20}
    assert judge(**busy) == "healthy"
    assert judge(**busy, waiting_requests=1) == "degraded"


@pytest.mark.parametrize("field", ["last_error_time", "last_slow_acquisition_time", "last_leak_time"])
def test_trouble_degrades_for_a_minute(field: str) -> None:
    assert judge(**{field: ago(5)}) == "degraded"
    assert judge(**{field: ago(61)}) == "healthy"


def test_error_that_a_recovery_came_after_is_forgotten_at_once() -> None:
    assert judge(last_error_time=ago(5), last_recovery_time=ago(4)) == "healthy"
    assert judge(last_error_time=ago(4), last_recovery_time=ago(5)) == "degraded"
