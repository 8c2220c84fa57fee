"""What every session store offers, the record that it keeps, and the errors it raises."""

from __future__ import annotations

import struct
import zlib
from typing import Protocol, Self

from msgspec import Struct

# Fixed positions, so that a script on a cache server can compare and replace a field in place:
# magic 0:4, version 4:12, expires 12:20 and its checksum 20:24, then the checksum of all the rest
# 24:28, created 28:36, length of owner 36:38, owner, data.
_HEADER = struct.Struct(">4sQ12sI")
_EXPIRES = struct.Struct(">dI")
_FIELDS = struct.Struct(">dH")
_MAGIC = b"SES1"
_NO_OWNER = 0xFFFF


class SessionError(Exception):
    """Base of every error that sessions and their stores raise."""


class StoreUnavailable(SessionError):
    """The store can't be reached, or can't answer now. A later try may succeed."""


class StoreNotReady(StoreUnavailable):
    """The store answers, but must be set up first: its table is missing, say."""


class CorruptRecord(SessionError):
    """What the store holds under a key is not a record."""


class Record(Struct, frozen=True, gc=False):  # a million of them are no work for the collector
    """One session as a store keeps it.

    ``data`` is opaque to the store. Times are Unix times in seconds. ``version`` is 1 at creation
    and grows by one with each update; the mark that a rotated id leaves has 0. ``owner`` is the
    SHA-256 of the id of the user who is signed in, if any, as 64 hexadecimal digits: see
    ``hash_owner``.
    """

    data: bytes
    created: float
    expires: float
    version: int = 1
    owner: str | None = None

    def to_bytes(self) -> bytes:
        """The record in one piece, for stores that keep bytes."""
        owner = b"" if self.owner is None else self.owner.encode()
        length = _NO_OWNER if self.owner is None else len(owner)
        body = _FIELDS.pack(self.created, length) + owner + self.data
        checksum = _checksum(self.version, body)
        return _HEADER.pack(_MAGIC, self.version, pack_expires(self.expires), checksum) + body

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read back what ``to_bytes`` wrote.

        Raises:
            CorruptRecord: ``raw`` is truncated, damaged, or something else altogether.
        """
        if len(raw) < _HEADER.size + _FIELDS.size:
            raise CorruptRecord("shorter than a record's header")
        magic, version, packed, checksum = _HEADER.unpack_from(raw)
        expires, expires_checksum = _EXPIRES.unpack(packed)
        body = raw[_HEADER.size :]
        is_whole = checksum == _checksum(version, body)
        if magic != _MAGIC or not is_whole or expires_checksum != zlib.crc32(packed[:8]):
            raise CorruptRecord("not a session record, or a damaged one")
        created, length = _FIELDS.unpack_from(body)
        rest = body[_FIELDS.size :]
        if length == _NO_OWNER:
            return cls(rest, created, expires, version)
        return cls(rest[length:], created, expires, version, rest[:length].decode())


def _checksum(version: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(version.to_bytes(8, "big")))


def pack_expires(expires: float) -> bytes:
    """The field of a record's bytes that a touch replaces."""
    packed = struct.pack(">d", expires)
    return packed + struct.pack(">I", zlib.crc32(packed))


class SessionStore(Protocol):
    """Where sessions live. Implement these methods and pass ``testing.StoreContract``.

    A ``key`` is the SHA-256 of a session's id, as 64 hexadecimal digits: no store ever sees an id,
    so that a stolen dump opens no session (OWASP session management cheat sheet). An ``owner`` is
    the SHA-256 of a user's id. A record that has expired, swept or not, can't be loaded, changed or
    listed. What happens to one record is atomic towards all else, from any task, thread, process or
    machine that shares the store.

    Every method raises ``StoreUnavailable`` when the store can't do its work, and has then changed
    nothing or, where the answer was lost on its way, all of it.
    """

    async def create(self, key: str, record: Record) -> bool:
        """Keep a new record. False, with nothing changed, if the key is taken."""

    async def load(self, key: str) -> Record | None:
        """The live record, or None. One that can't be read is logged, and is None."""

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        """Compare and swap: replace the live record whose version is ``record.version - 1``.

        With ``move_to`` the record moves to that new key. In the same step the old key is dead or,
        with ``leave``, holds that record instead: a mark that outlives a rotated id by a minute.
        False, with nothing changed, if that version is gone or ``move_to`` is taken.
        """

    async def touch(self, key: str, expires: float) -> bool:
        """Move the expiry of a live record, and nothing else. False if there is none."""

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        """Remove records, with ``owner`` only those that are theirs.

        Whether they look expired is no question, since clocks differ. Returns the number of live
        ones that were removed; so does ``delete_owned``.
        """

    async def delete_expired(self, limit: int = 1000) -> int:
        """Sweep at most ``limit`` expired records.

        Returns the number removed; if it is smaller than ``limit``, the rest can wait. A store may
        leave what expired within the last minute to its next sweep.
        """

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        """The records of an owner with their keys, by key: the first ``limit`` past ``after``.

        The sessions of others cost nothing here, nor in ``delete_owned``.
        """

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        """Remove every record of an owner, but that of ``except_key``."""

    async def repair(self) -> int:
        """Rebuild from the records what finds those of an owner, as after a restored backup.

        The number of entries written: none where the records themselves are what is searched.
        """

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        """About ``limit`` of all records with their keys, and the cursor that goes on; "" at last.

        What is there all the while is seen at least once. What has expired may be seen, too, and so
        may the marks of rotated ids, which have version 0.
        """

    async def ping(self) -> None:
        """Return if the store is ready: if a session could be created now."""

    async def aclose(self) -> None:
        """Release connections, threads and files. The store is not used afterwards."""
