"""Behind PgBouncer, with the defaults: all in session mode; in transaction mode what needs no session."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pqpool import ConnectionPoolError, ConnectionPoolManager, PoolInitializationError, QueryError
from pqpool.throwaway import ThrowawayServer
from support.pgbouncer import PgBouncer
from support.pools import open_pool

MODES = ["session", "transaction"]


@pytest.fixture(params=MODES)
def bouncer(request: pytest.FixtureRequest, server: ThrowawayServer) -> Iterator[PgBouncer]:
    # A client of session mode keeps its server connection, so there each needs one.
    with PgBouncer(server, request.param, 24 if request.param == "session" else 4) as running:
        yield running


@pytest.fixture
def few(server: ThrowawayServer) -> Iterator[PgBouncer]:
    """Transaction mode, with fewer server connections than any pool has."""
    with PgBouncer(server, "transaction", 2) as running:
        yield running


@pytest.fixture
async def pool(few: PgBouncer) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(few.url, min_size=2, max_size=6) as manager:
        yield manager


async def ask(pool: ConnectionPoolManager, tag: str, number: int, answers: Counter[str]) -> None:
    """Every statement asks for its own number under its own text, by each way of asking."""
    async with pool.acquire() as connection:
        wanted = f"{tag}{number}"
        if number % 3 == 0:
            got = await connection.fetchval(f"SELECT '{tag}' || $1::int", number)
        elif number % 3 == 1:
            got = (await connection.fetch(f"SELECT '{tag}' || $1::int AS x, 5 AS {tag}", number))[0]["x"]
        else:
            async with connection.transaction():
                await connection.execute(f"SELECT 'nothing of {tag}', $1::int", number)
                got = await connection.fetchval(f"SELECT '{tag}' || $1::int", number)
        answers["right" if got == wanted else f"{wanted} got {got}"] += 1


async def rounds(pool: ConnectionPoolManager, tags: str, count: int = 5) -> Counter[str]:
    answers: Counter[str] = Counter()
    for turn in range(count):
        await asyncio.gather(*(ask(pool, tags[(i * 7 + turn) % len(tags)], i, answers) for i in range(60)))
    return answers


async def test_every_answer_belongs_to_its_question(bouncer):
    async with (
        open_pool(bouncer.url, min_size=2, max_size=10) as one,
        open_pool(bouncer.url, min_size=1, max_size=10) as other,
    ):
        answers = await asyncio.gather(rounds(one, "abcdefgh"), rounds(other, "efghijkl"))
        assert answers == [Counter(right=300)] * 2


WORKER = """
import asyncio, sys
from collections import Counter
sys.path.insert(0, sys.argv[2])
from integration.test_pgbouncer import rounds
from support.pools import open_pool
async def main():
    async with open_pool(sys.argv[1], min_size=1, max_size=6) as pool:
        print(dict(await rounds(pool, "abcdefgh")))
asyncio.run(main())
"""


async def test_several_processes_share_few_server_connections(few):
    tests = str(Path(__file__).parents[1])
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, few.url, tests, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for worker in workers:
        out, errors = await asyncio.wait_for(worker.communicate(), 60)
        assert out.decode().strip() == "{'right': 300}", errors.decode()


async def test_names_are_used_again_by_the_next_pool(few, server):
    """The second pool finds the first one's statements on the servers and uses them."""
    for _ in range(3):
        async with open_pool(few.url, min_size=3, max_size=3) as pool:
            assert await rounds(pool, "mn", 3) == Counter(right=180)


async def test_statements_that_another_client_threw_away_are_prepared_again(pool):
    assert await rounds(pool, "op") == Counter(right=300)
    for _ in range(4):
        await pool.execute("DEALLOCATE ALL")
        assert await rounds(pool, "op", 1) == Counter(right=60)


async def test_a_transaction_is_never_failed_by_a_name(pool):
    async def work(number: int) -> None:
        async with pool.acquire() as connection, connection.transaction():
            for use in range(4):
                text = f"SELECT $1::int + {(number + use) % 5}"
                assert await connection.fetchval(text, number) == number + (number + use) % 5

    for _ in range(5):
        await asyncio.gather(*(work(number) for number in range(20)))


async def test_statements_that_fell_out_of_the_cache_are_prepared_again(few):
    async with open_pool(few.url, min_size=1, max_size=1, statement_cache_size=2) as pool:
        # PgBouncer from 1.21 on ends a client that prepares a name again without a Close.
        for text in ["SELECT 1", "SELECT 2", "SELECT 3"] * 3:
            assert [await pool.fetchval(text) for _ in range(3)] == [int(text[-1])] * 3


