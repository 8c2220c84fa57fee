"""``config check``: all that can be known of an environment before it is deployed."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from tempfile import gettempdir
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from ..config import FileStoreConfig, MemoryStoreConfig, ProjectConfig
from ..config.sources import Sources, environment_file
from ..problems import ConfigError, redact
from ..store import Record, SessionStore, StoreNotReady, StoreUnavailable
from ..stores import MissingPackage, describe, open_store
from .project import Project, command_name, install_command

IN_MEMORY = {"tmpfs", "ramfs"}
ON_THE_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs"}
WORKERS_VARIABLE = "WEB_CONCURRENCY"  # how many workers uvicorn starts when nobody tells it

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in one line, with what to do. An error stops a deploy."""

    text: str
    level: Level = "error"


async def check(name: str, *, offline: bool = False) -> tuple[str | None, list[Finding]]:
    """Where an environment's sessions live, and what is wrong with it.

    ``offline`` leaves the store alone. In debug what would be a warning is a note.

    Raises:
        ConfigError: the environment's name is not a plain one.
    """
    path, config_class = str(environment_file(name)), Project.current().config_class
    try:
        sources = config_class.read_sources(name)
        config = config_class.from_sources(sources)
    except ConfigError as error:
        return None, [
            Finding(str(replace(problem, source="") if problem.source == path else problem))
            for problem in error.problems
        ]
    disk = list(_check_disk(config))
    findings = [*_check_settings(config, sources), *disk]
    if not offline and not any(finding.level == "error" for finding in disk):
        findings += await _check_store(config, name)  # it would say again what the disk did
    if config.debug:
        findings = [_soften(finding) for finding in findings]
    return describe(config), findings


def _soften(finding: Finding) -> Finding:
    return replace(finding, level="note") if finding.level == "warning" else finding


def _check_settings(config: ProjectConfig, sources: Sources) -> Iterator[Finding]:
    session = config.middlewares.session
    if config.debug:
        yield Finding(
            "debug: true: for your own machine alone, since its pages show code and settings to"
            " everyone. Elsewhere, serve an environment without it",
            "warning",
        )
    if not session.secure:
        yield Finding(
            "middlewares.session.secure: false: over plain http anyone on the way can take over a"
            " session. Outside debug it has to be true",
            "warning",
        )
    if isinstance(session.store, MemoryStoreConfig):
        yield from _check_memory()
    if isinstance(session.expiry, datetime) and session.expiry <= datetime.now(UTC):
        yield Finding(
            f"middlewares.session.expiry: {session.expiry.isoformat()} is over: no session can be"
            " saved. Give a later date, or a time of inactivity"
        )
    elif not isinstance(session.expiry, datetime) and not session.max_lifetime:
        yield Finding(
            "middlewares.session.max_lifetime: none: a session in use, or a stolen one, never ends."
            ' Set a limit such as "30d" (ASVS 5, 7.3.2)',
            "warning",
        )
    if "*" in config.allowed_hosts:
        yield Finding(
            "allowed_hosts: any: redirects and links repeat whatever host a request names. List"
            ' yours: allowed_hosts = ["example.org"]',
            "warning",
        )
    yield from _check_urls(config, sources)


def _check_memory() -> Iterator[Finding]:
    workers = os.environ.get(WORKERS_VARIABLE, "1")
    advice = f"Choose the file, database or cache store: {command_name()} config set-store"
    if workers.isdecimal() and int(workers) > 1:
        yield Finding(
            f"middlewares.session.store.type: memory, but {WORKERS_VARIABLE}={workers}: each worker"
            f" would have sessions of its own. {advice}"
        )
    else:
        yield Finding(
            "middlewares.session.store.type: memory: sessions end with the process, and serve one"
            f" worker only. {advice}",
            "warning",
        )


