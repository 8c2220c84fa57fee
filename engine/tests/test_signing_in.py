"""Signing in, staying signed in, and whatever comes too late for it, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from starlette.responses import Response

from serversessions import (
    OwnedSession,
    Record,
    Session,
    SessionClosed,
    SessionStore,
    delete_owned,
    hash_owner,
)
from serversessions.ids import hash_id
from serversessions.owners import UserId
from serversessions.stores.memory import MemoryStore
from serversessions.testing import Clock

from .test_sessions import DAY, HOUR, Act, Site, puts, signs_in

MINUTE = 60


@pytest.fixture
def site(store: SessionStore, clock: Clock) -> Site:
    return Site(store, clock)


def ages(response: httpx2.Response) -> int | None:
    """The cookie's Max-Age, if it has one."""
    _, found, rest = response.headers["set-cookie"].partition("Max-Age=")
    return int(rest.partition(";")[0]) if found else None


def sets_expiry(expiry: Any) -> Act:
    return lambda session: session.set_expiry(expiry)


async def sees_owner(visitor: Any) -> Any:
    return (await visitor.does(lambda session: session.owner)).json()


class TestOwner:
    async def test_to_set_the_owner_changes_the_id_and_keeps_the_data(
        self, site: Site, clock: Clock
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(basket=[1]))
            planted = visitor.id
            await visitor.does(signs_in("ada"))
            assert visitor.id not in (None, planted)
            assert await visitor.sees() == {"basket": [1]}
            assert await sees_owner(visitor) == "ada"
        for minutes in (0, 2):
            clock.advance(minutes * MINUTE)
            async with site.visitor(planted) as attacker:
                assert await attacker.sees() == {}

    @pytest.mark.parametrize(
        "user_id",
        ["ada", "", "7", "ü/../\0", 7, 0, -(10**200), UUID(int=7), UUID(int=2**128 - 1)],
        ids=str,
    )
    async def test_an_owner_comes_back_as_what_it_was(
        self, site: Site, store: SessionStore, user_id: UserId
    ) -> None:
        seen: list[UserId | None] = []
        async with site.visitor() as visitor:
            await visitor.does(signs_in(user_id))
            await visitor.does(lambda session: seen.append(session.owner))
            await visitor.does(Session.rotate_id)
            await visitor.does(lambda session: seen.append(session.owner))
            assert seen == [user_id, user_id]
            assert {type(owner) for owner in seen} == {type(user_id)}
            assert await delete_owned(store, str(user_id)) == 1  # as a command line has it

    async def test_another_owner_begins_empty_and_the_first_ones_session_is_ended(
        self, site: Site, store: SessionStore
    ) -> None:
        def sign_in_and_go_on(session: Session) -> None:
            session.owner = "bob"
            session["bobs"] = True

        async with site.visitor() as visitor:
            await visitor.does(signs_in("ada"))
            await visitor.does(puts(secret="ada's"))
            adas = visitor.id
            await visitor.does(sign_in_and_go_on)
            assert await visitor.sees() == {"bobs": True}
            assert await sees_owner(visitor) == "bob"
            assert visitor.id != adas
        assert await store.list_owned(hash_owner("ada")) == []
        async with site.visitor(adas) as other:
            assert await other.sees() == {}

    async def test_no_one_leaves_data_to_the_next_by_way_of_nobody(self, site: Site) -> None:
        def sign_out(session: Session) -> None:
            session.owner = None

        async with site.visitor() as visitor:
            await visitor.does(signs_in("ada"))
            await visitor.does(puts(secret="ada's"))
            adas = visitor.id
            response = await visitor.does(sign_out)
            assert "Max-Age=0" in response.headers["set-cookie"]
            await visitor.does(signs_in("bob"))
            assert await visitor.sees() == {}
        async with site.visitor(adas) as other:
            assert await other.sees() == {}

    async def test_the_same_owner_again_is_a_fresh_sign_in(self, site: Site, clock: Clock) -> None:
        async with site.visitor() as visitor:
            await visitor.does(signs_in(7))
            await visitor.does(puts(draft="kept"))
            first = visitor.id
            clock.advance(HOUR)
            assert not (await visitor.does(lambda s: s.signed_in_within("10m"))).json()
            await visitor.does(signs_in(7))
            assert visitor.id != first
            assert (await visitor.does(lambda s: s.signed_in_within("10m"))).json()
            assert await visitor.sees() == {"draft": "kept"}

    async def test_a_session_tells_when_its_owner_signed_in(self, site: Site, clock: Clock) -> None:
        seen: list[datetime | None] = []

        def look(session: Session) -> None:
            seen.append(session.signed_in_at)

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(look)
            assert seen == [None]
            begun = clock()
            await visitor.does(signs_in("ada"))
            ended = clock()
            clock.advance(HOUR)
            await visitor.does(look)
            assert seen[1] is not None
            assert seen[1].tzinfo is UTC
            assert begun <= seen[1].timestamp() <= ended
            assert not (await visitor.does(lambda s: s.signed_in_within(timedelta(hours=1)))).json()
            assert (await visitor.does(lambda s: s.signed_in_within("1h1m"))).json()

    @pytest.mark.parametrize("wrong", ["", "soon", "-1m", 10, None, timedelta(0), "10 m"])
    def test_what_is_no_time_is_refused_by_name(self, wrong: Any) -> None:
        session = Session()
        with pytest.raises(ValueError, match='allowed: a duration such as "30m"') as refused:
            session.signed_in_within(wrong)
        assert repr(wrong) in str(refused.value)

    async def test_a_lifetime_counts_from_the_sign_in(
        self, store: SessionStore, clock: Clock
    ) -> None:
        options = {"expiry": timedelta(hours=9), "max_lifetime": timedelta(hours=12)}
        async with Site(store, clock, **options).visitor() as visitor:
            await visitor.does(puts(basket=[1]))
            clock.advance(6 * HOUR)
            await visitor.does(puts(basket=[1, 2]))
            clock.advance(5 * HOUR)
            assert ages(await visitor.does(signs_in("ada"))) in range(9 * HOUR - 9, 9 * HOUR + 1)
            clock.advance(6 * HOUR)
            assert ages(await visitor.does(dict)) in range(6 * HOUR - 9, 6 * HOUR + 1)
            clock.advance(5.9 * HOUR)
            assert await visitor.sees() == {"basket": [1, 2]}
            clock.advance(0.2 * HOUR)
            assert await sees_owner(visitor) is None

    async def test_a_sign_in_beside_another_change_keeps_both(self, site: Site) -> None:
        loaded, changed = asyncio.Event(), asyncio.Event()

        async def sign_in_slowly(session: Session) -> None:
            session.owner = "ada"
            loaded.set()
            await changed.wait()

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            request = asyncio.create_task(visitor.does(sign_in_slowly))
            await loaded.wait()
            await visitor.does(puts(b=2))
            changed.set()
            await request
            assert await visitor.sees() == {"a": 1, "b": 2}
            assert await sees_owner(visitor) == "ada"


