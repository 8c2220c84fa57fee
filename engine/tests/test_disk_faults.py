"""Disks that are full, read-only, gone or damaged, and writers that are killed at any instant."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import hashlib
import multiprocessing
import os
import pwd
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from serversessions import Record, Session, SessionStore, StoreUnavailable
from serversessions.stores.file import FileStore, disk, locks
from serversessions.stores.sqlite import SQLiteStore
from serversessions.testing import Clock
from serversessions.testing.contract import ADA, HOUR, new_key

from .test_sessions import Site, Visitor, puts

DAY = 24 * HOUR

on_disk = pytest.mark.parametrize("place", ["file", "sqlite"], indirect=True)


@pytest.fixture
def site(store: SessionStore, clock: Clock) -> Site:
    return Site(store, clock)


@pytest.fixture
async def files(tmp_path: Path, clock: Clock) -> AsyncIterator[FileStore]:
    store = FileStore(tmp_path / "sessions", clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
def record(clock: Clock) -> Record:
    return Record(b'{"a":1}', clock(), clock() + HOUR)


def file_of(folder: Path, visitor: Visitor) -> Path:
    """The record of a visitor's session, whose id stores see as its SHA-256 only."""
    assert visitor.id is not None
    key = hashlib.sha256(visitor.id.encode()).hexdigest()
    return folder / key[:2] / key


