"""What one lease leaves behind in its session is not seen by the next, on the very same session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from pqpool import Connection, ConnectionPoolManager, QueryError
from pqpool.throwaway import ThrowawayServer
from support.pools import assert_sound, named, open_pool
from support.wait import wait_until


@dataclass(frozen=True)
class Leftover:
    """What a lease does, and an expression that is `clean` only where nothing of it is left."""

    name: str
    left: tuple[str, ...]
    seen: str
    clean: str = "0"


def count(source: str) -> str:
    return f"(SELECT count(*)::text FROM {source})"


SETTINGS = "current_setting('work_mem')"
TEMPORARY = count("pg_class WHERE relname = 'leftover'")
LOCKS = count("pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
CURSORS = count("pg_cursors WHERE name = 'leftover'")
ROWS = count("kept")
USER = "current_user || ' ' || session_user"

LEFTOVERS = [
    Leftover("SET", ("SET work_mem = '1234kB'",), SETTINGS, "4MB"),
    Leftover(
        "SET SESSION in a comment's company",
        ("/* SET? */ SET SESSION work_mem TO '1234kB'",),
        SETTINGS,
        "4MB",
    ),
    Leftover("set_config", ("SELECT set_config('work_mem', '1234kB', false)",), SETTINGS, "4MB"),
    Leftover(
        "SET in a committed transaction", ("BEGIN", "SET work_mem = '1234kB'", "COMMIT"), SETTINGS, "4MB"
    ),
    Leftover("SET in an open transaction", ("BEGIN", "SET work_mem = '1234kB'"), SETTINGS, "4MB"),
    Leftover("SET LOCAL in an open transaction", ("BEGIN", "SET LOCAL work_mem = '1234kB'"), SETTINGS, "4MB"),
    Leftover("SET in a DO block", ("DO $$ BEGIN SET work_mem = '1234kB'; END $$",), SETTINGS, "4MB"),
    Leftover(
        "search_path",
        ("SET search_path = pg_catalog, elsewhere",),
        "current_setting('search_path')",
        '"$user", public',
    ),
    Leftover("time zone", ("SET TIME ZONE 'Asia/Tokyo'",), "current_setting('timezone')", "UTC"),
    Leftover(
        "read-only by default",
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
        "current_setting('transaction_read_only')",
        "off",
    ),
    Leftover(
        "isolation by default",
        ("SET default_transaction_isolation = 'serializable'",),
        "current_setting('transaction_isolation')",
        "read committed",
    ),
    Leftover("role", ("SET ROLE visitor",), USER, "postgres postgres"),
    Leftover("session authorization", ("SET SESSION AUTHORIZATION visitor",), USER, "postgres postgres"),
    Leftover("LISTEN", ("LISTEN leftover",), count("pg_listening_channels()")),
    Leftover("temporary table", ("CREATE TEMP TABLE leftover (id int)",), TEMPORARY),
    Leftover("temporary table by INTO", ("SELECT 1 AS id INTO TEMPORARY leftover",), TEMPORARY),
    Leftover("temporary table by its schema", ("CREATE TABLE pg_temp.leftover AS SELECT 1",), TEMPORARY),
    Leftover("temporary sequence", ("CREATE TEMPORARY SEQUENCE leftover",), TEMPORARY),
    Leftover("advisory lock", ("SELECT pg_advisory_lock(7)",), LOCKS),
    Leftover("advisory lock, tried for", ("SELECT 1 WHERE pg_try_advisory_lock_shared(7, 8)",), LOCKS),
    Leftover("advisory lock of a failed statement", ("SELECT 1 / length(pg_advisory_lock(7)::text)",), LOCKS),
    Leftover(
        "cursor that outlives its transaction", ("DECLARE leftover CURSOR WITH HOLD FOR SELECT 1",), CURSORS
    ),
    Leftover("cursor in an open transaction", ("BEGIN", "DECLARE leftover CURSOR FOR SELECT 1"), CURSORS),
    Leftover("open transaction", ("BEGIN", "INSERT INTO kept VALUES (1)"), ROWS),
    Leftover("failed transaction", ("BEGIN", "INSERT INTO kept VALUES (1)", "SELECT 1 / 0"), ROWS),
    Leftover(
        "isolated open transaction",
        ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",),
        "current_setting('transaction_read_only')",
        "off",
    ),
    Leftover(
        "prepared statement",
        ("PREPARE leftover AS SELECT 1",),
        count("pg_prepared_statements WHERE name = 'leftover'"),
    ),
    Leftover(
        "statement timeout",
        ("SET statement_timeout = '1ms'",),
        "current_setting('statement_timeout') || coalesce(pg_sleep(0.005)::text, '')",
        "0",
    ),
]

SPELLINGS = {
    # A setting by every way there is to one.
    SETTINGS: (
        "SELECT pg_catalog.set_config('work_mem', '1234kB', false)",
        "SELECT \"set_config\"('work_mem', '1234kB', false)",
        "SELECT pg_catalog . \"set_config\" /* ( */ ('work_mem', '1234kB', false)",
        r"""SELECT U&"set\005fconfig"('work_mem', '1234kB', false)""",
        "SELECT U&\"set!005fconfig\" UESCAPE '!' ('work_mem', '1234kB', false)",
        "WITH x AS (SELECT set_config('work_mem', '1234kB', false)) SELECT * FROM x",
        r"SELECT E'it''s \'', set_config('work_mem', '1234kB', false), E'\''",
        "SELECT E'a'\n'\\'', set_config('work_mem', '1234kB', false) --'",
        "SELECT 1 -- one\r, set_config('work_mem', '1234kB', false)",
        "-- one\rSET work_mem = '1234kB'",
        'SET "work_mem" = 1234',
        "UPDATE pg_settings SET setting = '1234' WHERE name = 'work_mem'",
        "UPDATE pg_catalog.\"pg_settings\" SET setting = '1234' WHERE name = 'work_mem'",
        "PREPARE x AS UPDATE pg_settings SET setting = '1234' WHERE name = 'work_mem'; EXECUTE x",
        "SELECT query_to_xml($$ SELECT set_config('work_mem', '1234kB', false) $$, true, true, '')",
        "SELECT * FROM ts_stat($$ SELECT set_config('work_mem', '1234kB', false)::tsvector $$)",
        "SELECT 1; SELECT 2; SET SESSION work_mem = '1234kB'; SELECT 3",
    ),
    "coalesce(current_setting('local.x', true), '')": ("SET local.x = 'y'", "SET local . x TO y"),
    "coalesce(current_setting('transaction.x', true), '')": ("SET transaction.x = 'y'",),
    "coalesce(current_setting('constraints.x', true), '')": ("SET constraints.x = 'y'",),
    "current_setting('transaction_read_only')": (
        'SET "default_transaction_read_only" = on',
        "SELECT set_config('default_transaction_read_only', 'on', false)",
        "UPDATE pg_settings SET setting = 'on' WHERE name = 'default_transaction_read_only'",
        "SET SESSION /* */ CHARACTERISTICS AS TRANSACTION READ ONLY",
    ),
    "current_setting('transaction_isolation')": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT set_config('default_transaction_isolation', 'serializable', false)",
    ),
    USER: (
        'SET "role" = visitor',
        r'SET U&"rol\0065" TO visitor',
        "SET SESSION ROLE visitor",
        "SELECT set_config('role', 'visitor', false)",
        "SELECT set_config('ro' || 'le', 'visitor', false)",
        "SELECT set_config('work_mem', '4MB', false), set_config('ROLE', 'visitor', false)",
        "SET session_authorization = 'visitor'",
        "SET SESSION Session_Authorization TO visitor",
        "DO $$ BEGIN SET ROLE visitor; END $$",
    ),
    TEMPORARY: (
        "CREATE LOCAL TEMPORARY TABLE leftover (id int)",
        'CREATE TABLE "pg_temp".leftover (id int)',
        "CREATE OR REPLACE TEMP VIEW leftover AS SELECT 1",
        "SET search_path = pg_temp; CREATE TABLE leftover (id int)",
        "SELECT set_config('search_path', 'pg_temp', false); CREATE TABLE leftover AS SELECT 1",
        "SET search_path = pg_temp; SELECT 1 AS id INTO leftover",
        "EXPLAIN ANALYZE CREATE TEMP TABLE leftover AS SELECT 1",
        "WITH x AS (SELECT 1 AS id) SELECT id INTO TEMP leftover FROM x",
    ),
    LOCKS: (
        'SELECT "pg_advisory_lock"(7)',
        "SELECT pg_catalog.pg_try_advisory_lock(7, 8)",
        r'SELECT U&"pg_advisory_loc\006b_shared"(7)',
        "EXPLAIN ANALYZE SELECT pg_advisory_lock(7)",
    ),
    count("pg_prepared_statements WHERE name IN ('leftover', 'transaction')"): (
        "SELECT 1; PREPARE leftover AS SELECT 1",
        "PREPARE transaction AS SELECT 1",
        "PREPARE transaction (int) AS SELECT $1",
    ),
    count("pg_replication_slots WHERE temporary"): (
        "SELECT pg_create_physical_replication_slot('s' || pg_backend_pid(), true, true)",
    ),
    "pg_replication_origin_session_is_setup()::text": (
        "SELECT pg_catalog.pg_replication_origin_session_setup('leftover')",
    ),
    CURSORS: ("BEGIN; DECLARE leftover CURSOR WITH HOLD FOR SELECT 1; COMMIT",),
    count("pg_listening_channels()"): ('SELECT 1; LISTEN "leftover"', "/**/LISTEN leftover; SELECT 1"),
}
CLEAN = {
    SETTINGS: "4MB",
    USER: "postgres postgres",
    "pg_replication_origin_session_is_setup()::text": "false",
    "current_setting('transaction_read_only')": "off",
    "current_setting('transaction_isolation')": "read committed",
    **{one: "" for one in SPELLINGS if one.startswith("coalesce")},
}
LEFTOVERS += [
    Leftover(statement, (statement,), seen, CLEAN.get(seen, "0"))
    for seen, statements in SPELLINGS.items()
    for statement in statements
]
LEFTOVERS.append(
    Leftover(
        "a lock behind an escaped quote",
        ("SET standard_conforming_strings = off", r"SELECT '\'', pg_advisory_lock(7) --'"),
        LOCKS,
        "0",
    )
)


@pytest.fixture(scope="module")
def prepared_server(server: ThrowawayServer) -> Iterator[ThrowawayServer]:
    server.sql("CREATE ROLE visitor; CREATE TABLE kept (id int); CREATE TABLE observed (value text)")
    server.sql("SELECT pg_replication_origin_create('leftover')")
    yield server
    server.sql("DROP TABLE kept, observed; DROP ROLE visitor; SELECT pg_replication_origin_drop('leftover')")


@pytest.fixture
async def always(prepared_server) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(prepared_server.url, reset="always") as manager:
        yield manager


async def leave(connection: Connection, statements: tuple[str, ...]) -> int:
    """Runs the statements, whose failures are part of it; the session they ran on."""
    backend = int(await connection.fetchval("SELECT pg_backend_pid()"))
    for statement in statements:
        try:
            await connection.execute(statement)
        except QueryError as error:
            if "unsupported XML feature" in str(error):
                pytest.skip("this PostgreSQL is built without libxml")
    return backend


async def look(manager: ConnectionPoolManager, seen: str, how: str) -> tuple[str, int]:
    """What the next lease sees with its very first statement, and on which session."""
    async with manager.acquire() as connection:
        if how == "read":
            value = await connection.fetchval(f"SELECT {seen}")
        else:
            value = await connection.fetchval(f"INSERT INTO observed SELECT {seen} RETURNING value")
        return value, int(await connection.fetchval("SELECT pg_backend_pid()"))


@pytest.mark.parametrize("how", ["read", "write"])
@pytest.mark.parametrize("leftover", LEFTOVERS, ids=lambda leftover: leftover.name)
async def test_the_next_lease_does_not_see(prepared_server, leftover: Leftover, how):
    async with open_pool(prepared_server.url) as manager:
        async with manager.acquire() as connection:
            left_on = await leave(connection, leftover.left)
        assert await look(manager, leftover.seen, how) == (leftover.clean, left_on)
        await assert_sound(manager)


@pytest.mark.parametrize("leftover", LEFTOVERS, ids=lambda leftover: leftover.name)
async def test_the_lease_itself_does_see(prepared_server, leftover: Leftover):
    """Else the test above would prove nothing: what it looks for must be there before the release."""
    async with open_pool(prepared_server.url) as manager, manager.acquire() as connection:
        await leave(connection, leftover.left)
        try:
            value = await connection.fetchval(f"SELECT {leftover.seen}")
        except QueryError:
            value = "an error"  # of a failed transaction, or a statement timeout
        assert value != leftover.clean


@pytest.mark.parametrize("leftover", LEFTOVERS, ids=lambda leftover: leftover.name)
async def test_reset_always_leaves_nothing_of_it(prepared_server, always: ConnectionPoolManager, leftover):
    async with always.acquire() as connection:
        left_on = await leave(connection, leftover.left)
    assert await look(always, leftover.seen, "read") == (leftover.clean, left_on)


@pytest.mark.parametrize("reset", ["auto", "always"])
async def test_the_next_lease_has_no_value_of_a_sequence_yet(prepared_server, reset):
    prepared_server.sql("CREATE SEQUENCE IF NOT EXISTS numbers")
    async with open_pool(prepared_server.url, reset=reset) as manager:
        for statement in ("SELECT nextval('numbers')", "SELECT pg_catalog.\"setval\"('numbers', 7)"):
            async with manager.acquire() as connection:
                await connection.execute(statement)
                assert await connection.fetchval("SELECT currval('numbers')") >= 1
            for look_at in ("SELECT currval('numbers')", "SELECT lastval()"):
                with pytest.raises(QueryError, match="not yet defined"):
                    await manager.fetchval(look_at)


SEEDS = [
    "SELECT setseed(0.5)",
    "SELECT pg_catalog.setseed(0.5)",
    "SET seed = 0.5",
    'SET "seed" TO 0.5',
    "BEGIN; SET LOCAL seed = 0.5; ROLLBACK",
    "SELECT set_config('seed', '0.5', false)",
    "SELECT set_config($$seed$$, '0.5', false)",
]


@pytest.mark.parametrize("reset", ["auto", "always"])
async def test_the_next_lease_cannot_foresee_its_random_numbers(prepared_server, reset):
    async with open_pool(prepared_server.url, reset=reset) as manager:
        async with manager.acquire() as connection:
            await connection.execute("SELECT setseed(0.5)")
            foreseen = await connection.fetchval("SELECT random()")
        for seed in SEEDS:
            async with manager.acquire() as connection:
                await connection.execute(seed)
                backend = await connection.fetchval("SELECT pg_backend_pid()")
            async with manager.acquire() as connection:
                assert await connection.fetchval("SELECT random()") != foreseen, seed
                assert await connection.fetchval("SELECT pg_backend_pid()") == backend


async def test_all_of_it_together_is_not_seen_either(prepared_server):
    # With a statement timeout that short even the reset may fail, and the connection is then replaced.
    together = [one for one in LEFTOVERS if one.name not in ("session authorization", "statement timeout")]
    statements = tuple(s for leftover in together for s in (*leftover.left, "COMMIT"))
    async with open_pool(prepared_server.url) as manager:
        async with manager.acquire() as connection:
            left_on = await leave(connection, statements)
        prepared_server.sql("TRUNCATE kept")
        for leftover in together:
            assert await look(manager, leftover.seen, "read") == (leftover.clean, left_on)


@pytest.mark.parametrize(
    "statement", ["LISTEN leftover", "SELECT pg_advisory_lock(7)", "BEGIN; LOCK TABLE kept"]
)
async def test_what_others_can_feel_ends_with_the_lease_though_no_other_lease_follows(
    prepared_server, statement
):
    felt = (
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE application_name = 'felt' "
        "AND (locktype = 'advisory' OR relation = 'kept'::regclass)"
    )
    async with open_pool(named(prepared_server.url, "felt")) as manager:
        async with manager.acquire() as connection:
            for one in statement.split("; "):
                await connection.execute(one)
        await asyncio.to_thread(wait_until, lambda: prepared_server.sql(felt) == "0", 2.0)
        assert await manager.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0


async def test_init_sql_holds_again_after_a_lease_that_changed_it(prepared_server):
    async with open_pool(prepared_server.url, init_sql="SET work_mem = '7MB'") as manager:
        for statement in ("SET work_mem = '1MB'", "RESET ALL", "RESET work_mem", "DISCARD ALL"):
            async with manager.acquire() as connection:
                assert await connection.fetchval("SHOW work_mem") == "7MB"
                await connection.execute(statement)
                assert await connection.fetchval("SHOW work_mem") != "7MB"
        assert await manager.fetchval("SELECT current_setting('work_mem')") == "7MB"


MADE = "CREATE TEMP TABLE mine (id int); PREPARE two AS SELECT 2; LISTEN news; SET work_mem = '7MB'"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE IF NOT EXISTS kept (id int)",
        "PREPARE leftover AS SELECT 1",
        "LISTEN leftover",
        "SET work_mem = '1MB'",
        "SELECT pg_advisory_lock(7)",
    ],
)
async def test_what_init_sql_made_is_there_whatever_the_lease_before_it_left(prepared_server, statement):
    async with open_pool(prepared_server.url, init_sql=MADE) as manager:
        backend = await manager.fetchval("SELECT pg_backend_pid()")
        await manager.execute(statement)
        async with manager.acquire() as connection:
            assert await connection.fetchval("SELECT count(*) FROM mine") == 0
            assert await connection.fetchval("EXECUTE two") == 2
            assert await connection.fetchval("SELECT pg_listening_channels()") == "news"
            assert await connection.fetchval("SHOW work_mem") == "7MB"
            assert await connection.fetchval("SELECT pg_backend_pid()") == backend
        await assert_sound(manager)


HIDDEN = """
CREATE OR REPLACE FUNCTION change_settings() RETURNS void LANGUAGE sql
AS $$ SELECT set_config('work_mem', '1MB', false) $$
"""


async def test_reset_always_undoes_also_what_cannot_be_seen_from_the_statement(prepared_server):
    prepared_server.sql(HIDDEN)
    async with open_pool(prepared_server.url, reset="always") as manager:
        await manager.execute("SELECT change_settings()")
        assert await manager.fetchval("SELECT current_setting('work_mem')") == "4MB"


async def test_reset_never_leaves_settings_and_still_rolls_back(prepared_server):
    async with open_pool(prepared_server.url, reset="never") as manager:
        async with manager.acquire() as connection:
            await connection.execute("SET work_mem = '1MB'")
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO kept VALUES (1)")
        assert await manager.fetchval("SELECT current_setting('work_mem')") == "1MB"
        assert await manager.fetchval("SELECT count(*) FROM kept") == 0


async def test_prepared_statements_of_the_pool_survive_a_lease_that_prepared_its_own(prepared_server):
    async with open_pool(prepared_server.url) as manager:
        for _ in range(4):
            assert await manager.fetchval("SELECT $1::int + 1", 1) == 2
            async with manager.acquire() as connection:
                await connection.execute("PREPARE leftover AS SELECT 1")
                await connection.execute("DEALLOCATE ALL")
            assert await manager.fetchval("SELECT $1::int + 1", 1) == 2
        await assert_sound(manager)
        assert manager.get_statistics().connections_closed == 0


async def test_an_encoding_that_a_lease_sets_is_set_back_before_its_next_statement(server):
    latin1 = "SET client_encoding = 'LATIN1'"
    async with open_pool(server.url) as pool, pool.acquire() as connection:
        await connection.execute(latin1)
        assert await connection.fetchval("SELECT octet_length($1::text)", "é") == 2
        async with connection.transaction():
            await connection.execute(latin1)
            assert await connection.fetchval("SELECT U&'\\00e9'") == "é"
        with pytest.raises(QueryError):
            async with connection.transaction():
                await connection.execute(latin1)
                await connection.execute("SELECT 1/0")
        assert await connection.fetchval("SHOW client_encoding") == "UTF8"
