"""What a visitor and a handler can rely on, over ASGI, on every store."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from operator import attrgetter, methodcaller
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serversessions import (
    OwnedSession,
    Record,
    Session,
    SessionClosed,
    SessionDataError,
    SessionMiddleware,
    SessionStore,
    StoreUnavailable,
    delete_owned,
    hash_owner,
)
from serversessions.owners import UserId
from serversessions.stores.memory import MemoryStore
from serversessions.sweeper import sweep_forever
from serversessions.testing import Clock
from serversessions.testing.contract import scan_all
from serversessions.unusable import UnusableSession

Act = Callable[[Session], Any]
HOUR, DAY = 3600, 86400


class Site:
    """A site with one page that does to its session what a test asks for."""

    def __init__(self, store: SessionStore, clock: Clock, **options: Any) -> None:
        self.calls: list[str] = []
        middleware = Middleware(SessionMiddleware, store=Watched(store, self.calls), clock=clock)
        middleware.kwargs.update(options)
        routes = [Route("/{page:path}", self._page)]
        self._app = Starlette(routes=routes, middleware=[middleware])
        self.acts: list[tuple[Act, int]] = []

    async def _page(self, request: Request) -> Response:
        act, status = self.acts[int(request.headers["act"])]
        result = act(request.scope["session"])  # not request.session, which counts as a look at it
        if isinstance(result, Awaitable):
            result = await result
        return result if isinstance(result, Response) else JSONResponse(result, status)

    @asynccontextmanager
    async def visitor(self, cookie: str | None = None) -> AsyncIterator[Visitor]:
        transport = httpx2.ASGITransport(self._app)
        async with httpx2.AsyncClient(transport=transport, base_url="https://testserver") as client:
            visitor = Visitor(self, client)
            if cookie is not None:
                visitor.brings(cookie)
            yield visitor


class Watched:
    """A store whose calls are noted down."""

    def __init__(self, store: SessionStore, calls: list[str]) -> None:
        self._store = store
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        self._calls.append(name)
        return getattr(self._store, name)


class Visitor:
    """A browser with its cookies."""

    def __init__(self, site: Site, client: httpx2.AsyncClient) -> None:
        self._site = site
        self.client = client

    def brings(self, session_id: str) -> None:
        """Put an id into the browser, as an attacker or another tab would."""
        self.client.cookies.set("id", session_id, domain="testserver.local", path="/")

    async def does(self, act: Act, status: int = 200, path: str = "/") -> httpx2.Response:
        """Visit a page that does ``act`` to the session."""
        self._site.acts.append((act, status))
        self._site.calls.clear()
        return await self.client.get(path, headers={"act": str(len(self._site.acts) - 1)})

    async def sees(self) -> Any:
        """The session's data."""
        return (await self.does(dict)).json()

    @property
    def id(self) -> str | None:
        return self.client.cookies.get("id")


def lives_for_an_hour(response: httpx2.Response) -> bool:
    """Whether the cookie does, but for the seconds that the visit took."""
    return bool(re.search(r"Max-Age=(3600|359\d)\b", response.headers["set-cookie"]))


def puts(**values: Any) -> Act:
    return lambda session: session.update(values)


def signs_in(user_id: UserId) -> Act:
    def sign_in(session: Session) -> None:
        session.owner = user_id

    return sign_in


@pytest.fixture
def site(store: SessionStore, clock: Clock) -> Site:
    return Site(store, clock)


