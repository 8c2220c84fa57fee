"""Sessions in Redis or Valkey: shared by any number of processes and machines.

Each record is one string, ``<prefix>:session:<key>``, with the server's own time to live. Changes
are scripts that the server caches, so that comparing and swapping is one step and one round trip.
``<prefix>:owner:<owner>`` is the sorted set of an owner's keys by expiry. A key is noted there no
later than its record is written; one whose record is gone does no harm, and goes when its time is
over.

On a Cluster no script may touch keys of two slots: there the note, and the end of the old key of a
record that moves, are steps of their own.
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

from redis.exceptions import NoScriptError, RedisError

from ...store import CorruptRecord, Record, StoreUnavailable, pack_expires
from .batches import Argument, Batches
from .uri import parse_cache_uri
from .clients import NODE_OF_CLUSTER, connect, explain

logger = logging.getLogger(__name__)

MOVED = 60  # seconds for which an old key on a Cluster tells where its record went


class _Script:
    """A script, and the name under which the server caches it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# In every script ARGV[1] is the time now and ARGV[2] the new expiry in milliseconds, and OWNED, the
# set of the owner whose session is written, is the last of KEYS; on a Cluster it is not given.
_NOTE = """
local function note(owned, member)
  if not owned then return end
  redis.call('ZREMRANGEBYSCORE', owned, '-inf', ARGV[1] * 1000)
  redis.call('ZADD', owned, ARGV[2], member)
  redis.call('PEXPIREAT', owned, redis.call('ZRANGE', owned, -1, -1, 'WITHSCORES')[2])
end
"""
# KEYS: OWNED. ARGV[3]: the key to note there.
_NOTE_OWNER = _Script(_NOTE + "note(KEYS[1], ARGV[3])")

# In all that follow KEYS[1] is the session. The positions are those of store.py's header, counted
# from 0 as GETRANGE does.
_COMMON = (
    _NOTE
    + """
local function key_of(name) return string.sub(name, -64) end
local function is_live()
  local expires = redis.call('GETRANGE', KEYS[1], 12, 19)
  return #expires == 8 and struct.unpack('>d', expires) > tonumber(ARGV[1])
end
local function is_live_at(version)
  local found = redis.call('GETRANGE', KEYS[1], 4, 19)
  if #found < 16 or string.sub(found, 1, 8) ~= version then return false end
  return struct.unpack('>d', found, 9) > tonumber(ARGV[1])
end
local function owner()
  local length = redis.call('GETRANGE', KEYS[1], 36, 37)
  if #length < 2 or length == '\\255\\255' then return '' end
  return redis.call('GETRANGE', KEYS[1], 38, 37 + struct.unpack('>I2', length))
end
"""
)
# KEYS: session, OWNED. ARGV[3]: the record.
_CREATE = _Script(
    _COMMON
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
note(KEYS[2], key_of(KEYS[1]))
redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[2])
return 1
"""
)
# KEYS: session, OWNED. ARGV[3]: the record, ARGV[4]: the version to replace.
_UPDATE = _Script(
    _COMMON
    + """
if not is_live_at(ARGV[4]) then return 0 end
note(KEYS[2], key_of(KEYS[1]))
redis.call('SET', KEYS[1], ARGV[3], 'PXAT', ARGV[2])
return 1
"""
)
# KEYS: session, its new name, OWNED. ARGV as above. Not on a Cluster.
_MOVE = _Script(
    _COMMON
    + """
if not is_live_at(ARGV[4]) or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
note(KEYS[3], key_of(KEYS[2]))
redis.call('SET', KEYS[2], ARGV[3], 'PXAT', ARGV[2])
redis.call('DEL', KEYS[1])
if KEYS[3] then redis.call('ZREM', KEYS[3], key_of(KEYS[1])) end
return 1
"""
)
# KEYS: session, OWNED. ARGV[3]: the expiry packed, ARGV[4]: the owner, "" for none. Returns the
# owner, with nothing changed, if it is another.
_TOUCH = _Script(
    _COMMON
    + """
