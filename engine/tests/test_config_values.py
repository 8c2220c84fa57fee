"""Configurations of every shape: TOML round trips, moves of any user's file, any variables."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from itertools import count, cycle
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from serversessions.config import (
    CacheConfig,
    CacheStoreConfig,
    ConfigError,
    DatabaseConfig,
    DatabaseStoreConfig,
    FileStoreConfig,
    MemoryStoreConfig,
    MiddlewaresConfig,
    SessionConfig,
)
from serversessions.config.editing import set_table
from serversessions.config.environments import STORE

from .project import PREFIX
from .sample.config import AppConfig, MailConfig

REPEATABLE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
SECRET = "s3cret"
MOUNTED = "/run/secrets/mounted"  # stands for a file that holds a secret
T = TypeVar("T")

ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PRINTED = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
WORD = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/?#@:"), max_size=8)
TOKEN = "abzAZ019!#$%&'*+-.^_`|~"
IN_PATH = "!\"#$%&'()*+,-./09:<=>?@AZ[\\]^_`az{|}~"
URLS = st.builds(
    "{}://{}:{}@{}:{}/{}?x={}".format,
    st.sampled_from(["redis", "rediss", "unix", "postgresql+asyncpg", "my.own-1"]),
    *(WORD, WORD, WORD, st.integers(1, 65535), WORD, WORD),
)
LIFETIMES = st.integers(1, 52 * 100 * 604800).map(lambda seconds: timedelta(seconds=seconds))
OFFSETS = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=OFFSETS)


@st.composite
def sessions(draw: st.DrawFn) -> dict[str, Any]:
    """``[middlewares.session]`` with every key, in which no rule about cookies is broken."""
    name = draw(
        st.sampled_from(["", "__Host-", "__Secure-"]).flatmap(
            lambda prefix: st.text(TOKEN, min_size=1, max_size=5).map(prefix.__add__)
        )
    )
    is_host, is_prefixed = name.startswith("__Host-"), name.startswith("__")
    same_site = draw(st.sampled_from(["strict", "lax", "none"]))
    partitioned = draw(st.booleans())
    is_free = not (is_prefixed or partitioned or same_site == "none")
    return {
        "secure": draw(st.booleans()) if is_free else True,
        "http_only": draw(st.booleans()),
        "same_site": same_site,
        "domain": None if is_host else draw(st.none() | st.sampled_from(["example.org", "a-b.c"])),
        "path": "/" if is_host else draw(st.text(IN_PATH, max_size=5).map("/".__add__)),
        "name": name,
        "partitioned": partitioned,
        "always_save": draw(st.booleans()),
        "expiry": draw(st.just("session") | LIFETIMES | TIMES),
        "max_lifetime": draw(st.none() | LIFETIMES),
        "max_size": draw(st.integers(1, 2**63 - 1)),
        "exclude": tuple(draw(st.lists(ANYTHING.map("/".__add__), max_size=3))),
    }


@st.composite
def configs(draw: st.DrawFn) -> AppConfig:
    session = draw(sessions())
    caches = draw(st.dictionaries(PRINTED | ANYTHING, URLS, max_size=3))
    names = [name for name in caches if name and name.isprintable()]
    stores: list[Any] = [
        MemoryStoreConfig(),
        FileStoreConfig(path=draw(PRINTED)),
        CacheStoreConfig(uri=draw(URLS)),
        CacheStoreConfig(),
        DatabaseStoreConfig(),
        *(CacheStoreConfig(name=name) for name in names),
    ]
    return AppConfig(
        debug=not session["secure"] or draw(st.booleans()),
        cache=CacheConfig(url=draw(URLS)),
        caches={name: CacheConfig(url=url) for name, url in caches.items()},
        database=DatabaseConfig(url=draw(URLS)),
        middlewares=MiddlewaresConfig(
            session=SessionConfig(**session, store=draw(st.sampled_from(stores)))
        ),
        mail=MailConfig(
            host=draw(ANYTHING),
            password=draw(st.none() | ANYTHING.map(SecretStr)),
            timeout=draw(st.none() | LIFETIMES),
            admins=draw(st.lists(ANYTHING, max_size=3).map(tuple)),
            tokens=draw(st.lists(ANYTHING.map(SecretStr), max_size=3).map(tuple)),
        ),
    )


@REPEATABLE
@given(configs())
def test_what_is_written_is_read_back_equal(config: AppConfig) -> None:
    text = config.to_toml()
    assert AppConfig.from_toml(text) == config
    assert AppConfig.from_toml(text).to_toml() == text


VALUES = [
    "1",
    "0x1F",
    "1_000.5e-3",
    "inf",
    "true",
    "2030-01-01T00:00:00.123456+05:45",
    "1979-05-27",
    "07:32:00",
    '"a # no comment \\" [x]"',
    "'C:\\path = ['",
    '"""\n[middlewares.session.store]\ntype = "x" \\\n  """',
    "'''\n# no comment\n\n'''",
    "[]",
    '[\n  1, # one\n\n  # alone\n  "]",\n]',
    "[ [1,2],['a'] , ]",
    "{}",
    '{ a = 1, "b c" = { d.e = "x" } }',
    '[{ type = "file" },\n\t{}]',
    '"é 😀"',
]
ALONE = ["", " ", "# a", "#", '  # type = "x"', "\t#[middlewares.session.store]", "# é"]
BESIDE = ["", "", "  ", " # beside", "# type = 1"]
SPACES = ["", " ", "  ", "\t"]
FORMS = {  # of the store's table, and those above it that no header may name in this file
    "missing": [],
    "table": [],
    "with tables below": [],
    "inline": [],
    "dotted": [],
    "dotted from [middlewares]": ["session"],
    "in an inline session": ["session"],
    "dotted from the top": ["session", "middlewares"],
    "in an inline middlewares": ["session", "middlewares"],
}


class Writer:
    """A user's file: its text, and the lines in it that a move has to keep."""

    def __init__(self, form: str, choices: list[int]) -> None:
        self.choices = cycle(choices)
        self.names = map("k{}".format, count())
        self.form = form
        self.text = ""
        self.kept: list[str] = []

    def pick(self, options: Sequence[T]) -> T:
        return options[next(self.choices) % len(options)]

    def add(self, statement: str, *, keep: bool = True) -> None:
        statement += self.pick(["\n", "\n", "\n", "\r\n"])
        self.text += statement
        if keep:
            self.kept += statement.splitlines(keepends=True)

    def key(self, *names: str) -> str:
        parts = [
            self.pick([name, name, f'"{name}"', f"'{name}'", _escaped(name)]) for name in names
        ]
        return self.pick([".", ".", " . "]).join(parts)

    def header(self, *names: str, keep: bool = True, array: bool = False) -> None:
        pad, (opening, closing) = self.pick(SPACES), ("[[", "]]") if array else ("[", "]")
        inside = f"{opening}{pad}{self.key(*names)}{pad}{closing}"
        self.add(f"{self.pick(SPACES)}{inside}{self.pick(BESIDE)}", keep=keep)

    def pair(self, *names: str, value: str, keep: bool = True) -> None:
        left = f"{self.pick(SPACES)}{self.key(*names)}{self.pick(SPACES)}"
        self.add(f"{left}={self.pick(SPACES)}{value}{self.pick(BESIDE)}", keep=keep)

    def gap(self) -> None:
        for _ in range(self.pick([0, 0, 1, 2])):
            self.add(self.pick(ALONE))

    def others(self) -> None:
        """Keys of which the configuration knows nothing."""
        for _ in range(self.pick([0, 1, 2])):
            self.gap()
            below = self.pick(["", "x", "y z"]).split()
            self.pair(next(self.names), *below, value=self.pick(VALUES))
        self.gap()

    def other_tables(self) -> None:
        name, below = next(self.names), next(self.names)
        closed = FORMS[self.form]
        headers: list[list[tuple[str, ...]]]
        headers = [[(name,)], [(name, below), (name,)], [("store", name)]]
        if "middlewares" not in closed:
            headers.append([("middlewares", name)])
        if "session" not in closed:
            headers.append([("middlewares", "session", name)])
        for names in self.pick(headers):
            self.header(*names)
            self.others()
        for _ in range(self.pick([0, 0, 2])):
            self.header(f"{name}s", array=True)
            self.others()
            self.header(f"{name}s", "type")
            self.others()

    def store(self, *above: str, values: dict[str, str]) -> None:
        for name, value in values.items():
            self.gap()
            self.pair(*above, name, value=self.quoted(value), keep=False)
        self.gap()

    def quoted(self, value: str) -> str:
        return self.pick([f'"{value}"', f"'{value}'"])


