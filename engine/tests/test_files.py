"""What the file store keeps in its folder: private records, an index of owners, nothing expired."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from serversessions import Record
from serversessions.stores.file import FileStore, sweep
from serversessions.testing import Clock
from serversessions.testing.contract import ADA, BOB, HOUR, new_key

DAY = 24 * HOUR


@pytest.fixture
def record(clock: Clock) -> Record:
    return Record(b"{}", clock(), clock() + HOUR)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
async def store(folder: Path, clock: Clock) -> AsyncIterator[FileStore]:
    store = FileStore(folder, clock=clock)
    yield store
    await store.aclose()


async def test_files_are_private(tmp_path: Path, record: Record) -> None:
    store = FileStore(tmp_path / "sessions")
    await store.create(new_key(), replace(record, owner=ADA))
    found = [tmp_path / "sessions", *(tmp_path / "sessions").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {0o600}
    await store.aclose()


@pytest.mark.parametrize("content", [b"", b"foreign", b"\0" * 100])
async def test_a_corrupt_file_is_no_session(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    store, key = FileStore(tmp_path), new_key()
    await store.create(key, record)
    (tmp_path / key[:2] / key).write_bytes(content)
    assert await store.load(key) is None
    assert key in caplog.text
    await store.aclose()


async def test_another_process_sees_the_same_files(tmp_path: Path, record: Record) -> None:
    first, second, key = FileStore(tmp_path), FileStore(tmp_path), new_key()
    await first.create(key, record)
    assert await second.update(key, replace(record, data=b"second", version=2))
    assert not await first.update(key, replace(record, data=b"first", version=2))
    assert await first.load(key) == replace(record, data=b"second", version=2)
    await first.aclose()
    await second.aclose()


@pytest.mark.parametrize("size", [0, 300, 32_768, 100_000])
async def test_a_file_is_read_whole_whether_at_once_or_in_a_thread(
    tmp_path: Path, record: Record, size: int
) -> None:
    store, key, other = FileStore(tmp_path), new_key(), new_key()
    large = replace(record, data=bytes(size))
    await store.create(key, large)
    assert [await store.load(key) for _ in range(3)] == [large] * 3
    assert await store.load(other) is None
    await store.aclose()


async def test_with_fsync_file_and_folder_are_flushed_before_the_answer(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[int, str] = {}
    flushed: list[str] = []
    real_open, real_fsync = os.open, os.fsync

    def note_and_open(path: str, *rest: int) -> int:
        file = real_open(path, *rest)
        names[file] = path
        return file

    def note_and_flush(file: int) -> None:
        flushed.append(names[file])
        real_fsync(file)

    monkeypatch.setattr(os, "open", note_and_open)
    monkeypatch.setattr(os, "fsync", note_and_flush)
    store, key, new = FileStore(tmp_path / "s", fsync=True), new_key(), new_key()
    folder, new_folder = (str(tmp_path / "s" / name[:2]) for name in (key, new))
    await store.create(key, replace(record, owner=ADA))
    marker = next((tmp_path / "s" / "owners").glob("*/*"))
    assert flushed[-3] == str(marker)  # before the record that it leads to
    assert flushed[-2].endswith(".tmp")
    assert flushed[-1] == folder
    assert {str(tmp_path), str(tmp_path / "s")} <= set(flushed)  # in which folders are new
    flushed.clear()
    await store.update(key, replace(record, version=2, owner=ADA))
    assert [Path(path).suffix for path in flushed] == [".tmp", ""]
    flushed.clear()
    await store.update(key, replace(record, version=3, owner=ADA), move_to=new)
    assert flushed[-2:] == [new_folder, folder]  # the old one goes when the new one is safe
    flushed.clear()
    await store.delete(new)
    assert flushed == [new_folder]
    await store.aclose()


async def test_without_fsync_nothing_is_flushed(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: int) -> None:
        raise AssertionError("flushed")

    monkeypatch.setattr(os, "fsync", fsync)
    store, key = FileStore(tmp_path), new_key()
    await store.create(key, replace(record, owner=ADA))
    await store.update(key, replace(record, version=2))
    await store.delete(key)
    await store.aclose()


# The index of owners ------------------------------------------------------------------------------


async def sign_in(store: FileStore, record: Record, count: int) -> list[str]:
    """The keys of so many new sessions of one user."""
    keys = [new_key() for _ in range(count)]
    for key in keys:
        assert await store.create(key, replace(record, owner=ADA))
    return keys


def marks_in(folder: Path) -> list[Path]:
    return list(folder.glob("owners/??/*/*"))


def copy_by_cp(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", "--", *source.iterdir(), target], check=True)


def copy_by_tar(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    reader = ["tar", "-C", str(source), "-cf", "-", "."]
    archive = subprocess.run(reader, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-C", target, "-xf", "-"], check=True, input=archive)


def remove_empty_files(folder: Path) -> None:
    subprocess.run(["find", folder, "-type", "f", "-empty", "-delete"], check=True)


Copy = Callable[[Path, Path], None]
by_each_tool = pytest.mark.parametrize("copy", [copy_by_cp, copy_by_tar])


async def back_up_while_users_sign_in(
    store: FileStore, folder: Path, record: Record, copy: Copy
) -> list[str]:
    """Back up the index first and the records later, as a tool may; the keys of one user."""
    backup = folder.with_name("backup")
    before = await sign_in(store, record, 5)
    assert await store.delete_owned(BOB) == 0  # finds out that the index is whole
    copy(folder, backup)
    after = await sign_in(store, record, 5)
    index = folder.with_name("index")
    (backup / "owners").rename(index)
    copy(folder, backup)
    shutil.rmtree(backup / "owners")
    index.rename(backup / "owners")
    return before + after


@by_each_tool
async def test_no_session_survives_its_users_end_after_a_restore(
    store: FileStore, folder: Path, record: Record, copy: Copy
) -> None:
    keys = await back_up_while_users_sign_in(store, folder, record, copy)
    shutil.rmtree(folder)
    copy(folder.with_name("backup"), folder)
    assert len(marks_in(folder)) == 5
    assert len(await FileStore(folder).list_owned(ADA)) == 10
    restored = FileStore(folder)
    assert await restored.delete_owned(ADA) == 10
    assert [await restored.load(key) for key in keys] == [None] * 10


@by_each_tool
async def test_a_sweep_mends_the_index_after_a_restore(
    store: FileStore, folder: Path, record: Record, copy: Copy
) -> None:
    await back_up_while_users_sign_in(store, folder, record, copy)
    shutil.rmtree(folder)
    copy(folder.with_name("backup"), folder)
    await FileStore(folder).delete_expired()
    assert len(marks_in(folder)) == 10


async def test_no_session_survives_its_users_end_after_the_index_was_removed(
    store: FileStore, folder: Path, record: Record
) -> None:
    keys = await sign_in(store, record, 5)
    await store.delete_expired()
    shutil.rmtree(folder / "owners")
    assert await store.delete_owned(ADA) == 5
    assert [await store.load(key) for key in keys] == [None] * 5


async def test_a_cleaner_of_empty_files_takes_no_mark(
    store: FileStore, folder: Path, record: Record
) -> None:
    keys = await sign_in(store, record, 5)
    await store.delete_expired()
    remove_empty_files(folder)
    assert await store.touch(keys[0], record.expires + 1)
    assert await store.delete_owned(ADA) == 5


@pytest.mark.parametrize("how", ["update", "touch"])
async def test_a_mark_is_never_older_than_its_record(
    store: FileStore, folder: Path, record: Record, how: str
) -> None:
    [key] = await sign_in(store, record, 1)
    [mark] = marks_in(folder)
    long_ago = time.time() - 40 * DAY
    os.utime(mark, (long_ago, long_ago))
    later = record.expires + DAY
    if how == "touch":
        assert await store.touch(key, later)
    else:
        assert await store.update(key, replace(record, version=2, expires=later, owner=ADA))
    found, expected = mark.stat(), (folder / key[:2] / key).stat()
    assert found.st_atime == pytest.approx(expected.st_atime, abs=1)
    assert found.st_mtime == pytest.approx(expected.st_mtime, abs=1)


@pytest.mark.parametrize("how", ["update", "touch"])
async def test_whatever_saves_a_session_marks_it_again(
    store: FileStore, folder: Path, record: Record, how: str
) -> None:
    [key] = await sign_in(store, record, 1)
    await store.delete_expired()
    for mark in marks_in(folder):
        mark.unlink()
    if how == "touch":
        assert await store.touch(key, record.expires + 1)
    else:
        assert await store.update(key, replace(record, version=2, owner=ADA))
    assert await store.delete_owned(ADA) == 1


async def test_a_repair_finds_every_mark_that_is_missing(
    store: FileStore, folder: Path, record: Record, clock: Clock
) -> None:
    keys = await sign_in(store, record, 5)
    await sign_in(store, replace(record, expires=clock() - 1), 1)  # it may look live elsewhere
    await store.create(new_key(), record)
    assert await store.repair() == 0
    for mark in marks_in(folder):
        mark.unlink()
    assert await store.repair() == 6
    assert len(marks_in(folder)) == 6
    assert await store.delete_owned(ADA) == 5
    assert [await store.load(key) for key in keys] == [None] * 5


# Sweeps -------------------------------------------------------------------------------------------


async def test_a_sweep_removes_what_is_old_and_its_own_alone(
    store: FileStore, folder: Path, record: Record
) -> None:
    key = "ab" + "0" * 62
    await store.create(key, record)
    ours = ["0123456789abcdef.tmp", "ab" + "1" * 62]  # left by a writer that died; damaged
    foreign = ["notes.txt", "old.tmp", "ab" + "1" * 61, "AB" + "1" * 62, "lock.bak", "lost+found"]
    for name in ours + foreign:
        (folder / "ab" / name).write_text("<html>")
        os.utime(folder / "ab" / name, (0, 0))
    young = folder / "ab" / "fedcba9876543210.tmp"
    young.touch()
    await store.delete_expired()
    found = {path.name for path in (folder / "ab").iterdir()}
    assert found == {key, "lock", young.name, *foreign}
    assert await store.load(key) == record


async def test_a_sweep_reads_no_live_file(
    tmp_path: Path, record: Record, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (expired, *live) = FileStore(tmp_path, clock=clock), [new_key() for _ in range(10)]
    await store.create(expired, record)
    for key in live:
        await store.create(key, replace(record, expires=clock() + 3 * HOUR))
        await store.update(key, replace(record, version=2, expires=clock() + 2 * HOUR))
        await store.touch(key, clock() + 4 * HOUR)
        await store.load(key)
    await store.delete_expired()  # the first one looks at the index of owners
    opened: list[str] = []
    real_open = os.open

    def note_and_open(path: str, *rest: int) -> int:
        opened.append(os.path.basename(path))
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", note_and_open)
    clock.advance(3 * HOUR)
    assert await store.delete_expired() == 1
    assert set(opened) == {expired, "lock", "whole"}
    await store.aclose()


async def test_a_sweep_removes_no_copy_of_a_live_file(
    tmp_path: Path, record: Record, clock: Clock
) -> None:
    store, key = FileStore(tmp_path, clock=clock), new_key()
    await store.create(key, record)
    file = tmp_path / key[:2] / key
    os.utime(file, (0, 0))
    assert await store.delete_expired() == 0
    assert await store.load(key) == record
    assert file.stat().st_atime == pytest.approx(record.expires)
    assert file.stat().st_mtime == 0
    await store.aclose()


@pytest.fixture
def looked_into(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sub-folders that are looked into from now on."""
    names: list[str] = []
    real_scandir = os.scandir

    def note_and_scan(path: str) -> object:
        names.append(os.path.basename(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", note_and_scan)
    return names


async def test_a_sweep_looks_only_where_something_is_due(
    store: FileStore, folder: Path, record: Record, clock: Clock, looked_into: list[str]
) -> None:
    soon, late = "ab" + new_key()[2:], "cd" + new_key()[2:]
    await store.create(soon, record)
    await store.create(late, replace(record, expires=clock() + DAY))
    await store.delete_expired()
    looked_into.clear()
    await store.delete_expired()
    assert looked_into == []
    await store.update(late, replace(record, version=2, expires=clock() + HOUR / 4))
    clock.advance(HOUR / 2)
    assert await store.delete_expired() == 1
    assert looked_into == ["cd"]
    looked_into.clear()
    clock.advance(HOUR)
    assert await store.delete_expired() == 1
    assert looked_into == ["ab", "cd"]  # now and then everywhere


async def test_workers_share_one_sweep(
    store: FileStore, folder: Path, record: Record, clock: Clock, looked_into: list[str]
) -> None:
    for number in range(256):
        await store.create(f"{number:02x}{'0' * 62}", record)
    clock.advance(2 * HOUR)
    assert await store.delete_expired() == 256
    looked_into.clear()
    other = FileStore(folder, clock=clock)
    assert await other.delete_expired() == 0
    assert looked_into == []
    await other.aclose()


async def test_what_takes_long_to_sweep_is_swept_seldom(
    store: FileStore,
    record: Record,
    clock: Clock,
    looked_into: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0, 0.04] * 10)  # seconds: as with a million files
    monkeypatch.setattr(sweep, "thread_time", lambda: next(times))
    for number, minutes in enumerate((1, 30)):
        key = "ab" + f"{number:062}"
        await store.create(key, replace(record, expires=clock() + 60 * minutes))
    await store.delete_expired()
    looked_into.clear()
    clock.advance(2 * 60)
    assert await store.delete_expired() == 0
    assert looked_into == []
    clock.advance(17 * 60)
    assert await store.delete_expired() == 1
    assert looked_into == ["ab"]


async def test_a_sweep_goes_on_where_its_limit_stopped_the_last(
    store: FileStore, record: Record, clock: Clock
) -> None:
    for number in range(25):
        await store.create(f"ab{number:062}", record)
    clock.advance(2 * HOUR)
    assert [await store.delete_expired(10) for _ in range(4)] == [10, 10, 5, 0]
