"""What a store is asked, and what it holds: seen from beside the app, for all alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

# What a client says before its first command, and we to the server.
_GREETINGS = {"AUTH", "CLIENT", "COMMAND", "ECHO", "HELLO", "INFO", "PING", "SCRIPT", "SELECT"}
_READS = {"EXISTS", "GET", "HGET", "HGETALL", "HMGET", "MGET", "PTTL", "SELECT", "TTL"}


@dataclass
class Calls:
    """What a store was asked for: the calls, and the commands that scripts among them ran."""

    names: list[str] = field(default_factory=list)
    inner: list[str] = field(default_factory=list)

    @property
    def is_write(self) -> bool:
        """Whether anything may have changed, an expiry included."""
        scripts = {"EVAL", "EVALSHA", "FCALL"}
        return not _READS | scripts >= {*self.names, *self.inner}

    def __str__(self) -> str:
        return ", ".join(self.names) or "none"


class Watch(Protocol):
    """A look at a store."""

    def calls(self) -> AbstractContextManager[Calls]:
        """A block, and the calls that are made in it: complete when it ends."""

    def dump(self) -> bytes:
        """All that the store holds, keys included, in one piece."""

    def clear(self) -> None:
        """Remove all sessions."""


class ValkeyWatch:
    """A Valkey server, by its MONITOR."""

    def __init__(self, url: str) -> None:
        from redis import Redis

        self._client: Any = Redis.from_url(url)

    @contextmanager
    def calls(self) -> Iterator[Calls]:
        found = Calls()
        with self._client.monitor() as monitor:
            yield found
            self._client.echo("the end")
            for entry in monitor.listen():
                name = entry["command"].partition(" ")[0].upper()
                if name == "ECHO":
                    break
                if name not in _GREETINGS:
                    in_script = entry["client_type"] == "lua"
                    (found.inner if in_script else found.names).append(name)

    def dump(self) -> bytes:
        return b"\n".join(key + b" " + self._value(key) for key in self._client.scan_iter())

    def clear(self) -> None:
        self._client.flushall()

    def _value(self, key: bytes) -> bytes:
        match self._client.type(key):
            case b"string":
                value: object = self._client.get(key)
            case b"hash":
                value = self._client.hgetall(key)
            case b"set":
                value = self._client.smembers(key)
            case b"zset":
                value = self._client.zrange(key, 0, -1)
            case kind:
                raise RuntimeError(f"no idea how to read {kind!r}")
        return repr(value).encode()


class DjangoWatch:
    """Django's table of sessions in PostgreSQL, by a wrapper round its statements."""

    def __init__(self, url: str) -> None:
        from django.db.backends.signals import connection_created

        self._url = url
        self._current = Calls()
        connection_created.connect(self._wrap, weak=False)

    @contextmanager
    def calls(self) -> Iterator[Calls]:
        self._current = found = Calls()
        yield found
        self._current = Calls()

    def dump(self) -> bytes:
        return repr(self._run("SELECT session_key, session_data FROM django_session")).encode()

    def clear(self) -> None:
        self._run("DELETE FROM django_session RETURNING session_key")

    def _wrap(self, *, connection: Any, **signal: Any) -> None:
        connection.execute_wrappers.append(self._count)

    def _count(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self._current.names.append(sql.partition(" ")[0].upper())
        return execute(sql, params, many, context)

    def _run(self, sql: str) -> Any:
        import psycopg

        with psycopg.connect(self._url) as connection:
            return connection.execute(sql).fetchall()


class NoStore:
    """Where the session is in the cookie."""

    @contextmanager
    def calls(self) -> Iterator[Calls]:
        yield Calls()

    def dump(self) -> bytes:
        return b""

    def clear(self) -> None:
        """Nothing is held."""
