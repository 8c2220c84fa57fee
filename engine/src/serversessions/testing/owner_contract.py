"""What every session store must do for the sessions of one user."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from ..owners import hash_owner
from ..store import Record, SessionStore
from .clock import Clock
from .records import ADA, BOB, HOUR, new_key


class OwnerContract:
    """The part of ``StoreContract`` that is about owners."""

    async def test_all_sessions_of_an_owner_end_at_once(
        self, store: SessionStore, record: Record
    ) -> None:
        theirs, others = [new_key() for _ in range(3)], [new_key() for _ in range(3)]
        for key in theirs:
            await store.create(key, replace(record, owner=ADA))
        for key, owner in zip(others, (BOB, BOB, None), strict=True):
            await store.create(key, replace(record, owner=owner))
        assert await store.delete_owned(ADA) == 3
        assert await store.delete_owned(ADA) == 0
        assert [await store.load(key) for key in theirs] == [None] * 3
        assert None not in [await store.load(key) for key in others]

    async def test_all_but_one_session_of_an_owner_end_at_once(
        self, store: SessionStore, record: Record
    ) -> None:
        this, *others = [new_key() for _ in range(4)]
        for key in (this, *others):
            await store.create(key, replace(record, owner=ADA))
        assert await store.delete_owned(ADA, except_key=this) == 3
        assert await store.list_owned(ADA) == [(this, replace(record, owner=ADA))]

    async def test_the_sessions_of_an_owner_are_listed_by_key(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        theirs = sorted(new_key() for _ in range(5))
        for number, key in enumerate(theirs):
            await store.create(key, replace(record, data=b"%d" % number, owner=ADA))
        for owner in (BOB, None):
            await store.create(new_key(), replace(record, owner=owner))
        await store.create(new_key(), replace(record, expires=clock() - 1, owner=ADA))
        found = await store.list_owned(ADA)
        assert [(key, each.data) for key, each in found] == [
            (key, b"%d" % number) for number, key in enumerate(theirs)
        ]
        assert await store.list_owned(ADA, limit=2) == found[:2]
        assert await store.list_owned(ADA, limit=2, after=theirs[1]) == found[2:4]
        assert await store.list_owned(ADA, after=theirs[4]) == []
        assert await store.list_owned(hash_owner("nobody")) == []

    async def test_records_are_deleted_together_or_only_an_owners(
        self, store: SessionStore, record: Record
    ) -> None:
        first, second, bobs, left = (new_key() for _ in range(4))
        for key, owner in ((first, ADA), (second, ADA), (bobs, BOB), (left, None)):
            await store.create(key, replace(record, owner=owner))
        assert await store.delete(first, bobs, left, new_key(), owner=ADA) == 1
        assert await store.load(bobs) is not None
        assert await store.load(left) is not None
        assert await store.list_owned(ADA) == [(second, replace(record, owner=ADA))]
        assert await store.delete(first, second, bobs, left) == 3
        assert await store.delete() == 0

    async def test_a_session_ends_whatever_the_clock_of_who_ends_it_says(
        self, store: SessionStore, record: Record, clock: Clock
    ) -> None:
        deleted, revoked = new_key(), new_key()
        await store.create(deleted, record)
        await store.create(revoked, replace(record, owner=ADA))
        clock.advance(2 * HOUR)  # as on a machine whose clock is wrong
        await store.delete(deleted)
        await store.delete_owned(ADA)
        clock.ahead = 0
        assert await store.load(deleted) is None
        assert await store.load(revoked) is None

    async def test_after_a_repair_all_sessions_of_an_owner_are_found(
        self, store: SessionStore, record: Record
    ) -> None:
        theirs, other = [new_key() for _ in range(3)], new_key()
        for key in theirs:
            await store.create(key, replace(record, owner=ADA))
        await store.create(other, record)
        assert await store.repair() >= 0
        assert [key for key, _ in await store.list_owned(ADA)] == sorted(theirs)
        assert await store.delete_owned(ADA) == 3
        assert await store.load(other) == record

    async def test_a_change_of_owner_counts(self, store: SessionStore, record: Record) -> None:
        signed_in, signed_out, moved, new = (new_key() for _ in range(4))
        await store.create(signed_in, record)
        await store.update(signed_in, replace(record, version=2, owner=ADA))
        await store.create(signed_out, replace(record, owner=ADA))
        await store.update(signed_out, replace(record, version=2, owner=None))
        await store.create(moved, replace(record, owner=ADA))
        await store.update(moved, replace(record, version=2, owner=ADA), move_to=new)
        assert await store.delete_owned(ADA) == 2
        assert await store.load(signed_in) is None
        assert await store.load(new) is None
        assert await store.load(signed_out) is not None

    async def test_a_touched_session_still_belongs_to_its_owner(
        self, store: SessionStore, clock: Clock
    ) -> None:
        for lives in (0.05, 0.5, 5):  # on a machine that is too slow, longer
            key = new_key()
            await store.create(key, Record(b"{}", clock(), clock() + lives, owner=ADA))
            if await store.touch(key, clock() + HOUR):
                break
        await asyncio.sleep(1.2 * lives)  # really: a cache server has a clock of its own
        assert await store.delete_owned(ADA) == 1
        assert await store.load(key) is None

    async def test_sign_ins_and_revocations_at_once_disturb_no_one(
        self, store: SessionStore, record: Record
    ) -> None:
        owned = replace(record, owner=ADA)
        for _ in range(10):
            keys = [new_key() for _ in range(4)]
            revocations = asyncio.gather(*(store.delete_owned(ADA) for _ in range(3)))
            assert all(await asyncio.gather(*(store.create(key, owned) for key in keys)))
            await revocations
        await store.delete_owned(ADA)
        assert await store.delete_owned(ADA) == 0
        assert [await store.load(key) for key in keys] == [None] * 4

    async def test_no_session_escapes_its_end_by_moving_meanwhile(
        self, store: SessionStore, record: Record
    ) -> None:
        owned = replace(record, owner=ADA)
        for _ in range(10):
            keys = [new_key() for _ in range(5)]
            for key in keys:
                await store.create(key, owned)
            moved = replace(owned, version=2)
            moves = (store.update(key, moved, move_to=new_key()) for key in keys)
            await asyncio.gather(store.delete_owned(ADA), *moves)
            assert await store.list_owned(ADA) == []
