"""Random visits, attacks, races and expiry, compared with a plain model of what sessions mean."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from anyio import from_thread, to_thread
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from serversessions import Record, Session, SessionStore, hash_owner
from serversessions.testing import Clock

from .test_sessions import Site, Visitor

T = TypeVar("T")

IDLES = {None: 60 * 60.0, "20m": 20 * 60.0, "2h": 120 * 60.0, "session": 14 * 86400.0}
ABSOLUTE = 100 * 60.0
MARK = 60.0
INVENTED = [letter * 43 for letter in "AZ_-"]
OWNERS = ["ada/../ü", ""]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.sampled_from("aabbcc") | TEXT
ALIKE = st.sampled_from([0, 0.0, -0.0, False, [], {}])  # equal for Python, or falsy, not the same
VALUES = ALIKE | st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=4,
)


class FrozenClock(Clock):
    """A clock that moves only when a test moves it, in whole seconds: expiry is exact."""

    def __init__(self) -> None:
        super().__init__()
        self._start = float(int(time.time()) + 1)

    def __call__(self) -> float:
        return self._start + self.ahead


# The model ----------------------------------------------------------------------------------------


class Draft(dict[str, Any]):
    """What a handler sees and intends: ``Session`` without cookies, stores and times."""

    _owner: str | None = None
    expiry: str | None = None
    rotated = False
    signed_in = False
    flushed = False

    @property
    def owner(self) -> str | None:
        return self._owner

    @owner.setter
    def owner(self, owner: str | None) -> None:
        if self._owner not in (None, owner):
            self.flush()
        if owner is not None:
            self._owner, self.rotated, self.signed_in = owner, True, True

    def set_expiry(self, expiry: str | None) -> None:
        self.expiry = expiry

    def rotate_id(self) -> None:
        self.rotated = True

    def flush(self) -> None:
        super().clear()
        self._owner = self.expiry = None
        self.flushed, self.rotated, self.signed_in = True, False, False

    def clear(self) -> None:
        self.flush()


@dataclass(frozen=True)
class Live:
    """A session that must be in the store, with its data as canonical JSON."""

    data: str
    owner: str | None
    expiry: str | None
    began: float
    expires: float

    def draft(self) -> Draft:
        draft = Draft(json.loads(self.data))
        draft._owner, draft.expiry = self.owner, self.expiry
        return draft


Sessions = dict[str, Live]  # by id
Intent = Callable[[Any], None]  # done alike to a Session and to a Draft


@dataclass(frozen=True)
class World:
    """What a store must hold."""

    sessions: Sessions
    marks: Mapping[str, float]  # until when a rotated id is known as such

    def at(self, now: float) -> World:
        return World(
            {key: live for key, live in self.sessions.items() if live.expires > now},
            {key: until for key, until in self.marks.items() if until > now},
        )


@dataclass(frozen=True)
class Visit:
    """One request: the id and the session it found, what it meant and when, and the id it got."""

    brought: str | None
    found: Live | None
    is_late: bool
    draft: Draft
    at: float
    given: str | None

    def commit(self, world: World, now: float) -> tuple[World, str | None]:
        """The world after this request, and the id that its browser has then."""
        world = world.at(now)
        if self.is_late:  # its browser has a new id, or will have it soon
            return world, self.brought
        sessions, marks = dict(world.sessions), dict(world.marks)
        if self.found is None or self.draft.flushed:
            if self.found is not None and self.brought is not None:
                sessions.pop(self.brought, None)
                marks.pop(self.brought, None)
            if is_empty(self.draft):
                return World(sessions, marks), self.brought if self.found is None else None
            began = self.at if self.draft.signed_in else now
            expires = limit(self.draft.expiry, began, now)
            data, owner = canonical(self.draft), self.draft.owner
            sessions[str(self.given)] = Live(data, owner, self.draft.expiry, began, expires)
            return World(sessions, marks), self.given
        assert self.brought is not None
        if self.brought not in sessions:  # ended or rotated meanwhile: it stays dead
            return World(sessions, marks), self.brought
        latest = sessions.pop(self.brought)
        merged = merge(self.found.draft(), self.draft, latest.draft())
        new_id = str(self.given) if self.draft.rotated else self.brought
        if self.draft.rotated:
            marks[self.brought] = now + MARK
        began = self.at if self.draft.signed_in else latest.began
        if self.draft.signed_in or merged.expiry != latest.expiry:
            expires = limit(merged.expiry, began, now)
        else:
            expires = renewed(latest, now)
        sessions[new_id] = Live(canonical(merged), merged.owner, merged.expiry, began, expires)
        return World(sessions, marks), new_id


def merge(base: Draft, mine: Draft, theirs: Draft) -> Draft:
    """My top-level changes of what I found, on top of what another has saved since."""
    for key in base.keys() - mine.keys():
        theirs.pop(key, None)
    for key, value in mine.items():
        if key not in base or canonical(base[key]) != canonical(value):
            theirs[key] = value
    if mine.signed_in:
        theirs._owner = mine.owner
    if mine.expiry != base.expiry:
        theirs.expiry = mine.expiry
    return theirs


def limit(expiry: str | None, began: float, now: float) -> float:
    return min(now + IDLES[expiry], began + ABSOLUTE)


def renewed(live: Live, now: float) -> float:
    """A visit renews the idle time, within the absolute limit, unless by less than 1/20."""
    new = limit(live.expiry, live.began, now)
    return new if new - live.expires >= (new - now) / 20 else live.expires


def is_empty(draft: Draft) -> bool:
    return not draft and draft.owner is None


def canonical(value: Any) -> str:
    """Equal for equal values alone: it tells 1 from 1.0 and True, and 0.0 from -0.0."""
    return json.dumps(value, sort_keys=True)


def as_live(record: Record) -> Live:
    """What a store holds. It knows an owner by hash; if there is more than data, it is a list."""
    owner = next((owner for owner in OWNERS if hash_owner(owner) == record.owner), None)
    content = json.loads(record.data)
    data, _, signed_in, _, expiry = content if isinstance(content, list) else [content, *[None] * 4]
    began = record.created if signed_in is None else signed_in
    return Live(canonical(data), owner, expiry, began, record.expires)


def by_key(sessions: Mapping[str, T]) -> dict[str, T]:
    """The same, by what a store sees of an id."""
    return {hashlib.sha256(key.encode()).hexdigest(): live for key, live in sessions.items()}


# What a request may do ----------------------------------------------------------------------------


def put(key: str, value: Any) -> Intent:
    return lambda session: session.__setitem__(key, deepcopy(value))


def add(key: str, value: Any) -> Intent:
    """A nested change of whatever the key holds."""

    def change(session: Any) -> None:
        held = session.get(key)
        if isinstance(held, list):
            held.append(deepcopy(value))
        elif isinstance(held, dict):
            held["added"] = deepcopy(value)
        else:
            session[key] = [deepcopy(value)]

    return change


def delete(key: str) -> Intent:
    return lambda session: session.pop(key, None)


def empty(session: Any) -> None:
    for key in list(session):
        del session[key]
    session.owner = None


def own(owner: str | None) -> Intent:
    return lambda session: setattr(session, "owner", owner)


def expire(expiry: str | None) -> Intent:
    return lambda session: session.set_expiry(expiry)


def rotate(session: Any) -> None:
    session.rotate_id()


def flush(session: Any) -> None:
    session.flush()


def clear(session: Any) -> None:
    session.clear()


CHANGES = st.one_of(
    st.builds(put, KEYS, VALUES),
    st.builds(add, KEYS, VALUES),
    st.builds(delete, KEYS),
    st.builds(own, st.sampled_from([*OWNERS, None])),
    st.sampled_from([rotate, empty]),
)
ENDS = st.sampled_from([flush, clear])
# Nothing, a change or two, or also an end, which something may follow.
RACING = st.lists(CHANGES, max_size=2) | st.lists(CHANGES | ENDS, max_size=3)
# A request that changes nothing renews a session by the expiry that it found: another one that
# changes just that meanwhile is no conflict for it.
EXPIRING = st.lists(st.builds(expire, st.sampled_from(list(IDLES))) | CHANGES, max_size=3)
INTENTS = RACING | EXPIRING
BROWSERS = st.integers(0, 2)
WHICH = st.integers(0, 19)  # of as many as there are: what is drawn must not depend on a race
MINUTES = st.sampled_from([1, 2, 3, 20, 40, 57, 58, 59, 60])


# The machine --------------------------------------------------------------------------------------


class Spied:
    """A store that notes which keys are written: all that may hold a live record."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.keys: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def create(self, key: str, record: Record) -> bool:
        self.keys.add(key)
        return await self._store.create(key, record)

    async def update(
        self, key: str, record: Record, *, move_to: str | None = None, leave: Record | None = None
    ) -> bool:
        self.keys |= {key, move_to or key}
        return await self._store.update(key, record, move_to=move_to, leave=leave)

    async def touch(self, key: str, expires: float) -> bool:
        self.keys.add(key)
        return await self._store.touch(key, expires)


