"""The URI of a cache: which servers, how to reach them, and what sets their keys apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

TIMEOUT = 2.0  # seconds
CONNECTIONS = 2  # to each server

FORMS = {  # by what stands behind "+" in the scheme, if anything
    "": "redis://HOST:PORT/DATABASE",
    "sentinel": "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE",
    "cluster": "redis+cluster://HOST:PORT,HOST:PORT",
    "unix": "unix:///PATH?db=DATABASE",
}


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True)
class CacheURI:
    """A URI that was read. ``login`` and ``options`` have redis-py's names."""

    kind: str  # one of FORMS
    addresses: tuple[Address, ...]  # of the server, of sentinels, or of some nodes of a Cluster
    path: str  # of the socket, or the name of the service that the sentinels watch
    is_tls: bool
    login: Mapping[str, Any] = field(repr=False)  # user, password and database
    sentinel_login: Mapping[str, Any] = field(repr=False)
    timeout: float  # seconds to wait for an answer
    connect_timeout: float  # seconds to wait for a connection
    connections: int  # to each server
    prefix: str | None  # of all keys; None for the application's own
    options: Mapping[str, Any]  # the client's name, certificates


def parse_cache_uri(uri: str) -> CacheURI:
    """Read the URI of a cache.

    Raises:
        ValueError: which part is wrong, and what is allowed there. The message holds no part of it
            but hosts and the names of options.
    """
    scheme, _, rest = uri.partition("://")
    match = re.fullmatch(r"(redis|valkey)(s?)(?:\+(sentinel|cluster))?|unix", scheme)
    if match is None:
        raise ValueError("scheme: allowed: redis, rediss, valkey, valkeys, unix")
    kind = "unix" if scheme == "unix" else match[3] or ""
    location, _, query = rest.partition("?")
    authority, slash, path = location.partition("/")
    login, _, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    options = _read_options(query, kind, is_tls=bool(match[2]))
    addresses: tuple[Address, ...] = ()
    db = options.pop("db", 0)
    if kind == "unix":
        path = slash + path
        if hosts or not path.strip("/"):
            raise ValueError(f"path: missing; allowed: {FORMS[kind]}, with three slashes")
    else:
        addresses = _read_hosts(hosts, kind)
        path, db = _read_path(path, kind)
    return CacheURI(
        kind=kind,
        addresses=addresses,
        path=unquote(path),
        is_tls=bool(match[2]),
        login={"username": unquote(user) or None, "password": unquote(password) or None, "db": db},
        sentinel_login={
            name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")
        },
        timeout=options.pop("socket_timeout", TIMEOUT),
        connect_timeout=options.pop("socket_connect_timeout", TIMEOUT),
        connections=options.pop("max_connections", CONNECTIONS),
        prefix=options.pop("prefix", None),
        options=options,
    )


def _read_hosts(text: str, kind: str) -> tuple[Address, ...]:
    if not kind and "," in text:
        raise ValueError(
            "host: several; allowed: one, or several with redis+sentinel:// or redis+cluster://"
        )
    return tuple(_read_host(host, kind) for host in text.split(","))


def _read_host(text: str, kind: str) -> Address:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(?::(.*))?", text)
    if match is None:
        raise ValueError("host: allowed: a name or an address, of IPv6 in brackets: [::1]")
    host, port = match[1].strip("[]"), match[2]
    if not host:
        raise ValueError(f"host: missing; allowed: {FORMS[kind]}")
    if port is None:
        return Address(host, 26379 if kind == "sentinel" else 6379)
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"port of {host}: allowed: a number from 1 to 65535")
    return Address(host, int(port))


def _read_path(path: str, kind: str) -> tuple[str, int]:
    """The service, for sentinels, and the database."""
    service, _, db = path.partition("/") if kind == "sentinel" else ("", "", path)
    if kind == "sentinel" and not service:
        raise ValueError(f"service: missing; allowed: {FORMS[kind]}, as the sentinels call it")
    if kind == "cluster" and db not in ("", "0"):
        raise ValueError("database: allowed: 0, since a Cluster has no other")
    if not re.fullmatch("[0-9]{0,9}", db):
        raise ValueError("database: allowed: a number from 0")
    return service, int(db or 0)


def _read_options(query: str, kind: str, *, is_tls: bool) -> dict[str, Any]:
    readers = _OPTIONS | _OPTIONS_OF.get(kind, {}) | (_TLS_OPTIONS if is_tls else {})
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in readers:
            raise ValueError(f"{name}: unknown option; allowed: {', '.join(readers)}")
        read, rule = readers[name]
        try:
            options[name] = read(value)
        except ValueError:
            raise ValueError(f"{name}: allowed: {rule}") from None
    return options


def _seconds(text: str) -> float:
    seconds = float(text)
    if not isfinite(seconds) or seconds <= 0:
        raise ValueError
    return seconds


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError
    return text


def _matching(pattern: str, convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return convert(text)

    return read


Option = tuple[Callable[[str], Any], str]  # reads a value, and says what it may be

# Nothing that a pattern or a hash tag is made of.
_NAME: Option = (_matching(r"[A-Za-z0-9._:-]+"), "letters, digits and . _ : -")
_OPTIONS: dict[str, Option] = {
    "socket_timeout": (_seconds, "seconds to wait for an answer, above 0"),
    "socket_connect_timeout": (_seconds, "seconds to wait for a connection, above 0"),
    "max_connections": (_matching("[1-9][0-9]{0,3}", int), "connections to each server, 1 to 9999"),
    "client_name": _NAME,
    "prefix": _NAME,
}
_OPTIONS_OF: dict[str, dict[str, Option]] = {
    "unix": {"db": (_matching("[0-9]{1,9}", int), "a number from 0")},
    "sentinel": {
        "sentinel_username": (str, "the user for the sentinels"),
        "sentinel_password": (str, "the password for the sentinels"),
    },
}
_TLS_OPTIONS: dict[str, Option] = {
    "ssl_ca_certs": (_file, "a file that is there, with the certificates to trust"),
    "ssl_certfile": (_file, "a file that is there, with the client's certificate"),
    "ssl_keyfile": (_file, "a file that is there, with the client's key"),
    "ssl_cert_reqs": (_matching("required|none"), '"required", or "none" to trust any server'),
    "ssl_check_hostname": (_matching("true|false", "true".__eq__), "true or false"),
}
