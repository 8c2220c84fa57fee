"""Sessions in Memcached, for ``uri = "memcached://HOST:PORT"``: see docs/custom-store.md.

Each record is one value, ``<prefix>:session:<key>``. ``<prefix>:owner:<owner>`` holds the keys of
that owner's sessions, each with the time until which it may stand there: its mark. A mark is
written before its record, so none is ever missing; one without a record does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec.structs import replace
from serversessions import CorruptRecord, Record, SessionStore, StoreUnavailable

logger = logging.getLogger(__name__)

APP = __name__.partition(".")[0]  # the name of the package: it keeps two apps on one server apart
TIMEOUT = 2.0  # seconds to wait for a connection and an answer
LONG_TIMEOUT = 60.0  # the same where the answer names all values
MAX_CONNECTIONS = 16
MARK_SLACK = 3600  # seconds that a mark outlives its record, so that few saves have to move it
LAST_TIME = 2**31 - 1  # what should expire later than this, Memcached forgets at once
ANSWERS = tuple(b"VALUE END STORED NOT_STORED EXISTS NOT_FOUND VERSION STAT key=".split())

Marks = dict[str, float]


def open_memcached(uri: str) -> SessionStore:
    """What is registered for the scheme ``memcached``."""
    parts = urlsplit(uri)
    if not parts.hostname or parts.username or parts.path.strip("/") or parts.query:
        raise ValueError("write memcached://HOST or memcached://HOST:PORT, and nothing else")
    return MemcachedStore(parts.hostname, parts.port or 11211, prefix=APP)


class MemcachedStore:
    """Sessions in one Memcached server."""

    def __init__(
        self, host: str, port: int, *, prefix: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._server = _Server(host, port)
        self._prefix = prefix
        self._clock = clock

    async def create(self, key: str, record: Record) -> bool:
        await self._mark(key, record)
        return await self._write(self._session(key), record.to_bytes(), record.expires)

    async def load(self, key: str) -> Record | None:
        record, _ = await self._read(key)
        return record

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        def replace_loaded(old: Record, new: Record) -> Record | None:
            return new if old.version == record.version - 1 else None

        if move_to is None:
            return await self._swap(key, lambda old: replace_loaded(old, record)) is not None
        # The new one first: whatever crashes in between, the visitor has a session.
        if not await self.create(move_to, record):
            return False
        if await self._swap(key, lambda old: replace_loaded(old, leave or _ended(old))):
            return True
        await self._swap(move_to, _ended)
        return False

    async def touch(self, key: str, expires: float) -> bool:
        return await self._swap(key, lambda old: replace(old, expires=expires)) is not None

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        def end(old: Record) -> Record | None:
            return _ended(old) if owner in (None, old.owner) else None

        deleted, now = 0, self._clock()
        for key in keys:
            # Expired ones, too: they may only be so by this machine's clock.
            old = await self._swap(key, end, live_only=False)
            if old is not None:
                deleted += old.expires > now
                await self._unmark(key, old)
        return deleted

    async def delete_expired(self, limit: int = 1000) -> int:
        """Nothing to do: the server forgets each value when its time is over."""
        return 0

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        marks, _ = await self._read_marks(owner)
        found: list[tuple[str, Record]] = []
        for key in sorted(key for key in marks if key > after):
            record = await self.load(key)
            if record is not None and record.owner == owner:
                found.append((key, record))
            if len(found) == limit:
                break
        return found

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        deleted, seen = 0, {except_key}
        # Until there is no new mark: a session may be moving to another key at this very time.
        while new := (await self._read_marks(owner))[0].keys() - seen:
            deleted += await self.delete(*new, owner=owner)
            seen |= new
        return deleted

    async def repair(self) -> int:
        marked, cursor, is_last = 0, "", False
        while not is_last:
            page, cursor = await self.scan(cursor)
            for key, record in page:
                if record.owner is not None:
                    await self._mark(key, record)
                    marked += 1
            is_last = not cursor
        return marked

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        """Each page walks over all keys, since Memcached tells them in no order that lasts."""
        start = f"key={self._session('')}"
        # By hash: no value moves there while it is read.
        lines = await self._server.ask_lines("lru_crawler metadump hash")
        names = [name for line in lines if (name := unquote(line.split()[0])).startswith(start)]
        keys = sorted(key for name in names if (key := name.removeprefix(start)) > cursor)[:limit]
        found = [(key, record) for key in keys if (record := await self.load(key)) is not None]
        return found, keys[-1] if len(keys) == limit else ""

    async def ping(self) -> None:
        await self._server.ask(b"version\r\n")

    async def find_risks(self) -> list[str]:
        """What ``config check`` is to warn of. A store need not have this."""
        risks = ["Memcached keeps nothing on disk: a restart of it ends all sessions"]
        if "STAT evictions on" in await self._server.ask_lines("stats settings"):
            risks.append(
                "Memcached evicts: when its memory is full, it drops sessions of visitors who are"
                " there. Start it with -M"
            )
        return risks

    async def aclose(self) -> None:
        self._server.close()

    def _session(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    async def _read(self, key: str, *, live_only: bool = True) -> tuple[Record | None, int | None]:
        """The record, and what its value is to be compared by."""
        raw, cas = await self._server.get(self._session(key))
        try:
            record = Record.from_bytes(raw) if raw is not None else None
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", self._session(key), error)
            return None, None
        if record is None or (live_only and record.expires <= self._clock()):
            return None, None
        return record, cas

    async def _swap(
        self, key: str, change: Callable[[Record], Record | None], *, live_only: bool = True
    ) -> Record | None:
        """Compare and swap: replace a record by ``change`` of it; the one that was replaced.

        None, with nothing changed, if there is no such record, or ``change`` returns None.
        """
        while True:
            old, cas = await self._read(key, live_only=live_only)
            new = None if old is None else change(old)
            if new is None:
                return None
            await self._mark(key, new)
            if await self._write(self._session(key), new.to_bytes(), new.expires, cas):
                return old

    async def _write(self, name: str, value: bytes, expires: float, cas: int | None = None) -> bool:
        """Store a value: a new one or, with ``cas``, one that is unchanged since."""
        # More than 30 days is a Unix time to Memcached. It counts seconds, and may be one ahead.
        until = min(math.ceil(expires) + 1, LAST_TIME)
        verb, token = ("add", "") if cas is None else ("cas", f" {cas}")
        line = f"{verb} {name} 0 {until} {len(value)}{token}\r\n".encode()
        answer, _ = await self._server.ask(line + value + b"\r\n")
        return answer == b"STORED\r\n"

    async def _mark(self, key: str, record: Record) -> None:
        """Let the owner of a record that is about to be written find it."""
        if record.owner is None or record.expires <= self._clock():
            return
        while True:
            marks, cas = await self._read_marks(record.owner)
            if marks.get(key, 0.0) >= record.expires:
                return
            marks[key] = record.expires + MARK_SLACK
            if await self._write_marks(record.owner, marks, cas):
                return

    async def _unmark(self, key: str, record: Record) -> None:
        """Forget the mark of a record that was deleted."""
        while record.owner is not None:
            marks, cas = await self._read_marks(record.owner)
            if marks.pop(key, None) is None or await self._write_marks(record.owner, marks, cas):
                return

    async def _read_marks(self, owner: str) -> tuple[Marks, int | None]:
        raw, cas = await self._server.get(f"{self._prefix}:owner:{owner}")
        return msgspec.json.decode(raw, type=Marks) if raw is not None else {}, cas

    async def _write_marks(self, owner: str, marks: Marks, cas: int | None) -> bool:
        now = self._clock()
        marks = {key: until for key, until in marks.items() if until > now}
        until = max(marks.values(), default=0.0)
        raw = msgspec.json.encode(marks)
        return await self._write(f"{self._prefix}:owner:{owner}", raw, until, cas)


def _ended(record: Record) -> Record:
    """What takes the place of a record that is deleted. Memcached forgets it within a second."""
    return replace(record, data=b"", expires=0.0)


class _Server:
    """Connections to one Memcached, each lent to one command at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    async def get(self, name: str) -> tuple[bytes | None, int | None]:
        """A value, and what ``cas`` compares it by."""
        line, value = await self.ask(f"gets {name}\r\n".encode())
        return (None, None) if line == b"END\r\n" else (value, int(line.split()[4]))

    async def ask(self, command: bytes) -> tuple[bytes, bytes]:
        """Send a command; the first line of the answer, and the value that came after it."""
        async with self._lend() as (reader, writer):
            writer.write(command)
            line = await _read_line(reader)
            if not line.startswith(b"VALUE "):
                return line, b""
            size = int(line.split()[3])
            return line, (await reader.readexactly(size + len(b"\r\nEND\r\n")))[:size]

    async def ask_lines(self, command: str) -> list[str]:
        """Send a command that is answered by any number of lines."""
        lines = []
        async with self._lend(within=LONG_TIMEOUT) as (reader, writer):
            writer.write(f"{command}\r\n".encode())
            while (line := await _read_line(reader)) != b"END\r\n":
                lines.append(line.decode().strip())
        return lines

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    @asynccontextmanager
    async def _lend(
        self, within: float = TIMEOUT
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that has nothing more to say."""
        try:
            async with asyncio.timeout(within), self._free:
                reader, writer = await self._connect()
                try:
                    yield reader, writer
                except BaseException:
                    writer.close()  # what it still has to say would answer the next command
                    raise
                self._idle.append((reader, writer))
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            raise StoreUnavailable(f"memcached: {str(error) or 'no answer in time'}") from error

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed")
    if not line.startswith(ANSWERS):  # an error, or a server of another kind
        raise StoreUnavailable(f"memcached: {line.decode(errors='replace').strip()}")
    return line
