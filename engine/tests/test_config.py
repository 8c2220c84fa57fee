"""TOML, environment variables over it, and what is said about mistakes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serversessions.config import (
    ENVIRONMENT_VARIABLE,
    OVERRIDE_PREFIX,
    CacheConfig,
    CacheStoreConfig,
    ConfigError,
    DatabaseConfig,
    FileStoreConfig,
    MemoryStoreConfig,
    MiddlewaresConfig,
    ProjectConfig,
    SessionConfig,
    format_duration,
    parse_duration,
)
from serversessions.config.dotenv import list_variables

from .conftest import CONFIGS

SESSION = "[middlewares.session]\n"
STORE = "[middlewares.session.store]\n"
POSTGRESQL = '[database]\nurl = "postgresql://h/x"\n'


def session_of(text: str) -> SessionConfig:
    return ProjectConfig.from_toml(text).middlewares.session


def error_of(text: str, overrides: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        ProjectConfig.from_toml(text, source="config/x.toml", overrides=overrides)
    return str(caught.value)


@pytest.mark.parametrize("file", CONFIGS, ids=str)
def test_every_environment_of_this_project_is_valid(file: Path) -> None:
    config = ProjectConfig.load(file.stem)
    assert ProjectConfig.from_toml(config.to_toml()) == config


def test_an_empty_file_has_the_defaults() -> None:
    assert ProjectConfig.from_toml("") == ProjectConfig()
    session = session_of("")
    assert session.store == MemoryStoreConfig()
    assert (session.secure, session.http_only, session.same_site) == (True, True, "strict")
    assert (session.name, session.path, session.domain) == ("id", "/", None)
    assert (session.expiry, session.max_lifetime, session.max_size) == ("session", None, 65536)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"session"', "session"),
        ('"30m"', timedelta(minutes=30)),
        ('"1h30m"', timedelta(hours=1, minutes=30)),
        ('"2w"', timedelta(weeks=2)),
        ('"2030-01-01T00:00:00Z"', datetime(2030, 1, 1, tzinfo=UTC)),
        ("2030-01-01T02:00:00+02:00", datetime(2030, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_word_a_duration_or_a_time(text: str, value: object) -> None:
    assert session_of(f"{SESSION}expiry = {text}").expiry == value


@pytest.mark.parametrize("seconds", [1, 59, 60, 3661, 86400, 1209600, 10**9])
def test_a_duration_is_read_as_it_was_written(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))).total_seconds() == seconds


def test_what_is_written_is_read_back_equal() -> None:
    session = SessionConfig(
        same_site="lax",
        domain="example.org",
        expiry=timedelta(hours=36),
        max_lifetime=timedelta(days=30),
        exclude=("/static", "/ü"),
        store=CacheStoreConfig(name="sessions"),
    )
    config = ProjectConfig(
        caches={"sessions": CacheConfig(url="redis://:pass@localhost/0")},
        database=DatabaseConfig(
            url="postgresql://h/x", pool_size=30, pool_timeout=timedelta(seconds=10)
        ),
        middlewares=MiddlewaresConfig(session=session),
    )
    assert ProjectConfig.from_toml(config.to_toml()) == config


@pytest.mark.parametrize(
    ("text", "key", "url"),
    [
        ('uri = "redis://a"', "middlewares.session.store.uri", "redis://a"),
        ('name = "b"', "caches.b.url", "redis://b"),
        ("", "cache.url", "redis://c"),
    ],
)
def test_a_cache_is_named_by_its_uri_its_name_or_as_the_shared_one(
    text: str, key: str, url: str
) -> None:
    caches = '[cache]\nurl = "redis://c"\n[caches.b]\nurl = "redis://b"\n'
    config = ProjectConfig.from_toml(f'{caches}{STORE}type = "cache"\n{text}')
    assert config.store_url == (key, url)


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("debgu = true", "debgu: unknown key; did you mean 'debug'? allowed: debug, "),
            ("debug = 1", "debug: found 1; allowed: true or false"),
            ("cache = 1", "cache: found 1; allowed: a table"),
            ('[cache]\nurl = "x"', 'cache.url: found "x"; allowed: a URL'),
            ("[cache]", "cache.url: missing"),
            (f'{SESSION}same_site = "Lax"', 'found "Lax"; allowed: "strict", "lax" or "none"'),
            (f"{SESSION}max_size = 0", "max_size: found 0; allowed: 1 or more"),
            (f'{SESSION}expiry = "soon"', 'expiry: found "soon"; allowed: "session", a duration'),
            (f'{SESSION}expiry = ""', 'expiry: found ""; allowed'),
            (f"{SESSION}expiry = 2030-01-01T00:00:00", "expiry: found 2030-01-01T00:00:00; allow"),
            (f'{SESSION}max_lifetime = "0s"', 'max_lifetime: found "0s"; allowed: a duration'),
            (f'{SESSION}max_lifetime = "{"9" * 30}w"', "allowed: a duration"),
            (f'{SESSION}name = "a b"', 'name: found "a b"; allowed: letters'),
            (f'{SESSION}path = "/;x"', 'path: found "/;x"; allowed'),
            (f'{SESSION}exclude = ["static"]', "exclude: found"),
            (f"{SESSION}secure = false", "secure: found false; allowed: true, or debug = true"),
            (f'{SESSION}same_site="none"\nsecure=false', "needs secure = true"),
            (f'{SESSION}name="__Host-id"\npath="/x"', 'needs path = "/" and no domain'),
            (f'{STORE}type = "redis"', 'type: found "redis"; allowed: "memory", "file", "cache"'),
            (f'{STORE}type = "file"', "middlewares.session.store.path: missing"),
            (f'{STORE}path = "x"', 'store.path: unknown key; it belongs to type = "file"'),
            (f'{STORE}type = "cache"', "middlewares.session.store.uri: missing"),
            (f'{STORE}type = "cache"\nname = "x"', 'store.name: found "x"; allowed: none; add'),
            (f'{STORE}type = "cache"\nname = "x"\nuri = "redis://x"', "exclude each other"),
            (f'{STORE}type = "database"', "database.url: missing"),
            (f"{POSTGRESQL}pool_size = 0", "database.pool_size: found 0; allowed: 1 or more"),
            (f"{POSTGRESQL}pool_size = true", "pool_size: found true; allowed: a whole number"),
            (f"{POSTGRESQL}pool_timeout = 5", "pool_timeout: found 5; allowed: a duration such"),
            ('[database]\nurl = "sqlite:///x"\npool_size = 5', "pool_size: PostgreSQL alone has a"),
            ("debug = ", "not valid TOML: Invalid value (at line 1, column 9, the end)"),
            ("a = 1\nb = c", "not valid TOML: Invalid value (at line 2, column 5)"),
            ("a = 1\rb = 2", "Expected newline or end of document after a statement (at line 1,"),
            (f"a = {'[' * 5000}{']' * 5000}", "nested too deeply"),
        ],
    )
    def test_a_mistake_is_told_with_file_key_found_and_allowed(
        self, text: str, message: str
    ) -> None:
        error = error_of(text)
        assert error.startswith("config/x.toml: ")
        assert message in error

    def test_a_number_too_long_for_python_is_told(self) -> None:
        assert "not valid TOML: Exceeds the limit" in error_of(f"debug = {'1' * 5000}")

    def test_all_mistakes_are_told_at_once(self) -> None:
        error = error_of(f'debug = 1\n{SESSION}max_size = 0\n{STORE}type = "x"')
        assert len(error.splitlines()) == 3

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:s3cret@h h",
            "redis://u:s3cret@ ",
            "x y://u:s3cret@h",
            "a ?password=s3cret",
            "redis://h h?PASSWORD=a 's3cret",
            "redis://u:a /?#@s3cret@h",  # each of these is where somebody's password would end
            "postgresql://u:a/s3cret@h/x",
            "redis://me@corp:s3cret@h ",
            "redis+sentinel://h:26379/app app?sentinel_password=a@s3cret",
            "u:s3cret@h/x",
        ],
    )
    def test_a_password_is_never_told(self, url: str) -> None:
        assert "s3cret" not in error_of(f'[cache]\nurl = "{url}"')
        assert "s3cret" not in repr(CacheConfig(url="redis://:s3cret@localhost"))
        with pytest.raises(ValidationError) as caught:
            CacheConfig(url="redis://:s3cret@localhost\n")
        assert "s3cret" not in str(caught.value)

    def test_a_missing_environment_is_told_with_the_known_ones(self) -> None:
        with pytest.raises(ConfigError, match=f"no such file.*{CONFIGS[0].stem}"):
            ProjectConfig.load("nowhere")

    @pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", ".", "x" * 300, "a\nb", "a b"])
    def test_an_environment_is_a_plain_name(self, name: str) -> None:
        with pytest.raises(ConfigError, match="plain name"):
            ProjectConfig.load(name)


class TestEnvironmentVariables:
    def override(self, text: str = "", **variables: str) -> ProjectConfig:
        named = {f"{OVERRIDE_PREFIX}{name}": value for name, value in variables.items()}
        return ProjectConfig.from_toml(text, source="config/x.toml", overrides=named)

    def test_they_win_over_the_file(self) -> None:
        config = self.override("debug = false", DEBUG="true", CACHE__URL="redis://:p@h/0")
        assert config.debug
        assert config.cache == CacheConfig(url="redis://:p@h/0")

    @pytest.mark.parametrize(
        ("name", "text", "value"),
        [
            ("EXPIRY", "1h", timedelta(hours=1)),
            ("EXCLUDE", '["/a", "/b"]', ("/a", "/b")),
            ("MAX_SIZE", "100", 100),
            ("SAME_SITE", "lax", "lax"),
        ],
    )
    def test_their_values_are_written_as_in_toml(self, name: str, text: str, value: Any) -> None:
        session = self.override(**{f"MIDDLEWARES__SESSION__{name}": text}).middlewares.session
        assert getattr(session, name.lower()) == value

    @pytest.mark.parametrize("value", ["[" * 5000, "1" * 5000, "true\nsecure = true"])
    def test_what_is_not_one_value_of_toml_is_a_text(self, value: str) -> None:
        error = error_of("", {f"{OVERRIDE_PREFIX}DEBUG": value})
        assert f"debug: found {json.dumps(value)}" in error

    def test_another_type_of_store_replaces_the_whole_table(self) -> None:
        text = f'{STORE}type = "cache"\nuri = "redis://h"'
        store = "MIDDLEWARES__SESSION__STORE__"
        config = self.override(text, **{f"{store}TYPE": "file", f"{store}PATH": "/srv"})
        assert config.middlewares.session.store == FileStoreConfig(path="/srv")

    def test_a_mistake_names_the_variable(self) -> None:
        error = error_of("", {f"{OVERRIDE_PREFIX}CACHE__ULR": "redis://:s3cret@h"})
        assert f"{OVERRIDE_PREFIX}CACHE__ULR" in error
        assert "s3cret" not in error

    def test_a_mistake_in_a_tables_name_names_the_variable(self) -> None:
        error = error_of("", {f"{OVERRIDE_PREFIX}CAHCE__URL": "redis://h"})
        assert error.startswith(f"{OVERRIDE_PREFIX}CAHCE__URL (environment variable): cahce: ")

    def test_of_two_that_set_a_key_the_one_that_won_is_named(self) -> None:
        variables = {
            f"{OVERRIDE_PREFIX}CACHE": '{ url = "redis://h" }',
            f"{OVERRIDE_PREFIX}CACHE__URL": "x",
        }
        assert f"{OVERRIDE_PREFIX}CACHE__URL (environment variable)" in error_of("", variables)

    def test_a_mounted_file_holds_a_secret(self, tmp_path: Path) -> None:
        mounted = tmp_path / "url"
        mounted.write_text("redis://:s3cret@h/0\n")
        config = self.override(CACHE__URL_FILE=str(mounted))
        assert config.cache == CacheConfig(url="redis://:s3cret@h/0")

    @pytest.mark.parametrize("content", [b"s3cret", b"redis://h h s3cret", b"\xff s3cret"])
    def test_what_a_mounted_file_holds_is_never_told(self, tmp_path: Path, content: bytes) -> None:
        mounted = tmp_path / "url"
        mounted.write_bytes(content)
        variable = f"{OVERRIDE_PREFIX}CACHE__URL_FILE"
        error = error_of("", {variable: str(mounted)})
        assert variable in error
        assert "s3cret" not in error

    def test_a_mounted_file_must_be_there(self) -> None:
        error = error_of("", {f"{OVERRIDE_PREFIX}CACHE__URL_FILE": "/run/secrets/none"})
        assert 'CACHE__URL_FILE: can\'t read "/run/secrets/none": No such file' in error

    def test_a_key_is_set_once(self) -> None:
        url, file = f"{OVERRIDE_PREFIX}CACHE__URL", f"{OVERRIDE_PREFIX}CACHE__URL_FILE"
        assert f"{file}: {url} sets the same key" in error_of("", {url: "redis://h", file: "/x"})

    def test_env_example_names_them_all(self) -> None:
        """If you add a key to the model: ``config variables > .env.example``."""
        assert Path(".env.example").read_text() == list_variables()

    def test_one_of_them_names_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "nowhere")
        with pytest.raises(ConfigError, match=re.escape("config/nowhere.toml")):
            ProjectConfig.load()
