"""The pool's log: JSON lines through the standard `logging` module, under the logger `pqpool`.

Nothing is written anywhere until the program adds a handler, by `logging.basicConfig()`, by one of
its own, or by `add_log_file`. Each line is
`{"timestamp", "level", "component": "connection_pool", "message", "context": {...}}`.
All functions may be called from any thread.

The functions that log an event take the logger, if one is given, as the first argument or by
name; what else they are given, by position or by name, becomes the line's context. A model such
as `PoolConfig` or `PoolStatistics` stands for all its fields.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from ._dump import jsonable
from ._redact import mask_passwords, mask_value

__all__ = [
    "JsonFormatter",
    "LogLevel",
    "PoolStructuredLogger",
    "add_log_file",
    "emit_native",
    "get_pool_logger",
    "get_pool_structured_logger",
    "log_connection_acquisition",
    "log_pool_event",
    "log_pool_initialization",
    "log_pool_statistics",
    "log_reconnection_attempt",
]

LOGGER_NAME = "pqpool"
COMPONENT = "connection_pool"
LOG_FILE_BYTES = 100 * 1024 * 1024
LOG_FILES_KEPT = 5

# A library's logger without a handler of its own would write warnings to stderr.
logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())


class LogLevel(StrEnum):
    """How much a line matters; `LogLevel("warning")` works in any case."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"

    @classmethod
    def _missing_(cls, value: object) -> LogLevel | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @property
    def number(self) -> int:
        """The level as `logging` counts it."""
        return int(getattr(logging, self.value))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, passwords masked; the context comes from `extra={"context": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        context = dict(_as_context(getattr(record, "context", None)))
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            context["exception"] = record.exc_text
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "component": COMPONENT,
            "message": mask_passwords(record.getMessage()),
            "context": jsonable(context, mask_value),
        }
        return _one_line(json.dumps(line, ensure_ascii=False))


class PoolStructuredLogger:
    """A logger whose methods take the context as a mapping, as keywords, or both."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    @property
    def name(self) -> str:
        """The name of the logger underneath."""
        return self.logger.name

    def log(
        self,
        level: LogLevel | str,
        message: str,
        context: Any = None,
        exc_info: Any = None,
        **fields: Any,
    ) -> None:
        """Log one line. Raises ValueError for an unknown level."""
        number = LogLevel(level).number
        if self.logger.isEnabledFor(number):
            merged = jsonable({**_as_context(context), **fields}, mask_value)
            self.logger.log(
                number,
                "%s",
                mask_passwords(str(message)),
                exc_info=exc_info,
                extra={"context": merged},
            )

    def debug(self, message: str, context: Any = None, exc_info: Any = None, **fields: Any) -> None:
        """Log what only a search for a fault needs."""
        self.log(LogLevel.DEBUG, message, context, exc_info, **fields)

    def info(self, message: str, context: Any = None, exc_info: Any = None, **fields: Any) -> None:
        """Log what happened as it should."""
        self.log(LogLevel.INFO, message, context, exc_info, **fields)

    def warning(self, message: str, context: Any = None, exc_info: Any = None, **fields: Any) -> None:
        """Log what somebody should look at."""
        self.log(LogLevel.WARNING, message, context, exc_info, **fields)

    def error(self, message: str, context: Any = None, exc_info: Any = None, **fields: Any) -> None:
        """Log what failed."""
        self.log(LogLevel.ERROR, message, context, exc_info, **fields)

    def critical(self, message: str, context: Any = None, exc_info: Any = None, **fields: Any) -> None:
        """Log what stops the program from serving."""
        self.log(LogLevel.CRITICAL, message, context, exc_info, **fields)

    def exception(self, message: str, context: Any = None, **fields: Any) -> None:
        """Log a failure with the exception now being handled."""
        self.log(LogLevel.ERROR, message, context, True, **fields)


AnyLogger: TypeAlias = logging.Logger | PoolStructuredLogger


def get_pool_logger(name: str | None = None) -> logging.Logger:
    """The logger `pqpool`, or the one of that name below it, so that its handlers apply."""
    if not name or name == LOGGER_NAME:
        return logging.getLogger(LOGGER_NAME)
    return logging.getLogger(f"{LOGGER_NAME}.{name.removeprefix(LOGGER_NAME + '.')}")


def get_pool_structured_logger(name: str | None = None) -> PoolStructuredLogger:
    """As get_pool_logger, with methods that take a context."""
    return PoolStructuredLogger(get_pool_logger(name))


def add_log_file(path: str | os.PathLike[str], level: LogLevel | str = LogLevel.INFO) -> logging.Handler:
    """Write the pool's lines as JSON to a file too; rotated at 100 MB, five old ones kept.

    Lowers the logger's level where it would keep lines of this level back. Returns the handler;
    `get_pool_logger().removeHandler(handler)` and `handler.close()` end it. Raises OSError when
    the file cannot be opened.
    """
    from logging.handlers import RotatingFileHandler  # it imports much that a pool without it does not need

    handler = RotatingFileHandler(path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, encoding="utf-8")
    number = LogLevel(level).number
    handler.setFormatter(JsonFormatter())
    handler.setLevel(number)
    logger = get_pool_logger()
    if not logger.isEnabledFor(number):
        logger.setLevel(number)
    logger.addHandler(handler)
    return handler


def emit_native(level: str, message: str, context: Mapping[str, Any], timestamp: float) -> None:
    """Hand one line of the core's log to `logging`; timestamp is when it happened, Unix seconds."""
    logger = logging.getLogger(LOGGER_NAME)
    number = LogLevel(level).number
    if not logger.isEnabledFor(number):
        return
    record = logger.makeRecord(LOGGER_NAME, number, "(pqpool)", 0, mask_passwords(message), (), None)
    record.relativeCreated += (timestamp - record.created) * 1000.0
    record.created = timestamp
    record.msecs = timestamp % 1.0 * 1000.0
    record.context = jsonable(context, mask_value)
    logger.handle(record)


def log_pool_event(
    *args: Any,
    logger: AnyLogger | None = None,
    level: LogLevel | str | None = None,
    event: str | None = None,
    message: str | None = None,
    context: Any = None,
    exc_info: Any = None,
    **fields: Any,
) -> None:
    """Log any event: `log_pool_event([logger], [level], event, [context], **context)`.

    The level is INFO unless given; event and message are the same. Raises TypeError for
    arguments beyond these.
    """
    logger, rest = _take_logger(args, logger)
    if level is None and rest and _is_level(rest[0]) and (len(rest) > 1 or event or message):
        level = rest.pop(0)
    if event is None and message is None and rest:
        event = str(rest.pop(0))
    if context is None and rest:
        context = rest.pop(0)
    if rest:
        raise TypeError(f"log_pool_event() takes no further arguments (got {rest!r})")
    text = event if event is not None else message if message is not None else "Pool event"
    if event is not None and message is not None:
        fields["message"] = message
    merged = {**_as_context(context), **fields}
    _structured(logger).log(level or LogLevel.INFO, text, merged, exc_info)


def log_pool_initialization(
    *args: Any, logger: AnyLogger | None = None, success: bool = True, **fields: Any
) -> None:
    """Log that a pool was, or could not be, opened.

    By position or name: min_size, max_size, duration_ms, success, error_message. A failure is an
    ERROR and carries the exception being handled.
    """
    logger, context = _event(
        args, logger, ("min_size", "max_size", "duration_ms", "success", "error_message"), fields
    )
    if context.pop("success", success):
        _structured(logger).info("Connection pool initialized", context)
    else:
        _structured(logger).error("Connection pool initialization failed", context, exc_info=True)


def log_connection_acquisition(*args: Any, logger: AnyLogger | None = None, **fields: Any) -> None:
    """Log, as DEBUG, that a connection was acquired.

    By position or name: acquisition_time_ms, pool_size, active_connections, idle_connections.
    """
    logger, context = _event(
        args,
        logger,
        ("acquisition_time_ms", "pool_size", "active_connections", "idle_connections"),
        fields,
    )
    _structured(logger).debug("Connection acquired", context)


def log_reconnection_attempt(
    *args: Any, logger: AnyLogger | None = None, success: bool | None = None, **fields: Any
) -> None:
    """Log an attempt to reconnect: INFO when it succeeded, else WARNING.

    By position or name: attempt, delay_seconds, success, error_message. Without `success` the
    attempt is only about to be made.
    """
    logger, context = _event(args, logger, ("attempt", "delay_seconds", "success", "error_message"), fields)
    success = context.pop("success", success)
    if success:
        _structured(logger).info("Reconnection succeeded", context)
    elif success is None:
        _structured(logger).warning("Reconnection attempt", context)
    else:
        _structured(logger).warning("Reconnection attempt failed", context)


def log_pool_statistics(*args: Any, logger: AnyLogger | None = None, **fields: Any) -> None:
    """Log, as INFO, a pool's counters: a PoolStatistics, or the counters themselves.

    By position or name: total_connections, idle_connections, active_connections,
    waiting_requests, total_acquisitions, total_releases, avg_acquisition_time_ms.
    """
    logger, context = _event(
        args,
        logger,
        (
            "total_connections",
            "idle_connections",
            "active_connections",
            "waiting_requests",
            "total_acquisitions",
            "total_releases",
            "avg_acquisition_time_ms",
        ),
        fields,
    )
    _structured(logger).info("Pool statistics", context)


# What JSON leaves as it is, but a terminal or a reader of lines does not; and surrogates, which no file
# can hold.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _one_line(text: str) -> str:
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _is_level(value: object) -> bool:
    return isinstance(value, str) and value.upper() in LogLevel.__members__


def _as_context(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return value
    if hasattr(value, "model_dump"):
        return dict(value.model_dump())
    return {"value": value}


def _take_logger(args: tuple[Any, ...], logger: AnyLogger | None) -> tuple[AnyLogger | None, list[Any]]:
    """Split a leading logger, or a None in its place, off positional arguments."""
    if args and (args[0] is None or isinstance(args[0], (logging.Logger, PoolStructuredLogger))):
        return args[0] or logger, list(args[1:])
    return logger, list(args)


def _event(
    args: tuple[Any, ...],
    logger: AnyLogger | None,
    names: tuple[str, ...],
    fields: Mapping[str, Any],
) -> tuple[AnyLogger | None, dict[str, Any]]:
    """The logger and the context of an event with these positional arguments."""
    logger, rest = _take_logger(args, logger)
    context: dict[str, Any] = {}
    plain = []
    for value in rest:
        if isinstance(value, Mapping) or hasattr(value, "model_dump"):
            context.update(_as_context(value))
        else:
            plain.append(value)
    if len(plain) > len(names):
        raise TypeError(f"at most {len(names)} values expected: {', '.join(names)}")
    context.update(zip(names, plain, strict=False))
    given = dict(fields)
    for key in ("context", "stats", "statistics", "config"):
        if isinstance(given.get(key), Mapping) or hasattr(given.get(key), "model_dump"):
            context.update(_as_context(given.pop(key)))
    context.update(given)
    return logger, context


def _structured(logger: AnyLogger | None) -> PoolStructuredLogger:
    if isinstance(logger, PoolStructuredLogger):
        return logger
    return PoolStructuredLogger(logger or get_pool_logger())