async def is_unavailable(visitor: Visitor, act: Callable[[Session], Any]) -> bool:
    """Whether ``act`` means 503 and leaves the browser's cookie alone."""
    response = await visitor.does(act)
    return (response.status_code, "set-cookie" in response.headers) == (503, False)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows beyond 20 bytes, as on a disk whose last block is taken."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions don't bind root, so be somebody else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def public_folder() -> Iterator[Path]:
    """The path of a folder that every user can reach, unlike ``tmp_path``."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "sessions"


def files_in(folder: Path) -> list[Path]:
    """The records whose key ends with a zero, as far as they can be seen."""
    return list(folder.glob("[0-9a-f][0-9a-f]/*0"))


def give_to_nobody(folder: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, nobody.pw_uid, nobody.pw_gid)


class TestFullDisk:
    @on_disk
    async def test_the_old_record_is_intact_and_nobody_gets_a_cookie(self, site: Site) -> None:
        async with site.visitor() as known, site.visitor() as new:
            await known.does(puts(a=1))
            with full_disk():
                assert await is_unavailable(known, puts(a="x" * 9000))
                assert await is_unavailable(known, Session.rotate_id)
                assert await is_unavailable(new, puts(a="x" * 9000))
                assert await known.sees() == {"a": 1}
            assert new.id is None
            assert await known.sees() == {"a": 1}

    @on_disk
    async def test_space_that_was_made_is_used_at_once(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with full_disk():
                assert await is_unavailable(visitor, puts(a="x" * 9000))
            await visitor.does(puts(a=2))
            assert await visitor.sees() == {"a": 2}

    async def test_no_temporary_file_is_left(self, files: FileStore, tmp_path: Path) -> None:
        key = new_key()
        record = Record(b"x" * 200_000, time.time(), time.time() + HOUR)
        await files.create(key, replace(record, data=b""))
        with full_disk():
            for size in (0, 8000, 200_000):
                with pytest.raises(StoreUnavailable, match=os.strerror(errno.EFBIG)):
                    await files.update(key, replace(record, data=b"x" * size, version=2))
            with pytest.raises(StoreUnavailable, match=os.strerror(errno.EFBIG)):
                await files.ping()
        assert list((tmp_path / "sessions" / "00").glob("*.tmp")) == []
        assert {path.name for path in (tmp_path / "sessions" / key[:2]).iterdir()} == {key, "lock"}

    async def test_logging_out_needs_no_space(self, files: FileStore, clock: Clock) -> None:
        async with Site(files, clock).visitor() as visitor:
            await visitor.does(puts(a=1))
            with full_disk():
                assert (await visitor.does(Session.flush)).status_code == 200
            assert visitor.id is None


class TestMissingFolder:
    """A store that has gone away is not an empty store."""

    @pytest.mark.parametrize("left", ["nothing", "an empty folder"])
    async def test_one_that_goes_away_means_503_until_it_is_back(
        self, files: FileStore, clock: Clock, tmp_path: Path, left: str
    ) -> None:
        folder, elsewhere = tmp_path / "sessions", tmp_path / "elsewhere"
        site = Site(files, clock)
        async with site.visitor() as known, site.visitor() as new:
            await known.does(puts(a=1))
            folder.rename(elsewhere)
            if left == "an empty folder":  # as where a volume is mounted otherwise
                folder.mkdir()
            for act in (dict, puts(a=2), Session.rotate_id, Session.flush):
                assert await is_unavailable(known, act)
            assert await is_unavailable(new, puts(a=1))
            assert list(folder.rglob("*")) == []
            if left == "an empty folder":
                folder.rmdir()
            elsewhere.rename(folder)
            assert await known.sees() == {"a": 1}
            assert (await new.does(puts(a=1))).status_code == 200

    async def test_nothing_says_that_it_is_empty_when_it_is_gone(
        self, files: FileStore, record: Record, tmp_path: Path
    ) -> None:
        key = new_key()
        await files.create(key, replace(record, owner=ADA))
        await files.load(key)
        (tmp_path / "sessions").rename(tmp_path / "elsewhere")
        for call in (
            lambda: files.load(key),
            lambda: files.create(new_key(), record),
            lambda: files.update(key, replace(record, version=2)),
            lambda: files.update(key, replace(record, version=2), move_to=new_key()),
            lambda: files.touch(key, record.expires),
            lambda: files.delete(key),
            lambda: files.delete_expired(),
            lambda: files.list_owned(ADA),
            lambda: files.delete_owned(ADA),
            lambda: files.repair(),
            lambda: files.scan(),
            lambda: files.ping(),
        ):
            with pytest.raises(StoreUnavailable, match=r"has gone\. If a volume is mounted"):
                await call()
        (tmp_path / "elsewhere").rename(tmp_path / "sessions")
        await files.ping()
        assert await files.load(key) == replace(record, owner=ADA)

    async def test_one_that_was_removed_on_purpose_is_made_anew_after_a_restart(
        self, files: FileStore, record: Record, clock: Clock, tmp_path: Path
    ) -> None:
        key = new_key()
        await files.create(key, record)
        shutil.rmtree(tmp_path / "sessions")
        with pytest.raises(StoreUnavailable, match="restart the application"):
            await files.load(key)
        restarted = FileStore(tmp_path / "sessions", clock=clock)
        assert await restarted.load(key) is None
        assert await restarted.create(key, record)
        assert await files.load(key) == record  # a worker that lives on sees it, too
        await restarted.aclose()

    async def test_one_that_vanishes_while_it_is_in_use_means_200_or_503(
        self, files: FileStore, clock: Clock, tmp_path: Path
    ) -> None:
        def sign_in(session: Session) -> None:
            session.rotate_id()
            session["n"] = session.get("n", 0) + 1
            session.owner = "ada"

        site = Site(files, clock)
        folder, elsewhere = tmp_path / "sessions", tmp_path / "elsewhere"

        async def visit_often() -> set[int]:
            async with site.visitor() as visitor:
                return {(await visitor.does(sign_in)).status_code for _ in range(60)}

        async def move_often() -> None:
            while visiting:
                with suppress(FileNotFoundError):
                    folder.rename(elsewhere)
                await asyncio.sleep(0)
                with suppress(FileNotFoundError):
                    elsewhere.rename(folder)
                await asyncio.sleep(0)

        visiting = True
        moving = asyncio.create_task(move_often())
        statuses = set().union(*await asyncio.gather(*(visit_often() for _ in range(4))))
        visiting = False
        await moving
        assert statuses <= {200, 503}
        assert await visit_often() == {200}


class TestTrust:
    """Whoever can write a record can sign in as anybody."""

    @pytest.fixture
    def public(self) -> Iterator[Path]:
        with public_folder() as folder:
            yield folder

    async def test_a_folder_that_everybody_can_write_to_is_refused(
        self, files: FileStore, record: Record, tmp_path: Path
    ) -> None:
        (tmp_path / "sessions").mkdir()
        (tmp_path / "sessions").chmod(0o1777)
        for call in (files.load(new_key()), files.create(new_key(), record), files.ping()):
            with pytest.raises(StoreUnavailable, match="not safe for sessions: every user may"):
                await call
        assert list((tmp_path / "sessions").iterdir()) == []
        (tmp_path / "sessions").chmod(0o700)
        assert await files.create(new_key(), record)

    async def test_a_strangers_folder_is_refused(self, public: Path, record: Record) -> None:
        store = FileStore(public)
        os.mkdir(public)
        if os.geteuid() == 0:  # nobody else can make it a stranger's
            os.chown(public, 12345, -1)
            with as_nobody():
                for call in (store.load(new_key()), store.create(new_key(), record), store.ping()):
                    with pytest.raises(StoreUnavailable, match="to the user 12345, not to nobody"):
                        await call
            public.parent.chmod(0o1777)  # where anybody can have made it, root is no exception
            with pytest.raises(StoreUnavailable, match="to the user 12345, not to root"):
                await store.ping()
            os.chown(public, 0, -1)
        await store.ping()
        await store.aclose()

    async def test_what_a_command_of_roots_makes_is_the_sites(
        self, public: Path, record: Record
    ) -> None:
        public.parent.joinpath("owned").mkdir()
        give_to_nobody(public.parent / "owned")
        folder = public.parent / "owned" / "var" / "sessions"
        store, keys = FileStore(folder), [new_key() for _ in range(20)]
        await store.ping()
        for key in keys:
            await store.create(key, replace(record, owner=ADA))
        await store.update(keys[0], replace(record, version=2, owner=ADA), move_to=new_key())
        await store.touch(keys[1], record.expires + 1)
        await store.repair()
        await store.delete_expired()
        owner = folder.parent.parent.stat()
        for path in [folder.parent, folder, *folder.rglob("*")]:
            assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid)
        with as_nobody():
            site = FileStore(folder)
            assert await site.delete_owned(ADA) == 20
            assert await site.create(keys[0], record)
            await site.ping()
            await site.aclose()
        await store.aclose()

    @pytest.mark.parametrize("name", ["40", "00", "ff"])
    async def test_what_can_not_be_read_stops_neither_a_sweep_nor_a_sign_out(
        self, public: Path, record: Record, clock: Clock, name: str
    ) -> None:
        store = FileStore(public, clock=clock)
        for number in range(256):
            key = f"{number:02x}{'0' * 62}"
            await store.create(key, replace(record, owner=ADA if number % 2 else None))
        await store.create(f"{name}{'1' * 62}", replace(record, owner=ADA, expires=clock() + DAY))
        give_to_nobody(public)
        (public / name).chmod(0)
        owned = 128 - (int(name, 16) % 2)
        with as_nobody():
            with pytest.raises(StoreUnavailable, match=os.strerror(errno.EACCES)):
                await store.delete_owned(ADA)
            assert len(files_in(public)) == 256 - 1 - owned
            clock.advance(2 * HOUR)
            assert await store.delete_expired() == 256 - 1 - owned
        (public / name).chmod(0o700)
        with as_nobody():
            assert await store.delete_owned(ADA) == 1
        await store.aclose()


class TestForbiddenFolder:
    @pytest.fixture
    def public(self) -> Iterator[Path]:
        with public_folder() as folder:
            yield folder

    @staticmethod
    def set_mode(folder: Path, mode: int) -> None:
        for path in [folder, *folder.iterdir()]:
            path.chmod(mode)

    async def test_a_read_only_folder_is_read_and_means_503_to_who_writes(
        self, public: Path, clock: Clock
    ) -> None:
        store = FileStore(public, clock=clock)
        async with Site(store, clock).visitor() as known, Site(store, clock).visitor() as new:
            await known.does(puts(a=1))
            give_to_nobody(public)
            self.set_mode(public, 0o555)
            with as_nobody():
                for act in (puts(a=2), Session.rotate_id, Session.flush):
                    assert await is_unavailable(known, act)
                assert await is_unavailable(new, puts(a=1))
                assert await known.sees() == {"a": 1}
                with pytest.raises(StoreUnavailable, match=os.strerror(errno.EACCES)):
                    await store.ping()
            self.set_mode(public, 0o700)
            with as_nobody():
                await known.does(puts(a=2))
                assert await known.sees() == {"a": 2}
        await store.aclose()

    async def test_a_file_that_may_not_be_read_means_503_and_is_not_overwritten(
        self, public: Path, clock: Clock
    ) -> None:
        store = FileStore(public, clock=clock)
        async with Site(store, clock).visitor() as one, Site(store, clock).visitor() as other:
            await one.does(puts(a=1))
            await other.does(puts(b=2))
            give_to_nobody(public)
            file_of(public, one).chmod(0)
            with as_nobody():
                for act in (dict, puts(a=2), Session.flush):
                    assert await is_unavailable(one, act)
                assert await other.sees() == {"b": 2}
            file_of(public, one).chmod(0o600)
            with as_nobody():
                assert await one.sees() == {"a": 1}
        await store.aclose()

    async def test_a_file_in_place_of_the_folder_means_503_until_it_is_gone(
        self, files: FileStore, clock: Clock, tmp_path: Path
    ) -> None:
        async with (
            Site(files, clock).visitor("A" * 43) as known,
            Site(files, clock).visitor() as new,
        ):
            (tmp_path / "sessions").write_text("in the way")
            for visitor in (known, new):
                assert await is_unavailable(visitor, puts(a=1))
            assert await is_unavailable(known, dict)
            assert (await new.sees()) == {}
            (tmp_path / "sessions").unlink()
            await new.does(puts(a=1))
            assert await new.sees() == {"a": 1}


class TestDamage:
    """What stands in place of a record harms that one session at most."""

    @staticmethod
    async def look_and_write(one: Visitor, other: Visitor) -> list[Any]:
        """What a visitor sees before and after a write, neither of which may be an error."""
        seen = []
        for _ in range(2):
            looked = await one.does(lambda session: [dict(session), str(session.expires_at)])
            assert looked.status_code in (200, 503)
            seen.append(looked.json()[0] if looked.status_code == 200 else None)
            assert (await one.does(puts(new=True))).status_code == looked.status_code
        assert await other.sees() == {"b": 2}
        return seen

    async def test_a_damaged_bit_anywhere_means_no_session_and_a_line_in_the_log(
        self, files: FileStore, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        def sign_in(session: Session) -> None:
            session["a"] = "ü"
            session.owner = "aü"

        wrong = []
        async with Site(files, clock).visitor() as one, Site(files, clock).visitor() as other:
            await one.does(sign_in)
            await other.does(puts(b=2))
            file, old_id = file_of(tmp_path / "sessions", one), one.id
            assert old_id is not None
            raw = file.read_bytes()
            for bit in range(0, len(raw) * 8, 7):
                damaged = bytearray(raw)
                damaged[bit // 8] ^= 1 << bit % 8
                file.write_bytes(damaged)
                caplog.clear()
                one.brings(old_id)
                try:
                    seen = await self.look_and_write(one, other)
                    assert seen == [{}, {"new": True}]
                    assert one.id != old_id
                    assert file.name in caplog.text
                except Exception as error:
                    wrong.append((bit // 8, repr(error).splitlines()[0]))
        assert wrong == []

    @pytest.mark.parametrize("size", [*range(0, 40, 3), 41])
    async def test_a_truncated_file_means_no_session_and_a_line_in_the_log(
        self,
        files: FileStore,
        clock: Clock,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        size: int,
    ) -> None:
        async with Site(files, clock).visitor() as one, Site(files, clock).visitor() as other:
            await one.does(puts(a=12))
            await other.does(puts(b=2))
            file = file_of(tmp_path / "sessions", one)
            os.truncate(file, size)
            assert await self.look_and_write(one, other) == [{}, {"new": True}]
            assert file.name in caplog.text

    @pytest.mark.parametrize(
        "thing", ["page", "large", "link", "dangling", "loop", "directory", "pipe", "socket"]
    )
    async def test_a_foreign_thing_means_no_session_and_stays_as_it_is(
        self,
        files: FileStore,
        clock: Clock,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        thing: str,
    ) -> None:
        target = tmp_path / "target"
        target.write_text("keep me")
        async with Site(files, clock).visitor() as one, Site(files, clock).visitor() as other:
            await one.does(puts(a=1))
            await other.does(puts(b=2))
            file, old_id = file_of(tmp_path / "sessions", one), one.id
            file.unlink()
            match thing:
                case "page":
                    file.write_text("<html>" * 100)
                case "large":
                    file.write_bytes(b"\0")
                    os.truncate(file, 10_000_000)
                case "link":
                    file.symlink_to(target)
                case "dangling":
                    file.symlink_to(tmp_path / "nothing")
                case "loop":
                    file.symlink_to(file)
                case "directory":
                    file.mkdir()
                case "pipe":
                    os.mkfifo(file)
                case "socket":
                    monkeypatch.chdir(file.parent)  # an address has 107 characters at most
                    with closing(socket.socket(socket.AF_UNIX)) as listener:
                        listener.bind(file.name)
            assert await self.look_and_write(one, other) == [{}, {"new": True}]
            assert one.id != old_id
            clock.advance(DAY)
            await files.delete_expired()
            assert file.name in {entry.name for entry in os.scandir(file.parent)}  # it is too young
        assert target.read_text() == "keep me"
        assert not (tmp_path / "nothing").exists()

    async def test_a_sweep_goes_on_past_what_it_can_not_read(
        self, files: FileStore, record: Record, clock: Clock, tmp_path: Path
    ) -> None:
        keys = [f"{number:02x}{'0' * 62}" for number in range(256)]
        for key in keys:
            await files.create(key, record)
        for foreign in (f"80{'1' * 62}", "80/lost+found", f"81{'1' * 62}"):
            (tmp_path / "sessions" / foreign[:2] / foreign.rpartition("/")[2]).mkdir()
        (tmp_path / "sessions" / "80" / "notes.txt").write_text("foreign")
        clock.advance(2 * HOUR)
        swept = 0
        for _ in range(4):
            with suppress(StoreUnavailable):
                swept += await files.delete_expired()
        assert swept == len(keys)
        assert (tmp_path / "sessions" / "80" / "notes.txt").exists()

    async def test_a_sweep_goes_on_past_a_writer_that_hangs(
        self,
        files: FileStore,
        record: Record,
        clock: Clock,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        keys = [f"{number:02x}{'0' * 62}" for number in range(256)]
        for key in keys:
            await files.create(key, record)
        clock.advance(2 * HOUR)
        monkeypatch.setattr(locks, "TIMEOUT", 0.01)
        folder = tmp_path / "sessions" / "80"
        lock = os.open(folder / "lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert await files.delete_expired() == len(keys) - 1
        os.close(lock)
        assert f"Could not sweep {folder}: no turn to write within 0.01 s" in caplog.messages
        assert await files.delete_expired() == 1

    async def test_a_damaged_database_means_503(self, tmp_path: Path, clock: Clock) -> None:
        database = tmp_path / "app.db"
        store = SQLiteStore(f"sqlite:///{database}", clock=clock)
        await store.create_table()
        await store.aclose()
        database.write_bytes(b"\xff" * database.stat().st_size)
        store = SQLiteStore(f"sqlite:///{database}", clock=clock)
        async with Site(store, clock).visitor("A" * 43) as visitor:
            for act in (dict, puts(a=1), Session.flush):
                assert await is_unavailable(visitor, act)
        await store.aclose()

    async def test_a_damaged_row_means_no_session_and_a_line_in_the_log(
        self, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        database = tmp_path / "app.db"
        store = SQLiteStore(f"sqlite:///{database}", clock=clock)
        await store.create_table()
        async with Site(store, clock).visitor() as one, Site(store, clock).visitor() as other:
            await one.does(puts(a=1))
            await other.does(puts(b=2))
            assert one.id is not None
            key = hashlib.sha256(one.id.encode()).hexdigest()
            for damaged in (b"", b"\xff\xfe", b"[1]", b"null", b'{"a":'):
                with sqlite3.connect(database) as connection:
                    connection.execute(
                        "UPDATE app_sessions SET data = ? WHERE key = ?", (damaged, key)
                    )
                connection.close()
                caplog.clear()
                assert await one.sees() == {}
                assert "damaged" in caplog.text
                assert await other.sees() == {"b": 2}
        await store.aclose()


class TestTurns:
    """A lock belongs to the work, not to the process, its children or a file that is gone."""

    @staticmethod
    def run(program: str, *args: object) -> subprocess.Popen[str]:
        """Another Python, which may fork: it has no threads yet."""
        command = [sys.executable, "-W", "error", "-c", program, *map(str, args)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    async def test_a_writer_that_was_stopped_in_one_folder_holds_up_no_other(
        self, files: FileStore, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "TIMEOUT", 2)
        keys = [f"{number:02x}{'0' * 62}" for number in range(256)]
        await files.create(keys[0x80], record)
        stopped = os.open(tmp_path / "sessions" / "80" / "lock", os.O_RDWR)
        fcntl.flock(stopped, fcntl.LOCK_EX)
        waiting = [
            asyncio.create_task(files.touch(keys[0x80], record.expires + number))
            for number in range(20)
        ]
        sweep = asyncio.create_task(files.delete_expired())
        await asyncio.sleep(0.1)  # all of them have tried
        async with asyncio.timeout(1):
            for key in keys[:0x80] + keys[0x81:]:
                assert await files.create(key, record)
        assert not any(task.done() for task in waiting)
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in failed} == {StoreUnavailable}
        assert str(failed[0]).startswith("file store: no turn to write within 2 s: ")
        os.close(stopped)
        assert await files.touch(keys[0x80], record.expires)
        await sweep

    async def test_a_sign_out_everywhere_waits_for_one_folder_and_leaves_no_other(
        self, files: FileStore, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "TIMEOUT", 0.1)
        keys = [f"{number:02x}{'0' * 62}" for number in range(8)]
        for key in keys:
            await files.create(key, replace(record, owner=ADA))
        stopped = os.open(tmp_path / "sessions" / "03" / "lock", os.O_RDWR)
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="no turn to write"):
            await files.delete_owned(ADA)
        assert [await files.load(key) is not None for key in keys] == [
            key == keys[3] for key in keys
        ]
        os.close(stopped)
        assert await files.delete_owned(ADA) == 1

    async def test_a_child_that_is_forked_meanwhile_inherits_no_lock(
        self, files: FileStore, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = """
