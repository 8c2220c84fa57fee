"""The stores keep the contract; and what only one of them promises."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from {{cookiecutter.package_name}}.sessions import CorruptRecord, Record
from {{cookiecutter.package_name}}.sessions.stores.file import FileStore
from {{cookiecutter.package_name}}.sessions.stores.memory import MemoryStore

from .conftest import Clock
from .contract import HOUR, StoreContract, new_key


class TestEveryStore(StoreContract):
    """Memory, and each store that a config/*.toml names."""


@pytest.fixture
def record(clock: Clock) -> Record:
    return Record(b"{}", clock(), clock() + HOUR)


def test_a_damaged_record_is_not_read(record: Record) -> None:
    raw = replace(record, owner="éda").to_bytes()
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
    await store.create(new_key(), replace(record, owner="ada"))
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