class TestOwnExpiry:
    """Remember me."""

    @pytest.mark.parametrize("expiry", ["30d", timedelta(days=30)])
    async def test_a_visitors_own_limit_holds_for_session_and_cookie(
        self, site: Site, store: SessionStore, clock: Clock, expiry: Any
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            assert ages(await visitor.does(sets_expiry(expiry))) == 30 * DAY
            clock.advance(20 * DAY)  # a browser session is forgotten after two weeks
            await store.delete_expired()
            assert ages(await visitor.does(dict)) == 30 * DAY  # it was renewed
            clock.advance(29 * DAY)
            await visitor.does(Session.rotate_id)
            clock.advance(29 * DAY)
            assert await visitor.sees() == {"a": 1}
            clock.advance(31 * DAY)
            assert await visitor.sees() == {}

    async def test_it_is_kept_with_the_owner_and_survives_other_changes(
        self, site: Site, store: SessionStore, clock: Clock
    ) -> None:
        def sign_in(session: Session) -> None:
            session.owner = 7
            session.set_expiry("30d")

        async with site.visitor() as visitor:
            await visitor.does(sign_in)
            await visitor.does(puts(a=1))
            clock.advance(20 * DAY)
            await visitor.does(puts(b=2))
            clock.advance(20 * DAY)
            assert await sees_owner(visitor) == 7
            [(_, record)] = await store.list_owned(hash_owner(7))
            assert record.expires == pytest.approx(clock() + 30 * DAY, abs=60)

    async def test_to_say_it_again_writes_nothing(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(sets_expiry("7d"))
            assert site.calls == ["load", "update"]
            response = await visitor.does(sets_expiry(timedelta(days=7)))
            assert site.calls == ["load"]
            assert "set-cookie" not in response.headers

    async def test_none_is_that_of_the_configuration_again(
        self, store: SessionStore, clock: Clock
    ) -> None:
        async with Site(store, clock, expiry=timedelta(hours=1)).visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(sets_expiry("30d"))
            assert ages(await visitor.does(sets_expiry(None))) == HOUR
            clock.advance(HOUR)
            assert await visitor.sees() == {}

    async def test_until_the_browser_closes_the_cookie_has_no_age(
        self, store: SessionStore, clock: Clock
    ) -> None:
        async with Site(store, clock, expiry=timedelta(days=30)).visitor() as visitor:
            assert ages(await visitor.does(puts(a=1))) == 30 * DAY
            assert ages(await visitor.does(sets_expiry("session"))) is None
            clock.advance(13 * DAY)
            assert await visitor.sees() == {"a": 1}
            clock.advance(14 * DAY)
            assert await visitor.sees() == {}

    async def test_a_date_is_an_end(self, site: Site, clock: Clock) -> None:
        end = datetime.fromtimestamp(int(clock()) + HOUR, UTC)
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            assert ages(await visitor.does(sets_expiry(end))) in range(HOUR - 9, HOUR + 1)
            clock.advance(HOUR - 10)
            assert await visitor.sees() == {"a": 1}
            clock.advance(11)
            assert await visitor.sees() == {}

    async def test_it_never_goes_beyond_the_lifetime(
        self, store: SessionStore, clock: Clock
    ) -> None:
        site = Site(store, clock, max_lifetime=timedelta(hours=2))
        async with site.visitor() as visitor:
            await visitor.does(signs_in("ada"))
            assert ages(await visitor.does(sets_expiry("30d"))) in range(2 * HOUR - 9, 2 * HOUR + 1)
            clock.advance(2 * HOUR)
            assert await sees_owner(visitor) is None

    async def test_where_you_are_signed_in_knows_it(
        self, store: SessionStore, clock: Clock
    ) -> None:
        site = Site(store, clock, expiry=timedelta(hours=1))
        seen: list[OwnedSession] = []

        async def look(session: Session) -> None:
            seen.extend(await session.list_owned())

        async with site.visitor() as phone, site.visitor() as laptop:
            await phone.does(signs_in("ada"))
            await phone.does(sets_expiry("30d"))
            clock.advance(10 * DAY)
            await phone.does(dict)  # renews it
            await laptop.does(signs_in("ada"))
            await laptop.does(look)
            [phones] = [each for each in seen if not each.is_current]
            assert phones.last_seen_at.timestamp() == pytest.approx(clock(), abs=60)
            assert phones.signed_in_at.timestamp() == pytest.approx(clock() - 10 * DAY, abs=60)

    async def test_another_session_does_not_inherit_it(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(signs_in("ada"))
            await visitor.does(sets_expiry("30d"))
            assert ages(await visitor.does(signs_in("bob"))) is None

    async def test_changes_of_two_requests_at_once_are_both_kept(
        self, site: Site, clock: Clock
    ) -> None:
        loaded, changed = asyncio.Event(), asyncio.Event()

        async def put_slowly(session: Session) -> None:
            session["b"] = 2
            loaded.set()
            await changed.wait()

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            request = asyncio.create_task(visitor.does(put_slowly))
            await loaded.wait()
            await visitor.does(sets_expiry("30d"))
            changed.set()
            await request
            clock.advance(20 * DAY)
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_alone_it_begins_no_session(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(sets_expiry("30d"))
            assert site.calls == []
            assert visitor.id is None

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ("soon", 'allowed: "session", a duration'),
            (0, "allowed"),
            (timedelta(0), "allowed"),
            (timedelta(seconds=-1), "allowed"),
            (datetime(2100, 1, 1), "a time with an offset"),
            (datetime(2020, 1, 1, tzinfo=UTC), "is over"),
            ("2020-01-01T00:00:00Z", "is over"),
        ],
    )
    def test_what_is_no_time_or_over_is_refused_by_name(self, wrong: Any, says: str) -> None:
        session = Session()
        with pytest.raises(ValueError, match=says) as refused:
            session.set_expiry(wrong)
        assert repr(wrong) in str(refused.value)
        assert not session.modified


class TestLateRequests:
    """Those that come with an id which another request of the same browser has rotated."""

    @pytest.mark.parametrize(
        "act",
        [
            dict,
            puts(a=2),
            signs_in("ada"),
            signs_in("bob"),
            Session.rotate_id,
            Session.flush,
            lambda session: (session.flush(), session.update(a=2)),
            sets_expiry("30d"),
        ],
        ids=["read", "put", "ada", "bob", "rotate", "flush", "restart", "expiry"],
    )
    @pytest.mark.parametrize("rotate", [signs_in("ada"), Session.rotate_id], ids=["owner", "id"])
    async def test_neither_opens_the_session_nor_touches_its_cookie(
        self, site: Site, clock: Clock, act: Callable[[Session], Any], rotate: Act
    ) -> None:
        def show_and_act(session: Session) -> Any:
            seen = dict(session), session.owner
            act(session)
            return seen

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await visitor.does(rotate)
            new = visitor.id
            async with site.visitor(old) as late:
                clock.advance(MINUTE - 10)
                response = await late.does(show_and_act)
                assert response.status_code == 200
                assert response.json() == [{}, None]
                assert "set-cookie" not in response.headers
                assert site.calls == ["load"]
            assert visitor.id == new
            assert await visitor.sees() == {"a": 1}

    async def test_after_a_minute_an_old_id_is_unknown(self, site: Site, clock: Clock) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await visitor.does(signs_in("ada"))
        clock.advance(MINUTE + 5)
        async with site.visitor(old) as late:
            assert await late.sees() == {}
            await late.does(puts(b=2))
            assert late.id not in (None, old)
            assert await late.sees() == {"b": 2}

    async def test_says_in_the_log_what_was_lost(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        loaded, rotated = asyncio.Event(), asyncio.Event()

        async def put_slowly(session: Session) -> None:
            session["slow"] = 1
            loaded.set()
            await rotated.wait()

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            request = asyncio.create_task(visitor.does(put_slowly))
            await loaded.wait()
            async with site.visitor(old) as other:
                await other.does(signs_in("ada"))
            rotated.set()
            assert "set-cookie" not in (await request).headers
            await visitor.does(puts(late=1))
        lost = [message for message in caplog.messages if message.startswith("Lost")]
        assert ["'slow'" in lost[0], "'late'" in lost[1]] == [True, True]

    async def test_a_saved_one_is_told(self, site: Site) -> None:
        told: list[str] = []

        async def put_and_save(session: Session) -> None:
            session["late"] = 1
            with pytest.raises(SessionClosed) as closed:
                await session.save()
            told.append(str(closed.value))

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await visitor.does(signs_in("ada"))
        async with site.visitor(old) as late:
            await late.does(put_and_save)
        assert "rotated" in told[0]

    async def test_what_a_rotation_leaves_is_nobodys_session(
        self, site: Site, store: SessionStore
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = str(visitor.id)
            await visitor.does(signs_in("ada"))
            assert len(await store.list_owned(hash_owner("ada"))) == 1
            left = await store.load(hash_id(old))
            assert left is not None
            assert (left.version, left.owner) == (0, None)
            assert b'"a"' not in left.data
            assert await delete_owned(store, "ada") == 1


class TestEndedSessions:
    async def test_a_save_says_that_the_session_was_ended(
        self, site: Site, store: SessionStore
    ) -> None:
        seen: list[Any] = []

        async def save_after_the_end(session: Session) -> None:
            await delete_owned(store, "ada")
            for _ in range(2):
                session["late"] = True
                with pytest.raises(SessionClosed, match="nothing was saved, since it was ended"):
                    await session.save()
                seen.append((dict(session), session.owner, session.signed_in_at))

        async with site.visitor() as visitor:
            await visitor.does(signs_in("ada"))
            await visitor.does(puts(a=1))
            response = await visitor.does(save_after_the_end)
            assert seen == [({}, None, None)] * 2
            assert "set-cookie" not in response.headers
            assert await visitor.sees() == {}


class TestSeveralCookies:
    """A Cookie header is a list of candidates."""

    @pytest.mark.parametrize("count", [1, 3])
    async def test_old_cookies_before_it_do_not_hide_the_session(
        self, site: Site, count: int
    ) -> None:
        async with site.visitor() as visitor, site.visitor() as other:
            await visitor.does(puts(a=1))
            dead = "; ".join(f"id={number * 43}" for number in "ABC"[:count])
            other.client.headers["cookie"] = f"{dead}; id={visitor.id}"
            assert await other.sees() == {"a": 1}
            assert site.calls == ["load"] * (count + 1)

    async def test_who_signs_in_beside_an_old_cookie_is_signed_in(self, site: Site) -> None:
        """The old one has another path or domain, so that the browser goes on sending it."""
        async with site.visitor() as visitor, site.visitor() as other:
            await visitor.does(puts(a=1))
            old = visitor.id
            other.client.headers["cookie"] = f"id={old}"
            response = await other.does(signs_in("ada"))
            new = response.cookies["id"]
            for cookies in (f"id={old}; id={new}", f"id={new}; id={old}"):
                other.client.headers["cookie"] = cookies
                assert await sees_owner(other) == "ada"
                assert "set-cookie" not in (await other.does(puts(b=cookies))).headers

    async def test_no_client_makes_more_than_a_few_loads(self, site: Site) -> None:
        async with site.visitor() as visitor:
            cookies = [f"id={number:043}" for number in range(200)]
            visitor.client.headers["cookie"] = "; ".join(cookies)
            assert await visitor.sees() == {}
            assert site.calls == ["load"] * 4
            visitor.client.headers["cookie"] = "; ".join([cookies[0]] * 200)
            await visitor.sees()
            assert site.calls == ["load"]


class TestCaches:
    """An id is for one visitor."""

    @pytest.mark.parametrize(
        ("said", "sent"),
        [
            (None, "private"),
            ("no-store", "no-store"),
            ("no-store, must-understand", "no-store"),
            ("private, max-age=60", "private, max-age=60"),
            ("max-age=60", "private, max-age=60"),
            ("public, max-age=60, s-maxage=600", "private, max-age=60"),
            ('private="x-a, x-b", no-cache="x-c"', 'private, no-cache="x-c"'),
            ("Public,S-MaxAge=600", "private"),
        ],
    )
    async def test_what_sets_the_cookie_is_private_whatever_the_handler_said(
        self, clock: Clock, said: str | None, sent: str
    ) -> None:
        headers = {} if said is None else {"cache-control": said}

        def put(session: Session) -> Response:
            session["a"] = 1
            return Response("for all", headers={**headers, "cdn-cache-control": "max-age=600"})

        def flush(session: Session) -> Response:
            session.flush()
            return Response("for all", headers=headers)

        async with Site(MemoryStore(clock=clock), clock).visitor() as visitor:
            for act in (put, flush):
                answer = await visitor.does(act)
                assert "set-cookie" in answer.headers
                assert answer.headers["cache-control"] == sent
                assert "cdn-cache-control" not in answer.headers

    async def test_what_sets_no_cookie_is_left_as_it_is(self, site: Site) -> None:
        def show(session: Session) -> Response:
            return Response(str(session.get("a")), headers={"cache-control": "max-age=60"})

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            answer = await visitor.does(show)
            assert answer.headers["cache-control"] == "max-age=60"
            assert answer.headers["vary"] == "Cookie"

    async def test_a_renewal_is_private_too(self, store: SessionStore, clock: Clock) -> None:
        site = Site(store, clock, expiry=timedelta(hours=1))
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(HOUR / 2)
            answer = await visitor.does(
                lambda session: Response("all", headers={"cache-control": "public"})
            )
            assert "set-cookie" in answer.headers
            assert answer.headers["cache-control"] == "private"

    async def test_always_saving_sets_no_cookie_whose_lifetime_is_the_browsers(
        self, store: SessionStore, clock: Clock
    ) -> None:
        site = Site(store, clock, always_save=True)
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(1)
            assert "set-cookie" not in (await visitor.does(dict)).headers
            assert site.calls == ["load", "touch"]


async def test_a_damaged_expiry_is_a_damaged_record(
    site: Site, store: SessionStore, clock: Clock
) -> None:
    session_id = "A" * 43
    record = Record(b'[{"a":1},null,null,null,"soon"]', clock(), clock() + HOUR)
    await store.create(hash_id(session_id), record)
    async with site.visitor(session_id) as visitor:
        assert await visitor.sees() == {}
