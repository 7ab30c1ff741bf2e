"""Text is UTF-8 everywhere: cuts fall between characters, and other encodings of the server are told too."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pqpool import (
    ConnectionPoolManager,
    PoolConfig,
    PoolConfigurationError,
    PoolInitializationError,
    PoolTimeoutError,
    QueryError,
)
from pqpool.exceptions import make_error
from pqpool.throwaway import ThrowawayServer
from support.fake_server import FakeServer, command_complete, data_row, error, row_description
from support.pools import open_pool
from support.wait import wait_until_async

# Wherever a cut falls, for one of these it falls into a character.
PADS = range(3)


def long_statement(pad: int) -> str:
    return "SELECT '" + "x" * pad + "€" * 60 + "'"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPoolManager]:
    async with open_pool(database_url) as manager:
        yield manager


@pytest.mark.parametrize("pad", PADS)
async def test_timeout_quotes_whole_characters_of_the_holders_statement(
    pool: ConnectionPoolManager, pad: int
) -> None:
    async with pool.acquire() as conn:
        await conn.fetchval(long_statement(pad))
        for timeout in (0.05, 0):
            with pytest.raises(PoolTimeoutError, match="x" * pad + "€" * 20):
                await pool.acquire(timeout=timeout)
        (holder,) = pool.holders()
        assert long_statement(pad).startswith(holder.last_statement) and len(holder.last_statement) > 35


@pytest.mark.parametrize("pad", PADS)
async def test_leak_warning_arrives_and_the_file_holds_json(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, pad: int
) -> None:
    file = tmp_path / "log"
    with caplog.at_level(logging.WARNING, "pqpool"):
        async with (
            open_pool(database_url, log_file=str(file)) as pool,
            pool.acquire(leak_timeout=0.05) as conn,
        ):
            await conn.fetchval(long_statement(pad))
            await wait_until_async(lambda: caplog.records)
    (record,) = caplog.records
    context = record.context  # type: ignore[attr-defined]
    assert long_statement(pad).startswith(context["last_statement"])
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    (leak,) = [line for line in lines if "leak" in line["message"]]
    assert leak["context"]["last_statement"] == context["last_statement"]


@pytest.mark.parametrize("pad", PADS)
async def test_health_and_statistics_answer_whatever_the_last_error_was(
    server: ThrowawayServer, pad: int
) -> None:
    words = "x" * pad + "€" * 200
    init = f"DO $$ BEGIN IF to_regclass('boom') IS NOT NULL THEN RAISE EXCEPTION '{words}'; END IF; END $$"
    async with open_pool(server.url, init_sql=init) as pool:
        server.sql("CREATE TABLE boom()")
        try:
            pool.drain()
            await wait_until_async(lambda: words[:20] in (pool.get_statistics().last_error or ""))
            told = (await pool.health_check()).database.last_error
            assert told is not None and words[:20] in told and told.endswith("…")
        finally:
            server.sql("DROP TABLE boom")


async def test_server_speaking_another_encoding_is_understood_as_far_as_it_can_be(
    pool: ConnectionPoolManager,
) -> None:
    latin1 = "set_config('client_encoding', 'LATIN1', true)"
    async with pool.acquire() as conn:
        with pytest.raises(QueryError) as caught:
            await conn.execute(
                f"DO $$ BEGIN PERFORM {latin1}; RAISE EXCEPTION '%', chr(233) USING HINT = chr(233); END $$"
            )
        assert (caught.value.message, caught.value.hint) == ("\ufffd", "\ufffd")
        assert caught.value.sqlstate == "P0001"
        with pytest.raises(ValueError, match="utf-8"):
            await conn.fetchrow(f"SELECT {latin1}, chr(233)")
        assert await conn.fetchval("SELECT chr(233)") == "é"


ODD_ERRORS = {
    "latin1": (error(S="ERROR", V="ERROR", C="22000", M=b"f\xfcr"), "f\ufffdr", "22000"),
    "no position": (error(S="ERROR", V="ERROR", C="22000", M="m", P="abc"), "m", "22000"),
    "odd code": (error(S="ERROR", V="ERROR", C=b"22\xff000", M="m"), "m", None),
    "odd fields": (error(S="ERROR", V=b"\xff", C="22000", M="m", D=b"\xff", c=b"\xff"), "m", "22000"),
    "controls": (error(S="ERROR", V="ERROR", C="22000", M="a\n\x1b[31m"), "a\n\x1b[31m", "22000"),
}


@pytest.mark.parametrize("case", ODD_ERRORS)
async def test_odd_error_of_the_server_is_a_query_error(case: str) -> None:
    answer, words, sqlstate = ODD_ERRORS[case]
    with FakeServer(lambda sql: answer if sql == "SELECT odd" else None) as server:
        async with open_pool(server.url) as pool, pool.acquire() as conn:
            for _ in range(2):
                with pytest.raises(QueryError) as caught:
                    await conn.fetchval("SELECT odd")
                assert (caught.value.message, caught.value.sqlstate) == (words, sqlstate)
                assert caught.value.position is None
            assert await conn.fetchval("SELECT 1") == 1


async def test_command_tag_and_column_name_need_not_be_utf8() -> None:
    answer = row_description([(b"\xff", 23, 1)]) + data_row([b"\0\0\0\7"]) + command_complete(b"\xff 1")
    with FakeServer(lambda sql: answer if sql == "SELECT odd" else None) as server:
        async with open_pool(server.url) as pool, pool.acquire() as conn:
            assert await conn.execute("SELECT odd") == "\ufffd 1"
            found = await conn.fetchrow("SELECT odd")
            assert (found[0], found["\ufffd"]) == (7, 7)


async def test_login_refused_in_latin1_is_told() -> None:
    refusal = error(S="FATAL", V="FATAL", C="28P01", M="Anmeldung f\xfcr \xbbu\xab".encode("latin-1"))
    with FakeServer(refusal=refusal) as server:
        with pytest.raises(PoolInitializationError, match="Anmeldung f\ufffdr \ufffdu\ufffd") as caught:
            await ConnectionPoolManager().initialize(PoolConfig(server.url, min_size=1))
        assert caught.value.sqlstate == "28P01"


async def test_url_in_latin1_is_told() -> None:
    with pytest.raises(PoolInitializationError, match="user J\ufffdrgen"):
        await ConnectionPoolManager().initialize(
            PoolConfig("postgresql://J%FCrgen@127.0.0.1:1/d", min_size=1)
        )


@pytest.mark.parametrize("text", ["\udcfc", "\ud800", "a\udcff€"])
def test_text_that_utf8_cannot_hold_is_a_configuration_error(text: str) -> None:
    for name in ("init_sql", "log_file", "name", "log_level"):
        with pytest.raises(PoolConfigurationError, match=name):
            PoolConfig("postgresql://h/d", **{name: text})  # type: ignore[arg-type]
    with pytest.raises(PoolConfigurationError, match="database_url"):
        PoolConfig(f"postgresql://{text}@h/d")


def test_long_messages_are_cut_readably() -> None:
    for pad in PADS:
        with pytest.raises(PoolConfigurationError, match=r"log_level .*…'") as caught:
            PoolConfig("postgresql://h/d", log_level="x" * pad + "€" * 3000)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 1000


def test_position_that_is_no_number_reads_none() -> None:
    for position in ("abc", "", "1.5", "\ufffd"):
        made = make_error("query", "m", {"position": position})
        assert isinstance(made, QueryError) and made.position is None
    made = make_error("query", "m", {"position": "17"})
    assert isinstance(made, QueryError) and made.position == 17


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_line_that_a_handler_cannot_take_does_not_hold_up_the_next(database_url: str) -> None:
    seen = []

    class Picky(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            if len(seen) == 1:
                raise ValueError("not this one")

    handler = Picky()
    logger = logging.getLogger("pqpool")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        async with open_pool(database_url):
            pass
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [words.split(":")[0] for words in seen] == [
        "Connection pool initialized",
        "Connection pool shutting down",
        "Connection pool terminated",
    ]