import os, signal, sys, time
from serversessions.stores.file.locks import Lock
lock = Lock(sys.argv[1], None)
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
if sys.argv[2] == "released":
    lock.release()
    time.sleep(600)
os.kill(os.getpid(), signal.SIGKILL)
"""
        monkeypatch.setattr(locks, "TIMEOUT", 0.5)
        await files.create("ab" + "0" * 62, record)
        for how in ("released", "killed"):
            parent = self.run(program, tmp_path / "sessions" / "ab", how)
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            try:
                if how == "killed":
                    assert parent.wait(10) == -signal.SIGKILL
                assert await files.touch("ab" + "0" * 62, record.expires)
            finally:
                os.kill(child, signal.SIGKILL)
                parent.kill()
                parent.communicate()

    async def test_a_store_that_was_used_before_a_fork_works_in_the_child(
        self, files: FileStore, record: Record, tmp_path: Path
    ) -> None:
        program = """
import asyncio, os, sys, time, warnings
from serversessions import Record
from serversessions.stores.file import FileStore
warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process that has threads

async def use(key):
    async with asyncio.timeout(10):
        assert await store.create(key, Record(b"{}", time.time(), time.time() + 60))
        assert await store.load(key)
        assert await store.delete_expired() == 0
        assert await store.delete(key) == 1