class TestKeeping:
    async def test_what_was_put_is_there_on_the_next_visit(self, site: Site) -> None:
        value = {"text": "ü😀\0", "n": [1, 2.5, -(10**30), None, True], "empty": [{}, [], ""]}
        async with site.visitor() as visitor:
            await visitor.does(puts(value=value))
            assert await visitor.sees() == {"value": value}

    async def test_visitors_do_not_see_each_other(self, site: Site) -> None:
        async with site.visitor() as ada, site.visitor() as bob:
            await ada.does(puts(name="Ada"))
            await bob.does(puts(name="Bob"))
            assert await ada.sees() == {"name": "Ada"}
            assert ada.id != bob.id

    async def test_a_nested_change_is_kept(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(cart={"items": [1]}))
            await visitor.does(lambda session: session["cart"]["items"].append(2))
            assert await visitor.sees() == {"cart": {"items": [1, 2]}}

    async def test_what_is_merged_in_place_is_kept(self, site: Site) -> None:
        def merge(session: Session) -> None:
            merged = session
            merged |= {"b": 2}
            assert merged is session

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(merge)
            assert await visitor.sees() == {"a": 1, "b": 2}

    @pytest.mark.parametrize(("status", "kept"), [(302, True), (404, True), (500, False)])
    async def test_only_a_server_error_keeps_nothing(
        self, site: Site, status: int, kept: bool
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(puts(b=2), status)
            assert ("b" in await visitor.sees()) is kept

    async def test_an_exception_keeps_nothing(self, site: Site) -> None:
        def fail(session: Session) -> None:
            session["b"] = 2
            session.rotate_id()
            raise RuntimeError

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with pytest.raises(RuntimeError):
                await visitor.does(fail)
            assert await visitor.sees() == {"a": 1}


class TestCost:
    async def test_a_visit_without_a_session_asks_the_store_nothing(self, site: Site) -> None:
        async with site.visitor() as visitor:
            response = await visitor.does(dict)
            assert site.calls == []
            assert "set-cookie" not in response.headers

    async def test_reading_loads_once_and_writes_nothing(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=[1]))
            response = await visitor.does(lambda session: session["a"])
            assert site.calls == ["load"]
            assert "set-cookie" not in response.headers

    async def test_putting_back_the_same_value_writes_nothing(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(puts(a=1))
            assert site.calls == ["load"]

    async def test_a_change_writes_once(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            assert site.calls == ["create"]
            await visitor.does(puts(a=2, b=3))
            assert site.calls == ["load", "update"]

    async def test_a_sign_in_writes_once(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await visitor.does(signs_in("ada"))
            assert site.calls == ["load", "update"]
            await visitor.does(signs_in("ada"))
            assert site.calls == ["load", "update"]
            await visitor.does(Session.flush)
            await visitor.does(signs_in("ada"))
            assert site.calls == ["create"]

    async def test_an_excluded_path_asks_the_store_nothing(
        self, store: SessionStore, clock: Clock
    ) -> None:
        site = Site(store, clock, exclude=["/static/"])
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for path in ("/static", "/static/style.css"):
                with pytest.raises(Exception, match="exclude"):
                    await visitor.does(dict, path=path)
                assert site.calls == []
            assert (await visitor.does(dict, path="/statics")).json() == {"a": 1}


class TestIds:
    async def test_an_invented_id_is_never_adopted(self, site: Site) -> None:
        invented = "A" * 43
        for act in (puts(a=1), Session.rotate_id, Session.flush, Session.clear):
            async with site.visitor(invented) as visitor:
                await visitor.does(act)
                await visitor.does(puts(a=1))
                assert visitor.id != invented
            async with site.visitor(invented) as attacker:
                assert await attacker.sees() == {}

    @pytest.mark.parametrize(
        "header",
        [
            *("id=", "id", "id=short", "id=" + "A" * 44, "id=" + "A" * 5000, "=;;=;"),
            *("xid={}", "id2={}", 'id="{}"', "ID={}", "id={}%20", "id=\xff{}", "id={}\0"),
        ],
    )
    async def test_what_is_no_id_never_reaches_the_store(self, site: Site, header: str) -> None:
        async with site.visitor() as visitor, site.visitor() as other:
            await visitor.does(puts(a=1))
            raw = header.format(visitor.id).encode("latin-1")
            other.client.headers = httpx2.Headers([(b"cookie", raw)])
            assert await other.sees() == {}
            assert site.calls == []

    async def test_the_store_never_sees_the_id(self, clock: Clock) -> None:
        store = MemoryStore(clock=clock)
        async with Site(store, clock).visitor() as visitor:
            await visitor.does(puts(a=1))
            assert visitor.id is not None
            assert visitor.id not in repr(vars(store))

    async def test_a_rotation_ends_the_old_id(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await visitor.does(Session.rotate_id)
            assert await visitor.sees() == {"a": 1}
            assert visitor.id != old
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}

    async def test_a_flush_ends_the_session(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            response = await visitor.does(Session.flush)
            assert "Max-Age=0" in response.headers["set-cookie"]
            assert visitor.id is None
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}

    async def test_what_follows_a_flush_is_another_session(self, site: Site) -> None:
        def flush_then_put(session: Session) -> None:
            session.flush()
            session["b"] = 2

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await visitor.does(flush_then_put)
            assert visitor.id != old
            assert await visitor.sees() == {"b": 2}
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}

    async def test_what_follows_a_flush_is_kept_though_the_session_was_ended_elsewhere(
        self, site: Site
    ) -> None:
        loaded, ended = asyncio.Event(), asyncio.Event()

        async def save_flush_and_put(session: Session) -> None:
            session["late"] = True
            loaded.set()
            await ended.wait()
            with pytest.raises(SessionClosed):
                await session.save()
            session.flush()
            session["new"] = True

        async with site.visitor() as visitor, site.visitor() as slow:
            await visitor.does(puts(a=1))
            assert visitor.id is not None
            slow.brings(visitor.id)
            request = asyncio.create_task(slow.does(save_flush_and_put))
            await loaded.wait()
            await visitor.does(Session.flush)
            ended.set()
            await request
            assert await slow.sees() == {"new": True}

    async def test_removing_the_last_key_keeps_the_session_for_other_writers(
        self, site: Site
    ) -> None:
        loaded, emptied = asyncio.Event(), asyncio.Event()

        async def slowly_put(session: Session) -> None:
            session["b"] = 1
            loaded.set()
            await emptied.wait()

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            request = asyncio.create_task(visitor.does(slowly_put))
            await loaded.wait()
            await visitor.does(lambda session: session.pop("a"))
            emptied.set()
            await request
            assert await visitor.sees() == {"b": 1}

    async def test_a_flush_that_failed_once_is_made_good_by_the_next_save(self, site: Site) -> None:
        async def flush_and_recover(session: Session) -> None:
            session.flush()
            session["wrong"] = object()
            with pytest.raises(SessionDataError):
                await session.save()
            session["wrong"] = "right"

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await visitor.does(flush_and_recover)
            assert await visitor.sees() == {"wrong": "right"}
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}


class TestConcurrency:
    async def test_writers_of_different_keys_all_win(self, site: Site) -> None:
        arrived = asyncio.Barrier(8)

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))

            async def put(number: int) -> None:
                async def act(session: Session) -> None:
                    await arrived.wait()
                    session[f"key{number}"] = number

                await visitor.does(act)

            await asyncio.gather(*(put(number) for number in range(8)))
            assert await visitor.sees() == {"a": 1} | {f"key{n}": n for n in range(8)}

    async def test_what_was_taken_out_is_kept_when_it_changes_after_a_save_that_came_second(
        self, site: Site
    ) -> None:
        loaded, changed = asyncio.Event(), asyncio.Event()

        async def save_and_append(session: Session) -> None:
            cart = session["cart"]
            session["seen"] = True
            loaded.set()
            await changed.wait()
            await session.save()
            cart.append("book")

        async with site.visitor() as visitor:
            await visitor.does(puts(cart=[]))
            request = asyncio.create_task(visitor.does(save_and_append))
            await loaded.wait()
            await visitor.does(puts(name="Ada"))
            changed.set()
            await request
            assert await visitor.sees() == {"cart": ["book"], "name": "Ada", "seen": True}

    @pytest.mark.parametrize("ending", [Session.flush, Session.clear, Session.rotate_id])
    async def test_an_ended_session_stays_dead_while_a_slow_request_saves(
        self, site: Site, ending: Act
    ) -> None:
        loaded, ended = asyncio.Event(), asyncio.Event()

        async def slowly_put(session: Session) -> None:
            session["late"] = True
            loaded.set()
            await ended.wait()
            with pytest.raises(SessionClosed):
                await session.save()
            session["later"] = True

        async with site.visitor() as visitor, site.visitor() as slow:
            await visitor.does(puts(a=1))
            old = visitor.id
            assert old is not None
            slow.brings(old)
            request = asyncio.create_task(slow.does(slowly_put))
            await loaded.wait()
            await visitor.does(ending)
            ended.set()
            response = await request
            assert response.status_code == 200
            assert "set-cookie" not in response.headers
            assert await slow.sees() == {}
            assert not {"late", "later"} & set(await visitor.sees())

    async def test_a_removed_key_stays_removed_beside_another_change(self, site: Site) -> None:
        loaded, changed = asyncio.Event(), asyncio.Event()

        async def slowly_remove(session: Session) -> None:
            del session["a"]
            loaded.set()
            await changed.wait()

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1, b=1))
            request = asyncio.create_task(visitor.does(slowly_remove))
            await loaded.wait()
            await visitor.does(puts(b=2))
            changed.set()
            await request
            assert await visitor.sees() == {"b": 2}


