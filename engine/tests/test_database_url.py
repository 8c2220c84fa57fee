"""What is wrong with the URL of a database is said before anything connects, without a password."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from serversessions.config import ConfigError
from serversessions.location import Location
from serversessions.stores import open_store
from serversessions.stores.database_url import read_postgresql_url, read_sqlite_url

SCHEMES = (
    "not one of sqlite, sqlite+pysqlite, sqlite+aiosqlite, postgresql, postgres,"
    " postgresql+asyncpg, postgresql+psycopg, postgresql+psycopg2"
)
OPTIONS = "not one of timeout, connect_timeout, command_timeout, sslmode, ssl, sslrootcert"
MODES = "allowed: disable, allow, prefer, require, verify-ca, verify-full, once"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:s3cret@h/x", f"'mysql' is {SCHEMES}"),
        ("postgresql+pg8000://u:s3cret@h/x", f"'postgresql+pg8000' is {SCHEMES}"),
        ("postgresql:u:s3cret@h/x", "not the URL of a database, such as postgresql://HOST"),
        ("postgresql://u:s3/cret@h/x", "its port is not a number"),
        ("postgresql://u:s3cret@h:port/x", "its port is not a number"),
        ("postgresql://u:s3cret@h:65536/x", "65536 is no port: they go from 1 to 65535"),
        ("postgresql://u:s3cret@h:0/x", "0 is no port"),
        ("postgresql://u:s3cret@h/x?port=0", "0 is no port"),
        ("postgresql://u:s3cret@h:" + "9" * 5000 + "/x", "999999999 is no port"),
        ("postgresql://u:s3cret@h..h/x", "its host has a part that is empty"),
        ("postgresql://u:s3cret@h,,h/x", "its host has a part that is empty"),
        ("postgresql://u:s3cret@h/x?host=g", "host: allowed: before the path or as an option"),
        ("postgresql://u:s3cret@h,g/x?port=1,2,3", "port: allowed: one, or one for each host"),
        ("postgresql://u:s3cret@h/x?sslmode=yes", f"sslmode: {MODES}"),
        ("postgresql://u:s3cret@h/x?ssl=true", f"ssl: {MODES}"),
        (
            "postgresql://u:s3cret@h/x?sslrootcert=/none",
            "sslrootcert: allowed: a file that is there",
        ),
        ("postgresql://u:s3cret@h/x?sslrootcert=/none", "or system"),
        ("postgresql://u:s3cret@h/x?sslkey=system", "sslkey: allowed: a file that is there"),
        (
            "postgresql://u:s3cret@h/x?sslrootcert=system&sslmode=require",
            "sslmode: allowed: verify-f",
        ),
        ("postgresql://u:s3cret@h/x?timeout=soon", "timeout: allowed: seconds, such as 2.5"),
        ("postgresql://u:s3cret@h/x?timeout=0", "timeout: allowed: seconds"),
        ("postgresql://u:s3cret@h/x?connect_timeout=0", "connect_timeout: allowed: seconds"),
        ("postgresql://u:s3cret@h/x?command_timeout=-1", "command_timeout: allowed: seconds"),
        ("postgresql://u:s3cret@h/x?command_timeout=nan", "command_timeout: allowed: seconds"),
        ("postgresql://u:s3cret@h/x?timeout=1&timeout=2", "timeout: allowed: seconds, such as"),
        ("postgresql://u:s3cret@h/x?pool_size=5", f"'pool_size' is {OPTIONS}"),
        ("postgresql://u:s3cret@h/x?password=s3cret", f"'password' is {OPTIONS}"),
        (
            "postgresql://u:s3cret@h/x?channel_binding=require",
            "in place of require, write sslmode=verify-full&sslrootcert=system",
        ),
        (
            "postgresql://u:s3cret@h/x?target_session_attrs=standby",
            "target_session_attrs: allowed: any, primary, read-write",
        ),
        (
            "postgresql://u:s3cret@h/x?prepared_statement_cache_size=100",
            "prepared_statement_cache_size: allowed: 0, once; for a pooler that keeps none",
        ),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("sqlite://var/app.db", "with three slashes"),
        ("sqlite:///x.db?timeout=soon", "timeout: allowed: seconds, such as 2.5"),
        ("sqlite:///x.db?mode=ro", "'mode' is not timeout, the one option of SQLite"),
    ],
)
def test_it_is_refused_with_what_is_allowed(url: str, message: str) -> None:
    read = read_sqlite_url if url.startswith("sqlite") else read_postgresql_url
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        read(url)
    assert "s3cret" not in str(refused.value)
    if "://" not in url:
        return  # a configuration takes none such
    with pytest.raises(ConfigError) as told:
        open_store(Location(url, key="database.url"))
    assert str(told.value).startswith("database.url: found ")
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql:///x", {"host": None, "port": None, "user": None, "database": "x"}),
        ("postgresql://", {"host": None, "port": None, "database": None}),
        ("postgresql://:5433/x", {"host": None, "port": [5433]}),
        ("postgresql://h/x", {"host": ["h"], "port": None}),
        ("postgresql://h:5433/x", {"host": ["h"], "port": [5433]}),
        ("postgresql://[::1]:5433/x", {"host": ["::1"], "port": [5433]}),
        ("postgresql://a%40b:p%2Fq@h/x", {"user": "a@b", "password": "p/q"}),
        ("postgresql://u@h:p@x/x", {"user": "u@h", "password": "p", "host": ["x"]}),
        ("postgresql://g:1,h:2/x", {"host": ["g", "h"], "target_session_attrs": "read-write"}),
        ("postgresql://h/x?connect_timeout=3", {"timeout": 3.0, "command_timeout": 5.0}),
        ("postgresql://h/x?prepared_statement_cache_size=0", {"statement_cache_size": 0}),
        ("postgresql://h/x?sslmode=require", {"ssl": "require"}),
        ("postgresql://%2Frun%2Fpg/x", {"host": ["/run/pg"]}),
        ("postgresql:///x?host=/run/pg&port=5433", {"host": ["/run/pg"], "port": [5433]}),
    ],
)
def test_it_is_handed_to_the_driver(url: str, arguments: dict[str, Any]) -> None:
    read = read_postgresql_url(url)
    assert {name: read.get(name) for name in arguments} == arguments


def test_a_path_of_sqlite_is_as_sqlalchemy_reads_it(tmp_path: Path) -> None:
    assert read_sqlite_url("sqlite:///var/a%20b.db") == ("var/a%20b.db", 5.0)
    assert read_sqlite_url(f"sqlite+aiosqlite:///{tmp_path}/x.db?timeout=2.5") == (
        f"{tmp_path}/x.db",
        2.5,
    )


def test_a_process_whose_user_has_no_name_must_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 23456)
    with pytest.raises(ValueError, match="user: missing"):
        read_postgresql_url("postgresql://localhost/x")