def _check_urls(config: ProjectConfig, sources: Sources) -> Iterator[Finding]:
    urls = {f"caches.{name}.url": cache.url for name, cache in config.caches.items()}
    if config.cache:
        urls["cache.url"] = config.cache.url
    if config.database:
        urls["database.url"] = config.database.url
        yield from _check_certificate(config.database.url)
    if config.location.key.endswith(".uri"):
        urls[config.location.key] = config.location.url
    for key, url in urls.items():
        is_in_file = sources.origin(tuple(key.split("."))) == sources.name
        if is_in_file and redact(url) != url:
            yield Finding(
                f"{key}: the file holds a password or token. Set the whole URL in a variable: see"
                " .env.example",
                "warning",
            )


def _check_certificate(url: str) -> Iterator[Finding]:
    """Whether a PostgreSQL server somewhere else has to prove that it is the right one."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    modes = options.get("sslmode", []) + options.get("ssl", [])
    hosts = [*options.get("host", []), *parts.netloc.rpartition("@")[2].split(",")]
    remote = [host for host in hosts if not _is_here(host)]
    if parts.scheme.startswith("postgres") and remote and "verify-full" not in modes:
        yield Finding(
            f"database.url: {remote[0]} gets the password without proving that it is that server."
            " Add sslmode=verify-full, and sslrootcert=FILE with its certificate authority",
            "warning",
        )


def _is_here(host: str) -> bool:
    """Whether a URL's host, perhaps with a port, is this machine or a socket on it."""
    name = host.partition("]")[0].lstrip("[") if "[" in host else host.partition(":")[0]
    if name in ("", "localhost") or name.startswith("/"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _check_disk(config: ProjectConfig) -> Iterator[Finding]:
    """Whether the folder of a file store or of SQLite can be written, and lasts."""
    location = config.location
    if isinstance(config.middlewares.session.store, FileStoreConfig):
        yield from _check_folder(location.key, Path(config.middlewares.session.store.path))
    elif location.url.startswith("sqlite"):
        path = location.url.partition(":///")[2].partition("?")[0]
        yield from _check_folder(location.key, Path(path).parent)


def _check_folder(key: str, folder: Path) -> Iterator[Finding]:
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
            "warning",
        )
    elif kind in ON_THE_NETWORK:
        yield Finding(
            f"{key}: {folder} is on a network file system ({kind}), where locks may not hold. Name"
            " a folder on a disk of this machine, or choose the database or cache store",
            "warning",
        )


def _file_system(path: Path) -> tuple[str, list[str]]:
    """The kind of file system that a path is on, and its mount options; only Linux tells."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "", []
    mounts = [line.split()[1:4] for line in lines]
    around = [
        (len(Path(mount).parts), kind, options.split(","))
        for mount, kind, options in mounts
        if path.is_relative_to(mount.encode().decode("unicode_escape"))
    ]
    _, kind, options = max(around, key=lambda mount: mount[0], default=(0, "", []))
    return kind, options


async def _check_store(config: ProjectConfig, environment: str) -> list[Finding]:
    key = config.location.key
    try:
        store = open_store(config)
    except MissingPackage as missing:
        what = f"the {missing.extra} store needs a package that is not installed"
        return [Finding(f"{key}: {what}. Run: {install_command(missing.extra)}")]
    except ConfigError as error:
        return [Finding(str(problem)) for problem in error.problems]
    try:
        await store.ping()
        if not await _keeps_a_session(store):
            return [
                Finding(
                    f"{key}: a throw-away session did not come back as it was saved. Does something"
                    " else write to this store, or another version of this project?"
                )
            ]
        return [Finding(risk, "warning") for risk in await _risks_of(store)]
    except StoreNotReady as error:
        if config.debug:  # the app migrates when it starts
            return []
        return [Finding(f"{key}: {error}. Run: {command_name()} migrate --env {environment}")]
    except StoreUnavailable as error:
        reason = redact(str(error)).rstrip(".")
        return [Finding(f"{key}: {reason}. Check that it is right, and that the store is there")]
    finally:
        await store.aclose()


async def _keeps_a_session(store: SessionStore) -> bool:
    """Save, read, change and delete a throw-away session."""
    key = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
    now = time.time()
    first = Record(b"{}", now, now + 60)
    second = msgspec.structs.replace(first, data=b'{"checked": true}', version=2)
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