class TestExpiry:
    @pytest.mark.parametrize(
        ("options", "lifetime"),
        [
            ({}, 14 * DAY),
            ({"expiry": timedelta(minutes=30)}, 1800),
            ({"max_lifetime": timedelta(hours=1)}, HOUR),
        ],
    )
    async def test_an_unused_session_ends(
        self, store: SessionStore, clock: Clock, options: dict[str, Any], lifetime: int
    ) -> None:
        async with Site(store, clock, **options).visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(lifetime)
            assert await visitor.sees() == {}

    async def test_use_renews_an_idle_time_and_the_cookie(
        self, store: SessionStore, clock: Clock
    ) -> None:
        async with Site(store, clock, expiry=timedelta(hours=1)).visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(HOUR / 2)
            assert lives_for_an_hour(await visitor.does(dict))
            clock.advance(HOUR * 0.9)
            assert await visitor.sees() == {"a": 1}

    async def test_renewal_waits_for_a_twentieth(self, store: SessionStore, clock: Clock) -> None:
        site = Site(store, clock, expiry=timedelta(hours=1))
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(HOUR / 20 - 5)
            assert "set-cookie" not in (await visitor.does(dict)).headers
            assert site.calls == ["load"]
            clock.advance(10)
            assert "set-cookie" in (await visitor.does(dict)).headers
            assert site.calls == ["load", "touch"]

    async def test_the_absolute_limit_holds_whatever_the_activity(
        self, store: SessionStore, clock: Clock
    ) -> None:
        options = {"expiry": timedelta(hours=1), "max_lifetime": timedelta(hours=2)}
        async with Site(store, clock, **options).visitor() as visitor:
            await visitor.does(puts(a=1))
            for _ in range(3):
                clock.advance(HOUR * 0.6)
                assert await visitor.sees() == {"a": 1}
                await visitor.does(Session.rotate_id)
            clock.advance(HOUR * 0.3)
            assert await visitor.sees() == {}

    async def test_all_sessions_end_at_a_date(self, store: SessionStore, clock: Clock) -> None:
        end = datetime.fromtimestamp(clock() + HOUR, UTC)
        async with Site(store, clock, expiry=end).visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(HOUR - 10)
            assert await visitor.sees() == {"a": 1}
            clock.advance(10)
            assert await visitor.sees() == {}
            assert "set-cookie" not in (await visitor.does(puts(a=1))).headers

    async def test_always_save_renews_on_every_visit(
        self, store: SessionStore, clock: Clock
    ) -> None:
        site = Site(store, clock, expiry=timedelta(hours=1), always_save=True)
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(1)
            assert lives_for_an_hour(await visitor.does(dict))
            assert site.calls == ["load", "touch"]


