"""Loads of one turn of the event loop share a statement, and nothing else."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from serversessions import Record, SessionStore
from serversessions.testing.contract import HOUR, new_key

pytestmark = pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
async def records(store: SessionStore) -> dict[str, Record]:
    """What the store holds."""
    now = time.time()
    records = {new_key(): Record(b"%d" % number, now, now + HOUR) for number in range(200)}
    await asyncio.gather(*(store.create(key, record) for key, record in records.items()))
    return records


async def test_each_gets_its_own(store: SessionStore, records: dict[str, Record]) -> None:
    unknown = [new_key() for _ in range(50)]
    keys = [*records, *unknown, *records]
    found = await asyncio.gather(*(store.load(key) for key in keys))
    assert found == [records.get(key) for key in keys]


@pytest.mark.parametrize("leaving", [slice(0, 1), slice(1, None), slice(None, None, 2)])
async def test_one_that_leaves_takes_nothing_from_the_others(
    store: SessionStore, records: dict[str, Record], leaving: slice
) -> None:
    for turns in range(4):  # of the loop, until they leave
        loads = {key: asyncio.create_task(store.load(key)) for key in list(records)[:20]}
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in list(loads.values())[leaving]:
            task.cancel()
        await asyncio.wait(loads.values(), timeout=10)
        for key, task in loads.items():
            assert task.cancelled() or task.result() == records[key]
        assert any(not task.cancelled() for task in loads.values()) or leaving == slice(1, None)
        assert await store.load(key) == records[key]


async def test_a_change_that_was_acknowledged_is_seen(
    store: SessionStore, records: dict[str, Record]
) -> None:
    async def change_and_load(key: str, record: Record) -> None:
        for version in range(2, 6):
            newer = replace(record, version=version)
            assert await store.update(key, newer)
            assert await store.load(key) == newer

    await asyncio.gather(*(change_and_load(*item) for item in list(records.items())[:30]))
