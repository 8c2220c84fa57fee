"""TOML, environment variables over it, and what is said about mistakes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr, ValidationError

from serversessions.config import (
    CacheConfig,
    CacheStoreConfig,
    ConfigError,
    DatabaseConfig,
    FileStoreConfig,
    MemoryStoreConfig,
    MiddlewaresConfig,
    ProjectConfig,
    SessionConfig,
    Table,
    redact,
)
from serversessions.config.variables import list_variables
from serversessions.expiry import format_duration, parse_duration
from serversessions.location import Location

from .project import PREFIX, VARIABLE, project, write
from .sample.config import AppConfig, MailConfig

__all__ = ["project"]  # pytest finds the fixture by its name

SESSION = "[middlewares.session]\n"
STORE = "[middlewares.session.store]\n"
POSTGRESQL = '[database]\nurl = "postgresql://h/x"\n'


def session_of(text: str) -> SessionConfig:
    return ProjectConfig.from_toml(text).middlewares.session


def caught(text: str, overrides: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        AppConfig.from_toml(text, source="config/x.toml", overrides=overrides)
    return error.value


def error_of(text: str, overrides: dict[str, str] | None = None) -> str:
    return str(caught(text, overrides))


def override(text: str = "", **variables: str) -> AppConfig:
    named = {f"{PREFIX}{name}": value for name, value in variables.items()}
    return AppConfig.from_toml(text, source="config/x.toml", overrides=named)


def test_an_empty_file_has_the_defaults() -> None:
    assert ProjectConfig.from_toml("") == ProjectConfig()
    session = session_of("")
    assert session.store == MemoryStoreConfig()
    assert (session.secure, session.http_only, session.same_site) == (True, True, "lax")
    assert (session.name, session.path, session.domain) == (None, "/", None)
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
    config = AppConfig.from_toml(f'{caches}{STORE}type = "cache"\n{text}')
    assert config.location == Location(url, "my_app", key=key)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("", Location("memory:", "my_app", key="middlewares.session.store.type")),
        (
            f'{STORE}type = "file"\npath = "var/s"\nfsync = true',
            Location("file:var/s", "my_app", {"fsync": True}, "middlewares.session.store.path"),
        ),
        (
            f'{POSTGRESQL}pool_size = 3\npool_timeout = "2s"\n{STORE}type = "database"',
            Location(
                "postgresql://h/x",
                "my_app",
                {"pool_size": 3, "pool_timeout": timedelta(seconds=2)},
                "database.url",
            ),
        ),
    ],
)
def test_a_configuration_says_where_its_sessions_live(text: str, location: Location) -> None:
    assert AppConfig.from_toml(text).location == location


class TestCookie:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("", "__Host-my_app"),
            ('name = "id"', "__Host-id"),
            ('name = "__Secure-id"', "__Secure-id"),
            ('name = "__host-id"', "__host-id"),
            ('domain = "example.org"', "my_app"),
            ('path = "/shop"', "my_app"),
            ("secure = false", "my_app"),
        ],
    )
    def test_its_name_is_the_apps_with_a_prefix_wherever_that_can_be(
        self, text: str, name: str
    ) -> None:
        config = AppConfig.from_toml(f"debug = true\n{SESSION}{text}")
        assert config.session_options()["name"] == name

    def test_two_apps_have_two_cookies(self) -> None:
        assert ProjectConfig().session_options()["name"] == "__Host-app"

    def test_its_options_are_those_of_the_middleware(self) -> None:
        options = AppConfig.from_toml(f'{SESSION}max_lifetime = "1h"').session_options()
        assert options["max_lifetime"] == timedelta(hours=1)
        assert options["same_site"] == "lax"
        assert "store" not in options


def test_an_apps_name_can_stand_in_variables_and_tables() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.app_name: found 'my-app'; allowed: a l"):
        type("Wrong", (ProjectConfig,), {"app_name": "my-app", "__module__": __name__})


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("debgu = true", "debgu: unknown key; did you mean 'debug'? allowed: debug, "),
            ("[smtp]", "smtp: unknown table; allowed: debug, "),
            ("[smtp]", "Declare a table of your own in AppConfig (tests.sample.config)"),
            ('[mail]\nhots = "h"', "mail.hots: unknown key; did you mean 'host'? allowed: host"),
            ('[mail]\nport = "25"', 'mail.port: found "25"; allowed: a whole number'),
            ('[mail]\nadmins = "ada"', 'mail.admins: found "ada"; allowed: an array'),
            ("[mail]\npassword = 123", "mail.password: found ***; allowed: a string"),
            ('[mail]\ntokens = ["a", 1]', "mail.tokens.1: found ***; allowed: a string"),
            ('mail = "s3cret"', "mail: found ***; allowed: a table"),
            ('allowed_hosts = "example.org"', 'allowed_hosts: found "example.org"; allowed: host'),
            ('allowed_hosts = ["http://x"]', "allowed: host names without scheme and port: ["),
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

    @pytest.mark.parametrize("number", ["1" * 5000, f"0x{'f' * 5000}", "9223372036854775808"])
    def test_a_number_too_long_for_toml_is_told(self, number: str) -> None:
        for text in (f"{SESSION}max_size = {number}", f"x = [{{ y = {number} }}]"):
            assert "not valid TOML: " in error_of(text)

    def test_a_long_value_is_told_in_part(self) -> None:
        error = error_of(f'debug = "{"x" * 5000}"')
        assert f'debug: found "{"x" * 200}..."; allowed: true or false' in error

    def test_a_program_reads_them_as_data(self) -> None:
        problems = caught("debug = 1\n[smtp]\n[cache]", {f"{PREFIX}MAIL__PORT": "x"}).problems
        told = {problem.key: (problem.found, problem.allowed) for problem in problems}
        assert told["debug"] == ("1", "true or false")
        assert told["cache.url"] == (None, "a value")
        assert told["mail.port"] == ('"x"', "a whole number")
        assert [problem.key for problem in problems if problem.is_missing] == ["cache.url"]
        sources = {problem.key: problem.source for problem in problems}
        assert sources["debug"] == "config/x.toml"
        assert sources["mail.port"] == f"{PREFIX}MAIL__PORT (environment variable)"

    def test_a_rule_about_two_tables_names_the_variable_that_breaks_it(self) -> None:
        error = error_of("", {f"{PREFIX}MIDDLEWARES__SESSION__SECURE": "false"})
        assert error.startswith(f"{PREFIX}MIDDLEWARES__SESSION__SECURE (environment variable): ")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('kind = "disk"', "sink.path: missing; it is required here"),
            (
                'kind = "disk"\npath = "x"\nurl = "y"',
                'url: unknown key; it belongs to kind = "web"',
            ),
            ('kind = "tape"', 'sink.kind: found "tape"; allowed: "disk", "web"'),
            ('path = "x"', "sink.kind: missing; it is required here"),
        ],
    )
    def test_a_mistake_in_one_of_several_tables_is_told_by_its_key(
        self, text: str, told: str
    ) -> None:
        with pytest.raises(ConfigError) as error:
            Sunk.from_toml(f"[sink]\n{text}")
        assert told in str(error.value)

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
            "redis://s3cret@h h",  # a token as a user name
            "redis+sentinel://s3cret@h:26379/x x",
            "redis://s3cret:@h h",
        ],
    )
    def test_a_password_is_never_told(self, url: str) -> None:
        assert "s3cret" not in error_of(f'[cache]\nurl = "{url}"')
        assert "s3cret" not in repr(CacheConfig(url="redis://:s3cret@localhost"))
        with pytest.raises(ValidationError) as error:
            CacheConfig(url="redis://:s3cret@localhost\n")
        assert "s3cret" not in str(error.value)

    def test_a_databases_user_is_told(self) -> None:
        assert redact("postgresql://ada@h/x") == "postgresql://ada@h/x"
        assert redact("postgresql+asyncpg://ada@h/x") == "postgresql+asyncpg://ada@h/x"

    @pytest.mark.usefixtures("project")
    def test_a_missing_environment_is_told_with_the_known_ones(self) -> None:
        write("dev", "")
        with pytest.raises(ConfigError, match=r"no such file.*Environments here: dev"):
            AppConfig.load("nowhere")

    @pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", ".", "x" * 300, "a\nb", "a b"])
    def test_an_environment_is_a_plain_name(self, name: str) -> None:
        with pytest.raises(ConfigError, match="plain name"):
            AppConfig.load(name)


class TestEnvironmentVariables:
    def test_they_win_over_the_file(self) -> None:
        config = override("debug = false", DEBUG="true", CACHE__URL="redis://:p@h/0")
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
        session = override(**{f"MIDDLEWARES__SESSION__{name}": text}).middlewares.session
        assert getattr(session, name.lower()) == value

    @pytest.mark.parametrize(
        "value", ["[" * 5000, "1" * 5000, f"0x{'f' * 5000}", "true\nsecure = true"]
    )
    def test_what_is_not_one_value_of_toml_is_a_text(self, value: str) -> None:
        error = error_of("", {f"{PREFIX}DEBUG": value})
        assert f"debug: found {json.dumps(value)[:200]}" in error

    @pytest.mark.parametrize("value", ["0123", "123", "1e5", "true", "1_000", "2030-01-01", "[]"])
    def test_what_a_key_for_text_is_set_to_is_a_text(self, value: str) -> None:
        config = override(MAIL__PASSWORD=value, MAIL__HOST=value, MAIL__LOG_FILE=value)
        assert config.mail.password == SecretStr(value)
        assert (config.mail.host, config.mail.log_file) == (value, Path(value))

    def test_a_text_may_be_written_in_quotes(self) -> None:
        assert override(MAIL__HOST='"h"').mail.host == "h"

    def test_an_empty_one_is_not_set(self) -> None:
        text = 'debug = true\n[mail]\nhost = "h"'
        names = [
            line[1:].partition("=")[0]
            for line in list_variables(AppConfig).splitlines()
            if line.startswith(f"#{PREFIX}")
        ]
        empty = dict.fromkeys(names, "") | dict.fromkeys((f"{name}_FILE" for name in names), "")
        assert AppConfig.from_toml(text, overrides=empty) == AppConfig.from_toml(text)

    def test_a_key_of_ones_own_may_end_as_the_name_of_a_mounted_file(self, tmp_path: Path) -> None:
        mounted = tmp_path / "path"
        mounted.write_text("b")
        assert override(MAIL__LOG_FILE="a").mail.log_file == Path("a")
        assert override(MAIL__LOG_FILE_FILE=str(mounted)).mail.log_file == Path("b")

    def test_another_type_of_store_replaces_the_whole_table(self) -> None:
        text = f'{STORE}type = "cache"\nuri = "redis://h"'
        store = "MIDDLEWARES__SESSION__STORE__"
        config = override(text, **{f"{store}TYPE": "file", f"{store}PATH": "/srv"})
        assert config.middlewares.session.store == FileStoreConfig(path="/srv")

    def test_a_mistake_names_the_variable(self) -> None:
        error = error_of("", {f"{PREFIX}CACHE__ULR": "redis://:s3cret@h"})
        assert f"{PREFIX}CACHE__ULR" in error
        assert "s3cret" not in error

    def test_a_mistake_in_a_tables_name_names_the_variable(self) -> None:
        error = error_of("", {f"{PREFIX}CAHCE__URL": "redis://h"})
        assert error.startswith(f"{PREFIX}CAHCE__URL (environment variable): cahce: ")

    def test_of_two_that_set_a_key_the_one_that_won_is_named(self) -> None:
        variables = {
            f"{PREFIX}CACHE": '{ url = "redis://h" }',
            f"{PREFIX}CACHE__URL": "x",
        }
        assert f"{PREFIX}CACHE__URL (environment variable)" in error_of("", variables)

    def test_a_mounted_file_holds_a_secret(self, tmp_path: Path) -> None:
        mounted = tmp_path / "url"
        mounted.write_text("redis://:s3cret@h/0\n")
        config = override(CACHE__URL_FILE=str(mounted))
        assert config.cache == CacheConfig(url="redis://:s3cret@h/0")

    @pytest.mark.parametrize("content", [b"s3cret", b"redis://h h s3cret", b"\xff s3cret"])
    def test_what_a_mounted_file_holds_is_never_told(self, tmp_path: Path, content: bytes) -> None:
        mounted = tmp_path / "url"
        mounted.write_bytes(content)
        variable = f"{PREFIX}CACHE__URL_FILE"
        error = error_of("", {variable: str(mounted)})
        assert variable in error
        assert "s3cret" not in error

    def test_a_mounted_file_must_hold_something(self, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text("\n")
        error = error_of("", {f"{PREFIX}MAIL__PASSWORD_FILE": str(tmp_path / "empty")})
        assert (
            f'MAIL__PASSWORD_FILE: "{tmp_path}/empty" is empty; it has to hold the value' in error
        )

    def test_a_mounted_file_must_be_there(self) -> None:
        error = error_of("", {f"{PREFIX}CACHE__URL_FILE": "/run/secrets/none"})
        assert 'CACHE__URL_FILE: can\'t read "/run/secrets/none": No such file' in error

    def test_a_key_is_set_once(self) -> None:
        url, file = f"{PREFIX}CACHE__URL", f"{PREFIX}CACHE__URL_FILE"
        assert f"{file}: {url} sets the same key" in error_of("", {url: "redis://h", file: "/x"})

    def test_the_list_of_all_has_meanings_and_defaults(self) -> None:
        listed = list_variables(AppConfig)
        assert f"\n#{VARIABLE}=dev\n" in listed
        assert f"\n\n# the server that sends mail\n#{PREFIX}MAIL__HOST=localhost\n" in listed
        for line in (
            "CACHES__NAME__URL=",
            "MAIL__PASSWORD=",
            "MAIL__LOG_FILE=",
            "MAIL__ADMINS=[]",
            "MAIL__ENCRYPTION=tls",
            'ALLOWED_HOSTS=["*"]',
            "MIDDLEWARES__SESSION__STORE__PATH=",
        ):
            assert f"\n#{PREFIX}{line}\n" in listed

    @pytest.mark.usefixtures("project")
    def test_one_of_them_names_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "nowhere")
        with pytest.raises(ConfigError, match=re.escape("config/nowhere.toml")):
            AppConfig.load()

    @pytest.mark.usefixtures("project")
    def test_without_it_dev_is_taken_or_the_only_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write("prod", 'mail.host = "prod"')
        monkeypatch.setenv(VARIABLE, "")
        assert AppConfig.load().mail.host == "prod"
        write("dev", 'mail.host = "dev"')
        assert AppConfig.load().mail.host == "dev"


class Disk(Table):
    kind: Literal["disk"] = "disk"
    path: str


class Web(Table):
    kind: Literal["web"] = "web"
    url: str


class Sunk(ProjectConfig):
    sink: Annotated[Disk | Web, Field(discriminator="kind")] = Disk(path="x")


class TestOwnTables:
    CONFIG = AppConfig(
        mail=MailConfig(
            password=SecretStr("s3cret"),
            log_file=Path("var/mail.log"),
            timeout=timedelta(seconds=90),
            admins=("ada", "bob"),
            tokens=(SecretStr("s3cret"),),
        )
    )

    def test_what_is_written_is_read_back_equal(self) -> None:
        text = self.CONFIG.to_toml()
        assert 'password = "s3cret"' in text
        assert AppConfig.from_toml(text) == self.CONFIG

    def test_an_array_is_a_tuple_and_a_string_is_a_path(self) -> None:
        mail = AppConfig.from_toml('[mail]\nadmins = ["ada"]\nlog_file = "x"').mail
        assert (mail.admins, mail.log_file) == (("ada",), Path("x"))

    def test_a_secret_is_not_in_its_repr(self) -> None:
        assert "s3cret" not in repr(self.CONFIG) + str(self.CONFIG)

    def test_a_password_in_a_list_of_urls_is_not_in_its_repr(self) -> None:
        mail = MailConfig(admins=("smtp://u:s3cret@h",))
        assert "smtp://u:***@h" in repr(mail)
        assert "s3cret" not in repr(mail)
