"""What the URL of a database says, in SQLAlchemy's words or in those of hosts that sell one."""

from __future__ import annotations

import getpass
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

TIMEOUT = 5.0  # seconds to wait for a connection, a lock or an answer

SQLITE_SCHEMES = ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite")
POSTGRESQL_SCHEMES = (
    *("postgresql", "postgres", "postgresql+asyncpg"),
    *("postgresql+psycopg", "postgresql+psycopg2"),  # as written for other drivers
)
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_POSTGRESQL_OPTIONS = (
    *("timeout", "connect_timeout", "command_timeout", "sslmode", "ssl", *_TLS_FILES),
    *("host", "port", "target_session_attrs", "application_name", "options", "channel_binding"),
    "prepared_statement_cache_size",
)
Options = dict[str, list[str]]


def read_sqlite_url(url: str) -> tuple[str, float]:
    """The path of a database's file, and the seconds to wait for its lock.

    Raises:
        ValueError: which part is wrong, and what is allowed there.
    """
    authority, path, options = _split(url, SQLITE_SCHEMES)
    if authority or path in ("", ":memory:"):
        raise ValueError('SQLite needs a file, as in "sqlite:///var/app.db", with three slashes')
    if unknown := set(options) - {"timeout"}:
        raise ValueError(f"{min(unknown)!r} is not timeout, the one option of SQLite here")
    return path, _read_seconds("timeout", options) or TIMEOUT


def read_postgresql_url(url: str) -> dict[str, Any]:
    """What ``asyncpg.connect`` takes.

    Raises:
        ValueError: which part is wrong, and what is allowed there. The message holds no password.
    """
    authority, database, options = _split(url, POSTGRESQL_SCHEMES)
    if unknown := set(options) - set(_POSTGRESQL_OPTIONS):
        raise ValueError(f"{min(unknown)!r} is not one of {', '.join(_POSTGRESQL_OPTIONS)}")
    login, _, place = authority.rpartition("@")
    user, _, password = login.partition(":")
    if not user and "PGUSER" not in os.environ:
        try:
            getpass.getuser()  # as asyncpg will
        except (KeyError, OSError):
            raise ValueError("user: missing, and this process's own has no name") from None
    arguments = {
        **_read_hosts(place, options),
        **_read_tls(options),
        "user": unquote(user) or None,
        "password": unquote(password) or None,
        "database": database or None,
        "timeout": _read_seconds("timeout", options)
        or _read_seconds("connect_timeout", options)
        or TIMEOUT,
        "command_timeout": _read_seconds("command_timeout", options) or TIMEOUT,
        "server_settings": {
            name: options[name][-1] for name in ("application_name", "options") if name in options
        },
    }
    attributes = _read_one("target_session_attrs", options, ("any", "primary", "read-write"))
    if attributes or len(arguments["host"] or ()) > 1:  # of several, one takes writes
        arguments["target_session_attrs"] = attributes or "read-write"
    if _read_one("prepared_statement_cache_size", options, ("0",), "for a pooler that keeps none"):
        arguments["statement_cache_size"] = 0
    _read_one(
        *("channel_binding", options, ("disable", "prefer")),
        "in place of require, write sslmode=verify-full&sslrootcert=system",
    )
    return arguments


def _split(url: str, schemes: Sequence[str]) -> tuple[str, str, Options]:
    """The authority, the path and the options of a URL."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError("not the URL of a database, such as postgresql://HOST:PORT/NAME")
    if scheme not in schemes:
        allowed = ", ".join(SQLITE_SCHEMES + POSTGRESQL_SCHEMES)
        raise ValueError(f"{scheme!r} is not one of {allowed}")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    options: Options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        options.setdefault(name, []).append(value)
    return authority, path, options


def _read_hosts(place: str, options: Options) -> dict[str, Any]:
    """Hosts and ports: of one server, of several, or of none, which is the system's own."""
    if place and "host" in options:
        raise ValueError("host: allowed: before the path or as an option, once")
    texts = (place or ",".join(options.get("host", []))).split(",")
    common = ",".join(options.get("port", [])).split(",")
    if len(common) not in (1, len(texts)):
        raise ValueError("port: allowed: one, or one for each host")
    hosts, ports = [], []
    for text, port in zip(texts, common * (len(texts) // len(common)), strict=True):
        if text.startswith("["):  # IPv6
            host, _, own = text[1:].partition("]")
            own = own.removeprefix(":")
        elif text.startswith("/"):  # the folder of a socket
            host, own = text, ""
        else:
            host, _, own = text.partition(":")
            host = unquote(host)
            if not host.startswith("/"):
                _check_name(host, may_be_missing=len(texts) == 1)
        hosts.append(host)
        ports.append(_read_port(own or port))
    return {"host": hosts if hosts != [""] else None, "port": ports if any(ports) else None}


def _check_name(host: str, *, may_be_missing: bool) -> None:
    try:
        host.encode("idna")  # as the system does before it looks for one
    except UnicodeError:
        raise ValueError("its host has a part that is empty or longer than 63") from None
    if not host and not may_be_missing:
        raise ValueError("its host has a part that is empty, between two commas")


def _read_port(text: str) -> int | None:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError("its port is not a number")
    if text and (len(text) > 5 or not 0 < int(text) <= 65535):
        raise ValueError(f"{text[:9]} is no port: they go from 1 to 65535")
    return int(text) if text else None


def _read_tls(options: Options) -> dict[str, Any]:
    """What PostgreSQL's own clients call ``sslmode`` and so on."""
    mode = _read_one("sslmode", options, SSL_MODES) or _read_one("ssl", options, SSL_MODES)
    files = {name: options[name][-1] for name in _TLS_FILES if name in options}
    uses_system = files.get("sslrootcert") == "system"  # since PostgreSQL 16
    for name, file in files.items():
        if not Path(file).is_file() and not (name == "sslrootcert" and uses_system):
            allowed = "a file that is there" + ", or system" * (name == "sslrootcert")
            raise ValueError(f"{name}: allowed: {allowed}")
    if not uses_system:
        # In a URL alone, asyncpg takes the files.
        dsn = f"postgresql://?{urlencode(files)}" if files else None
        return {"ssl": mode, "dsn": dsn}
    if mode not in (None, "verify-full"):
        raise ValueError("sslmode: allowed: verify-full, with sslrootcert=system")
    context = ssl.create_default_context()
    if "sslcert" in files:
        context.load_cert_chain(files["sslcert"], files.get("sslkey"))
    return {"ssl": context}


def _read_one(name: str, options: Options, allowed: Sequence[str], reason: str = "") -> str | None:
    """The value of an option, if it is given."""
    values = options.get(name, [])
    if len(values) > 1 or not set(values) <= set(allowed):
        text = f"{name}: allowed: {', '.join(allowed)}, once"
        raise ValueError(f"{text}; {reason}" if reason else text)
    return values[0] if values else None


def _read_seconds(name: str, options: Options) -> float | None:
    values = options.get(name, [])
    with suppress(ValueError, IndexError):
        if len(values) == 1 and 0 < (seconds := float(values[0])) < inf:
            return seconds
    if values:
        raise ValueError(f"{name}: allowed: seconds, such as 2.5, once")
    return None
