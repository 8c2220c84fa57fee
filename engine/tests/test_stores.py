"""What only the memory store promises, and what all say of a damaged record."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from serversessions import CorruptRecord, Record
from serversessions.stores.memory import MemoryStore
from serversessions.testing import Clock
from serversessions.testing.contract import ADA, HOUR, new_key


@pytest.fixture
def record(clock: Clock) -> Record:
    return Record(b"{}", clock(), clock() + HOUR)


def test_a_damaged_record_is_not_read(record: Record) -> None:
    raw = replace(record, owner=ADA).to_bytes()
    flipped = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    for damaged in (b"", raw[:20], raw[:-1], raw + b"x", b"<html>" * 20, *flipped):
        with pytest.raises(CorruptRecord):
            Record.from_bytes(damaged)


async def who_lives(store: MemoryStore, keys: list[str]) -> list[bool]:
    return [await store.load(key) is not None for key in keys]


async def test_a_full_memory_store_drops_the_oldest_without_an_owner_first(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(max_bytes=50_000, clock=clock)
    large = Record(b"x" * 10_000, clock(), clock() + HOUR)
    signed_in, *visitors = [new_key() for _ in range(8)]
    await store.create(signed_in, replace(large, owner=ADA))
    for key in visitors:
        await store.create(key, large)
    assert await who_lives(store, visitors) == [False] * 4 + [True] * 3
    assert await who_lives(store, [signed_in]) == [True]
    assert caplog.text.count("The memory store is full") == 1


async def test_a_full_memory_store_keeps_what_is_being_written(clock: Clock) -> None:
    store = MemoryStore(max_bytes=50_000, clock=clock)
    small = Record(b"x", clock(), clock() + HOUR)
    keys = [new_key() for _ in range(4)]
    for key in keys:
        await store.create(key, replace(small, data=b"x" * 10_000))
    assert await store.update(keys[0], replace(small, data=b"x" * 30_000, version=2))
    assert await who_lives(store, keys) == [True, False, False, True]
    moved = replace(small, data=b"x" * 40_000, version=3, owner=ADA)
    assert await store.update(keys[0], moved, move_to=new_key())
    assert await who_lives(store, keys) == [False] * 4
    assert await store.list_owned(ADA) != []


async def test_what_leaves_a_memory_store_gives_its_room_back(clock: Clock) -> None:
    store = MemoryStore(max_bytes=50_000, clock=clock)
    lasting, record = new_key(), Record(b"x" * 10_000, clock(), clock() + HOUR)
    await store.create(lasting, record)
    for number in range(20):
        key, new = new_key(), new_key()
        await store.create(key, replace(record, owner=ADA if number % 2 else None))
        await store.update(key, replace(record, version=2), move_to=new, leave=record)
        await store.touch(new, record.expires + 600)
        await store.delete(key, new)
    assert await who_lives(store, [lasting]) == [True]