class Sessionland(RuleBasedStateMachine):
    """Three browsers, an attacker, and the passing of time, on one store."""

    def __init__(self, store: SessionStore, clock: Clock, *, beside: int) -> None:
        super().__init__()
        self.clock = clock
        self.beside = beside  # seconds past the minute
        self.store: Any = Spied(store)
        limits = {
            "expiry": timedelta(seconds=IDLES[None]),
            "max_lifetime": timedelta(seconds=ABSOLUTE),
        }
        site = Site(self.store, clock, **limits)
        self._open = AsyncExitStack()
        self.browsers = [
            from_thread.run(self._open.enter_async_context, site.visitor()) for _ in range(3)
        ]
        self.world = World({}, {})
        self.given: list[str] = []  # every id that a browser was ever given

    def teardown(self) -> None:
        async def clean() -> None:
            for key in self.store.keys:
                await self.store.delete(key)
            await self._open.aclose()

        from_thread.run(clean)

    # Visits

    @initialize()
    def begin(self) -> None:
        from_thread.run(self._visit, self.browsers[0], [put("a", []), put("b", {}), put("c", 0)])

    @rule(browser=BROWSERS, intents=INTENTS)
    def visit(self, browser: int, intents: Sequence[Intent]) -> None:
        from_thread.run(self._visit, self.browsers[browser], intents)

    @rule(browser=BROWSERS)
    def a_browser_forgets_its_cookies(self, browser: int) -> None:
        self.browsers[browser].client.cookies.clear()

    @rule(browser=BROWSERS, invented=st.sampled_from(INVENTED), intents=INTENTS)
    def an_attacker_invents_an_id(
        self, browser: int, invented: str, intents: Sequence[Intent]
    ) -> None:
        self.browsers[browser].brings(invented)
        from_thread.run(self._visit, self.browsers[browser], intents)

    @rule(browser=BROWSERS, which=WHICH, intents=INTENTS)
    def an_attacker_brings_an_id_that_was_given(
        self, browser: int, which: int, intents: Sequence[Intent]
    ) -> None:
        """A live one is stolen, or shared by two tabs; a dead one must stay dead."""
        self.browsers[browser].brings(self.given[which % len(self.given)])
        from_thread.run(self._visit, self.browsers[browser], intents)

    # What happens to the store

    @rule(minutes=MINUTES)
    def time_passes(self, minutes: int) -> None:
        self._advance(minutes)

    @rule(limit=st.sampled_from([1, 2, 1000]))
    def the_sweeper_runs(self, limit: int) -> None:
        assert from_thread.run(self.store.delete_expired, limit) <= limit

    @rule(owner=st.sampled_from(OWNERS))
    def an_owner_is_logged_out_everywhere(self, owner: str) -> None:
        from_thread.run(self._log_out, owner)

    # Races on one session

    @rule(which=WHICH, slow=INTENTS, fast=RACING)
    def a_slow_request_meets_another(
        self, which: int, slow: Sequence[Intent], fast: Sequence[Intent]
    ) -> None:
        """What the other did stands. The slow one's changes follow, or are lost if it is ended."""
        first, second = self._two_browsers_on(which)

        async def meanwhile() -> None:
            await self._visit(second, fast)

        from_thread.run(self._visit, first, slow, meanwhile)

    @rule(which=WHICH, slow=INTENTS, minutes=MINUTES, swept=st.booleans())
    def a_slow_request_meets_expiry(
        self, which: int, slow: Sequence[Intent], minutes: int, swept: bool
    ) -> None:
        async def meanwhile() -> None:
            self._advance(minutes)
            if swept:
                await self.store.delete_expired()

        from_thread.run(self._visit, self._two_browsers_on(which)[0], slow, meanwhile)

    @rule(which=WHICH, slow=INTENTS, owner=st.sampled_from(OWNERS))
    def a_slow_request_meets_a_logout_everywhere(
        self, which: int, slow: Sequence[Intent], owner: str
    ) -> None:
        async def meanwhile() -> None:
            await self._log_out(owner)

        from_thread.run(self._visit, self._two_browsers_on(which)[0], slow, meanwhile)

    @rule(which=WHICH, left=RACING, right=RACING)
    def two_requests_save_at_once(
        self, which: int, left: Sequence[Intent], right: Sequence[Intent]
    ) -> None:
        """The outcome is that of one after the other, in either order."""
        browsers = self._two_browsers_on(which)

        async def race() -> tuple[Visit, Visit]:
            both = asyncio.Barrier(2)
            return await asyncio.gather(
                self._send(browsers[0], left, both.wait), self._send(browsers[1], right, both.wait)
            )

        one, other = from_thread.run(race)
        now, actual = self.clock(), from_thread.run(self._stored)
        between, one_first = one.commit(self.world, now)
        one_then_other, other_second = other.commit(between, now)
        between, other_first = other.commit(self.world, now)
        other_then_one, one_second = one.commit(between, now)
        allowed = [
            (one_then_other, [one_first, other_second]),
            (other_then_one, [one_second, other_first]),
        ]
        happened = actual, [browser.id for browser in browsers]
        outcomes = [world for world, ids in allowed if (by_key(world.sessions), ids) == happened]
        assert outcomes, f"{happened} is none of {allowed}"
        self.world = outcomes[0]

    # What always holds

    @invariant()
    def the_store_holds_the_live_sessions_and_no_other(self) -> None:
        assert from_thread.run(self._stored) == by_key(self.world.sessions)

    @invariant()
    def no_invented_id_is_ever_given(self) -> None:
        assert not set(INVENTED) & {*self.given, *self.world.sessions}

    # How it is done

    def _two_browsers_on(self, which: int) -> list[Visitor]:
        if not self.world.sessions:
            self.begin()
        session_id = list(self.world.sessions)[which % len(self.world.sessions)]
        for browser in self.browsers[:2]:
            browser.brings(session_id)
        return self.browsers[:2]

    async def _visit(
        self,
        browser: Visitor,
        intents: Sequence[Intent],
        meanwhile: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        visit = await self._send(browser, intents, meanwhile)
        self.world, cookie = visit.commit(self.world, self.clock())
        assert browser.id == cookie

    async def _send(
        self,
        browser: Visitor,
        intents: Sequence[Intent],
        meanwhile: Callable[[], Awaitable[Any]] | None = None,
    ) -> Visit:
        """A request that finds what the model says, does what it intends, and saves at the end."""
        brought = browser.id
        found = None if brought is None else self.world.sessions.get(brought)
        is_late, at = brought in self.world.marks, self.clock()
        draft = Draft() if found is None else found.draft()

        async def act(session: Session) -> None:
            assert (canonical(session), session.owner) == (canonical(draft), draft.owner)
            assert session.is_new is (found is None)
            for intent in intents:
                intent(session)
                intent(draft)
            if meanwhile is not None:
                await meanwhile()

        assert (await browser.does(act)).status_code == 200
        given = browser.id if browser.id != brought else None
        if given is not None:
            assert given not in self.given
            self.given.append(given)
        return Visit(brought, found, is_late, draft, at, given)

    def _advance(self, minutes: int) -> None:
        self.clock.advance(minutes * 60 + self.beside)
        self.world = self.world.at(self.clock())

    async def _log_out(self, owner: str) -> None:
        owned = {key for key, live in self.world.sessions.items() if live.owner == owner}
        listed = await self.store.list_owned(hash_owner(owner))
        assert [key for key, _ in listed] == sorted(by_key({key: key for key in owned}))
        assert await self.store.delete_owned(hash_owner(owner)) == len(owned)
        sessions = self.world.sessions
        left = {key: live for key, live in sessions.items() if key not in owned}
        self.world = World(left, self.world.marks)

    async def _stored(self) -> Sessions:
        """What the store holds, by key."""
        found = {key: await self.store.load(key) for key in self.store.keys}
        stored = {key: record for key, record in found.items() if record is not None}
        self.store.keys = set(stored)
        sessions = {key: record for key, record in stored.items() if record.version > 0}
        return {key: as_live(record) for key, record in sessions.items()}


@pytest.fixture
def clock() -> Clock:
    return FrozenClock()


async def test_sessions_do_what_the_model_says(
    place: tuple[str, str], store: SessionStore, clock: Clock
) -> None:
    # Just when a session ends, a cache server, which has a clock of its own, may be late by as much
    # as a message takes.
    beside = 1 if place[0] == "cache" else 0
    bounds = settings(
        max_examples=20,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],  # by a busy machine
    )

    class OnThisStore(Sessionland):
        def __init__(self) -> None:
            super().__init__(store, clock, beside=beside)

    await to_thread.run_sync(partial(run_state_machine_as_test, OnThisStore, settings=bounds))
