"""The stores keep the contract; and what only one of them promises."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from serversessions import CorruptRecord, Record
from serversessions.stores.file import FileStore
from serversessions.stores.memory import MemoryStore
from serversessions.testing import Clock, StoreContract
from serversessions.testing.contract import ADA, HOUR, new_key


class TestEveryStore(StoreContract):
    """Memory, and each store that a config/*.toml names."""


@pytest.fixture
def record(clock: Clock) -> Record:
    return Record(b"{}", clock(), clock() + HOUR)


def test_a_damaged_record_is_not_read(record: Record) -> None:
    raw = replace(record, owner=ADA).to_bytes()
    flipped = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    for damaged in (b"", raw[:20], raw[:-1], raw + b"x", b"<html>" * 20, *flipped):
        with pytest.raises(CorruptRecord):
            Record.from_bytes(damaged)


async def test_a_full_memory_store_drops_the_oldest(record: Record, clock: Clock) -> None:
    store = MemoryStore(max_sessions=3, clock=clock)
    keys = [new_key() for _ in range(5)]
    for key in keys:
        await store.create(key, record)
    assert [await store.load(key) is not None for key in keys] == [False, False, True, True, True]


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


async def test_a_sweep_removes_what_a_killed_writer_left(tmp_path: Path, record: Record) -> None:
    store, key = FileStore(tmp_path), new_key()
    await store.create(key, record)
    old, young = (tmp_path / key[:2] / name for name in ("old.tmp", "young.tmp"))
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    await store.delete_expired()
    assert not old.exists()
    assert young.exists()
    assert await store.load(key) == record
    await store.aclose()


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
    opened: list[str] = []
    real_open = os.open

    def note_and_open(path: str, *rest: int) -> int:
        opened.append(os.path.basename(path))
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", note_and_open)
    clock.advance(3 * HOUR)
    assert await store.delete_expired() == 1
    assert set(opened) == {expired, "lock"}
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
