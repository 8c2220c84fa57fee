"""Sessions in a table: its definition, its statements, and the store that runs them."""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..store import Record
from .loads import SharedLoads

_LONGEST = 52  # characters of a table's name: an index's adds 11, and PostgreSQL cuts it after 63


class KeyTaken(Exception):
    """Another record has the key that a record was to move to."""


class Statements(NamedTuple):
    """What is said to a database, with gaps for what each writes in its own way.

    Parameters stand in the order in which they are given.
    """

    create: str = (
        "INSERT INTO {table} ({record}, key) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    )
    load: str = "SELECT key, {record} FROM {table} WHERE key = ? AND expires > {now}"
    load_many: str = "SELECT key, {record} FROM {table} WHERE key {in_list} AND expires > {now}"
    update: str = "UPDATE {table} SET {values} WHERE key = ? AND version = ? AND expires > {now}"
    move: str = (
        "UPDATE {table} SET {values}, key = ? WHERE key = ? AND version = ? AND expires > {now}"
    )
    # The row itself moves: a deletion of the owner's that waits for it would miss a new one.
    # PostgreSQL's; SQLite has no UPDATE there.
    move_and_leave: str = (
        "WITH moved AS (UPDATE {table} SET {values}, key = ?"
        " WHERE key = ? AND version = ? AND expires > {now} RETURNING 1)"
        " INSERT INTO {table} ({record}, key) SELECT CAST(? AS BYTEA), CAST(? AS DOUBLE PRECISION),"
        " CAST(? AS DOUBLE PRECISION), CAST(? AS BIGINT), CAST(? AS VARCHAR), CAST(? AS VARCHAR)"
        " FROM moved"
    )
    touch: str = "UPDATE {table} SET expires = ? WHERE key = ? AND expires > {now}"
    # Removed whether it looks live or not, since clocks differ. Only what was live is counted.
    delete: str = "DELETE FROM {table} WHERE key = ? RETURNING expires > {now}"
    delete_many: str = "DELETE FROM {table} WHERE key {in_list} RETURNING expires > {now}"
    delete_many_owned: str = (
        "DELETE FROM {table} WHERE key {in_list} AND owner = ? RETURNING expires > {now}"
    )
    delete_owned: str = "DELETE FROM {table} WHERE owner = ? AND key <> ? RETURNING expires > {now}"
    # What another worker sweeps, or a request is writing, is skipped: no sweep waits for anything.
    # Asked twice whether it is expired: a row may be touched between the two.
    delete_expired: str = (
        "DELETE FROM {table} WHERE key IN ("
        "WITH expired AS (SELECT key FROM {table} WHERE expires <= {now} LIMIT ?{skip_locked})"
        " SELECT key FROM expired) AND expires <= {now}"
    )
    list_owned: str = (
        "SELECT key, {record} FROM {table} WHERE owner = ? AND key > ? AND expires > {now}"
        " ORDER BY key LIMIT ?"
    )
    scan: str = "SELECT key, {record} FROM {table} WHERE key > ? ORDER BY key LIMIT ?"
    # Needs what a creation needs, and creates nothing.
    ping: str = (
        "INSERT INTO {table} ({record}, key) SELECT {record}, key FROM {table} WHERE 1 = 0"
        " ON CONFLICT DO NOTHING"
    )


_TABLE = (
    "CREATE TABLE IF NOT EXISTS {table} (key VARCHAR(64) NOT NULL PRIMARY KEY,"
    " data {bytes} NOT NULL, created DOUBLE PRECISION NOT NULL,"
    " expires DOUBLE PRECISION NOT NULL, version BIGINT NOT NULL, owner VARCHAR(64))",
    "CREATE INDEX IF NOT EXISTS {index_expires} ON {table} (expires)",
    # Only of those that have one: most sessions then cost no entry, and their updates a page less.
    "CREATE INDEX IF NOT EXISTS {index_owner} ON {table} (owner, key) WHERE owner IS NOT NULL",
)


class Dialect(NamedTuple):
    """What one database writes in its own way."""

    bytes: str
    """the type of a column"""
    now: str
    """the time, from the value that the store's ``_now`` gives"""
    in_list: str
    """whether what stands before is in a list"""
    skip_locked: str
    """at the end of a query that passes over what others hold"""
    is_numbered: bool
    """whether parameters are $1, $2 and so on, instead of ?"""

    def write(self, text: str, table: str) -> str:
        """Fill the gaps of a statement.

        Raises:
            ValueError: no table can have this name.
        """
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", table) or len(table) > _LONGEST:
            raise ValueError(f"table: allowed: up to {_LONGEST} letters, digits and _")
        text = text.format(
            table=f'"{table}"',
            index_expires=f'"ix_{table}_expires"',
            index_owner=f'"ix_{table}_owner"',
            record="data, created, expires, version, owner",
            values="data = ?, created = ?, expires = ?, version = ?, owner = ?",
            **self._asdict(),
        )
        numbers = itertools.count(1)
        return re.sub(r"\?", lambda _: f"${next(numbers)}", text) if self.is_numbered else text

    def write_table(self, table: str) -> list[str]:
        """The statements that create the table, unless it is there."""
        return [self.write(text, table) for text in _TABLE]


SQLITE = Dialect("BLOB", "?", "IN (SELECT value FROM json_each(?))", "", is_numbered=False)
POSTGRESQL = Dialect(
    "BYTEA",
    # The time of the statement: an index can be asked for it, as it can't for clock_timestamp().
    "(extract(epoch FROM now())::float8 + ?)",
    "= ANY(?)",
    " FOR UPDATE SKIP LOCKED",
    is_numbered=True,
)


def drop_table(table: str) -> str:
    """The statement that removes the table, with its indexes."""
    return SQLITE.write("DROP TABLE IF EXISTS {table}", table)


class SQLStore(ABC):
    """The methods of ``SessionStore``, each of them one statement that needs no transaction.

    A subclass runs the statements, and implements ``create_table`` and ``aclose``.
    """

    def __init__(self, table: str, dialect: Dialect) -> None:
        self._table = dialect.write_table(table)
        self._sql = Statements(*(dialect.write(text, table) for text in Statements()))
        self._loads = SharedLoads(self._load_many)

    async def create(self, key: str, record: Record) -> bool:
        return await self._change(key, self._sql.create, *_values(record), key) == 1

    async def load(self, key: str) -> Record | None:
        return await self._loads.load(key)

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        old = (key, record.version - 1, self._now())
        if move_to is None:
            return await self._change(key, self._sql.update, *_values(record), *old) == 1
        move = (*_values(record), move_to, *old)
        try:
            if leave is not None:
                return await self._move_and_leave(key, move, (*_values(leave), key)) == 1
            return await self._change(key, self._sql.move, *move) == 1
        except KeyTaken:
            return False

    async def touch(self, key: str, expires: float) -> bool:
        return await self._change(key, self._sql.touch, expires, key, self._now()) == 1

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        if not keys:
            return 0
        if owner is not None:
            return await self._remove(owner, self._sql.delete_many_owned, self._list(keys), owner)
        if len(keys) == 1:  # a logout: a list would cost a quarter more
            return await self._remove(keys[0], self._sql.delete, keys[0])
        return await self._remove(keys[0], self._sql.delete_many, self._list(keys))

    async def delete_expired(self, limit: int = 1000) -> int:
        now = self._now()
        return await self._change("", self._sql.delete_expired, now, limit, now)

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        rows = await self._query(self._sql.list_owned, owner, after, self._now(), limit)
        return [(key, Record(*record)) for key, *record in rows]

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        return await self._remove(owner, self._sql.delete_owned, owner, except_key or "")

    async def repair(self) -> int:
        return 0  # the table is its own index

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        rows = await self._query(self._sql.scan, cursor, limit)
        page = [(key, Record(*record)) for key, *record in rows]
        return page, page[-1][0] if len(page) == limit else ""

    async def ping(self) -> None:
        await self._change("", self._sql.ping)

    async def _move_and_leave(
        self, key: str, move: tuple[object, ...], mark: tuple[object, ...]
    ) -> int:
        """Move a record, and put another in its place; 1 if it was there to be moved."""
        return await self._change(key, self._sql.move_and_leave, *move, *mark)

    async def _load_many(self, keys: Sequence[str]) -> dict[str, Record]:
        if len(keys) == 1:
            rows = await self._query(self._sql.load, keys[0], self._now())
        else:
            rows = await self._query(self._sql.load_many, self._list(keys), self._now())
        return {key: Record(*record) for key, *record in rows}

    async def _remove(self, subject: str, statement: str, *values: object) -> int:
        """Remove records; the number of those that were live."""
        rows = await self._query(statement, *values, self._now(), changes=subject)
        return sum(was_live for (was_live,) in rows)

    @abstractmethod
    def _now(self) -> float:
        """The value for the gap ``now``."""

    @abstractmethod
    def _list(self, keys: Sequence[str]) -> object:
        """The value for the gap ``in_list``."""

    @abstractmethod
    async def _query(
        self, statement: str, *values: object, changes: str | None = None
    ) -> Sequence[Any]:
        """The rows that a statement returns; ``changes`` names the key or owner that it changes."""

    @abstractmethod
    async def _change(self, subject: str, statement: str, *values: object) -> int:
        """The number of rows that a statement changed; ``subject`` is their key or owner.

        Raises:
            KeyTaken: two records would have one key.
        """


def _values(record: Record) -> tuple[object, ...]:
    return record.data, record.created, record.expires, record.version, record.owner
