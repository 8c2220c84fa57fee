"""Faults of real servers and files, as visitors see them: stopped, paused, full, cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from starlette.types import Message
from starlette.websockets import WebSocket

from serversessions import Session, SessionMiddleware
from serversessions.testing import Clock

from .faults import (
    Server,
    assert_unavailable,
    is_served,
    opened,
    site_at,
    until,
    writers,
)
from .test_sessions import Act, Site, Visitor, puts

TIMEOUT = 1.0  # seconds that a store may wait for its server, where a test waits for that
PATIENCE = 4 * TIMEOUT  # seconds a visitor may wait: one load, one save, and as much to spare


@pytest.fixture
async def site(server: Server) -> AsyncIterator[Site]:
    """A site whose sessions live on the server."""
    async with site_at(server.url) as site:
        yield site


@pytest.fixture
async def hasty_site(server: Server) -> AsyncIterator[Site]:
    """The same, with a store that soon gives up."""
    async with site_at(server.url, TIMEOUT) as site:
        yield site


class TestStopped:
    async def test_who_touches_the_session_hears_503_and_gets_no_cookie(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor, site.visitor() as stranger:
            await visitor.does(puts(a=1))
            server.stop()
            for act in (dict, puts(a=2), Session.rotate_id, Session.flush):
                assert_unavailable(await visitor.does(act))
            assert_unavailable(await stranger.does(puts(a=1)))

    async def test_503_comes_within_the_timeout(self, hasty_site: Site, server: Server) -> None:
        async with hasty_site.visitor() as visitor:
            await until(lambda: is_served(visitor, puts(a=1)))
            server.stop()
            async with asyncio.timeout(PATIENCE):
                assert_unavailable(await visitor.does(dict))

    async def test_who_does_not_touch_the_session_notices_nothing(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            server.stop()
            assert (await visitor.does(lambda session: "fine")).json() == "fine"

    async def test_who_has_no_cookie_is_served_at_once(self, site: Site, server: Server) -> None:
        server.stop()
        async with asyncio.timeout(TIMEOUT), site.visitor() as stranger:
            assert await stranger.sees() == {}

    async def test_a_websocket_is_closed_with_1013_before_it_is_accepted(
        self, server: Server
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            Session.of(websocket)["a"] = 1
            await websocket.accept()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await talk(WebSocket(scope, receive, send))

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        server.stop()
        for headers in [], [(b"cookie", b"id=" + b"A" * 43)]:
            sent.clear()
            async with opened(server.url) as store:
                scope = {"type": "websocket", "path": "/", "headers": headers}
                await SessionMiddleware(app, store)(scope, receive, send)
            assert [(message["type"], message.get("code")) for message in sent] == [
                ("websocket.close", 1013)
            ]


class TestRestarted:
    async def test_after_a_crash_no_visitor_hears_an_error_and_none_lost_a_session(
        self, site: Site, server: Server
    ) -> None:
        async with AsyncExitStack() as stack:
            visitors = [await stack.enter_async_context(site.visitor()) for _ in range(12)]
            await asyncio.gather(*(visitor.does(puts(a=1)) for visitor in visitors))
            await server.restart_after_a_crash()
            responses = await asyncio.gather(*(visitor.does(puts(b=2)) for visitor in visitors))
            assert {response.status_code for response in responses} == {200}
            for visitor in visitors:
                assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_the_site_recovers_without_a_restart_of_its_own(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            server.stop()
            assert_unavailable(await visitor.does(puts(a=2)))
            await server.start()
            assert await visitor.sees() == {"a": 1}

    async def test_a_site_that_started_before_its_server_serves_as_soon_as_that_runs(
        self, server: Server
    ) -> None:
        server.stop()
        async with site_at(server.url) as site, site.visitor() as visitor:
            assert_unavailable(await visitor.does(puts(a=1)))
            await server.start()
            await visitor.does(puts(a=1))
            assert await visitor.sees() == {"a": 1}


class TestPaused:
    async def test_503_comes_within_the_timeout(self, hasty_site: Site, server: Server) -> None:
        async with hasty_site.visitor() as visitor:
            await until(lambda: is_served(visitor, puts(a=1)))
            with server.paused():
                async with asyncio.timeout(PATIENCE):
                    assert_unavailable(await visitor.does(dict))

    async def test_a_crowd_hears_503_within_the_timeout(
        self, hasty_site: Site, server: Server
    ) -> None:
        async with hasty_site.visitor() as visitor:
            await until(lambda: is_served(visitor, puts(a=1)))
            with server.paused():
                async with asyncio.timeout(PATIENCE):
                    crowd = (visitor.does(dict) for _ in range(50))
                    for response in await asyncio.gather(*crowd):
                        assert_unavailable(response)

    async def test_a_write_hears_503_within_the_timeout(
        self, hasty_site: Site, server: Server
    ) -> None:
        async def write_when_paused(session: Session) -> None:
            session["a"] = 2
            pause.enter_context(server.paused())

        async with hasty_site.visitor() as visitor:
            await until(lambda: is_served(visitor, puts(a=1)))
            with ExitStack() as pause:
                async with asyncio.timeout(PATIENCE):
                    assert_unavailable(await visitor.does(write_when_paused))

    async def test_who_needs_no_session_is_served_at_once(self, site: Site, server: Server) -> None:
        async with site.visitor() as visitor, site.visitor() as stranger:
            await visitor.does(puts(a=1))
            with server.paused():
                waiting = [asyncio.create_task(visitor.does(dict)) for _ in range(20)]
                await asyncio.sleep(0.02)
                async with asyncio.timeout(2):
                    assert await stranger.sees() == {}
                    response = await visitor.does(lambda session: "fine", path="/static/a.css")
                    assert response.json() == "fine"
                assert not any(task.done() for task in waiting)
            await asyncio.gather(*waiting)

    async def test_no_acknowledged_write_is_lost_and_the_site_recovers(
        self, hasty_site: Site, server: Server
    ) -> None:
        async with hasty_site.visitor() as visitor:
            await until(lambda: is_served(visitor, puts(a=1)))
            async with writers(hasty_site) as lost:
                await asyncio.sleep(0.1)
                with server.paused():
                    await asyncio.sleep(1.5 * TIMEOUT)
                await until(lambda: is_served(visitor, puts(b=2)))
                await asyncio.sleep(0.1)
            assert lost == set()
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_an_answer_that_nobody_waits_for_reaches_nobody_else(
        self, server: Server
    ) -> None:
        async with site_at(server.url, 4 * TIMEOUT) as site, AsyncExitStack() as stack:
            visitors = [await stack.enter_async_context(site.visitor()) for _ in range(10)]
            for number, visitor in enumerate(visitors):
                await visitor.does(puts(number=number))
            with server.paused():
                gone = [asyncio.create_task(visitor.sees()) for visitor in visitors]
                await asyncio.sleep(0.05)
                for task in gone:
                    task.cancel()
                await asyncio.wait(gone)
            seen = await asyncio.gather(*(visitor.sees() for visitor in reversed(visitors)))
            assert seen == [{"number": number} for number in reversed(range(10))]


class TestRefused:
    async def test_a_wrong_password_means_503_and_is_not_logged(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = await server.behind_password("wr0ng-s3cret")
        async with site_at(url) as site, site.visitor() as visitor:
            assert_unavailable(await visitor.does(puts(a=1)))
        assert "session.store_unavailable" in caplog.text
        assert "password" in caplog.text
        assert "wr0ng-s3cret" not in caplog.text

    async def test_a_read_only_server_answers_reads_and_refuses_writes_with_503(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor, site.visitor() as stranger:
            await visitor.does(puts(a=1))
            await server.refuse_writes()
            for act in (puts(a=2), Session.rotate_id, Session.flush):
                assert_unavailable(await visitor.does(act))
                assert await visitor.sees() == {"a": 1}
            assert_unavailable(await stranger.does(puts(a=1)))
            await server.accept_writes()
            await visitor.does(puts(b=2))
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_a_read_only_server_answers_reads_whose_renewal_is_due(
        self, server: Server
    ) -> None:
        async with opened(server.url) as store:
            clock = Clock()
            async with Site(store, clock, expiry=timedelta(hours=1)).visitor() as visitor:
                await visitor.does(puts(a=1))
                clock.advance(600)
                await server.refuse_writes()
                assert await visitor.sees() == {"a": 1}


class TestCutOff:
    async def test_no_acknowledged_write_is_lost_while_connections_are_cut(
        self, site: Site, server: Server
    ) -> None:
        async with writers(site) as lost:
            for _ in range(40):
                await server.cut_connections()
                await asyncio.sleep(0.005)
        assert lost == set()

    async def test_a_new_session_whose_answer_was_lost_is_no_error(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))  # connects
            visitor.client.cookies.clear()
            response = await does_without_answer(server, visitor, puts(b=2))
            assert response.status_code == 200
            assert await visitor.sees() == {"b": 2}

    async def test_an_update_whose_answer_was_lost_is_made_once(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            response = await does_without_answer(server, visitor, puts(b=2))
            assert response.status_code == 200
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_a_rotation_whose_answer_was_lost_logs_nobody_out(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            response = await does_without_answer(server, visitor, Session.rotate_id)
            assert response.status_code == 200
            assert visitor.id != old
            assert await visitor.sees() == {"a": 1}

    async def test_a_logout_whose_answer_was_lost_is_one(self, site: Site, server: Server) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            assert (await does_without_answer(server, visitor, Session.flush)).status_code == 200
            assert visitor.id is None
        async with site.visitor(old) as attacker:
            assert await attacker.sees() == {}


async def does_without_answer(server: Server, visitor: Visitor, act: Act) -> httpx2.Response:
    """A visit whose write is done, but the connection is cut before the store hears of it."""

    async def act_and_hold(session: Session) -> None:
        act(session)
        await server.hold_answers()

    request = asyncio.create_task(visitor.does(act_and_hold))
    await server.lose_answers()
    return await request


class TestCrowded:
    async def test_more_visitors_at_once_than_connections_are_all_served(self, site: Site) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            crowd = await asyncio.gather(*(visitor.does(dict) for _ in range(150)))
            assert {response.status_code for response in crowd} == {200}


class TestCancelled:
    async def test_a_hundred_cancelled_requests_leave_no_connection_behind(
        self, site: Site, server: Server
    ) -> None:
        async with site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for number in range(100):
                request = asyncio.create_task(visitor.does(puts(a=number)))
                await asyncio.sleep(number / 100 * 0.01)  # at every point of its way
                request.cancel()
                await asyncio.wait([request])
            await until(lambda: server.has_connections(at_most=2))
            await visitor.does(puts(a=1))
            assert await visitor.sees() == {"a": 1}

    async def test_a_crowd_that_leaves_a_paused_server_leaves_no_connection_behind(
        self, hasty_site: Site, server: Server
    ) -> None:
        async with hasty_site.visitor() as visitor:
            await until(lambda: is_served(visitor, puts(a=1)))
            with server.paused():
                crowd = [asyncio.create_task(visitor.does(puts(a=1))) for _ in range(50)]
                await asyncio.sleep(0.1)
                for request in crowd:
                    request.cancel()
                await asyncio.wait(crowd)
            await until(lambda: server.has_connections(at_most=5))
            assert await visitor.sees() == {"a": 1}
