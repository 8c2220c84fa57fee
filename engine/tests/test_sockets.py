"""An open WebSocket whose session was ended elsewhere is closed, on every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from serversessions import Record, Session, SessionMiddleware, SessionStore, StoreUnavailable
from serversessions.ids import hash_id, new_id
from serversessions.stores.memory import MemoryStore
from serversessions.testing import Clock
from serversessions.testing.records import HOUR

SOON = timedelta(milliseconds=50)
SECONDS = 10  # to wait at most for what comes soon


class Socket:
    """A browser's end of one, below the app's."""

    def __init__(self, app: Starlette, session_id: str) -> None:
        self._app = app
        self._headers = [(b"cookie", f"id={session_id}".encode())] if session_id else []
        self._from_browser: asyncio.Queue[Message] = asyncio.Queue()
        self._to_browser: asyncio.Queue[Message] = asyncio.Queue()

    async def serve(self) -> None:
        scope = {"type": "websocket", "path": "/", "headers": self._headers, "scheme": "wss"}
        self._from_browser.put_nowait({"type": "websocket.connect"})
        await self._app(scope, self._from_browser.get, self._send)

    async def _send(self, message: Message) -> None:
        self._to_browser.put_nowait(message)
        if message["type"] == "websocket.close":  # the browser closes its end, too
            self._from_browser.put_nowait({"type": "websocket.disconnect", "code": 1008})

    def says(self, text: str) -> None:
        self._from_browser.put_nowait({"type": "websocket.receive", "text": text})

    def leaves(self) -> None:
        self._from_browser.put_nowait({"type": "websocket.disconnect", "code": 1000})

    async def hears(self) -> Message:
        async with asyncio.timeout(SECONDS):
            return await self._to_browser.get()

    @property
    def has_heard_nothing(self) -> bool:
        return self._to_browser.empty()


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            text = await websocket.receive_text()
            if text == "sign out":
                Session.of(websocket).flush()
                await Session.of(websocket).save()
            await websocket.send_text(text)
    except WebSocketDisconnect:
        return


def site(store: SessionStore, clock: Clock, **options: Any) -> Starlette:
    sessions = Middleware(SessionMiddleware, store=store, clock=clock, **options)
    return Starlette(routes=[WebSocketRoute("/", echo)], middleware=[sessions])


async def begin(store: SessionStore, clock: Clock, lives: float = HOUR) -> str:
    """A session in the store; its id."""
    session_id = new_id()
    record = Record(b'{"name":"Ada"}', clock(), clock() + lives)
    assert await store.create(hash_id(session_id), record)
    return session_id


@asynccontextmanager
async def open_sockets(app: Starlette, *ids: str) -> AsyncIterator[list[Socket]]:
    sockets = [Socket(app, session_id) for session_id in ids]
    async with asyncio.TaskGroup() as tasks:
        for socket in sockets:
            tasks.create_task(socket.serve())
            assert (await socket.hears())["type"] == "websocket.accept"
        yield sockets
        for socket in sockets:
            socket.leaves()


async def test_one_whose_session_was_ended_is_closed_and_the_others_stay(
    store: SessionStore, clock: Clock
) -> None:
    ids = [await begin(store, clock) for _ in range(100)]
    app = site(store, clock, recheck=SOON)
    async with open_sockets(app, *ids) as sockets:
        await store.delete(*map(hash_id, ids[:50]))
        for socket in sockets[:50]:
            closed = await socket.hears()
            assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        for socket in sockets[50:]:
            socket.says("here")
            assert (await socket.hears())["text"] == "here"


async def test_one_whose_session_has_expired_is_closed(store: SessionStore, clock: Clock) -> None:
    session_id = await begin(store, clock)
    app = site(store, clock, recheck=SOON, max_lifetime=timedelta(minutes=30))
    async with open_sockets(app, session_id) as (socket,):
        await asyncio.sleep(2 * SOON.total_seconds())
        assert socket.has_heard_nothing
        clock.advance(HOUR / 2)
        assert (await socket.hears())["code"] == 1008


async def test_what_the_app_still_sends_raises_as_for_a_socket_that_is_gone(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    session_id, outcome = await begin(store, clock), asyncio.get_running_loop().create_future()

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text("tick")
                await asyncio.sleep(0.01)
        except WebSocketDisconnect as error:
            outcome.set_result(error.code)

    sessions = Middleware(SessionMiddleware, store=store, clock=clock, recheck=SOON)
    app = Starlette(routes=[WebSocketRoute("/", talk)], middleware=[sessions])
    async with open_sockets(app, session_id):
        await store.delete(hash_id(session_id))
        async with asyncio.timeout(SECONDS):
            assert await outcome == 1006


class Counted(MemoryStore):
    """A store that can be down, and counts its loads."""

    loads = 0
    is_down = False

    def __init__(self, *, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._looked = asyncio.Queue[None]()

    async def load(self, key: str) -> Record | None:
        self.loads += 1
        self._looked.put_nowait(None)
        if self.is_down:
            raise StoreUnavailable("down")
        return await super().load(key)

    async def is_asked(self, times: int) -> None:
        """Wait until it was asked so many more times."""
        while not self._looked.empty():
            self._looked.get_nowait()
        async with asyncio.timeout(SECONDS):
            for _ in range(times):
                await self._looked.get()


async def test_a_store_that_is_down_throws_nobody_out(clock: Clock) -> None:
    store = Counted(clock=clock)
    session_id = await begin(store, clock)
    async with open_sockets(site(store, clock, recheck=SOON), session_id) as (socket,):
        store.is_down = True
        await store.is_asked(3)
        assert socket.has_heard_nothing
        store.is_down = False
        await store.is_asked(1)
        await store.delete(hash_id(session_id))
        assert (await socket.hears())["code"] == 1008


async def test_who_signs_out_in_the_socket_itself_stays_connected(clock: Clock) -> None:
    store = Counted(clock=clock)
    session_id = await begin(store, clock)
    async with open_sockets(site(store, clock, recheck=SOON), session_id) as (socket,):
        socket.says("sign out")
        assert (await socket.hears())["text"] == "sign out"
        await asyncio.sleep(3 * SOON.total_seconds())
        assert socket.has_heard_nothing


@pytest.mark.parametrize("recheck", [None, timedelta(hours=1)])
async def test_it_costs_one_load_in_that_time_and_nothing_else(
    clock: Clock, recheck: timedelta | None
) -> None:
    store = Counted(clock=clock)
    session_id = await begin(store, clock)
    async with open_sockets(site(store, clock, recheck=recheck), session_id, "") as sockets:
        for socket in sockets:
            socket.says("here")
            assert (await socket.hears())["text"] == "here"
        await asyncio.sleep(0.2)
    assert store.loads == 1  # when it was opened
