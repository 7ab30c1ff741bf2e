"""A process that forks with a pool open and a connection leased; test_misuse.py runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback

from pqpool import Connection, ConnectionPoolManager, ForkedProcessError, PoolConfig
from pqpool.pool_logging import get_pool_logger


class ListHandler(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


async def in_child(manager: ConnectionPoolManager, connection: Connection, parents: set[int]) -> None:
    """The parent's connection is refused, and the manager opens a pool of the child's own."""
    for _ in range(2):
        try:
            await connection.fetchval("SELECT 1")
        except ForkedProcessError as error:
            assert "parent" in str(error)
        else:
            raise AssertionError("the parent's connection was used")
    lines: list[str] = []
    logger = get_pool_logger()
    logger.setLevel(logging.INFO)
    logger.addHandler(ListHandler(lines))
    async with manager.acquire() as own:
        assert await own.fetchval("SELECT pg_backend_pid()") not in parents
    answers = await asyncio.gather(*(manager.fetchval("SELECT $1::int", n) for n in range(20)))
    assert answers == list(range(20))
    for _ in range(100):
        if any("initialized" in line for line in lines):
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError(f"the child's own log is not handed on: {lines}")
    await manager.shutdown(2.0)
    print("child", flush=True)


def fork_child(manager: ConnectionPoolManager, connection: Connection, parents: set[int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        asyncio.run(in_child(manager, connection, parents))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


async def main(url: str) -> None:
    async with ConnectionPoolManager(PoolConfig(url, min_size=2, max_size=4)) as manager:
        async with manager.acquire() as connection, connection.transaction():
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            sessions = await connection.fetch(
                "SELECT pid FROM pg_stat_activity "
                "WHERE application_name = current_setting('application_name')"
            )
            child = fork_child(manager, connection, {row["pid"] for row in sessions})
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert status == 0, f"the child ended with {status}"
            assert await connection.fetchval("SELECT pg_backend_pid()") == backend
        assert await manager.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", backend) == 1
        assert manager.get_statistics().connections_lost == 0
        print("parent", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
