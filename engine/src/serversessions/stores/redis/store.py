"""Sessions in Redis or Valkey: shared by any number of processes and machines.

Each record is one string, ``<prefix>:session:<key>``, with a time to live. Changes are scripts, in
``lua/``: comparing and swapping is one step and one round trip. ``<prefix>:owner:<owner>`` is the
index of an owner's keys, a sorted set by expiry. Whatever writes or touches a session that has an
owner marks it there. A mark whose record is gone does no harm, and goes when its time is over.

On a Cluster no script may touch keys of two slots: there the mark, and the end of the old key of a
record that moves, are steps of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import secrets
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from ...store import CorruptRecord, Record, StoreUnavailable, pack_expires
from .clients import connect, explain
from .server import Argument, Server
from .uri import parse_cache_uri

logger = logging.getLogger(__name__)

CHUNK = 100  # records that one caller deletes or marks before others get their turn
TOMBSTONE = 60  # seconds for which an old key on a Cluster tells where its record went
_MOVED = b"MOVE"  # what a tombstone begins with


class _Script:
    """A script, and the name under which the server caches it."""

    def __init__(self, name: str) -> None:
        lua = files(__package__) / "lua"
        self.text = (lua / "common.lua").read_text() + (lua / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_CREATE, _UPDATE, _MOVE, _TOUCH, _DELETE, _MARK = map(
    _Script, ("create", "update", "move", "touch", "delete", "mark")
)


class RedisStore:
    """Sessions behind the URI of a cache: of a server, of sentinels, or of a Cluster.

    All keys begin with ``prefix``, or with the one that the URI gives.

    When a session is over, the server's clock decides: the expiry of a record is carried over as
    the time that it has left by ``clock``. So the application's clock may be wrong. A ``clock``
    other than ``time.time`` is a test's: what it is ahead of ``time.time``, the server's clock is
    taken to be ahead as well.

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
        raw = await self._get(key)
        if raw is None or raw.startswith(_MOVED):
            return None
        try:
            record = Record.from_bytes(raw)
        except CorruptRecord as error:
            logger.warning("Ignored %s: %s", self._session(key), error)
            return None
        is_over = self._clock is not time.time and record.expires <= self._clock()
        return None if is_over else record

    async def update(
        self,
        key: str,
        record: Record,
        *,
        move_to: str | None = None,
        leave: Record | None = None,
    ) -> bool:
        if move_to is not None and self._is_cluster:
            return await self._move_on_cluster(key, record, move_to, leave)
        script, keys = _UPDATE, [key]
        changes: list[Argument] = [record.to_bytes(), _version_before(record)]
        if move_to is not None:
            script, keys = _MOVE, [key, move_to]
            changes += ("", 0) if leave is None else (leave.to_bytes(), self._life(leave.expires))
        return bool(await self._write(script, keys, record.owner, record.expires, *changes))

    async def touch(self, key: str, expires: float) -> bool:
        owner, done = "", None
        while not isinstance(done, int):  # until it is known whose it is
            owner = done.decode() if done else ""
            done = await self._write(_TOUCH, [key], owner, expires, pack_expires(expires), owner)
        return bool(done)

    async def delete(self, *keys: str, owner: str | None = None) -> int:
        chunks = (keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK))
        return sum([await self._delete(chunk, owner) for chunk in chunks])

    async def delete_expired(self, limit: int = 1000) -> int:
        """Nothing to do: the server forgets each key when its time to live is over."""
        return 0

    async def list_owned(
        self, owner: str, *, after: str = "", limit: int = 100
    ) -> list[tuple[str, Record]]:
        keys = sorted({key async for some in self._marked(owner) for key in some if key > after})
        found: list[tuple[str, Record]] = []
        while keys and len(found) < limit:
            records = await self._load_all(keys[:limit])
            found += [(key, record) for key, record in records if record.owner == owner]
            del keys[:limit]
        return found[:limit]

    async def delete_owned(self, owner: str, *, except_key: str | None = None) -> int:
        count, done, before = 0, {except_key}, 0
        while len(done) > before:  # again until none is new: one that moves is marked before
            before = len(done)
            async for keys in self._marked(owner):
                new = [key for key in keys if key not in done]
                count += await self.delete(*new, owner=owner)
                done.update(new)
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
        info, (next_at, names) = await asyncio.gather(
            self._ask(node, "INFO", "server"), self._ask(node, *command)
        )
        run = info["run_id"]
        if run_before not in ("", run):
            raise StoreUnavailable("cache: a server was replaced during the scan: begin it again")
        found = await self._load_all([name.decode()[-64:] for name in names])
        if next_at:
            return found, f"{index}.{next_at}.{version}.{run}"
        return found, f"{int(index) + 1}.0.{version}." if int(index) + 1 < len(nodes) else ""

    async def repair(self) -> int:
        """Mark all sessions that have an owner again, as after a restore; the number of them."""
        count, cursor, is_last = 0, "", False
        while not is_last:
            page, cursor = await self.scan(cursor, limit=CHUNK)
            owned = [(key, record) for key, record in page if record.owner]
            await asyncio.gather(*(self._mark(key, record) for key, record in owned))
            count, is_last = count + len(owned), not cursor
        return count

    async def ping(self) -> None:
        """Create a record and delete it, on every primary: ready is who takes sessions."""
        nodes = await self._primaries()
        keys: dict[Server | None, str] = {}
        while len(keys.keys() & nodes) < len(nodes):  # until chance has found a key for each
            key = secrets.token_hex(32)
            keys[self._server.node_of(self._session(key))] = key
        now = self._clock()
        probes = ((key, Record(b"", now, now + TOMBSTONE, owner=key)) for key in keys.values())
        await asyncio.gather(*(self.create(key, record) for key, record in probes))
        await self.delete(*keys.values())

    async def find_risks(self) -> list[str]:
        """Which settings of the servers may cost sessions, a line each."""
        nodes = await self._primaries()
        infos = await asyncio.gather(*(self._ask(node, "INFO") for node in nodes))
        is_replicated = self._uri.kind in ("sentinel", "cluster")
        risks = [risk for info in infos for risk in _find_risks(info, is_replicated)]
        return list(dict.fromkeys(risks))

    async def aclose(self) -> None:
        await self._server.aclose()

    async def _move_on_cluster(
        self, key: str, record: Record, new_key: str, leave: Record | None
    ) -> bool:
        """What ``_MOVE`` does, in two steps that can be repeated.

        The new id is given to nobody before the old one is dead. Whatever ends this between the two
        leaves a record that no one can open, until its time is over.
        """
        if not await self.create(new_key, record) and await self._get(new_key) != record.to_bytes():
            return False
        # By it an answer that was lost is told from a race that was.
        tombstone, until = _MOVED + new_key[:32].encode(), self._clock() + TOMBSTONE
        if leave is not None:
            tombstone, until = leave.to_bytes(), leave.expires
        before = _version_before(record)
        if (
            await self._write(_UPDATE, [key], None, until, tombstone, before)
            or await self._get(key) == tombstone
        ):
            if record.owner is not None:
                await self._do("ZREM", self._index(record.owner), key)
            return True
        await self.delete(new_key)
        return False

    async def _delete(self, keys: Sequence[str], owner: str | None) -> int:
        """Delete records, and then the marks of those that were there."""
        runs = (self._run(_DELETE, [self._session(key)], 0, owner or "") for key in keys)
        marked: dict[str, list[str]] = {}
        count = 0
        for key, done in zip(keys, await asyncio.gather(*runs), strict=True):
            if done:
                was_live, its_owner = done
                count += was_live
                if its_owner:
                    marked.setdefault(its_owner.decode(), []).append(key)
        for each, theirs in marked.items():
            await self._do("ZREM", self._index(each), *theirs)
        return count

    async def _mark(self, key: str, record: Record) -> None:
        assert record.owner is not None
        await self._run(_MARK, [self._index(record.owner)], self._life(record.expires), key)

    async def _marked(self, owner: str) -> AsyncIterator[list[str]]:
        """All keys in an owner's index, some at a time; one may come twice."""
        at = 0
        while True:
            at, marks = await self._do("ZSCAN", self._index(owner), at, "COUNT", CHUNK)
            yield [key.decode() for key, _ in marks]
            if not at:
                return

    async def _get(self, key: str) -> Any:
        return await self._do("GET", self._session(key))

    async def _load_all(self, keys: list[str]) -> list[tuple[str, Record]]:
        records = await asyncio.gather(*map(self.load, keys))
        found = zip(keys, records, strict=True)
        return [(key, record) for key, record in found if record is not None]

    def _session(self, key: str) -> str:
        return f"{self._prefix}:session:{key}"

    def _index(self, owner: str) -> str:
        return f"{self._prefix}:owner:{owner}"

    async def _write(
        self,
        script: _Script,
        keys: list[str],
        owner: str | None,
        expires: float,
        *arguments: Argument,
    ) -> Any:
        """Run a script that marks the owner's session; on a Cluster, mark it before."""
        names = [self._session(key) for key in keys]
        life = self._life(expires)
        if owner and self._is_cluster:
            await self._run(_MARK, [self._index(owner)], life, keys[-1])
        elif owner:
            names.append(self._index(owner))
        return await self._run(script, names, life, *arguments)

    async def _run(self, script: _Script, names: list[str], life: int, *arguments: Argument) -> Any:
        rest = [len(names), *names, self._ahead(), life, *arguments]
        try:
            return await self._do("EVALSHA", script.sha, *rest)
        except NoScriptError:  # a new server, or one that was told to forget
            return await self._do("EVAL", script.text, *rest)

    def _life(self, expires: float) -> int:
        """Milliseconds until then, which a server counts by its own clock."""
        return math.ceil((expires - self._clock()) * 1000) + self._ahead()

    def _ahead(self) -> int:
        """Milliseconds by which a test's clock is ahead."""
        return 0 if self._clock is time.time else round((self._clock() - time.time()) * 1000)

    async def _do(self, *command: Argument) -> Any:
        return self._accept(await self._server.send(*command))

    async def _ask(self, node: Server, *command: Argument) -> Any:
        return self._accept(await node.send(*command))

    async def _primaries(self) -> list[Server]:
        try:
            return await self._server.primaries()
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"cache: {explain(error, self._uri)}") from error

    def _accept(self, answer: Any) -> Any:
        """The answer, unless it is an error: that is raised."""
        if isinstance(answer, NoScriptError):
            raise answer
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"cache: {explain(answer, self._uri)}") from answer
        return answer


def _find_risks(info: dict[str, Any], is_replicated: bool) -> list[str]:
    risks = []
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        risks.append(
            f"the cache server's maxmemory-policy is {policy}: when it is full it drops sessions of"
            " visitors who are there, and forgets whose they are: a sign-out everywhere then misses"
            " some. Set it to noeviction"
        )
    if not info.get("aof_enabled"):
        risks.append(
            "the cache server's appendonly is off: a restart loses the sessions since its last"
            " snapshot, or all. Set it to yes"
        )
    has_replicas = is_replicated or info.get("connected_slaves")
    if has_replicas and "min_slaves_good_slaves" not in info:  # it is there if the setting is
        risks.append(
            "the cache server's min-replicas-to-write is 0: a primary that was cut off goes on"
            " taking changes, sign-outs among them, and a failover loses them all. Set it to 1:"
            " then it loses those of the last min-replicas-max-lag seconds at most"
        )
    return risks


def _version_before(record: Record) -> bytes:
    return struct.pack(">Q", record.version - 1)
