"""What every session store must do. The author of a custom store runs this against it.

    from serversessions.testing import StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self, clock):
            store = MyStore(clock=clock)
            yield store
            await store.aclose()

``store`` begins empty and asks ``clock`` for the time. The fixture ``clock``, a ``Clock``, comes
from ``serversessions.testing.fixtures``.
"""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from ..store import Record, SessionStore
from .clock import Clock
from .owner_contract import OwnerContract
from .records import ADA, BOB, HOUR, new_key, scan_all

__all__ = ["ADA", "BOB", "HOUR", "StoreContract", "new_key", "scan_all"]


@pytest.mark.anyio
class StoreContract(OwnerContract):
    """One test for each promise of ``SessionStore``."""

    @pytest.fixture
    def record(self, clock: Clock) -> Record:
        """A record that lives for an hour."""
        return Record(b'{"a":1}', created=clock(), expires=clock() + HOUR)

    async def test_what_was_created_is_loaded_unchanged(
        self, store: SessionStore, clock: Clock
    ) -> None:
        record = Record(bytes(range(256)) * 256, clock() - 5, clock() + HOUR, 7, ADA)
        key = new_key()
        assert await store.create(key, record)
        assert await store.load(key) == record

    async def test_a_record_may_be_empty(self, store: SessionStore, record: Record) -> None:
        key = new_key()
        await store.create(key, replace(record, data=b""))
        assert await store.load(key) == replace(record, data=b"")

    async def test_an_unknown_key_has_nothing(self, store: SessionStore, record: Record) -> None:
        key = new_key()
        assert await store.load(key) is None
        assert not await store.update(key, replace(record, version=2))
        assert not await store.touch(key, record.expires)
        assert not await store.delete(key)
        assert await store.load(key) is None

    async def test_create_never_overwrites(self, store: SessionStore, record: Record) -> None:
        key = new_key()
        await store.create(key, record)
        assert not await store.create(key, replace(record, data=b"other"))
        assert await store.load(key) == record

    async def test_of_concurrent_creations_one_wins(
        self, store: SessionStore, record: Record
    ) -> None:
        key = new_key()
        rivals = [replace(record, data=b"%d" % number) for number in range(20)]
        won = await asyncio.gather(*(store.create(key, rival) for rival in rivals))
        assert won.count(True) == 1
        assert await store.load(key) == rivals[won.index(True)]

    async def test_update_replaces_the_version_before(
        self, store: SessionStore, record: Record
    ) -> None:
        key = new_key()
        await store.create(key, record)
        newer = Record(b"new", record.created, record.expires + 60, 2, ADA)
        assert await store.update(key, newer)
        assert await store.load(key) == newer

    @pytest.mark.parametrize("version", [1, 3])
    async def test_update_refuses_any_other_version(
        self, store: SessionStore, record: Record, version: int
    ) -> None:
        key = new_key()
        await store.create(key, record)
        assert not await store.update(key, replace(record, data=b"late", version=version))
        assert await store.load(key) == record

    async def test_of_concurrent_updates_one_wins(
        self, store: SessionStore, record: Record
    ) -> None:
        key = new_key()
        await store.create(key, record)
        rivals = [replace(record, data=b"%d" % number, version=2) for number in range(20)]
        won = await asyncio.gather(*(store.update(key, rival) for rival in rivals))
        assert won.count(True) == 1
        assert await store.load(key) == rivals[won.index(True)]

    async def test_a_moved_record_lives_under_its_new_key_alone(
        self, store: SessionStore, record: Record
    ) -> None:
        old, new = new_key(), new_key()
        await store.create(old, record)
        moved = replace(record, data=b"moved", version=2)
        assert await store.update(old, moved, move_to=new)
        assert await store.load(old) is None
        assert await store.load(new) == moved

    async def test_a_move_can_leave_a_record_under_the_old_key(
        self, store: SessionStore, record: Record
    ) -> None:
        old, new = new_key(), new_key()
        await store.create(old, replace(record, owner=ADA))
        moved = replace(record, version=2, owner=ADA)
        left = Record(b"moved", record.created, record.expires, version=0)
        assert await store.update(old, moved, move_to=new, leave=left)
        assert await store.load(old) == left
        assert await store.load(new) == moved
        assert not await store.update(old, replace(moved, version=3))
        assert await store.delete_owned(ADA) == 1
        assert await store.load(old) == left

    async def test_a_move_that_is_refused_leaves_nothing(
        self, store: SessionStore, record: Record
    ) -> None:
        old, taken = new_key(), new_key()
        for key in (old, taken):
            await store.create(key, record)
        left = replace(record, data=b"moved", version=0)
        moved = replace(record, version=2)
        assert not await store.update(old, moved, move_to=taken, leave=left)
        assert not await store.update(old, replace(moved, version=3), move_to=new_key(), leave=left)
        assert await store.load(old) == record

    async def test_of_concurrent_moves_one_wins(self, store: SessionStore, record: Record) -> None:
        old, keys = new_key(), [new_key() for _ in range(20)]
        await store.create(old, record)
        moved = replace(record, version=2)
        won = await asyncio.gather(*(store.update(old, moved, move_to=key) for key in keys))
        alive = [await store.load(key) is not None for key in keys]
        assert won.count(True) == 1
        assert alive == won
        assert await store.load(old) is None

    async def test_a_move_never_overwrites(self, store: SessionStore, record: Record) -> None:
        old, taken = new_key(), new_key()
        other = replace(record, data=b"other")
        await store.create(old, record)
        await store.create(taken, other)
        assert not await store.update(old, replace(record, version=2), move_to=taken)
        assert await store.load(old) == record
        assert await store.load(taken) == other

    async def test_touch_moves_the_expiry_alone(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        key = new_key()
        await store.create(key, record)
        assert await store.touch(key, record.expires + HOUR)
        assert await store.load(key) == replace(record, expires=record.expires + HOUR)
        clock.advance(HOUR + 60)
        assert await store.load(key) is not None

    async def test_a_deleted_record_stays_dead(self, store: SessionStore, record: Record) -> None:
        key = new_key()
        await store.create(key, record)
        assert await store.delete(key)
        assert not await store.delete(key)
        assert not await store.update(key, replace(record, version=2))
        assert not await store.touch(key, record.expires + HOUR)
        assert await store.load(key) is None

    async def test_an_expired_record_does_not_exist(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        key = new_key()
        await store.create(key, record)
        clock.advance(HOUR)
        assert await store.load(key) is None
        assert not await store.update(key, replace(record, version=2, expires=clock() + HOUR))
        assert not await store.touch(key, clock() + HOUR)
        assert await store.delete(key) == 0
        assert await store.load(key) is None

    async def test_an_update_can_end_a_record(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        key = new_key()
        await store.create(key, record)
        assert await store.update(key, replace(record, version=2, expires=clock()))
        assert await store.load(key) is None

    async def test_a_sweep_removes_what_has_expired_in_batches(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        lasting, *expiring = [new_key() for _ in range(6)]
        await store.create(lasting, replace(record, expires=clock() + 10 * HOUR))
        for key in expiring:
            await store.create(key, record)
        clock.advance(2 * HOUR)
        swept = [await store.delete_expired(2) for _ in range(4)]
        assert max(swept) <= 2
        assert sum(swept) in (0, 5)  # 0 where the server itself forgets
        assert await store.load(lasting) is not None
        for key in expiring:
            clock.ahead = 0
            assert sum(swept) == 0 or await store.load(key) is None

    async def test_a_touched_record_survives_the_sweep(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        key = new_key()
        await store.create(key, record)
        await store.touch(key, clock() + 10 * HOUR)
        clock.advance(2 * HOUR)
        assert await store.delete_expired() == 0
        assert await store.load(key) is not None

    async def test_a_scan_sees_every_record(self, store: SessionStore, record: Record) -> None:
        records = {new_key(): replace(record, data=b"%d" % number) for number in range(25)}
        for key, each in records.items():
            await store.create(key, each)
        assert dict(await scan_all(store, limit=10)) == records
        await store.delete(*records)
        assert await scan_all(store) == []

    async def test_sweeps_at_once_disturb_no_one(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        await store.create(new_key(), record)
        clock.advance(2 * HOUR)
        swept = await asyncio.gather(*(store.delete_expired() for _ in range(3)))
        assert sum(swept) in (0, 1)

    async def test_ping_returns_when_the_store_is_ready(self, store: SessionStore) -> None:
        await store.ping()