class TestCookie:
    async def test_its_attributes_are_strict_but_for_links_from_other_sites(
        self, site: Site
    ) -> None:
        async with site.visitor() as visitor:
            cookie = (await visitor.does(puts(a=1))).headers["set-cookie"]
            assert cookie == f"id={visitor.id}; Path=/; HttpOnly; Secure; SameSite=Lax"

    async def test_its_removal_repeats_its_attributes(
        self, store: SessionStore, clock: Clock
    ) -> None:
        options: dict[str, Any] = {
            "name": "sid",
            "path": "/app",
            "domain": "testserver.local",
            "http_only": False,
            "same_site": "none",
            "partitioned": True,
        }
        attributes = "Path=/app; Domain=testserver.local; Secure; SameSite=None; Partitioned"
        async with Site(store, clock, **options).visitor() as visitor:
            created = (await visitor.does(puts(a=1))).headers["set-cookie"]
            assert created.endswith(attributes)
            visitor.client.headers["cookie"] = created.partition(";")[0]
            removed = (await visitor.does(Session.flush)).headers["set-cookie"]
            assert removed == f"sid=; Max-Age=0; {attributes}"

    @pytest.mark.parametrize(
        "act", [lambda s: "a" in s, len, list, lambda s: s.get("a"), lambda s: s.is_new, dict]
    )
    async def test_whoever_looks_at_the_session_varies_by_it(self, site: Site, act: Act) -> None:
        async with site.visitor() as visitor:
            response = await visitor.does(lambda session: bool(act(session)))
            assert response.headers["vary"] == "Cookie"

    async def test_a_renewed_one_is_for_one_visitor_though_the_page_is_for_all(
        self, store: SessionStore, clock: Clock
    ) -> None:
        async with Site(store, clock, expiry=timedelta(hours=1)).visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(HOUR / 2)
            response = await visitor.does(lambda session: "the same for everyone")
            assert "set-cookie" in response.headers
            assert response.headers["vary"] == "Cookie"