def _escaped(name: str) -> str:
    """A name with its first letter written as a number."""
    return f'"\\u{ord(name[0]):04x}{name[1:]}"'


@st.composite
def users_files(draw: st.DrawFn) -> tuple[str, list[str], dict[str, str]]:
    """Any TOML that a user may have written, the lines that are to stay, and its store's table."""
    form = draw(st.sampled_from(sorted(FORMS)))
    write = Writer(form, draw(st.lists(st.integers(0, 59), min_size=20, max_size=80)))
    path = draw(st.sampled_from(["var/x", "[a] # b", "é"]))
    store = draw(
        st.sampled_from([{"type": "memory"}, {"type": "file", "path": path}, {"path": path}])
    )
    inline = ", ".join(f"{key} = {write.quoted(value)}" for key, value in store.items())

    def middlewares() -> None:
        write.header("middlewares")
        write.others()
        if form == "dotted from [middlewares]":
            write.store("session", "store", values=store)
        elif form == "in an inline session":
            write.pair("session", value=f"{{name='x',store={{{inline}}}}}", keep=False)
        write.others()

    def session() -> None:
        write.header("middlewares", "session")
        write.others()
        if form == "inline":
            write.pair("store", value=f"{{ {inline} }}", keep=False)
        elif form == "dotted":
            write.store("store", values=store)
        write.others()

    def table() -> None:
        write.header(*STORE)
        write.store(values=store)
        if form == "with tables below":
            write.header(*STORE, next(write.names), keep=False)
            write.store(values={"x": "y"})

    write.others()
    if form == "dotted from the top":
        write.store(*STORE, values=store)
    elif form == "in an inline middlewares":
        value = f"{{ k = 1, session = {{ store = {{{inline}}}, name = 'x' }} }}"
        write.pair("middlewares", value=value, keep=False)
    write.others()
    tables = [write.other_tables, write.other_tables]
    if form in ("table", "with tables below"):
        tables.append(table)
    if form in ("inline", "dotted") or ("session" not in FORMS[form] and draw(st.booleans())):
        tables.append(session)
    if "middlewares" not in FORMS[form]:
        tables.append(middlewares)
    for write_table in draw(st.permutations(tables)):
        write_table()
    text, kept = write.text, write.kept
    if draw(st.booleans()):  # without a newline at its end
        text = text.rstrip("\r\n")
        while kept and not kept[-1].strip("\r\n"):
            kept.pop()
        kept = [*kept[:-1], kept[-1].rstrip("\r\n")] if kept else []
    tomllib.loads(text)
    return text, kept, {} if form == "missing" else store