if not is_live() then return 0 end
if owner() ~= ARGV[4] then return owner() end
note(KEYS[2], key_of(KEYS[1]))
redis.call('SETRANGE', KEYS[1], 12, ARGV[3])
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return 1
"""
)
# KEYS: session, OWNED. ARGV[3]: the owner without whose name it stays, "" for any.
_DELETE = _Script(
    _COMMON
    + """
if KEYS[2] then redis.call('ZREM', KEYS[2], key_of(KEYS[1])) end
if ARGV[3] ~= '' and owner() ~= ARGV[3] then return 0 end
local was_live = is_live()
redis.call('DEL', KEYS[1])
return was_live and 1 or 0
"""
)


class RedisStore:
    """Sessions behind the URI of a cache: of a server, of sentinels, or of a Cluster.

    All keys begin with ``prefix``, or with the one that the URI gives.

    Raises:
        ValueError: the URI is wrong; the message tells where, and what is allowed.
    """

    def __init__(
        self, uri: str, *, prefix: str = "app", clock: Callable[[], float] = time.time
    ) -> None:
        self._uri = parse_cache_uri(uri)
        self._server = connect(self._uri)
        self._is_cluster = self._uri.kind == "cluster"
        self._prefix = self._uri.prefix or prefix
        self._clock = clock

    async def create(self, key: str, record: Record) -> bool:
        done = await self._write(_CREATE, [key], record.owner, record.expires, record.to_bytes())
        return bool(done)

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
        if move_to is not None and self._is_cluster:
            return await self._move_on_cluster(key, record, move_to)
        script, keys = (_UPDATE, [key]) if move_to is None else (_MOVE, [key, move_to])
        changes = record.to_bytes(), _version_before(record)
        return bool(await self._write(script, keys, record.owner, record.expires, *changes))

    async def touch(self, key: str, expires: float) -> bool:
        owner, done = "", None
        while not isinstance(done, int):  # until it is known whose it is
            owner = done.decode() if done else ""
            done = await self._write(_TOUCH, [key], owner, expires, pack_expires(expires), owner)
        return bool(done)

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        names = () if owner is None or self._is_cluster else (self._owned_by(owner),)
        done = (self._run(_DELETE, [self._session(key), *names], 0, owner or "") for key in keys)
        return sum(await asyncio.gather(*done))

    async def delete_expired(self, limit: int = 1000) -> int:
        """Nothing to do: the server forgets each key when its time to live is over."""
        return 0

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        keys = sorted(key for key in await self._keys_of(owner) if key > after)
        found: list[tuple[str, Record]] = []
        while keys and len(found) < limit:
            records = await self._load_all(keys[:limit])
            found += [(key, record) for key, record in records if record.owner == owner]
            del keys[:limit]
        return found[:limit]

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        # Again until none is new: one that moves meanwhile is noted before it does.
        count, done = 0, {except_key}
        while keys := set(await self._keys_of(owner)) - done:
            count += await self.delete(*keys, owner=owner)
            done |= keys
        return count

    async def scan(
        self, cursor: str = "", *, limit: int = 1000
    ) -> tuple[list[tuple[str, Record]], str]:
        nodes = await self._primaries()
        version = self._server.version
        index, at, version_before, run_before = cursor.split(".") if cursor else (0, 0, version, "")
        if version_before != version:
            raise StoreUnavailable("cache: its slots have moved during the scan: begin it again")
        node = nodes[int(index)]
        command = ("SCAN", at, "MATCH", self._session("*"), "COUNT", limit)
        info, answer = await asyncio.gather(self._info(node), self._ask(node, *command))
        run = info["run_id"]
        if run_before not in ("", run):
            raise StoreUnavailable("cache: a server was replaced during the scan: begin it again")
        at, names = answer[0].decode(), answer[1]
        found = await self._load_all([name.decode()[-64:] for name in names])
        if at != "0":
            return found, f"{index}.{at}.{version}.{run}"
        return found, f"{int(index) + 1}.0.{version}." if int(index) + 1 < len(nodes) else ""

    async def ping(self) -> None:
        nodes = await self._primaries()
        await asyncio.gather(*(self._ask(node, "PING") for node in nodes))
        if not self._is_cluster:  # where it would only show when a key is of another node
            about = await nodes[0].send("INFO", "cluster")
            if isinstance(about, bytes) and b"cluster_enabled:1" in about:
                raise StoreUnavailable(f"cache: {NODE_OF_CLUSTER}")

    async def find_risks(self) -> list[str]:
        """Which settings of the servers may cost sessions, a line each."""
        nodes = await self._primaries()
        infos = await asyncio.gather(*map(self._info, nodes))
        is_replicated = self._uri.kind in ("sentinel", "cluster")
        risks = [risk for info in infos for risk in _find_risks(info, is_replicated)]
        return list(dict.fromkeys(risks))

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _move_on_cluster(self, key: str, record: Record, new_key: str) -> bool:
        """What ``_MOVE`` does, in two steps that can be repeated.

        The new id is given to nobody before the old one is dead. Whatever ends this between the two
        leaves a record that no one can open, until its time is over.
        """
        raw = record.to_bytes()
        if not await self.create(new_key, record) and await self._get(new_key) != raw:
            return False
        # No live record, but one that tells an answer that was lost from a race that was.
        moved = Record(new_key.encode(), record.created, 0, record.version).to_bytes()
        until, before = self._clock() + MOVED, _version_before(record)
        if (
            await self._write(_UPDATE, [key], None, until, moved, before)
            or await self._get(key) == moved
        ):
            return True
        await self.delete(new_key)
        return False

    async def _get(self, key: str) -> Any:
        return await self._do("GET", self._session(key))

    async def _load_all(self, keys: list[str]) -> list[tuple[str, Record]]:
        records = await asyncio.gather(*map(self.load, keys))
        found = zip(keys, records, strict=True)
        return [(key, record) for key, record in found if record is not None]

    async def _keys_of(self, owner: str) -> list[str]:
        return [key.decode() for key in await self._do("ZRANGE", self._owned_by(owner), 0, -1)]

    def _session(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    def _owned_by(self, owner: str) -> str:
        return f"{self._prefix}:owner:{owner}"

    async def _write(
        self,
        script: _Script,
        keys: list[str],
        owner: str | None,
        expires: float,
        *arguments: Argument,
    ) -> Any:
        """Run a script that notes the owner's session; on a Cluster, note it before."""
        names = [self._session(key) for key in keys]
        if owner and self._is_cluster:
            await self._run(_NOTE_OWNER, [self._owned_by(owner)], _ms(expires), keys[-1])
        elif owner:
            names.append(self._owned_by(owner))
        return await self._run(script, names, _ms(expires), *arguments)

    async def _run(self, script: _Script, names: list[str], *arguments: Argument) -> Any:
        rest = [len(names), *names, self._clock(), *arguments]
        try:
            return await self._do("EVALSHA", script.sha, *rest)
        except NoScriptError:  # a new server, or one that was told to forget
            return await self._do("EVAL", script.text, *rest)

    async def _do(self, *command: Argument) -> Any:
        return self._accept(await self._server.send(*command))

    async def _ask(self, node: Batches, *command: Argument) -> Any:
        return self._accept(await node.send(*command))

    async def _info(self, node: Batches) -> dict[str, str]:
        lines = (await self._ask(node, "INFO")).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    async def _primaries(self) -> list[Batches]:
        try:
            return await self._server.primaries()
        except (RedisError, OSError) as error:
            self._accept(error)
            raise

    def _accept(self, answer: Any) -> Any:
        """An answer that is none is raised."""
        if isinstance(answer, NoScriptError):
            raise answer
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"cache: {explain(answer, self._uri)}") from answer
        return answer


def _find_risks(info: dict[str, str], is_replicated: bool) -> list[str]:
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
    has_replicas = is_replicated or info.get("connected_slaves", "0") != "0"
    if has_replicas and "min_slaves_good_slaves" not in info:  # it is there if the setting is
        risks.append(
            "the cache server's min-replicas-to-write is 0: a primary that was cut off goes on"
            " taking changes, sign-outs among them, and a failover loses them all. Set it to 1:"
            " then it loses those of the last min-replicas-max-lag seconds at most"
        )
    return risks


def _version_before(record: Record) -> bytes:
    return struct.pack(">Q", record.version - 1)


def _ms(expires: float) -> int:
    return math.ceil(expires * 1000)
