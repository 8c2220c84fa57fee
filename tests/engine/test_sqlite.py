"""SQLite's file belongs to SQLite: nothing of ours opens it beside, or the process loses its locks.

https://sqlite.org/howtocorrupt.html, section 2.2
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from my_app.migrations import migrate
from my_app.sessions import Record, SessionStore
from my_app.sessions.stores.database import DatabaseStore

from .conftest import Clock
from .contract import HOUR, new_key

AT_ONCE = 50
MIGRATE = """
import asyncio, sys
from my_app.migrations import migrate
asyncio.run(migrate(sys.argv[1]))
"""
COUNT = """
import sqlite3, sys
print(*sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM sessions").fetchone())
"""


async def fill(store: SessionStore, clock: Clock) -> int:
    """Many sessions at once, so that the store has several connections; those acknowledged."""
    record = Record(b"{}", clock(), clock() + HOUR)
    return sum(await asyncio.gather(*(store.create(new_key(), record) for _ in range(AT_ONCE))))


def migrate_elsewhere(url: str) -> None:
    subprocess.run([sys.executable, "-c", MIGRATE, url], check=True)


def count_elsewhere(database: Path) -> int:
    """The sessions that another process finds."""
    command = [sys.executable, "-c", COUNT, str(database)]
    return int(subprocess.run(command, check=True, capture_output=True).stdout)


def locks_on(file: Path) -> int:
    """The POSIX locks that this process holds on a file, as the kernel tells."""
    inode, locks = f":{file.stat().st_ino}", Path("/proc/locks").read_text().splitlines()
    mine = (line.split() for line in locks if " POSIX " in line and f" {os.getpid()} " in line)
    return sum(lock[-3].endswith(inode) for lock in mine)


async def test_another_process_that_migrates_costs_no_session(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "app.db"
    url = f"sqlite:///{database}"
    await migrate(url)
    store = DatabaseStore(url, clock=clock)
    acknowledged = await fill(store, clock)
    migrate_elsewhere(url)
    acknowledged += await fill(store, clock)
    assert acknowledged == 2 * AT_ONCE
    assert count_elsewhere(database) == acknowledged
    await store.aclose()


async def test_a_new_connection_drops_no_lock_of_the_others(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "app.db"
    url = f"sqlite:///{database}"
    await migrate(url)
    first, second = DatabaseStore(url, clock=clock), DatabaseStore(url, clock=clock)
    await fill(first, clock)
    # In WAL mode an open connection holds a shared lock on the file and one on its index.
    files = (database, tmp_path / "app.db-shm")
    assert all(map(locks_on, files))
    await fill(second, clock)
    assert all(map(locks_on, files)), "after another store has connected"
    await migrate(url)
    assert all(map(locks_on, files)), "after a migration in this process"
    await second.aclose()
    assert all(map(locks_on, files)), "after another store has closed its connections"
    await first.aclose()


async def test_its_files_are_private_from_their_first_moment(tmp_path: Path, clock: Clock) -> None:
    database = tmp_path / "new" / "app.db"
    url = f"sqlite:///{database}"
    before = os.umask(0)
    try:
        await migrate(url)
        store = DatabaseStore(url, clock=clock)
        await fill(store, clock)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in database.parent.iterdir()}
    assert modes == dict.fromkeys(("app.db", "app.db-wal", "app.db-shm"), 0o600)
    await store.aclose()


async def test_a_database_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    database = tmp_path / "app.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE mine (n)")
    database.chmod(0o640)
    await migrate(f"sqlite:///{database}")
    assert database.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["app.db"]
