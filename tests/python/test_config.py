"""PoolConfig: where a setting comes from, what it may be, and that no password gets out."""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from pqpool import ConnectionPoolError, PoolConfig, PoolConfigurationError, _pqpool

URL = "postgresql://alice:s3cret@localhost:5432/shop"


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of ours set, and an empty working directory."""
    for name in list(os.environ):
        if name.startswith("POOL_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(**values: Any) -> str:
    with pytest.raises(PoolConfigurationError) as caught:
        PoolConfig(**{"database_url": URL, **values})
    return str(caught.value)


def test_fields_and_defaults_are_those_of_the_core() -> None:
    ours = {option.name: option.metadata["default"] for option in fields(PoolConfig)}
    core = {option["name"]: option["default"] for option in _pqpool.options()}
    assert ours == core
    assert {name: type(value) for name, value in ours.items()} == {
        name: type(value) for name, value in core.items()
    }


def test_defaults_apply_where_nothing_is_given() -> None:
    config = PoolConfig(database_url=URL)
    assert (config.min_size, config.max_size, config.timeout) == (2, 10, 30.0)
    assert config.enable_leak_detection is True


def test_constructor_wins_over_environment_over_file_over_default(
    monkeypatch: pytest.MonkeyPatch, clean_surroundings: Path
) -> None:
    (clean_surroundings / ".env").write_text("POOL_MIN_SIZE=3\nPOOL_MAX_SIZE=30\nPOOL_TIMEOUT=3\n")
    monkeypatch.setenv("POOL_MIN_SIZE", "4")
    monkeypatch.setenv("POOL_MAX_SIZE", "40")
    config = PoolConfig(database_url=URL, min_size=5)
    assert (config.min_size, config.max_size, config.timeout) == (5, 40, 3.0)
    assert config.max_queries == 50_000


def test_pool_database_url_wins_over_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/second")
    assert PoolConfig.from_env().database_url == "postgresql://h/second"
    monkeypatch.setenv("POOL_DATABASE_URL", "postgresql://h/first")
    assert PoolConfig.from_env().database_url == "postgresql://h/first"


def test_database_url_of_the_environment_wins_over_both_of_the_file(
    monkeypatch: pytest.MonkeyPatch, clean_surroundings: Path
) -> None:
    (clean_surroundings / ".env").write_text("POOL_DATABASE_URL=postgresql://h/file\n")
    assert PoolConfig().database_url == "postgresql://h/file"
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/environment")
    assert PoolConfig().database_url == "postgresql://h/environment"


def test_database_url_none_counts_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert PoolConfig(database_url=None).database_url == URL  # type: ignore[arg-type]


def test_missing_database_url_is_named() -> None:
    with pytest.raises(PoolConfigurationError, match="database_url is required"):
        PoolConfig()


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_MIN_SIZE", "")
    assert PoolConfig(database_url=URL).min_size == 2


@pytest.mark.parametrize("without_dotenv", [False, True])
def test_env_file_understands_comments_export_and_quotes(
    monkeypatch: pytest.MonkeyPatch, clean_surroundings: Path, without_dotenv: bool
) -> None:
    if without_dotenv:
        monkeypatch.setitem(sys.modules, "dotenv", None)
    (clean_surroundings / ".env").write_text(
        "# settings\n\nexport POOL_MIN_SIZE=3 # three\nPOOL_INIT_SQL='SET a = b' # note\n"
        'POOL_LOG_FILE="/tmp/a b.log"\nDATABASE_URL=postgresql://h/d?application_name=b\nOTHER\n'
    )
    before = dict(os.environ)
    config = PoolConfig()
    assert (config.min_size, config.init_sql) == (3, "SET a = b")
    assert config.log_file == "/tmp/a b.log"
    assert config.database_url == "postgresql://h/d?application_name=b"
    assert dict(os.environ) == before


def test_unreadable_env_file_is_named(clean_surroundings: Path) -> None:
    (clean_surroundings / ".env").write_bytes(b"POOL_MIN_SIZE=\xff\xfe\n")
    assert str(clean_surroundings / ".env") in problems_of()


def test_env_file_can_be_another_or_none(monkeypatch: pytest.MonkeyPatch, clean_surroundings: Path) -> None:
    (clean_surroundings / ".env").write_text("POOL_MIN_SIZE=3\nDATABASE_URL=postgresql://h/planted\n")
    other = clean_surroundings / "pool.env"
    other.write_text("POOL_MIN_SIZE=4\n")
    monkeypatch.setenv("POOL_DATABASE_URL", URL)
    assert PoolConfig.from_env().min_size == 3
    assert PoolConfig.from_env(env_file=None).min_size == 2
    assert PoolConfig.from_env(other).min_size == 4
    assert PoolConfig(URL, env_file=str(other)).min_size == 4
    assert PoolConfig(URL, env_file=None) == PoolConfig.from_env("")
    monkeypatch.setenv("POOL_ENV_FILE", "")
    assert PoolConfig.from_env().min_size == 2
    assert PoolConfig.from_env(".env").min_size == 3
    monkeypatch.setenv("POOL_ENV_FILE", str(other))
    assert PoolConfig.from_env().min_size == 4
    assert PoolConfig.from_env(env_file=None).min_size == 2


def test_env_file_that_was_asked_for_must_be_there(clean_surroundings: Path) -> None:
    with pytest.raises(PoolConfigurationError, match=r"missing\.env cannot be read") as caught:
        PoolConfig(URL, env_file="missing.env")
    assert str(caught.value).count("missing.env") == 1


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("POOL_MIN_SIZE", ""),
        ("POOL_MIN_SIZE", " 5 "),
        ("POOL_MIN_SIZE", "\t"),
        ("POOL_MIN_SIZE", "+5"),
        ("POOL_MIN_SIZE", "1_0"),
        ("POOL_MIN_SIZE", "٣"),
        ("POOL_TIMEOUT", "1e1"),
        ("POOL_TIMEOUT", "1_0.5"),
        ("POOL_TIMEOUT", " .5"),
        ("POOL_ENABLE_LEAK_DETECTION", " OFF"),
        ("POOL_ENABLE_LEAK_DETECTION", "t"),
        ("POOL_LOG_LEVEL", " debug "),
        ("POOL_INIT_SQL", " SELECT 1 "),
        ("POOL_DATABASE_URL", ""),
    ],
)
def test_environment_is_read_as_the_c_interface_reads_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv(variable, text)
    name = variable.removeprefix("POOL_").lower()
    try:
        ours = str(getattr(PoolConfig(), name))
    except PoolConfigurationError:
        ours = "refused"
    assert ours.lower() == _core_reads(name)


def _core_reads(name: str) -> str:
    library = ctypes.CDLL(str(Path(_pqpool.__file__).with_name("libpqpool.so.0")))
    options = ctypes.c_void_p()
    assert library.pqpool_options_create(ctypes.byref(options)) == 0
    try:
        if library.pqpool_options_from_env(options) != 0:
            return "refused"
        value = ctypes.create_string_buffer(200)
        assert library.pqpool_options_get(options, name.encode(), value, ctypes.c_size_t(200), None) == 0
        return value.value.decode().lower()
    finally:
        library.pqpool_options_free(options)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        ("on", True),
        ("False", False),
        ("0", False),
        ("no", False),
        (" off ", False),
    ],
)
def test_booleans_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("POOL_ENABLE_LEAK_DETECTION", text)
    assert PoolConfig(database_url=URL).enable_leak_detection is value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("POOL_MIN_SIZE", "ten"),
        ("POOL_MIN_SIZE", "2.5"),
        ("POOL_MIN_SIZE", "9" * 40),
        ("POOL_TIMEOUT", "soon"),
        ("POOL_TIMEOUT", "nan"),
        ("POOL_TIMEOUT", "inf"),
        ("POOL_ENABLE_LEAK_DETECTION", "maybe"),
    ],
)
def test_bad_variable_is_named_with_its_value_and_a_cure(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    message = problems_of()
    assert f"{variable}='{text}'" in message
    assert "Suggestion: set " + variable in message


@pytest.mark.parametrize(
    "values",
    [
        {"min_size": "ten"},
        {"min_size": True},
        {"min_size": 2.5},
        {"min_size": None},
        {"min_size": 10**40},
        {"timeout": "30"},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"timeout": 10**400},
        {"timeout": False},
        {"enable_leak_detection": 1},
        {"init_sql": b"SELECT 1"},
        {"log_file": "a\0b"},
        {"database_url": 5},
        {"validation": 1},
    ],
)
def test_wrong_type_is_named(values: dict[str, Any]) -> None:
    message = problems_of(**values)
    assert next(iter(values)) + " must be" in message
    assert "Suggestion: " in message


def test_all_wrong_types_are_told_at_once() -> None:
    message = problems_of(min_size="ten", timeout="long")
    assert "min_size must be" in message
    assert "timeout must be" in message


def test_integer_seconds_become_floats() -> None:
    config = PoolConfig(database_url=URL, timeout=5)
    assert type(config.timeout) is float


@pytest.mark.parametrize(
    ("values", "wordings"),
    [
        (
            {"min_size": 10, "max_size": 5},
            [
                "min_size (10) cannot be greater than max_size (5)",
                "max_size (5) must be >= min_size (10)",
                "Suggestion: Increase POOL_MAX_SIZE to 10 or reduce POOL_MIN_SIZE to 5",
            ],
        ),
        ({"database_url": "invalid://url"}, ["database_url must use postgresql"]),
        ({"min_size": -1}, ["min_size must be positive"]),
        ({"timeout": 600.0}, ["timeout must be less than 300.0 seconds"]),
        ({"timeout": 0}, ["timeout must be greater than 0.0"]),
        ({"max_queries": 10}, ["max_queries"]),
        ({"max_idle_time": 1.0}, ["max_idle_time"]),
        ({"max_connection_lifetime": 1.0}, ["max_connection_lifetime"]),
        ({"leak_detection_timeout": -1.0}, ["leak_detection_timeout"]),
        ({"max_size": 10_001}, ["max_size"]),
        ({"validation": "sometimes"}, ["validation", "sometimes"]),
        ({"min_size": -1, "timeout": 600.0}, ["min_size must be positive", "timeout must be"]),
    ],
)
def test_out_of_bounds_is_refused_by_the_core(values: dict[str, Any], wordings: list[str]) -> None:
    message = problems_of(**values)
    for wording in wordings:
        assert wording in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d",
        "postgres://h/d",
        "postgresql+asyncpg://u:p@h:5432/d",
        "host=localhost dbname=d",
    ],
)
def test_url_forms_are_taken_and_read_as_given(url: str) -> None:
    assert PoolConfig(url).database_url == url


def test_configuration_error_is_both_a_pool_error_and_a_value_error() -> None:
    with pytest.raises(ConnectionPoolError):
        PoolConfig(database_url="invalid://url")
    with pytest.raises(ValueError, match="database_url"):
        PoolConfig(database_url="invalid://url")


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgresql://alice:s3cret/x@h/d",
        "postgresql://alice:a@s3cret@h/d",
        "postgresql://alice:my s3cret@h/d",
        "postgresql://h/d?user=alice&password=s3cret&sslmode=disable",
        "host=h user=alice password=s3cret",
        r"host=h user=alice password='my \' s3cret' dbname=d",
    ],
)
def test_repr_masks_the_password(url: str) -> None:
    text = repr(PoolConfig(database_url=url))
    assert "s3cret" not in text
    assert "***" in text
    assert "alice" in text or "h/d" in text


def test_no_message_holds_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3cret" not in problems_of(min_size=URL)
    assert "s3cret" not in problems_of(database_url="mysql://alice:s3cret@h/d")
    monkeypatch.setenv("POOL_MIN_SIZE", URL)
    assert "s3cret" not in problems_of()


def test_is_immutable_comparable_hashable_and_picklable() -> None:
    config = PoolConfig(database_url=URL, min_size=3)
    with pytest.raises(FrozenInstanceError):
        config.min_size = 4  # type: ignore[misc]
    assert config == PoolConfig(database_url=URL, min_size=3)
    assert config != PoolConfig(database_url=URL)
    assert len({config, PoolConfig(database_url=URL, min_size=3)}) == 1
    assert pickle.loads(pickle.dumps(config)) == config


def test_replace_checks_anew_and_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PoolConfig(database_url=URL)
    monkeypatch.setenv("POOL_MIN_SIZE", "7")
    assert config.replace(max_size=20) == PoolConfig(database_url=URL, min_size=2, max_size=20)
    with pytest.raises(PoolConfigurationError, match="max_size"):
        config.replace(max_size=1)


def test_model_dump_gives_every_field_and_builds_an_equal_copy() -> None:
    config = PoolConfig(database_url=URL, max_size=20)
    dump = config.model_dump()
    assert set(dump) == {option["name"] for option in _pqpool.options()}
    assert dump["database_url"] == URL
    assert PoolConfig(**dump) == config
