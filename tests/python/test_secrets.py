"""A password shows nowhere, however it is spelled; and the server's own words stay as they are."""

from __future__ import annotations

import json
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

from pqpool import (
    ConnectionPoolManager,
    PoolConfig,
    PoolConfigurationError,
    PoolInitializationError,
    PoolTimeoutError,
)
from pqpool.pool_logging import JsonFormatter
from support.pools import open_pool
from support.wait import wait_until_async

SECRET = "Zq7SecretXx"

STATEMENTS = [
    f"DO $do$ BEGIN IF false THEN ALTER ROLE nobody PASSWORD '{SECRET}'; END IF; END $do$",
    f"SELECT 'host=h password={SECRET}'",
    f"SELECT 'postgresql://u:{SECRET}@h/d'",
    f"SELECT 'postgresql://u:{SECRET}{'x' * 200}@h/d'",
    f"SELECT E'{SECRET}' AS password",
    f"SELECT '{SECRET}', {', '.join('1' * 50)} AS password",
    f"/* don't */ SELECT 1 AS \"password\", '{SECRET}'",
    f"SELECT $tag${SECRET}$tag$ AS secret",
]


@pytest.mark.parametrize("statement", STATEMENTS)
async def test_statement_that_holds_a_secret_is_shown_without_it(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    file = tmp_path / "log"
    with caplog.at_level(logging.DEBUG, "pqpool"):
        async with (
            open_pool(database_url, log_file=str(file)) as pool,
            pool.acquire(leak_timeout=0.05) as conn,
        ):
            await conn.execute(statement)
            (holder,) = pool.holders()
            assert holder.last_statement and SECRET[:4] not in holder.last_statement
            with pytest.raises(PoolTimeoutError) as caught:
                await pool.acquire(timeout=0)
            assert "last statement" in str(caught.value) and SECRET[:4] not in str(caught.value)
            await wait_until_async(lambda: any("leak" in r.message for r in caplog.records))
    formatter = JsonFormatter()
    assert all(SECRET[:4] not in formatter.format(record) for record in caplog.records)
    assert "last_statement" in file.read_text() and SECRET[:4] not in file.read_text()


async def test_statement_without_a_secret_is_shown_as_it_is(database_url: str) -> None:
    async with open_pool(database_url) as pool, pool.acquire() as conn:
        await conn.fetchval("SELECT 'alice was here', $1::int", 1)
        (holder,) = pool.holders()
        assert holder.last_statement == "SELECT 'alice was here', $1::int"


async def test_lease_that_ran_nothing_does_not_show_its_predecessors_statement(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        await pool.fetchval("SELECT 'alice was here'")
        async with pool.acquire():
            (holder,) = pool.holders()
            assert holder.last_statement == ""


SPELLINGS = [
    SECRET,
    SECRET.replace("S", "%53"),
    "a%40" + SECRET,
    "a@" + SECRET,
    "a/" + SECRET,
    "a?" + SECRET,
    "a:" + SECRET,
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_password_of_a_refused_connect_shows_nowhere(
    spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    shown = []
    with caplog.at_level(logging.DEBUG, "pqpool"):
        try:
            config = PoolConfig(f"postgresql://u:{spelling}@127.0.0.1:1/d", min_size=1)
            shown.append(repr(config))
            await ConnectionPoolManager(config).initialize()
        except (PoolConfigurationError, PoolInitializationError) as error:
            shown += [
                str(error),
                repr(error),
                "".join(traceback.TracebackException.from_exception(error).format_exception_only()),
            ]
    formatter = JsonFormatter()
    shown += [formatter.format(record) for record in caplog.records]
    for text in shown:
        assert "SecretXx" not in text and "%53ecretXx" not in text


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}",
        f"postgresql://u@h/d?pass%77ord={SECRET}",
        f"postgresql://u@h/d?options=-c%20x.password%3D{SECRET}",
        f"postgresql://u@h:1/d?sslpassword={SECRET}",
        f"host=h options='-c x.password={SECRET}'",
    ],
)
def test_repr_shows_no_password(url: str) -> None:
    assert SECRET not in repr(PoolConfig(url))


@pytest.mark.parametrize("value", [f"postgresql://u:{SECRET}@h/d", f"host=h password={SECRET}"])
@pytest.mark.parametrize(
    "name", ["min_size", "timeout", "log_level", "validation", "reset", "enable_leak_detection"]
)
def test_value_given_to_the_wrong_option_is_masked(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(PoolConfigurationError, match=name) as caught:
        PoolConfig("postgresql://h/d", **wrong)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv(f"POOL_{name.upper()}", value)
    with pytest.raises(PoolConfigurationError, match=name) as caught:
        PoolConfig("postgresql://h/d")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_error_of_init_sql_does_not_show_it(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for init_sql in (
        f"SELECT '{SECRET}' AS password, nocolumn",
        f"postgresql://u:{SECRET}@h/d",
    ):
        caplog.set_level(logging.DEBUG, logger="pqpool")
        config = PoolConfig(database_url, min_size=1, init_sql=init_sql)
        assert SECRET not in repr(config)
        with pytest.raises(PoolInitializationError, match=r"nocolumn|syntax error") as caught:
            await ConnectionPoolManager(config).initialize()
        assert SECRET not in str(caught.value)
    assert all(SECRET not in JsonFormatter().format(record) for record in caplog.records)


async def test_url_as_name_or_env_file_is_masked(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, logger="pqpool")
    url = f"postgresql://u:{SECRET}@h/d"
    async with open_pool(database_url, name=url) as pool:
        assert await pool.fetchval("SELECT 1") == 1
    assert caplog.records
    assert all(SECRET not in JsonFormatter().format(record) for record in caplog.records)
    monkeypatch.setenv("POOL_ENV_FILE", url)
    with pytest.raises(PoolConfigurationError, match="cannot be read") as caught:
        PoolConfig()
    assert SECRET not in str(caught.value)


def test_url_as_log_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PoolConfigurationError, match="log_file") as caught:
        PoolConfig("postgresql://h/d", log_file=f"postgresql://u:{SECRET}@h/d")
    assert SECRET not in str(caught.value) and list(tmp_path.iterdir()) == []


async def test_servers_words_are_not_taken_for_a_password(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = database_url.replace("postgres@", "joe%40corp:pw@")
    with caplog.at_level(logging.INFO, "pqpool"), pytest.raises(PoolInitializationError) as caught:
        await ConnectionPoolManager().initialize(PoolConfig(url, min_size=1))
    assert 'role "joe@corp" does not exist' in str(caught.value)
    assert "user joe@corp" in str(caught.value)
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert any('role "joe@corp" does not exist' in line["message"] for line in lines)
