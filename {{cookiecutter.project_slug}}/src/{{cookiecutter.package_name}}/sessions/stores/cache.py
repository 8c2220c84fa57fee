"""Sessions in Redis or Valkey: shared by any number of processes and machines.

Each record is one string, ``<prefix>:session:<key>``, with the server's own time to live. Changes
are scripts that the server caches, so that comparing and swapping is one step and one round trip.
``<prefix>:owner:<hash>`` is the sorted set of an owner's sessions by expiry; a member whose session
is gone does no harm, and goes when its time is over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import struct
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError

from ..store import CorruptRecord, Record, StoreUnavailable, pack_expires
from .batches import Argument, Batches

logger = logging.getLogger(__name__)

TIMEOUT = 2.0  # seconds to wait for a connection or an answer; a lost connection is tried twice


class _Script:
    """A script, and the name under which the server caches it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# In every script KEYS[1] is the session, KEYS[2] its owner's set or "", and ARGV[1] the time now.
# The positions are those of store.py's header, counted from 0 as GETRANGE does.
_COMMON = """
local key, owner, now = KEYS[1], KEYS[2], tonumber(ARGV[1])
local function is_live()
  local expires = redis.call('GETRANGE', key, 12, 19)
  return #expires == 8 and struct.unpack('>d', expires) > now
end
local function note_owner(member, expires)
  if owner == '' then return end
  redis.call('ZREMRANGEBYSCORE', owner, '-inf', now * 1000)
  redis.call('ZADD', owner, expires, member)
  redis.call('PEXPIREAT', owner, redis.call('ZRANGE', owner, -1, -1, 'WITHSCORES')[2])
end
"""
# ARGV: now, the record, its expiry in milliseconds.
_CREATE = _Script(
    _COMMON
    + """
if redis.call('EXISTS', key) == 1 then return 0 end
redis.call('SET', key, ARGV[2], 'PXAT', ARGV[3])
note_owner(key, ARGV[3])
return 1
"""
)
# KEYS[3]: the key to move to, if any. ARGV: as above, and the version to replace.
_UPDATE = _Script(
    _COMMON
    + """
local new_key = KEYS[3] or key
if not is_live() or redis.call('GETRANGE', key, 4, 11) ~= ARGV[4] then return 0 end
if new_key ~= key and redis.call('EXISTS', new_key) == 1 then return 0 end
redis.call('SET', new_key, ARGV[2], 'PXAT', ARGV[3])  -- first: a full server refuses it
note_owner(new_key, ARGV[3])
if new_key ~= key then redis.call('DEL', key) end
if new_key ~= key and owner ~= '' then redis.call('ZREM', owner, key) end
return 1
"""
)
# ARGV: now, the expiry packed, the same in milliseconds. Returns the owner, "" for none.
_TOUCH = _Script(
    _COMMON
    + """
if not is_live() then return nil end
redis.call('SETRANGE', key, 12, ARGV[2])
redis.call('PEXPIREAT', key, ARGV[3])
local length = struct.unpack('>I2', redis.call('GETRANGE', key, 36, 37))
if length == 0xFFFF or length == 0 then return '' end
return redis.call('GETRANGE', key, 38, 37 + length)
"""
)
# ARGV: now, the expiry in milliseconds. After a touch, whose script could not name the set.
_NOTE_OWNER = _Script(_COMMON + "if is_live() then note_owner(key, ARGV[2]) end")
# ARGV: now, and, to delete only what belongs to the owner of KEYS[2], that owner.
_DELETE = _Script(
    _COMMON
    + """
if owner ~= '' then
  redis.call('ZREM', owner, key)
  local length = redis.call('GETRANGE', key, 36, 37)
  if #length < 2 or struct.unpack('>I2', length) ~= #ARGV[2]
    or (#ARGV[2] > 0 and redis.call('GETRANGE', key, 38, 37 + #ARGV[2]) ~= ARGV[2])
  then return 0 end
end
local was_live = is_live()
redis.call('DEL', key)
return was_live and 1 or 0
"""
)


def open_client(uri: str) -> Redis:
    """A client. The query of ``uri`` may set redis-py's options: ``?socket_timeout=1``.

    Raises:
        ValueError: the URI can't be read, or sets an option that there is not.
    """
    client = Redis.from_url(
        uri,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), retries=1),  # to connect
    )
    pool: Any = client.connection_pool
    try:
        pool.make_connection()  # which does not connect yet
    except TypeError as error:
        raise ValueError(str(error).rpartition("() ")[2]) from None
    return client