store = FileStore(sys.argv[1])
asyncio.run(use("ab" + "0" * 62))
child = os.fork()
asyncio.run(use(("cd" if child else "ef") + "0" * 62))
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""
        process = self.run(program, tmp_path / "sessions")
        await asyncio.to_thread(process.communicate)
        assert process.returncode == 0

    async def test_a_lock_that_is_removed_while_it_is_held_lets_only_one_update_win(
        self, files: FileStore, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, other = new_key(), FileStore(tmp_path / "sessions")
        await files.create(key, record)
        reached, go_on = threading.Event(), threading.Event()
        real_write_new = disk.write_new

        def write_slowly(*args: Any, **options: Any) -> None:
            monkeypatch.setattr(disk, "write_new", real_write_new)
            reached.set()
            go_on.wait(10)
            real_write_new(*args, **options)

        monkeypatch.setattr(disk, "write_new", write_slowly)
        slow = asyncio.create_task(files.update(key, replace(record, data=b"slow", version=2)))
        assert await asyncio.to_thread(reached.wait, 10)
        (tmp_path / "sessions" / key[:2] / "lock").unlink()
        assert await other.update(key, replace(record, data=b"fast", version=2))
        go_on.set()
        assert not await slow
        assert await files.load(key) == replace(record, data=b"fast", version=2)
        await other.aclose()


@dataclass
class Figures:
    """What a massacre of writers came to."""

    kills: int = 0
    writes: int = 0
    checked: int = 0
    wrong: int = 0  # torn, lost, or neither the old nor the new value
    in_doubt: int = 0  # killed between the beginning of a write and the news of its end
    written: int = 0  # of these, those that were done


def open_disk_store(where: str) -> SessionStore:
    return SQLiteStore(where) if where.startswith("sqlite") else FileStore(where)


class Series:
    """Records that one process writes again and again; every value tells whether it is whole.

    Those with an odd number move to a new key with each write, as in a rotation.
    """

    SIZE = 4

    def __init__(self, name: str) -> None:
        self._name = name

    def key(self, number: int, version: int) -> str:
        name = f"{self._name} {number} {version if number % 2 else 0}"
        return "ab" + hashlib.sha256(name.encode()).hexdigest()[2:]  # all in one sub-folder

    def record(self, number: int, version: int) -> Record:
        data = f"{self._name} {number} {version};".encode() * 100 * (number + 1) ** 2
        return Record(data, 0, 4e9, version, "ada" if number > 1 else None)

    async def newest(self, store: SessionStore, number: int, expected: int) -> int | None:
        """The version that the store has: the expected one or the next. None: neither is whole."""
        for version in (expected + 1, expected):
            if await store.load(self.key(number, version)) == self.record(number, version):
                return version
        return None

    async def write(self, store: SessionStore, number: int, version: int) -> bool:
        """Write one version over the one before."""
        old, new = self.key(number, version - 1), self.key(number, version)
        record = self.record(number, version)
        if version == 1:
            return await store.create(new, record)
        return await store.update(old, record, move_to=new if number % 2 else None)


def write_until_killed(where: str, series: Series, expected: list[int], told: Connection) -> None:
    """Tell which versions are there, then each one that is about to be written."""

    async def write() -> None:
        store = open_disk_store(where)
        found = [await series.newest(store, *item) for item in enumerate(expected)]
        told.send(found)
        versions = [version or 0 for version in found]
        for number in iter(lambda: random.randrange(series.SIZE), None):
            versions[number] += 1
            told.send((number, versions[number]))
            assert await series.write(store, number, versions[number])

    asyncio.run(write())


class Victim:
    """A process that writes a series until it is killed, and is then started again."""

    def __init__(self, where: str, name: str, figures: Figures) -> None:
        self._where = where
        self._figures = figures
        self._series = Series(name)
        self._versions = [0] * Series.SIZE
        self._doubt: tuple[int, int] | None = None
        self.start()

    def start(self) -> None:
        fork = multiprocessing.get_context("fork")
        self._told, told = fork.Pipe(duplex=False)
        self._process = fork.Process(
            target=write_until_killed,
            args=(self._where, self._series, self._versions, told),
            daemon=True,
        )
        self._process.start()
        told.close()

    def meet(self) -> None:
        """Compare what the process finds with what the one before it had written."""
        if not self._told.poll(20):
            raise TimeoutError("a writer waits for a lock that a dead one holds")
        self._compare(self._told.recv())

    def kill(self) -> None:
        """Kill it, and learn how far it came."""
        self._process.kill()
        self._process.join()
        assert self._process.exitcode == -signal.SIGKILL, "it had failed before"
        self._process.close()
        self._figures.kills += 1
        with suppress(EOFError):
            while begun := self._told.recv():
                if self._doubt is not None:  # it went on, so that one was done
                    self._versions[self._doubt[0]] = self._doubt[1]
                    self._figures.writes += 1
                self._doubt = begun
        self._told.close()

    async def look(self, store: SessionStore) -> None:
        """The same comparison, by a process that lives on."""
        items = enumerate(self._versions)
        self._compare([await self._series.newest(store, *item) for item in items])

    async def write_on(self, store: SessionStore) -> None:
        for number, version in enumerate(self._versions):
            assert await self._series.write(store, number, version + 1)

    def _compare(self, found: list[int | None]) -> None:
        for number, version in enumerate(found):
            doubted = self._doubt is not None and self._doubt[0] == number
            before = self._versions[number]
            allowed = {before, before + 1} if doubted else {before}
            self._figures.checked += before > 0
            # A record that was never begun is not there.
            if version not in allowed and (before > 0 or version is not None):
                self._figures.wrong += 1
            self._figures.in_doubt += doubted
            self._figures.written += doubted and version == before + 1
            self._versions[number] = version or 0
        self._doubt = None


def massacre(where: str, kills: int) -> Figures:
    """Kill writers at random instants; in a process without threads, which may fork."""

    async def prepare() -> None:
        store = open_disk_store(where)
        await store.ping()
        await store.aclose()

    asyncio.run(prepare())  # imports what the children would each import
    gc.freeze()  # otherwise a collection in a child copies every page
    figures = Figures()
    victims = [Victim(where, name, figures) for name in ("one", "two")]
    for kill in range(kills - len(victims)):
        victim = victims[kill % 2]
        victim.meet()
        if figures.wrong:
            return figures
        time.sleep(random.random() * 0.003)
        victim.kill()
        victim.start()
    for victim in victims:
        victim.meet()
        victim.kill()

    async def finish() -> None:
        store = open_disk_store(where)
        for victim in victims:
            await victim.look(store)
            await asyncio.wait_for(victim.write_on(store), 10)
        await store.aclose()

    asyncio.run(finish())
    return figures


class TestKilledWriters:
    """Whatever the instant of a kill -9, a record is the old one or the new one."""

    @staticmethod
    async def kill_writers(where: str, kills: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            running = asyncio.get_running_loop().run_in_executor(process, massacre, where, kills)
            figures = await running
        print(f"\n{where.partition(':')[0]}: {figures}")
        assert figures.wrong == 0
        assert figures.kills == kills
        assert figures.checked > kills
        assert 0 < figures.written < figures.in_doubt

    async def test_killed_writers_tear_no_file_and_leave_no_lock(
        self, files: FileStore, tmp_path: Path
    ) -> None:
        await self.kill_writers(str(tmp_path / "sessions"), 200)

        left = list((tmp_path / "sessions").rglob("*.tmp"))
        print(f"{len(left)} temporary files were left")
        assert left
        for file in left:
            os.utime(file, (0, 0))
        assert await files.delete_expired() == 0
        assert list((tmp_path / "sessions").rglob("*.tmp")) == []

        assert await files.delete_owned("ada") > 0
        contents = [file.read_bytes() for file in (tmp_path / "sessions" / "ab").iterdir()]
        assert {Record.from_bytes(raw).owner for raw in contents if raw} == {None}

    async def test_killed_writers_tear_no_row_of_sqlite(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/app.db"
        store = SQLiteStore(url)
        await store.create_table()
        await store.aclose()
        await self.kill_writers(url, 50)
        connection = sqlite3.connect(tmp_path / "app.db")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
