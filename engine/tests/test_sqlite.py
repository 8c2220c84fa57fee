"""SQLite where many share it: its locks, its files, and copies of it that are taken meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import secrets
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from serversessions import Record, StoreUnavailable
from serversessions.migrations import migrate
from serversessions.stores.sqlite import SQLiteStore
from serversessions.testing.contract import HOUR, new_key

from .faults import assert_unavailable, create_table, opened, site_at
from .test_server_faults import PATIENCE, TIMEOUT
from .test_sessions import puts

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


OPEN = """
import asyncio, select, sys, time
from serversessions import Record
from serversessions.migrations import migrate
from serversessions.stores import open_store
"""
MIGRATE = f"{OPEN}asyncio.run(migrate(sys.argv[1], app='app', migrations=None))"
PING = f"{OPEN}asyncio.run(open_store(sys.argv[1]).ping())"
PURGE = f"{OPEN}asyncio.run(open_store(sys.argv[1]).delete_expired())"
COUNT = """
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM app_sessions").fetchone())
"""
WRITE_ON = f"""{OPEN}
async def write_on(url):
    store, number = open_store(url), 0
    while select.select([sys.stdin], [], [], 0.001) == ([], [], []):
        begun, number = time.monotonic(), number + 1
        await store.create(f"{{number:064}}", Record(b"", time.time(), time.time() + 3600))
        print(time.monotonic() - begun, flush=True)
asyncio.run(write_on(sys.argv[1]))
"""
FORK = f"""{OPEN}
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process that has threads
fork, url = multiprocessing.get_context("fork"), sys.argv[1]

async def create(store, count):
    keys = [f"{{time.time_ns() + number:064}}" for number in range(count)]
    record = Record(b"", time.time(), time.time() + 3600)
    assert all(await asyncio.gather(*(store.create(key, record) for key in keys)))
    await asyncio.gather(*(store.load(key) for key in keys))

def try_to_create(store):
    try:
        asyncio.run(create(store, 10))
        print("open")
    except Exception as error:
        print(error)

def run(store):
    child = fork.Process(target=try_to_create, args=[store])
    child.start()
    child.join()

store = open_store(url)
asyncio.run(create(store, 10))
run(store)
run(open_store(url))
asyncio.run(create(store, 10))
asyncio.run(store.aclose())
run(open_store(url))
"""
COPY = {  # as .backup and .restore of the sqlite3 command do it, and as SQL can
    "backup": """
import sqlite3, sys
sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2], timeout=10))
""",
    "vacuum": """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=10).execute("VACUUM INTO ?", sys.argv[2:])
