"""``config check``: all that can be known of an environment before it is deployed."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir

from msgspec.structs import replace

from ..config import (
    ConfigError,
    DatabaseStoreConfig,
    FileStoreConfig,
    MemoryStoreConfig,
    ProjectConfig,
    Sources,
    environment_file,
    redact,
)
from .. import Record, SessionStore, StoreNotReady, StoreUnavailable
from ..stores import open_store

IN_MEMORY = {"tmpfs", "ramfs"}
ON_THE_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"}
WORKERS_VARIABLE = "WEB_CONCURRENCY"  # how many workers uvicorn starts when nobody tells it


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in one line, with what to do. An error stops a deploy."""

    text: str
    is_error: bool = True


async def check(environment: str, *, offline: bool = False) -> list[Finding]:
    """What is wrong with an environment; ``offline``, without going to its store.

    Raises:
        ConfigError: the environment's name is not a plain one.
    """
    prefix = f"{environment_file(environment)}: "
    try:
        sources = Sources.read(environment)
        config = ProjectConfig.from_sources(sources)
    except ConfigError as error:
        return [Finding(line.removeprefix(prefix)) for line in str(error).splitlines()]
    place = list(_check_place_of_store(config))
    findings = [*_check_settings(config, sources), *place]
    if offline or any(finding.is_error for finding in place):  # the store would say it again
        return findings
    return findings + await _check_store(config, environment)


def _check_settings(config: ProjectConfig, sources: Sources) -> Iterator[Finding]:
    session = config.middlewares.session
    if isinstance(session.store, MemoryStoreConfig):
        yield from _check_memory(config)
    if isinstance(session.expiry, datetime) and session.expiry <= datetime.now(UTC):
        yield Finding(
            f"middlewares.session.expiry: {session.expiry.isoformat()} is over: no session can be"
            " saved. Give a later date, or a time of inactivity"
        )
    elif not isinstance(session.expiry, datetime) and not config.debug and not session.max_lifetime:
        yield Finding(
            "middlewares.session.max_lifetime: none: a session in use, or a stolen one, never ends."
            ' Set a limit such as "30d" (ASVS 5, 7.3.2)',
            is_error=False,
        )
    for key, url in _urls(config):
        is_in_file = sources.origin(tuple(key.split("."))) == sources.name
        if is_in_file and redact(url) != url:
            yield Finding(
                f"{key}: the file holds a password. Set the whole URL in a variable: see README.md",
                is_error=False,
            )


def _check_memory(config: ProjectConfig) -> Iterator[Finding]:
    workers = os.environ.get(WORKERS_VARIABLE, "1")
    advice = 'Choose the file, database or cache store: "config set-store"'
    if workers.isdecimal() and int(workers) > 1:
        yield Finding(
            f"middlewares.session.store.type: memory, but {WORKERS_VARIABLE}={workers}: each worker"
            f" would have sessions of its own. {advice}"
        )
    elif not config.debug:
        yield Finding(
            "middlewares.session.store.type: memory: sessions end with the process, and serve one"
            f" worker only. {advice}",
            is_error=False,
        )


def _urls(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    if config.cache:
        yield "cache.url", config.cache.url
    for name, one in config.caches.items():
        yield f"caches.{name}.url", one.url
    if config.database:
        yield "database.url", config.database.url
    if config.store_url and config.store_url[0].startswith("middlewares."):
        yield config.store_url


def _check_place_of_store(config: ProjectConfig) -> Iterator[Finding]:
    store = config.middlewares.session.store
    if isinstance(store, FileStoreConfig):
        yield from _check_place("middlewares.session.store.path", Path(store.path))
    elif isinstance(store, DatabaseStoreConfig) and config.database is not None:
        scheme, _, path = config.database.url.partition(":///")
        if scheme.startswith("sqlite"):
            yield from _check_place("database.url", Path(path.partition("?")[0]).parent)


def _check_place(key: str, folder: Path) -> Iterator[Finding]:
    """Whether files in a folder can be written, and last."""
    folder = Path(os.path.realpath(folder))
    # os.path takes for missing what can't be looked at: a loop, another user's, a name too long.
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    kind, options = _file_system(nearest)
    if not nearest.is_dir():
        yield Finding(f"{key}: {nearest} is not a folder. Name one, or move what is there")
    elif "ro" in options or not os.access(nearest, os.W_OK | os.X_OK):
        why = (
            "is on a read-only file system" if "ro" in options else "is not writable for this user"
        )
        yield Finding(f"{key}: {nearest} {why}. Name a folder that can be written")
    elif kind in IN_MEMORY or nearest.is_relative_to(Path(gettempdir()).resolve()):
        yield Finding(
            f"{key}: {folder} is on a temporary file system: sessions are gone after a reboot, or"
            " before. Name a folder on a disk",
            is_error=False,
        )
    elif kind in ON_THE_NETWORK:
        yield Finding(
            f"{key}: {folder} is on a network file system ({kind}), where locks may not hold. Name"
            " a folder on a disk of this machine, or choose the database or cache store",
            is_error=False,
        )


def _file_system(path: Path) -> tuple[str, list[str]]:
    """The kind of file system that a path is on, and its mount options; only Linux tells."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "", []
    mounts = [line.split()[1:4] for line in lines]
    around = [
        (len(Path(place).parts), kind, options.split(","))
        for place, kind, options in mounts
        if path.is_relative_to(place.encode().decode("unicode_escape"))
    ]
    _, kind, options = max(around, key=lambda mount: mount[0], default=(0, "", []))
    return kind, options


async def _check_store(config: ProjectConfig, environment: str) -> list[Finding]:
    try:
        store = open_store(config)
    except ConfigError as error:
        return [Finding(str(error))]
    key = config.store_url[0] if config.store_url else "middlewares.session.store"
    try:
        await store.ping()
        if not await _keeps_a_session(store):
            return [
                Finding(
                    f"{key}: a throw-away session did not come back as it was saved. Does something"
                    " else write to this store, or another version of this project?"
                )
            ]
        return [Finding(risk, is_error=False) for risk in await _risks_of(store)]
    except StoreNotReady as error:
        if config.debug:  # the app migrates when it starts
            return []
        return [Finding(f'{key}: {error}. Run "migrate --env {environment}"')]
    except StoreUnavailable as error:
        reason = redact(str(error)).rstrip(".")
        return [Finding(f"{key}: {reason}. Check that it is right, and that the store is there")]
    finally:
        await store.aclose()


async def _keeps_a_session(store: SessionStore) -> bool:
    """Save, read, change and delete a session that nobody has."""
    key = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
    now = time.time()
    first = Record(b"{}", now, now + 60)
    second = replace(first, data=b'{"checked": true}', version=2)
    try:
        return (
            await store.create(key, first)
            and await store.load(key) == first
            and await store.update(key, second)
            and await store.load(key) == second
            and await store.delete(key) == 1
            and await store.load(key) is None
        )
    finally:
        await store.delete(key)


async def _risks_of(store: SessionStore) -> list[str]:
    """What the server's settings may cost, where a store can tell."""
    find_risks = getattr(store, "find_risks", None)
    try:
        return [] if find_risks is None else await find_risks()
    except StoreUnavailable as error:  # a server may keep its settings to itself
        return [f"what its server's settings may cost is not known: {redact(str(error))}"]
