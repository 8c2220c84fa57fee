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


async def test_a_full_memory_store_drops_the_oldest(record: Record, clock: Clock) -> None:
    store = MemoryStore(max_sessions=3, clock=clock)
    keys = [new_key() for _ in range(5)]
    for key in keys:
        await store.create(key, record)
    assert [await store.load(key) is not None for key in keys] == [False, False, True, True, True]