""",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
async def url(path: Path) -> str:
    """A database with an empty table."""
    url = f"sqlite:///{path}"
    await create_table(url)
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(url)
    yield store
    await store.aclose()


@pytest.fixture
def record() -> Record:
    return Record(b"{}", time.time(), time.time() + HOUR)


def in_another_process(code: str, *arguments: object) -> str:
    """What it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def another_process(code: str, argument: object) -> Iterator[list[bytes]]:
    """It ends when the block does; then this is what it printed after its first line."""
    command = [sys.executable, "-c", code, str(argument)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline()
        lines: list[bytes] = []
        yield lines
        process.stdin.close()
        lines += process.stdout


def locked(path: Path) -> AbstractContextManager[object]:
    """Another process is writing to the database, until the block ends."""
    return another_process(LOCK, path)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows, as on a disk whose last block is taken."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class TestLocks:
    async def test_a_lock_longer_than_the_timeout_means_503_and_then_it_recovers(
        self, url: str, path: Path
    ) -> None:
        async with (
            site_at(url, TIMEOUT) as site,
            site.visitor() as visitor,
            site.visitor() as stranger,
        ):
            await visitor.does(puts(a=1))
            with locked(path):
                async with asyncio.timeout(PATIENCE):
                    assert_unavailable(await visitor.does(puts(a=2)))
                    assert_unavailable(await stranger.does(puts(a=1)))
                assert await visitor.sees() == {"a": 1}
            await visitor.does(puts(b=2))
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_a_shorter_lock_is_waited_for(self, url: str, path: Path) -> None:
        async with site_at(url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with locked(path):
                write = asyncio.create_task(visitor.does(puts(a=2)))
                await asyncio.sleep(0.1)
                assert not write.done()
            assert (await write).status_code == 200
            assert await visitor.sees() == {"a": 2}

    async def test_a_lock_is_waited_for_as_long_as_the_url_says(self, url: str, path: Path) -> None:
        async with site_at(f"{url}?timeout=20", TIMEOUT) as site, site.visitor() as visitor:
            with locked(path):
                write = asyncio.create_task(visitor.does(puts(a=1)))
                await asyncio.sleep(3 * TIMEOUT)
            assert (await write).status_code == 200

    async def test_a_crowd_of_writers_hears_503_within_the_timeout(
        self, url: str, path: Path
    ) -> None:
        async with site_at(url, TIMEOUT) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with locked(path):
                async with asyncio.timeout(PATIENCE):
                    crowd = (visitor.does(puts(a=2)) for _ in range(50))
                    for response in await asyncio.gather(*crowd):
                        assert_unavailable(response)

    async def test_readers_do_not_wait_for_a_lock(self, url: str, path: Path) -> None:
        async with site_at(url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with locked(path):
                crowd = [asyncio.create_task(visitor.does(puts(a=2))) for _ in range(8)]
                await asyncio.sleep(0.05)
                async with asyncio.timeout(4):
                    assert await visitor.sees() == {"a": 1}
            await asyncio.gather(*crowd)

    async def test_a_store_is_not_ready_while_nothing_can_be_written(
        self, url: str, path: Path
    ) -> None:
        async with opened(url, 0.1) as store:
            with locked(path), pytest.raises(StoreUnavailable, match="locked"):
                await store.ping()
            await store.ping()

    async def test_a_store_is_not_ready_while_the_disk_is_full(
        self, store: SQLiteStore, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        await store.ping()  # so says the system, but there is room in the -wal
        with full_disk():
            with pytest.raises(StoreUnavailable):
                await store.create(new_key(), record)
            with pytest.raises(StoreUnavailable):
                await store.ping()
        await store.ping()

    async def test_a_sweep_lets_other_processes_write(
        self, url: str, store: SQLiteStore, path: Path
    ) -> None:
        over = time.time() - HOUR
        rows = [(secrets.token_hex(32), b"x" * 300, over, over, 1, None) for _ in range(10_000)]
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executemany("INSERT INTO app_sessions VALUES (?, ?, ?, ?, ?, ?)", rows)
        with another_process(WRITE_ON, url) as written:
            begun = time.monotonic()
            assert await store.delete_expired(len(rows)) == len(rows)
            took = time.monotonic() - begun
        waits = [float(line) for line in written]
        assert len(waits) > 10
        assert max(waits) < took / 3


class TestFiles:
    """No session is lost by what happens to the files, and nobody else reads them."""

    async def fill(self, store: SQLiteStore, count: int = 50) -> list[str]:
        """Create sessions at once, so that the store has several connections."""
        now, keys = time.time(), [new_key() for _ in range(count)]
        made = (store.create(key, Record(b"{}", now, now + HOUR)) for key in keys)
        assert all(await asyncio.gather(*made))
        await asyncio.gather(*(store.load(key) for key in keys))
        return keys

    async def test_no_lock_of_this_process_is_dropped(
        self, url: str, store: SQLiteStore, path: Path
    ) -> None:
        await self.fill(store)
        held = posix_locks(path)
        assert len(held) >= 2  # in the database, and in its -shm

        other = SQLiteStore(url)
        await self.fill(other)
        await other.ping()
        assert posix_locks(path) == held
        await other.aclose()
        assert posix_locks(path) == held
        await other.create_table()
        await other.aclose()
        assert posix_locks(path) == held
        await migrate(url, app="app", migrations=None)
        assert posix_locks(path) == held

    async def test_what_another_process_does_loses_no_session(
        self, url: str, store: SQLiteStore, path: Path
    ) -> None:
        await self.fill(store)
        for command in (MIGRATE, PING, PURGE):
            in_another_process(command, url)
        await self.fill(store)
        assert in_another_process(COUNT, path) == "100\n"

    async def test_they_are_private(self, tmp_path: Path) -> None:
        store = SQLiteStore(f"sqlite:///{tmp_path}/var/app.db")
        before = os.umask(0)
        try:
            await store.create_table()
        finally:
            os.umask(before)
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "var").iterdir()
        }
        assert modes == {"app.db": 0o600, "app.db-wal": 0o600, "app.db-shm": 0o600}
        await store.aclose()

    async def test_where_there_are_no_hard_links_sqlite_creates_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def link(source: str, target: str) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
        store = SQLiteStore(f"sqlite:///{tmp_path}/var/app.db")
        await store.create_table()
        await self.fill(store)
        await store.aclose()
        assert [file.name for file in (tmp_path / "var").iterdir()] == ["app.db"]

    async def test_a_folder_that_is_none_means_the_store_is_unavailable(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        for wrong in ("file/app.db", "folder"):
            async with opened(f"sqlite:///{tmp_path}/{wrong}") as store:
                with pytest.raises(StoreUnavailable, match=wrong.partition("/")[0]):
                    await store.create_table()

    async def test_a_removed_file_means_503_until_the_table_is_there_again(
        self, url: str, path: Path
    ) -> None:
        async with site_at(url, TIMEOUT) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for file in path.parent.glob("app.db*"):
                file.unlink()
            assert_unavailable(await visitor.does(puts(a=2)))
            await create_table(url)
            assert await visitor.sees() == {}
            await visitor.does(puts(b=2))
            assert await visitor.sees() == {"b": 2}
        async with site_at(url) as another, another.visitor(visitor.id) as same:
            assert await same.sees() == {"b": 2}

    async def test_a_hundred_cancelled_requests_leave_no_connection_behind(
        self, url: str, path: Path
    ) -> None:
        def open_files() -> int:
            return sum("app.db" in str(file.resolve()) for file in Path("/proc/self/fd").iterdir())

        async with site_at(url, TIMEOUT) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for number in range(100):
                request = asyncio.create_task(visitor.does(puts(a=number)))
                await asyncio.sleep(number / 100 * 0.005)
                request.cancel()
                await asyncio.wait([request])
            await visitor.does(puts(a=1))
            assert await visitor.sees() == {"a": 1}
        assert open_files() == 0

    async def test_a_replaced_file_is_the_one_that_counts(
        self, url: str, store: SQLiteStore, path: Path, record: Record
    ) -> None:
        await self.fill(store)
        async with opened(f"{url}-new") as new:
            await new.create_table()
            (key,) = await self.fill(new, 1)
        for file in path.parent.glob("app.db-[sw]*"):
            file.unlink()
        os.replace(f"{path}-new", path)
        assert await store.load(key) is not None
        await self.fill(store)
        assert in_another_process(COUNT, path) == "51\n"


class TestForks:
    async def test_a_child_is_refused_what_its_parent_has_open(self, url: str, path: Path) -> None:
        """It would believe that it holds the parent's locks, and lose sessions."""
        command = [sys.executable, "-c", FORK, url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        said = "database: this process was forked from one that has the database open"
        assert [line[: len(said)] for line in done.stdout.splitlines()] == [said, said, "open"]
        assert done.returncode == 0, done.stderr
        assert in_another_process(COUNT, path) == "30\n"


class TestBackups:
    """A copy holds every session that was acknowledged before it was begun."""

    @pytest.mark.parametrize("command", ["backup", "vacuum"])
    async def test_a_copy_that_is_made_beside_a_running_site_holds_every_session(
        self, store: SQLiteStore, path: Path, command: str
    ) -> None:
        acknowledged: list[str] = []
        more = asyncio.Semaphore(0)

        async def write_on() -> None:
            while True:
                now, key = time.time(), new_key()
                assert await store.create(key, Record(b"{}", now, now + HOUR))
                acknowledged.append(key)
                more.release()

        async with asyncio.TaskGroup() as tasks:
            writers = [tasks.create_task(write_on()) for _ in range(4)]
            for number in range(3):
                for _ in range(50):
                    await more.acquire()
                before, copy = set(acknowledged), f"{path}.{number}"
                await asyncio.to_thread(in_another_process, COPY[command], path, copy)
                with closing(sqlite3.connect(copy)) as connection:
                    kept = {key for (key,) in connection.execute("SELECT key FROM app_sessions")}
                assert before <= kept
            for writer in writers:
                writer.cancel()

    async def test_a_running_site_sees_what_is_restored(
        self, store: SQLiteStore, path: Path, record: Record
    ) -> None:
        saved, later = new_key(), new_key()
        await store.create(saved, record)
        in_another_process(COPY["backup"], path, f"{path}.copy")
        await store.delete(saved)
        await store.create(later, record)
        in_another_process(COPY["backup"], f"{path}.copy", path)
        assert await store.load(saved) == record
        assert await store.load(later) is None
        assert in_another_process(COUNT, path) == "1\n"


def posix_locks(path: Path) -> set[tuple[str, ...]]:
    """Which locks this process holds on a database and its -shm: of what kind, where."""
    inodes = {str(file.stat().st_ino) for file in path.parent.glob("app.db*")}
    lines = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return {
        (kind, access, inode, *span)
        for _, kind, _, access, pid, place, *span in lines
        if (inode := place.rpartition(":")[2]) in inodes and pid == str(os.getpid())
    }