class CacheStore:
    """Sessions behind one redis-py client, which this store closes."""

    def __init__(
        self, client: Redis, *, prefix: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._server = Batches(client.connection_pool)
        self._prefix = prefix
        self._clock = clock

    async def create(self, key: str, record: Record) -> bool:
        raw, expires = record.to_bytes(), _ms(record.expires)
        return bool(await self._run(_CREATE, [key], record.owner, raw, expires))

    async def load(self, key: str) -> Record | None:
        raw = await self._do("GET", self._session(key))
        if raw is None:
            return None
        try:
            record = Record.from_bytes(raw)
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", self._session(key), error)
            return None
        return record if record.expires > self._clock() else None

    async def update(self, key: str, record: Record, *, move_to: str | None = None) -> bool:
        keys = [key] if move_to is None else [key, move_to]
        raw, expires = record.to_bytes(), _ms(record.expires)
        before = struct.pack(">Q", record.version - 1)
        return bool(await self._run(_UPDATE, keys, record.owner, raw, expires, before))

    async def touch(self, key: str, expires: float) -> bool:
        owner = await self._run(_TOUCH, [key], None, pack_expires(expires), _ms(expires))
        if owner:
            await self._run(_NOTE_OWNER, [key], owner.decode(), _ms(expires))
        return owner is not None

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        given = () if owner is None else (owner,)
        done = (self._run(_DELETE, [key], owner, *given) for key in keys)
        return sum(await asyncio.gather(*done))

    async def delete_expired(self, limit: int = 1000) -> int:
        """Nothing to do: the server forgets each key when its time to live is over."""
        return 0

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        keys = sorted(key for key in await self._keys_of(owner) if key > after)
        found = zip(keys, await asyncio.gather(*map(self.load, keys)), strict=True)
        return [(key, each) for key, each in found if each is not None and each.owner == owner][
            :limit
        ]

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        keys = [key for key in await self._keys_of(owner) if key != except_key]
        return await self.delete(*keys, owner=owner)

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        pattern = self._session("*")
        at, names = await self._do("SCAN", cursor or 0, "MATCH", pattern, "COUNT", limit)
        keys = [name.decode().rpartition(":")[2] for name in names]
        found = zip(keys, await asyncio.gather(*map(self.load, keys)), strict=True)
        return [
            (key, each) for key, each in found if each is not None
        ], "" if at == b"0" else at.decode()

    async def _keys_of(self, owner: str) -> list[str]:
        names = await self._do("ZRANGE", self._owned_by(owner), 0, -1)
        return [name.decode().rpartition(":")[2] for name in names]

    async def ping(self) -> None:
        await self._do("PING")

    async def find_risks(self) -> list[str]:
        """Which settings of the server may cost sessions, a line each."""
        lines = (await self._do("INFO")).decode().splitlines()
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        risks = []
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory", "0") != "0" and policy != "noeviction":
            risks.append(
                f"the cache server's maxmemory-policy is {policy}: when it is full it drops"
                " sessions of visitors who are there. Set it to noeviction"
            )
        if info.get("aof_enabled", "0") == "0":
            risks.append(
                "the cache server's appendonly is off: a restart loses the sessions since its last"
                " snapshot, or all. Set it to yes"
            )
        return risks

    async def aclose(self) -> None:
        await self._server.aclose()
        await self._client.aclose()

    def _session(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    def _owned_by(self, owner: str | None) -> str:
        """The set of an owner's sessions, scored by expiry."""
        if owner is None:
            return ""
        return f"{self._prefix}:owner:{hashlib.sha256(owner.encode()).hexdigest()}"

    async def _run(
        self, script: _Script, keys: list[str], owner: str | None, *arguments: Argument
    ) -> Any:
        session, *new = (self._session(key) for key in keys)
        names = [session, self._owned_by(owner), *new]
        rest = [len(names), *names, self._clock(), *arguments]
        try:
            return await self._do("EVALSHA", script.sha, *rest)
        except NoScriptError:  # a new server, or one that was told to forget
            return await self._do("EVAL", script.text, *rest)

    async def _do(self, *command: Argument) -> Any:
        answer = await self._server.send(*command)
        if isinstance(answer, NoScriptError):
            raise answer
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"cache: {answer or 'no answer in time'}") from answer
        return answer


def _ms(expires: float) -> int:
    return math.ceil(expires * 1000)