def with_store(text: str, values: dict[str, str]) -> dict[str, Any]:
    data = tomllib.loads(text)
    data.setdefault("middlewares", {}).setdefault("session", {})["store"] = values
    return data


NEW_STORES = [
    {"type": "memory"},
    {"type": "file", "path": 'a"b\\c é'},
    {"type": "cache", "uri": "redis://h:1/0"},
]


@REPEATABLE
@given(users_files(), st.sampled_from(NEW_STORES))
def test_a_move_changes_the_stores_table_and_not_a_byte_beside_it(
    file: tuple[str, list[str], dict[str, str]], values: dict[str, str]
) -> None:
    text, kept, before = file
    moved = set_table(text, STORE, values)
    assert tomllib.loads(moved) == with_store(text, values)
    lines = iter(moved.splitlines(keepends=True))
    for line in kept:
        assert any(one == line or one.rstrip("\r\n") == line for one in lines), line
    assert set_table(moved, STORE, values) == moved
    if before:
        assert tomllib.loads(set_table(moved, STORE, before)) == with_store(text, before)


PARTS = ["DEBUG", "CACHE", "CACHES", "DATABASE", "URL", "MIDDLEWARES", "SESSION", "STORE", "TYPE"]
PARTS += [
    "MAIL",
    "HOST",
    "PASSWORD",
    "TOKENS",
    "PATH",
    "URI",
    "NAME",
    "EXPIRY",
    "MAX_LIFETIME",
    "MAX_SIZE",
    "EXCLUDE",
    "SECURE",
    "X",
    "",
]
RAW = st.text(st.characters(exclude_characters="\x00"), max_size=12)  # as os.environ has it
NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from([PREFIX, PREFIX.lower()]),
    st.sampled_from(
        [
            "DEBUG",
            "CACHE__URL",
            "CACHES__A__URL",
            "DATABASE__URL",
            "MIDDLEWARES__SESSION__EXPIRY",
            "MIDDLEWARES__SESSION__STORE__TYPE",
            "MIDDLEWARES__SESSION__STORE__URI",
            "MAIL",
            "MAIL__PASSWORD",
            "MAIL__TOKENS",
        ]
    )
    | st.lists(st.sampled_from(PARTS) | RAW, max_size=4).map("__".join),
    st.sampled_from(["", "", "_FILE"]),
)
WITH_PASSWORD = st.builds(
    "{}{}:{}{}{}@{}".format,
    st.sampled_from(["redis://", "postgresql://", "x://"]),
    *(WORD, RAW, st.just(SECRET), RAW, RAW),
) | st.builds("redis://h?{}={}&{}".format, st.just("password"), st.just(SECRET), RAW)
WRITTEN = st.one_of(
    *(RAW, WITH_PASSWORD, WITH_PASSWORD.map(repr), WITH_PASSWORD.map("[{!r}]".format)),
    WITH_PASSWORD.map("{{url = {!r}}}".format),
    st.sampled_from(["", "true", "1", "{}", "[[]]", "nan", "2030-01-01", "1\na=2", "[" * 5000]),
    st.sampled_from(["file", "cache", "database", "memory", "a." * 5000 + "b = 1", MOUNTED]),
)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mounted") / "secret"


@REPEATABLE
@given(
    st.dictionaries(NAMES, WRITTEN, min_size=1, max_size=4),
    WITH_PASSWORD.map(lambda text: text.encode(errors="surrogatepass")),
)
def test_variables_give_a_configuration_or_an_error_without_a_password(
    mounted: Path, variables: dict[str, str], content: bytes
) -> None:
    mounted.write_bytes(content)
    overrides = {
        name: str(mounted) if value == MOUNTED else value for name, value in variables.items()
    }
    try:
        shown = repr(AppConfig.from_toml("debug = true", overrides=overrides))
    except ConfigError as error:
        shown = str(error)
    assert SECRET not in shown
