"""Sessions in Redis or Valkey: shared by any number of processes and machines.

Each record is one string, ``<prefix>:session:<key>``, with the server's own time to live. Changes
are scripts that the server caches, so that comparing and swapping is one step and one round trip.
``<prefix>:owner:<hash>`` is the set of an owner's keys.
"""

from __future__ import annotations

import hashlib
import logging
import math
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ..store import CorruptRecord, Record, StoreUnavailable

logger = logging.getLogger(__name__)

# In all scripts KEYS[1] is the session and ARGV[1] is the time now. The positions are those of
# store.py's header, counted from 0 as GETRANGE does.
_LIVE = """
local function live(key)
  local expires = redis.call('GETRANGE', key, 12, 19)
  return #expires == 8 and struct.unpack('>d', expires) > tonumber(ARGV[1])
end
"""
# KEYS[2]: the key to move to, if any. ARGV: now, the version to replace, the record, its expiry.
_UPDATE = (
    _LIVE
    + """
if not live(KEYS[1]) or redis.call('GETRANGE', KEYS[1], 4, 11) ~= ARGV[2] then return 0 end
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('SET', KEYS[2] or KEYS[1], ARGV[3], 'PXAT', ARGV[4])
if KEYS[2] then redis.call('DEL', KEYS[1]) end
return 1
"""
)
# ARGV: now, the packed expiry, the same in milliseconds.
_TOUCH = (
    _LIVE
    + """
if not live(KEYS[1]) then return 0 end
redis.call('SETRANGE', KEYS[1], 12, ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return 1
"""
)
# ARGV: now, and, to delete only what belongs to an owner, the owner.
_DELETE = (
    _LIVE
    + """
if ARGV[2] then
  local length = redis.call('GETRANGE', KEYS[1], 28, 29)
  if #length < 2 or struct.unpack('>I2', length) ~= #ARGV[2]
    or redis.call('GETRANGE', KEYS[1], 34, 33 + #ARGV[2]) ~= ARGV[2] then return 0 end
end
local was_live = live(KEYS[1])
redis.call('DEL', KEYS[1])
return was_live and 1 or 0
"""
)


class CacheStore:
    """Sessions behind one redis-py client, which this store closes."""

    def __init__(
        self, client: Redis, *, prefix: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._clock = clock
        self._update_script = client.register_script(_UPDATE)
        self._touch_script = client.register_script(_TOUCH)
        self._delete_script = client.register_script(_DELETE)

    async def create(self, key: str, record: Record) -> bool:
        with _faults():
            await self._note_owner(key, record)
            return bool(
                await self._client.set(
                    self._session(key), record.to_bytes(), nx=True, pxat=_ms(record.expires)
                )
            )

    async def load(self, key: str) -> Record | None:
        with _faults():
            raw = await _result(self._client.get(self._session(key)))
        if raw is None:
            return None
        try:
            record = Record.from_bytes(raw)
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", self._session(key), error)
            return None
        return record if record.expires > self._clock() else None

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        with _faults():
            await self._note_owner(move_to or key, record)
            return await self._run(
                self._update_script,
                [key] if move_to is None else [key, move_to],
                struct.pack(">Q", record.version - 1),
                record.to_bytes(),
                _ms(record.expires),
            )

    async def touch(self, key: str, expires: float) -> bool:
        with _faults():
            return await self._run(
                self._touch_script, [key], struct.pack(">d", expires), _ms(expires)
            )

    async def delete(self, key: str) -> bool:
        with _faults():
            return await self._run(self._delete_script, [key])

    async def delete_expired(self, limit: int = 1000) -> int:
        """Nothing to do: the server forgets each key when its time to live is over."""
        return 0

    async def delete_owned(self, owner: str) -> int:
        removed = 0
        with _faults():
            members = self._owner(owner)
            for key in await _result(self._client.smembers(members)):
                removed += await self._run(self._delete_script, [key.decode()], owner.encode())
                await _result(self._client.srem(members, key))
        return removed

    async def ping(self) -> None:
        with _faults():
            await _result(self._client.ping())

    async def aclose(self) -> None:
        await self._client.aclose()

    def _session(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    def _owner(self, owner: str) -> str:
        return f"{self._prefix}:owner:{hashlib.sha256(owner.encode()).hexdigest()}"

    async def _note_owner(self, key: str, record: Record) -> None:
        """Before the record is written: a member without its session does no harm."""
        if record.owner is None:
            return
        members = self._owner(record.owner)
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.sadd(members, key)
            pipeline.expireat(members, math.ceil(record.expires), nx=True)
            pipeline.expireat(members, math.ceil(record.expires), gt=True)
            await pipeline.execute()

    async def _run(self, script: Any, keys: list[str], *args: bytes | int) -> bool:
        names = [self._session(key) for key in keys]
        return bool(await script(keys=names, args=[self._clock(), *args]))


async def _result(answer: Any) -> Any:
    """What redis-py's asyncio client answers: its types also allow for the blocking one."""
    return await answer


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what redis-py and the network raise into what a store may raise."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"cache: {error}") from error


def _ms(expires: float) -> int:
    return math.ceil(expires * 1000)
