"""PoolStatistics: the snapshot's fields, its times, and its dumps."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pqpool import PoolStatistics

CREATED = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
CONTRACT_FIELDS = [
    "total_connections",
    "idle_connections",
    "active_connections",
    "waiting_requests",
    "total_acquisitions",
    "total_releases",
    "avg_acquisition_time_ms",
    "peak_active_connections",
    "peak_wait_time_ms",
    "pool_created_at",
    "last_health_check",
    "last_error",
    "last_error_time",
]


def native(**changes: Any) -> dict[str, Any]:
    values = PoolStatistics(pool_created_at=CREATED)._to_native()
    return {**values, "total_connections": 3, "idle_connections": 2, "active_connections": 1, **changes}


def test_has_every_field_of_the_contract() -> None:
    dump = PoolStatistics._from_native(native()).model_dump()
    assert set(CONTRACT_FIELDS) <= set(dump)


def test_native_times_become_aware_utc_datetimes() -> None:
    stats = PoolStatistics._from_native(native(last_error="gone", last_error_time=CREATED.timestamp()))
    assert stats.pool_created_at == CREATED
    assert stats.last_error_time == CREATED
    assert stats.pool_created_at.utcoffset() == timedelta(0)
    assert stats.last_health_check is None
    assert (stats.total_connections, stats.last_error) == (3, "gone")


def test_native_form_survives_the_round_trip() -> None:
    values = native(last_leak_time=CREATED.timestamp(), latency_ms=0.25)
    assert PoolStatistics._from_native(dict(values))._to_native() == values


def test_is_immutable_and_picklable() -> None:
    for stats in (PoolStatistics._from_native(native()), PoolStatistics(total_connections=1)):
        with pytest.raises(FrozenInstanceError):
            stats.total_connections = 9  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(stats)) == stats


def test_two_snapshots_of_the_same_numbers_are_equal() -> None:
    assert PoolStatistics._from_native(native()) == PoolStatistics._from_native(native())
    assert PoolStatistics._from_native(native()) != PoolStatistics._from_native(native(leases_out=1))


def test_json_holds_iso_8601_times_and_plain_numbers() -> None:
    stats = PoolStatistics._from_native(native(avg_acquisition_time_ms=1.5))
    values = json.loads(stats.model_dump_json())
    assert values["pool_created_at"] == "2025-01-02T03:04:05.678901+00:00"
    assert values["avg_acquisition_time_ms"] == 1.5
    assert values["last_error"] is None
    assert values == stats.model_dump(mode="json")


def test_times_of_other_zones_and_naive_ones_are_told_in_utc() -> None:
    elsewhere = CREATED.astimezone(timezone(timedelta(hours=5)))
    for moment in (elsewhere, CREATED.replace(tzinfo=None)):
        stats = PoolStatistics(pool_created_at=moment)
        assert stats._to_native()["pool_created_at"] == CREATED.timestamp()
        assert "2025-01-02T03:04:05.678901+00:00" in stats.model_dump_json()


def test_hand_built_snapshot_counts_all_its_connections_as_live() -> None:
    assert PoolStatistics(total_connections=4).live_connections == 4
    assert PoolStatistics(total_connections=4, live_connections=1).live_connections == 1


def test_total_errors_sums_lost_connections_and_failed_attempts() -> None:
    assert PoolStatistics(connections_lost=2, connection_failures=3).total_errors == 5