async def test_a_column_whose_type_changes_gives_the_new_value(pool, server):
    server.sql("CREATE TABLE changing (a int); INSERT INTO changing VALUES (5)")
    try:
        for _ in range(8):
            assert (
                await asyncio.gather(*(pool.fetchval("SELECT a FROM changing") for _ in range(6))) == [5] * 6
            )
        server.sql("ALTER TABLE changing ALTER a TYPE inet USING '10.0.0.1'::inet")
        for _ in range(8):
            got = await asyncio.gather(*(pool.fetchval("SELECT a FROM changing") for _ in range(6)))
            assert got == ["10.0.0.1"] * 6
    finally:
        server.sql("DROP TABLE changing")


async def test_a_type_changes_in_a_session_with_settings_of_its_own(server):
    with PgBouncer(server, "session", 1) as one:
        async with open_pool(one.url) as pool, pool.acquire() as connection:
            await connection.execute("SET extra_float_digits = 0")
            await connection.execute("CREATE TEMP TABLE changes AS SELECT 1 AS a")
            assert [await connection.fetchval("SELECT a FROM changes") for _ in range(3)] == [1] * 3
            await connection.execute("ALTER TABLE changes ALTER a TYPE text")
            assert [await connection.fetchval("SELECT a FROM changes") for _ in range(3)] == ["1"] * 3


async def test_health_and_log_say_that_a_pooler_stands_in_between(bouncer, caplog):
    with caplog.at_level(logging.INFO, "pqpool"):
        async with open_pool(bouncer.url, min_size=4, max_size=4) as pool:
            health = await pool.health_check()
            assert health.database.behind_pooler
            assert health.model_dump()["database"]["behind_pooler"] is True
    lines = [record.getMessage() for record in caplog.records if "pooler" in record.getMessage()]
    assert len(lines) == 1 and "LISTEN" in lines[0]


async def test_a_direct_connection_is_not_taken_for_a_pooler(server):
    async with open_pool(server.url) as pool:
        assert not (await pool.health_check()).database.behind_pooler


async def test_a_restart_of_the_pooler_repeats_nothing(few, server):
    server.sql("CREATE TABLE once (id int)")
    try:
        done: set[int] = set()
        unknown: set[int] = set()
        numbers = iter(range(400))

        async def work(pool: ConnectionPoolManager) -> None:
            for number in numbers:
                try:
                    await pool.execute("INSERT INTO once VALUES ($1)", number)
                    done.add(number)
                except ConnectionPoolError as error:
                    if "whether it was executed is unknown" in str(error):
                        unknown.add(number)
                    await asyncio.sleep(0.01)

        async with open_pool(few.url, min_size=4, max_size=4, timeout=20.0) as pool:
            tasks = [asyncio.create_task(work(pool)) for _ in range(8)]
            for _ in range(3):
                await asyncio.sleep(0.05)
                await asyncio.to_thread(few.stop)
                await asyncio.to_thread(few.start)
            await asyncio.gather(*tasks)
        rows = [int(line) for line in server.sql("SELECT id FROM once").split()]
        assert len(rows) == len(set(rows)), "executed twice"
        assert done <= set(rows) <= done | unknown
        assert len(done) > 200
    finally:
        server.sql("DROP TABLE once")


async def test_the_poolers_own_words_are_no_proof(server):
    """Its FATAL at query_timeout comes while the server still executes the statement."""
    server.sql("CREATE TABLE once (id int)")
    try:
        with PgBouncer(server, "transaction", 2, query_timeout=1) as bouncer:
            async with open_pool(bouncer.url, command_timeout=20.0) as pool:
                async with pool.acquire() as connection:
                    assert await connection.fetchval("SELECT 2") == 2
                    with pytest.raises(ConnectionPoolError, match="whether it was executed is unknown"):
                        await connection.execute("INSERT INTO once SELECT 1 FROM pg_sleep(1.5)")
                with pytest.raises(ConnectionPoolError, match="whether it was executed is unknown"):
                    await pool.fetchval("SELECT 1 FROM pg_sleep(5)")
                assert await pool.fetchval("SELECT 2") == 2
    finally:
        server.sql("DROP TABLE once")


async def test_an_opening_that_fails_names_its_reason(server):
    with PgBouncer(server, "transaction", 2, max_client_conn=1) as bouncer:
        async with open_pool(bouncer.url):
            with pytest.raises(PoolInitializationError, match="max_client_conn"):
                async with open_pool(bouncer.url):
                    pass
    with (
        PgBouncer(server, "transaction", 2) as bouncer,
        pytest.raises(PoolInitializationError, match="no_such_role"),
    ):
        async with open_pool(bouncer.url, init_sql="SET ROLE no_such_role"):
            pass


async def test_errors_of_statements_are_theirs(pool):
    for _ in range(4):
        with pytest.raises(QueryError) as caught:
            await pool.fetchval("SELECT 1 / $1::int", 0)
        assert caught.value.sqlstate == "22012"
        assert await pool.fetchval("SELECT 1 / $1::int", 1) == 1
