"""`Connection.transaction()`: commit, rollback, savepoints, isolation, and what is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pqpool import Connection, ConnectionPoolManager, InvalidArgumentError, QueryError
from support.pools import assert_sound, open_pool


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(database_url) as manager:
        yield manager


@pytest.fixture
async def conn(pool: ConnectionPoolManager) -> AsyncIterator[Connection]:
    async with pool.acquire() as connection:
        await connection.execute("CREATE TEMP TABLE t (n int)")
        yield connection


async def rows(conn: Connection) -> list[int]:
    return [row["n"] for row in await conn.fetch("SELECT n FROM t ORDER BY n")]


class Oops(Exception):
    pass


async def test_block_that_ends_well_is_committed(conn: Connection) -> None:
    assert not conn.is_in_transaction()
    async with conn.transaction():
        assert conn.is_in_transaction()
        await conn.execute("INSERT INTO t VALUES (1)")
    assert not conn.is_in_transaction()
    assert await rows(conn) == [1]


async def test_block_that_raises_is_rolled_back(conn: Connection) -> None:
    with pytest.raises(Oops):
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (1)")
            raise Oops
    assert not conn.is_in_transaction()
    assert await rows(conn) == []


async def test_servers_error_in_the_block_rolls_back(conn: Connection) -> None:
    with pytest.raises(QueryError) as caught:
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (1)")
            await conn.fetchval("SELECT 1 / 0")
    assert caught.value.sqlstate == "22012"
    assert await rows(conn) == []


async def test_nested_block_that_raises_is_undone_alone(conn: Connection) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(QueryError):
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (2)")
                await conn.fetchval("SELECT 1 / 0")
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES (3)")
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (4)")
    assert await rows(conn) == [1, 3, 4]


async def test_outer_block_that_raises_undoes_the_nested_one(conn: Connection) -> None:
    with pytest.raises(Oops):
        async with conn.transaction():
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (1)")
            raise Oops
    assert await rows(conn) == []


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ("read committed", "off", "off")),
        ({"isolation": "read_uncommitted"}, ("read uncommitted", "off", "off")),
        ({"isolation": "repeatable_read"}, ("repeatable read", "off", "off")),
        ({"isolation": "serializable"}, ("serializable", "off", "off")),
        ({"readonly": True}, ("read committed", "on", "off")),
        (
            {"isolation": "serializable", "readonly": True, "deferrable": True},
            ("serializable", "on", "on"),
        ),
    ],
)
async def test_options_reach_the_server(
    conn: Connection, options: dict[str, Any], shown: tuple[str, ...]
) -> None:
    names = ("isolation", "read_only", "deferrable")
    async with conn.transaction(**options):
        assert tuple([await conn.fetchval(f"SHOW transaction_{name}") for name in names]) == shown
    assert await conn.fetchval("SHOW transaction_isolation") == "read committed"


async def test_options_that_cannot_be_are_refused(conn: Connection) -> None:
    with pytest.raises(InvalidArgumentError, match="isolation must be one of"):
        conn.transaction(isolation="snapshot")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="deferrable needs"):
        conn.transaction(deferrable=True)
    async with conn.transaction():
        with pytest.raises(InvalidArgumentError, match="nested"):
            async with conn.transaction(isolation="serializable"):
                pass
        assert await conn.fetchval("SELECT 1") == 1


async def test_transaction_by_hand(conn: Connection) -> None:
    first = conn.transaction()
    with pytest.raises(InvalidArgumentError, match="the transaction is new"):
        await first.commit()
    await first.start()
    with pytest.raises(InvalidArgumentError, match="started already"):
        await first.start()
    await conn.execute("INSERT INTO t VALUES (1)")
    await first.rollback()
    with pytest.raises(InvalidArgumentError, match="the transaction is rolled back"):
        await first.commit()
    second = conn.transaction()
    await second.start()
    await conn.execute("INSERT INTO t VALUES (2)")
    await second.commit()
    assert await rows(conn) == [2]


async def test_start_that_fails_leaves_no_transaction(conn: Connection) -> None:
    await conn.execute("BEGIN")
    with pytest.raises(QueryError):
        await conn.fetchval("SELECT 1 / 0")
    with pytest.raises(QueryError):
        async with conn.transaction():
            pass  # the server refuses everything but the end of the broken one
    assert conn.is_in_transaction()
    await conn.execute("ROLLBACK")
    assert not conn.is_in_transaction()
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
    assert await rows(conn) == [1]


async def test_release_rolls_an_open_transaction_back(pool: ConnectionPoolManager) -> None:
    async with pool.acquire() as conn:
        await conn.execute("CREATE TABLE IF NOT EXISTS left_open (n int)")
        await conn.execute("TRUNCATE left_open")
        await conn.transaction().start()
        await conn.execute("INSERT INTO left_open VALUES (1)")
    async with pool.acquire() as conn:
        assert not conn.is_in_transaction()
        assert await conn.fetchval("SELECT count(*) FROM left_open") == 0
        await conn.execute("DROP TABLE left_open")
    await assert_sound(pool)


async def test_release_inside_the_block_ends_the_transaction_too(pool: ConnectionPoolManager) -> None:
    conn = await pool.acquire()
    async with conn.transaction():
        await pool.release(conn)
    await assert_sound(pool)