class TestRefusals:
    @pytest.mark.parametrize(
        "value", [object(), {1, 2}, float("nan"), "\ud800", b"bytes", [{1: 2}]]
    )
    async def test_what_json_cannot_carry_is_refused_by_its_key(
        self, site: Site, value: Any
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with pytest.raises(SessionDataError, match="'wrong'"):
                await visitor.does(puts(a=2, wrong=value))
            assert await visitor.sees() == {"a": 1}

    async def test_too_much_data_is_refused(self, store: SessionStore, clock: Clock) -> None:
        async with Site(store, clock, max_size=100).visitor() as visitor:
            await visitor.does(puts(a="x" * 90))
            with pytest.raises(SessionDataError, match="'big'"):
                await visitor.does(puts(big="x" * 100))
            assert await visitor.sees() == {"a": "x" * 90}

    @pytest.mark.parametrize(
        ("change", "says"),
        [(puts(late=1), "'late'"), (lambda session: session["a"].append(1), "'a'")],
    )
    async def test_a_change_after_the_response_began_is_refused(
        self, site: Site, change: Act, says: str
    ) -> None:
        def stream(session: Session) -> Response:
            async def body() -> AsyncIterator[bytes]:
                yield b"begun"
                change(session)

            return StreamingResponse(body())

        async with site.visitor() as visitor:
            await visitor.does(puts(a=[]))
            with pytest.raises(SessionClosed, match=says):
                await visitor.does(stream)
            assert await visitor.sees() == {"a": []}

    async def test_an_owner_is_a_user_id(self, site: Site) -> None:
        wrong: list[Any] = [True, 1.5, b"ada", object(), "\ud800", "x" * 256]

        def own(session: Session) -> None:
            session.owner = 42
            for owner in wrong:
                with pytest.raises((TypeError, ValueError)):
                    session.owner = owner

        async with site.visitor() as visitor:
            await visitor.does(own)
            assert (await visitor.does(lambda session: session.owner)).json() == 42


class TestOwners:
    """A user's sessions on several devices."""

    async def test_the_store_does_not_learn_whose_a_session_is(
        self, site: Site, store: SessionStore
    ) -> None:
        async with site.visitor() as ada:
            await ada.does(puts(cart=[1]))
            await ada.does(signs_in("ada@example.com"))
            await ada.does(lambda session: session.rotate_id())
            found = await scan_all(store)
            assert b"ada@" not in b"".join(record.to_bytes() for _, record in found)
            assert (await ada.does(lambda session: session.owner)).json() == "ada@example.com"
            assert await ada.sees() == {"cart": [1]}

    async def test_a_session_under_another_owner_s_name_is_none(
        self, site: Site, store: SessionStore
    ) -> None:
        async with site.visitor() as ada:
            await ada.does(signs_in("ada"))
            [(key, record)] = await store.list_owned(hash_owner("ada"))
            for version, owner in enumerate((hash_owner("bob"), None), start=2):
                await store.update(key, replace(record, version=version, owner=owner))
                assert (await ada.does(lambda session: session.owner)).json() is None

    async def test_a_user_sees_every_device_and_signs_one_out(self, site: Site) -> None:
        async with site.visitor() as phone, site.visitor() as laptop, site.visitor() as bob:
            phone.client.headers["user-agent"] = "Phone/1 <b>"
            laptop.client.headers["user-agent"] = "L" * 1000
            for visitor, user_id in ((phone, "ada"), (laptop, "ada"), (bob, "bob")):
                await visitor.does(signs_in(user_id))
            laptop.client.headers["user-agent"] = "not the one of the sign-in"
            seen: dict[bool, OwnedSession] = {}

            async def look(session: Session) -> None:
                session["changed"] = True
                seen.update({each.is_current: each for each in await session.list_owned()})

            await laptop.does(look)
            assert len(seen) == 2
            assert seen[True].user_agent == "L" * 400
            assert seen[False].user_agent == "Phone/1 <b>"
            assert seen[False].signed_in_at <= seen[True].signed_in_at <= datetime.now(UTC)
            assert seen[False].signed_in_at <= seen[False].last_seen_at <= datetime.now(UTC)

            key = seen[False].key
            assert (await bob.does(lambda session: session.delete_owned(key))).json() == 0
            own, junk = seen[True].key, ["../../x", "", key.upper(), "\ud800"]
            done = await laptop.does(lambda session: session.delete_owned(own, key, *junk))
            assert done.json() == 1
            assert (await phone.does(lambda session: session.owner)).json() is None
            assert (await laptop.does(lambda session: session.owner)).json() == "ada"

    @pytest.mark.parametrize(
        ("options", "seen"),
        [
            ({"expiry": timedelta(days=20)}, 2 * DAY),  # what renews it is a day at least
            ({"expiry": timedelta(days=20), "max_lifetime": timedelta(days=21)}, 0),
            ({"expiry": datetime(2100, 1, 1, tzinfo=UTC)}, 0),
        ],
    )
    async def test_a_device_was_seen_when_it_signed_in_or_was_renewed(
        self, store: SessionStore, clock: Clock, options: dict[str, Any], seen: int
    ) -> None:
        async with Site(store, clock, **options).visitor() as visitor:
            await visitor.does(signs_in("ada"))
            for _ in range(2):
                clock.advance(DAY)
                await visitor.does(dict)
            devices: list[OwnedSession] = []

            async def look(session: Session) -> None:
                devices.extend(await session.list_owned())

            await visitor.does(look)
            since = devices[0].last_seen_at - devices[0].signed_in_at
            assert since.total_seconds() == pytest.approx(seen, abs=30)
            await visitor.does(lambda session: session.flush())

    async def test_a_user_signs_out_everywhere_else(self, site: Site) -> None:
        async with site.visitor() as phone, site.visitor() as laptop, site.visitor() as bob:
            for visitor, user_id in ((phone, "ada"), (laptop, "ada"), (bob, "bob")):
                await visitor.does(signs_in(user_id))
            done = await laptop.does(lambda session: session.delete_others())
            assert done.json() == 1
            owners = [
                (await visitor.does(lambda session: session.owner)).json()
                for visitor in (phone, laptop, bob)
            ]
            assert owners == [None, "ada", "bob"]

    async def test_nobody_has_no_other_sessions(self, site: Site) -> None:
        async def look(session: Session) -> list[object]:
            key = "0" * 64
            counts = [await session.delete_others(), await session.delete_owned(key)]
            return [*await session.list_owned(), *counts]

        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            assert (await visitor.does(look)).json() == [0, 0]

    async def test_code_of_the_project_signs_a_user_out(
        self, site: Site, store: SessionStore
    ) -> None:
        async with site.visitor() as phone, site.visitor() as laptop:
            for visitor in (phone, laptop):
                await visitor.does(signs_in("42"))
            assert await delete_owned(store, 42, except_id=phone.id) == 1
            assert (await phone.does(lambda session: session.owner)).json() == "42"
            assert (await laptop.does(lambda session: session.owner)).json() is None
            assert await delete_owned(store, 42) == 1

    async def test_the_browser_is_noted_for_owners_alone_and_not_if_switched_off(
        self, store: SessionStore, clock: Clock
    ) -> None:
        for site, noted in (
            (Site(store, clock), 1),
            (Site(store, clock, keep_user_agent=False), 0),
        ):
            async with site.visitor() as visitor:
                visitor.client.headers["user-agent"] = "Browser/7"
                await visitor.does(puts(a=1))
                assert b"Browser/7" not in (await scan_all(store))[-1][1].data
                await visitor.does(signs_in("ada"))
                [(_, record)] = await store.list_owned(hash_owner("ada"))
                assert record.data.count(b"Browser/7") == noted
                await visitor.does(lambda session: session.flush())


class TestEvents:
    """What the log tells of sessions."""

    async def test_what_happens_to_a_session_is_logged_without_its_id_data_or_owner(
        self, site: Site, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        async with site.visitor("A" * 43) as visitor, site.visitor() as other:
            ids = [visitor.id]
            for act in (
                puts(word="s3cret"),
                signs_in("ada"),
                lambda session: session.update(word="s3cret2"),
                lambda session: session.flush(),
            ):
                await visitor.does(act)
                ids.append(visitor.id)
            await visitor.does(signs_in("ada"))
            await other.does(signs_in("ada"))
            await other.does(lambda session: session.delete_others())
        records = [record for record in caplog.records if record.name.endswith("sessions.events")]
        assert [record.getMessage() for record in records] == [
            "session.refused",
            "session.created",
            "session.rotated",
            "session.revoked count=1",
            "session.created",
            "session.created",
            "session.revoked count=1",
        ]
        told = "".join(str(vars(record)) for record in caplog.records)
        assert records[3].__dict__["event"] == "session.revoked"
        assert records[3].__dict__["count"] == 1
        for secret in ("s3cret", "ada", *filter(None, ids)):
            assert secret not in told

    async def test_what_is_swept_is_logged(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        store = MemoryStore(clock=clock)
        for key in ("a" * 64, "b" * 64):
            await store.create(key, Record(b"{}", clock(), clock() + 1))
        clock.advance(HOUR)
        sweeper = asyncio.create_task(sweep_forever(store))
        await asyncio.sleep(0.01)
        sweeper.cancel()
        assert "session.expired count=2" in caplog.messages


def test_a_session_without_a_request_serves_in_tests_of_handlers() -> None:
    session = Session(a=[])
    session["a"].append(1)
    session["b"] = session.pop("a")
    session.owner = "ada"
    assert (session, session.owner, session.is_new) == ({"b": [1]}, "ada", True)
    assert (session.accessed, session.modified) == (True, True)


class TestFaults:
    @pytest.fixture
    def broken(self, clock: Clock) -> Site:
        """A site whose store can't be reached."""

        class Broken(MemoryStore):
            async def load(self, key: str) -> Any:
                raise StoreUnavailable("gone")

            async def create(self, key: str, record: Any) -> bool:
                raise StoreUnavailable("gone")

        return Site(Broken(), clock)

    async def test_who_needs_the_session_hears_503(self, broken: Site) -> None:
        async def look_in_a_task(session: Session) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.to_thread(dict, session))

        async with broken.visitor("A" * 43) as visitor:
            for act in (dict, puts(a=1), Session.flush, look_in_a_task):
                response = await visitor.does(act)
                assert response.status_code == 503
                assert response.headers["retry-after"] == "5"
                assert "set-cookie" not in response.headers

    async def test_nothing_can_be_done_with_a_session_that_was_not_loaded(self) -> None:
        session = UnusableSession(StoreUnavailable("gone"))
        for act in (dict, len, puts(a=1), methodcaller("get", "a"), attrgetter("owner")):
            with pytest.raises(StoreUnavailable):
                act(session)
        for name in ("rotate_id", "flush"):
            with pytest.raises(StoreUnavailable):
                getattr(session, name)()
        for name in ("save", "list_owned", "delete_owned", "delete_others"):
            with pytest.raises(StoreUnavailable):
                await getattr(session, name)()

    async def test_who_does_not_need_it_notices_nothing(self, broken: Site) -> None:
        async with broken.visitor("A" * 43) as visitor:
            assert (await visitor.does(lambda session: "fine")).json() == "fine"

    async def test_a_renewal_that_fails_disturbs_nobody(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        class ReadOnly(MemoryStore):
            async def touch(self, key: str, expires: float) -> bool:
                raise StoreUnavailable("read-only")

        async with Site(ReadOnly(clock=clock), clock).visitor() as visitor:
            await visitor.does(puts(a=1))
            clock.advance(DAY)
            assert await visitor.sees() == {"a": 1}
            assert "Could not renew" in caplog.text

    async def test_who_is_not_answered_and_asks_again_saved_once(self, clock: Clock) -> None:
        class Unheard(MemoryStore):
            async def create(self, key: str, record: Record) -> bool:
                await super().create(key, record)
                return await super().create(key, record)

            async def update(self, key: str, record: Record, **more: Any) -> bool:
                await super().update(key, record, **more)
                return await super().update(key, record, **more)

        store = Unheard(clock=clock)
        async with Site(store, clock, expiry=timedelta(hours=1)).visitor() as visitor:
            await visitor.does(puts(a=1))
            for act in (puts(a=2), Session.rotate_id):
                clock.advance(HOUR / 2)
                assert lives_for_an_hour(await visitor.does(act))
            assert await visitor.sees() == {"a": 2}
            clock.advance(120)  # what a rotated id leaves is over
            await store.delete_expired()
            assert len(await scan_all(store)) == 1

    async def test_what_cannot_be_saved_hands_out_no_cookie(self, broken: Site) -> None:
        async with broken.visitor() as visitor:
            response = await visitor.does(puts(a=1))
            assert response.status_code == 503
            assert visitor.id is None


class TestWebSockets:
    @pytest.fixture
    def client(self, clock: Clock) -> TestClient:
        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            session["accepted"] = True
            await websocket.accept()
            async for key in websocket.iter_text():
                session[key] = True
                await session.save()
                await websocket.send_text("saved")

        async def show(request: Request) -> JSONResponse:
            return JSONResponse(dict(request.session))

        return TestClient(
            Starlette(
                routes=[WebSocketRoute("/talk", talk), Route("/", show)],
                middleware=[Middleware(SessionMiddleware, store=MemoryStore(), clock=clock)],
            ),
            base_url="https://testserver",
        )

    def test_what_changes_before_accept_and_what_is_saved_after_it_is_kept(
        self, client: TestClient
    ) -> None:
        with client.websocket_connect("/talk") as websocket:
            headers: list[tuple[bytes, bytes]] = websocket.extra_headers or []
            client.headers["cookie"] = dict(headers)[b"set-cookie"].decode().partition(";")[0]
            websocket.send_text("later")
            assert websocket.receive_text() == "saved"
        assert client.get("/").json() == {"accepted": True, "later": True}


async def test_what_changes_while_a_session_is_saved_is_saved_the_next_time(
    clock: Clock,
) -> None:
    class Slow(MemoryStore):
        async def update(self, key: str, record: Record, **more: Any) -> bool:
            await asyncio.sleep(0)
            return await super().update(key, record, **more)

    async def save_twice(session: Session) -> None:
        session["before"] = 1
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0)
        session["meanwhile"] = 2
        await saving
        await session.save()

    async with Site(Slow(clock=clock), clock).visitor() as visitor:
        await visitor.does(puts(begun=0))
        await visitor.does(save_twice)
        assert await visitor.sees() == {"begun": 0, "before": 1, "meanwhile": 2}


class TestGarbage:
    """A request that leaves reference cycles behind makes the collector stop a later one."""

    @staticmethod
    async def call(app: ASGIApp, kind: str, cookie: bytes) -> bytes:
        """Call an app as a server does; the cookie that it set, or else the same."""
        heard: list[Message] = []

        async def receive() -> Message:
            return {"type": f"{kind}.connect"}

        async def send(message: Message) -> None:
            heard.append(message)

        headers = [(b"host", b"testserver"), (b"cookie", cookie)]
        with suppress(RuntimeError):
            await app({"type": kind, "path": "/", "headers": headers}, receive, send)
        sent = dict(heard[0]["headers"]) if heard else {}
        return bytes(sent.get(b"set-cookie", cookie).partition(b";")[0])

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    @pytest.mark.parametrize("act", ["nothing", "read", "write", "sign in", "flush", "fail"])
    async def test_a_request_leaves_no_reference_cycle(
        self, clock: Clock, kind: str, act: str
    ) -> None:
        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]
            match act:
                case "read":
                    session.get("list")
                case "write":
                    session.setdefault("list", []).append(1)
                case "sign in":
                    session.owner = "ada"
                case "flush":
                    session.flush()
                case "fail":
                    raise RuntimeError
            start = "websocket.accept" if kind == "websocket" else "http.response.start"
            await send({"type": start, "status": 200, "headers": []})

        async def put(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["list"] = []
            await send({"type": "http.response.start", "status": 200, "headers": []})

        store = MemoryStore(clock=clock)
        cookie = await self.call(SessionMiddleware(put, store, clock=clock), "http", b"")
        app = SessionMiddleware(page, store, clock=clock)
        gc.disable()
        gc.freeze()  # what was there before takes most of a collection's time
        try:
            for _ in range(2):  # the first call fills caches
                gc.collect()
                cookie = await self.call(app, kind, cookie)
            assert gc.collect() == 0
        finally:
            gc.unfreeze()
            gc.enable()
