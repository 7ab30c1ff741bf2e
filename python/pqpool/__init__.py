"""pqpool: a PostgreSQL connection pool that lives inside your process."""

from ._pqpool import Record, __version__
from .config import PoolConfig
from .connection import Connection, Transaction
from .exceptions import (
    ConnectionLostError,
    ConnectionPoolError,
    ConnectionValidationError,
    ForkedProcessError,
    InternalPoolError,
    InvalidArgumentError,
    LeaseBusyError,
    LeaseReleasedError,
    PoolClosedError,
    PoolConfigurationError,
    PoolInitializationError,
    PoolNotInitializedError,
    PoolTimeoutError,
    QueryError,
    StatementCancelledError,
    StatementTimeoutError,
    TooManyRequestsError,
    UnsupportedError,
)
from .health import (
    DatabaseStatus,
    HealthStatus,
    PoolHealthStatus,
    PoolState,
    calculate_health_status,
)
from .manager import ConnectionPoolManager, Holder
from .pool_logging import (
    LogLevel,
    get_pool_logger,
    get_pool_structured_logger,
    log_connection_acquisition,
    log_pool_event,
    log_pool_initialization,
    log_pool_statistics,
    log_reconnection_attempt,
)
from .retry import exponential_backoff_retry
from .statistics import PoolStatistics

__all__ = [
    "Connection",
    "ConnectionLostError",
    "ConnectionPoolError",
    "ConnectionPoolManager",
    "ConnectionValidationError",
    "DatabaseStatus",
    "ForkedProcessError",
    "HealthStatus",
    "Holder",
    "InternalPoolError",
    "InvalidArgumentError",
    "LeaseBusyError",
    "LeaseReleasedError",
    "LogLevel",
    "PoolClosedError",
    "PoolConfig",
    "PoolConfigurationError",
    "PoolHealthStatus",
    "PoolInitializationError",
    "PoolNotInitializedError",
    "PoolState",
    "PoolStatistics",
    "PoolTimeoutError",
    "QueryError",
    "Record",
    "StatementCancelledError",
    "StatementTimeoutError",
    "TooManyRequestsError",
    "Transaction",
    "UnsupportedError",
    "__version__",
    "calculate_health_status",
    "exponential_backoff_retry",
    "get_pool_logger",
    "get_pool_structured_logger",
    "log_connection_acquisition",
    "log_pool_event",
    "log_pool_initialization",
    "log_pool_statistics",
    "log_reconnection_attempt",
]
