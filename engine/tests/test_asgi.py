"""Sessions at the edges of ASGI: late changes, odd responses, WebSockets, cancelled requests."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from glob import glob
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serversessions import (
    Session,
    SessionClosed,
    SessionError,
    SessionMiddleware,
    SessionStore,
)
from serversessions.stores.file import FileStore
from serversessions.stores.memory import MemoryStore
from serversessions.testing import Clock

Handler = Callable[[Request], Awaitable[Response]]


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two stores are enough here: one that answers at once, one that answers from a thread."""
    urls = {"memory": "memory:", "file": f"file:{tmp_path}/sessions"}
    return request.param, urls[request.param]


class Site:
    """A site of a test's own routes, beside pages that show and set the session."""

    def __init__(self, store: SessionStore, clock: Clock) -> None:
        self.options: dict[str, Any] = {"store": store, "clock": clock}

    @property
    def sessions(self) -> Middleware:
        return Middleware(SessionMiddleware, **self.options)

    def app(self, *routes: BaseRoute, **options: Any) -> Starlette:
        middleware = options.pop("middleware", [self.sessions])
        own = [Route("/show", show), Route("/set", set_a, methods=["GET", "POST"])]
        return Starlette(routes=[*routes, *own], middleware=middleware, **options)

    @asynccontextmanager
    async def visitor(
        self, *routes: BaseRoute, **options: Any
    ) -> AsyncIterator[httpx2.AsyncClient]:
        """The browser of someone whose session holds ``{"a": 1, "list": []}``."""
        async with browser(self.app(*routes, **options)) as client:
            await client.get("/set")
            yield client


async def show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def set_a(request: Request) -> Response:
    request.session.update(a=1, list=[])
    return PlainTextResponse("set")


def browser(app: ASGIApp) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="https://testserver")


@pytest.fixture
def site(store: SessionStore, clock: Clock) -> Site:
    return Site(store, clock)


class TestLateChanges:
    """A response that has started took the session's state and cookie with it."""

    @staticmethod
    def page(before: Callable[[Any], Any], after: Callable[[Any], Any], way: str) -> Route:
        """A page that changes its session ``before`` its response has started, and ``after``."""

        async def act(request: Request) -> Response:
            session = request.session
            before(session)

            async def stream() -> AsyncIterator[str]:
                yield "begun"
                after(session)

            if way == "stream":
                return StreamingResponse(stream())
            return PlainTextResponse("done", background=BackgroundTask(after, session))

        return Route("/", act)

    @pytest.mark.parametrize("way", ["stream", "background"])
    async def test_a_change_before_the_response_starts_is_saved(self, site: Site, way: str) -> None:
        page = self.page(lambda session: session.update(b=2), len, way)
        async with site.visitor(page) as client:
            await client.get("/")
            assert (await client.get("/show")).json() == {"a": 1, "list": [], "b": 2}

    @pytest.mark.parametrize("way", ["stream", "background"])
    @pytest.mark.parametrize(
        "after",
        [
            lambda session: session.update(late=1),
            lambda session: session.setdefault("late", 1),
            lambda session: session["list"].append("nested, in `late`"),
        ],
        ids=["key", "default", "nested"],
    )
    async def test_a_change_afterwards_raises_naming_the_key(
        self, site: Site, way: str, after: Callable[[Any], Any]
    ) -> None:
        async with site.visitor(self.page(lambda session: None, after, way)) as client:
            with pytest.raises(SessionClosed, match=r"'(late|list)'"):
                await client.get("/")
            assert (await client.get("/show")).json() == {"a": 1, "list": []}

    @pytest.mark.parametrize("way", ["stream", "background"])
    @pytest.mark.parametrize(
        "after",
        [
            lambda session: session.get("a"),
            lambda session: session.pop("missing", None),
            lambda session: session.setdefault("a", 0),
        ],
        ids=["get", "pop-nothing", "default-of-a-key-that-is-there"],
    )
    async def test_what_changes_nothing_is_welcome_at_any_time(
        self, site: Site, way: str, after: Callable[[Any], Any]
    ) -> None:
        async with site.visitor(self.page(len, after, way)) as client:
            assert (await client.get("/")).status_code == 200


class TestResponses:
    @pytest.mark.parametrize("status", [204, 206, 302, 303, 304, 307, 404, 422])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_a_response_of_any_kind_saves_and_sets_the_cookie(
        self, site: Site, status: int, method: str
    ) -> None:
        async def page(request: Request) -> Response:
            request.session["b"] = 2
            return Response(status_code=status, headers={"location": "/show"})

        async with browser(site.app(Route("/", page))) as client:
            answer = await client.request(method, "/")
            assert answer.status_code == status
            assert answer.headers["vary"] == "Cookie"
            assert (await client.get("/show")).json() == {"b": 2}

    @pytest.mark.parametrize(
        ("error", "status", "kept"),
        [
            (HTTPException(404), 404, True),
            (HTTPException(503), 503, False),
            (KeyError("handled as 400"), 400, True),
            (ValueError("handled as 502"), 502, False),
        ],
    )
    async def test_a_handled_exception_saves_unless_it_is_the_servers_fault(
        self, site: Site, error: Exception, status: int, kept: bool
    ) -> None:
        async def page(request: Request) -> Response:
            request.session["b"] = 2
            raise error

        async def handle(request: Request, error: Exception) -> Response:
            request.session["handled"] = True
            return PlainTextResponse("oops", 400 if isinstance(error, KeyError) else 502)

        handlers = {KeyError: handle, ValueError: handle}
        async with site.visitor(Route("/", page), exception_handlers=handlers) as client:
            assert (await client.get("/")).status_code == status
            now = (await client.get("/show")).json()
            assert ("b" in now) is kept
            assert ("handled" in now) is (kept and status == 400)

    async def test_a_middleware_behind_may_change_the_session_around_the_page(
        self, site: Site
    ) -> None:
        async def count_visits(request: Request, next_: RequestResponseEndpoint) -> Response:
            request.session["before"] = True
            response = await next_(request)
            request.session["after"] = True
            return response

        behind = Middleware(BaseHTTPMiddleware, dispatch=count_visits)
        async with browser(site.app(middleware=[site.sessions, behind])) as client:
            assert (await client.get("/show")).json() == {"before": True}
            assert (await client.get("/show")).json() == {"before": True, "after": True}

    async def test_a_middleware_in_front_reads_the_session_but_is_too_late_to_change_it(
        self, site: Site
    ) -> None:
        seen = []

        async def look(request: Request, next_: RequestResponseEndpoint) -> Response:
            response = await next_(request)
            seen.append(request.session["a"])
            with pytest.raises(SessionClosed, match="'b'"):
                request.session["b"] = 2
            return response

        in_front = Middleware(BaseHTTPMiddleware, dispatch=look)
        async with site.visitor(middleware=[in_front, site.sessions]) as client:
            assert (await client.get("/show")).json() == {"a": 1, "list": []}
            assert seen == [1, 1]

    async def test_lifespan_passes_through(self, site: Site) -> None:
        heard: list[str] = []

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
            yield {"from": "lifespan"}

        async def receive() -> Message:
            return {"type": f"lifespan.{'shutdown' if heard else 'startup'}"}

        async def send(message: Message) -> None:
            heard.append(message["type"])

        scope: Scope = {"type": "lifespan", "state": {}}
        await site.app(lifespan=lifespan)(scope, receive, send)
        assert heard == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert scope["state"] == {"from": "lifespan"}
        assert "session" not in scope


class TestPaths:
    @pytest.mark.parametrize(
        ("root_path", "path", "excluded"),
        [
            ("", "/static/app.css", True),
            ("", "/statics", False),
            ("/app", "/app/static", True),
            ("/app", "/static/app.css", True),
            ("/s", "/static/app.css", True),
            ("/app", "/app/page", False),
            ("/static", "/static/page", False),
        ],
    )
    async def test_exclude_counts_from_the_apps_root(
        self, site: Site, root_path: str, path: str, excluded: bool
    ) -> None:
        async def touch(scope: Scope, receive: Receive, send: Send) -> None:
            with suppress(SessionError):
                scope["session"]["touched"] = True
            await PlainTextResponse("fine")(scope, receive, send)

        scope = {**http_scope(path), "root_path": root_path}
        heard = await asgi(SessionMiddleware(touch, exclude=["/static/"], **site.options), scope)
        assert (b"set-cookie" not in dict(heard[0]["headers"])) is excluded

    async def test_a_mounted_app_shares_the_session(self, site: Site) -> None:
        inner = Starlette(routes=[Route("/set", set_a)])
        async with browser(site.app(Mount("/inner", inner))) as client:
            await client.get("/inner/set")
            assert (await client.get("/show")).json() == {"a": 1, "list": []}

    async def test_a_mounted_app_may_have_sessions_of_its_own(
        self, site: Site, clock: Clock
    ) -> None:
        own = Middleware(
            SessionMiddleware, store=MemoryStore(clock=clock), name="admin", exclude=["/set"]
        )
        inner = Starlette(routes=[Route("/show", show), Route("/set", set_a)], middleware=[own])
        async with site.visitor(Mount("/inner", inner)) as client:
            assert (await client.get("/inner/show")).json() == {}
            with pytest.raises(SessionError, match="exclude"):
                await client.get("/inner/set")
            assert (await client.get("/show")).json() == {"a": 1, "list": []}


class TestCookieHeaders:
    @pytest.mark.parametrize(
        "headers",
        [
            ["x=1", "id={}", "y=2"],
            ["x=1; id={}"],
            ["id=garbage", "id={}"],
            ["id=garbage; id={}"],
            ["id={}; id=" + "A" * 43],
            ["id={}", "id=" + "A" * 43],
            ["id=" + "A" * 43 + "; id={}"],
            ["id=" + "A" * 43, "x=1", "id={}"],
        ],
    )
    async def test_the_one_that_opens_a_session_counts_in_however_many_headers(
        self, site: Site, headers: list[str]
    ) -> None:
        async with site.visitor() as client:
            raw = [(b"cookie", header.format(client.cookies["id"]).encode()) for header in headers]
        async with browser(site.app()) as other:
            assert (await other.get("/show", headers=raw)).json() == {"a": 1, "list": []}


class Socket:
    """A WebSocket's client, as an ASGI server would play it."""

    def __init__(self, app: ASGIApp, cookie: str | None = None) -> None:
        headers = [(b"cookie", f"id={cookie}".encode())] if cookie else []
        self.scope: Scope = {
            **http_scope("/ws", headers),
            "type": "websocket",
            "scheme": "wss",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        self._app = app
        self.heard: list[Message] = []

    async def talk(self, *texts: str) -> list[Message]:
        """Connect, say ``texts``, hang up; what the app sent."""
        said: list[Message] = [{"type": "websocket.connect"}]
        said += [{"type": "websocket.receive", "text": text} for text in texts]
        self.heard = await asgi(
            self._app, self.scope, [*said, {"type": "websocket.disconnect", "code": 1000}]
        )
        return self.heard

    @property
    def cookie(self) -> str | None:
        """The id that came with the first answer."""
        cookies = [
            value for name, value in self.heard[0].get("headers", []) if name == b"set-cookie"
        ]
        return cookies[0].split(b";")[0].removeprefix(b"id=").decode() if cookies else None


class TestWebSockets:
    async def sees(self, site: Site, session_id: str | None) -> Any:
        async with browser(site.app()) as client:
            return (await client.get("/show", headers={"cookie": f"id={session_id}"})).json()

    def app(self, site: Site, talk: Callable[[WebSocket], Awaitable[None]]) -> Starlette:
        return site.app(WebSocketRoute("/ws", talk))

    async def test_a_change_before_accept_is_saved_and_its_cookie_sent_with_it(
        self, site: Site
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            websocket.session["b"] = 2
            await websocket.accept(headers=[(b"x-mine", b"kept")])

        socket = Socket(self.app(site, talk))
        (accepted,) = await socket.talk()
        assert accepted["type"] == "websocket.accept"
        assert (b"x-mine", b"kept") in accepted["headers"]
        assert (b"vary", b"Cookie") in accepted["headers"]
        assert await self.sees(site, socket.cookie) == {"b": 2}

    async def test_a_close_before_accept_saves_nothing(self, site: Site) -> None:
        async def talk(websocket: WebSocket) -> None:
            websocket.session["b"] = 2
            await websocket.close()

        async with site.visitor() as client:
            old = client.cookies["id"]
        (closed,) = await Socket(self.app(site, talk), old).talk()
        assert closed["type"] == "websocket.close"
        assert "headers" not in closed
        assert await self.sees(site, old) == {"a": 1, "list": []}

    @pytest.mark.parametrize(("status", "kept"), [(403, True), (500, False)])
    async def test_a_denial_response_is_a_response_like_any_other(
        self, site: Site, status: int, kept: bool
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            websocket.session["denied"] = True
            await websocket.send_denial_response(PlainTextResponse("no", status))

        socket = Socket(self.app(site, talk))
        started, _ = await socket.talk()
        assert started["type"] == "websocket.http.response.start"
        assert (socket.cookie is not None) is kept
        if kept:
            assert await self.sees(site, socket.cookie) == {"denied": True}

    async def test_save_after_accept_keeps_changes_of_a_session_that_is_there(
        self, site: Site
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            await websocket.accept()
            async for text in websocket.iter_text():
                session["list"].append(text)
                await session.save()

        async with site.visitor() as client:
            old = client.cookies["id"]
        await Socket(self.app(site, talk), old).talk("one", "two")
        assert await self.sees(site, old) == {"a": 1, "list": ["one", "two"]}

    async def test_save_after_accept_refuses_to_begin_a_session(self, site: Site) -> None:
        refused = []

        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            await websocket.accept()
            session["b"] = 2
            with pytest.raises(SessionClosed, match="new id"):
                await session.save()
            refused.append(True)

        await Socket(self.app(site, talk)).talk()
        assert refused == [True]

    @pytest.mark.parametrize(
        "late",
        [
            Session.rotate_id,
            lambda session: setattr(session, "owner", "bob"),
            lambda session: setattr(session, "owner", "ada"),
        ],
        ids=["rotate", "bob", "ada"],
    )
    async def test_what_needs_a_new_id_is_refused_after_accept_and_changes_nothing(
        self, site: Site, late: Callable[[Session], None]
    ) -> None:
        async def sign_in(request: Request) -> Response:
            Session.of(request).owner = "ada"
            return PlainTextResponse("welcome")

        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            await websocket.accept()
            with pytest.raises(SessionClosed, match="new id"):
                late(session)
            owners.append(session.owner)
            session["list"].append("still open")
            await session.save()

        owners: list[Any] = []
        async with site.visitor(Route("/sign-in", sign_in)) as client:
            await client.get("/sign-in")
            old = client.cookies["id"]
        await Socket(self.app(site, talk), old).talk()
        assert owners == ["ada"]
        assert await self.sees(site, old) == {"a": 1, "list": ["still open"]}

    async def test_a_flush_after_accept_ends_the_session_even_if_what_follows_is_refused(
        self, site: Site
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            await websocket.accept()
            session.flush()
            session["b"] = 2
            with pytest.raises(SessionClosed):
                await session.save()
            session.flush()
            await session.save()

        async with site.visitor() as client:
            old = client.cookies["id"]
        await Socket(self.app(site, talk), old).talk()
        assert await self.sees(site, old) == {}

    @pytest.mark.parametrize(
        "late",
        [
            lambda session: session.update(b=2),
            lambda session: session["list"].append(1),
            lambda session: session.flush(),
        ],
    )
    async def test_unsaved_changes_are_logged(
        self, site: Site, late: Callable[[Any], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            await websocket.accept()
            late(websocket.session)

        async with site.visitor() as client:
            await Socket(self.app(site, talk), client.cookies["id"]).talk()
        assert "without `await session.save()`" in caplog.text

    async def test_what_was_saved_or_only_read_is_not_logged(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            await websocket.accept()
            session["list"].append(session["a"])
            await session.save()

        async with site.visitor() as client:
            await Socket(self.app(site, talk), client.cookies["id"]).talk()
        assert caplog.text == ""

    @pytest.mark.parametrize("saves", [1, 2])
    async def test_save_after_a_logout_elsewhere_stays_dead(self, site: Site, saves: int) -> None:
        async def leave(request: Request) -> Response:
            Session.of(request).flush()
            return PlainTextResponse("bye")

        async def talk(websocket: WebSocket) -> None:
            session = Session.of(websocket)
            await websocket.accept()
            async with browser(site.app(Route("/leave", leave))) as client:
                await client.get("/leave", headers={"cookie": websocket.headers["cookie"]})
            for _ in range(saves):
                session["late"] = True
                with pytest.raises(SessionClosed, match="ended"):
                    await session.save()

        async with site.visitor() as client:
            old = client.cookies["id"]
        await Socket(self.app(site, talk), old).talk()
        assert await self.sees(site, old) == {}


def http_scope(path: str, headers: list[tuple[bytes, bytes]] | None = None) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "query_string": b"",
        "headers": headers or [],
    }


async def asgi(app: ASGIApp, scope: Scope, incoming: list[Message] | None = None) -> list[Message]:
    """Call an app as a server does, with a pause at each message; what it sent."""
    said = iter(incoming or [{"type": "http.request"}])
    heard: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return next(said)

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        heard.append(message)

    await app(scope, receive, send)
    return heard


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, object], number: int) -> Generator[Any, Any, int]:
    """Do ``work``, and cancel it when it waits for the ``number``th time; how often it waited."""
    task = asyncio.current_task()
    assert task is not None
    resume = partial(work.send, None)
    for waits in count():
        try:
            waiting = resume()
        except StopIteration:
            return waits
        if waits == number:
            task.cancel()
        try:
            yield waiting
            resume = partial(work.send, None)
        except BaseException as error:
            resume = partial(work.throw, error)
    raise AssertionError


async def _awaited(work: Coroutine[Any, Any, object], number: int) -> int:
    return await cancelled_at(work, number)


async def settled(store: SessionStore) -> None:
    """Wait until a file store's threads have all done what cancelled requests left to them."""
    if isinstance(store, FileStore):
        for threads in (store._readers, store._writers):
            all_free = threading.Barrier(threads.count)
            waits = (threads.run(all_free.wait, 5) for _ in range(threads.count))
            await asyncio.gather(*waits)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class TestCancellation:
    @pytest.mark.parametrize("intent", ["change", "rotate", "flush", "restart", "begin"])
    async def test_a_request_cancelled_anywhere_leaves_the_old_record_or_the_new(
        self, site: Site, store: SessionStore, intent: str, tmp_path: Path
    ) -> None:
        async def act(request: Request) -> Response:
            session = Session.of(request)
            await asyncio.sleep(0)
            if intent in ("flush", "restart"):
                session.flush()
            elif intent == "rotate":
                session.rotate_id()
            if intent != "flush":
                session["b"] = "new" * 1000
            return PlainTextResponse("done")

        old, new = {"a": 1, "list": []}, {"a": 1, "list": [], "b": "new" * 1000}
        expected: list[Any] = [old, new] if intent == "change" else [old, {}]
        app, outcomes = site.app(Route("/", act)), []
        headers: list[tuple[bytes, bytes]] = []

        async def request() -> None:
            await asgi(app, http_scope("/", list(headers)))

        async with browser(app) as client:
            await client.get("/set")
            await settled(store)
            tasks, files = asyncio.all_tasks(), open_files()
            cancelled = -1
            while True:
                client.cookies.clear()
                await client.get("/set")
                session_id = client.cookies["id"]
                if intent != "begin":
                    headers[:] = [(b"cookie", f"id={session_id}".encode())]
                cancelled += 1
                task = asyncio.create_task(_awaited(request(), cancelled))
                await asyncio.wait([task])
                at_once = (await client.get("/show")).json()
                await settled(store)
                outcomes.append((await client.get("/show")).json())
                assert at_once in expected
                assert outcomes[-1] in expected
                if not task.cancelled():
                    break
            assert task.result() == cancelled
        assert cancelled >= 2
        assert outcomes[0] == old
        assert outcomes[-1] == (old if intent == "begin" else expected[-1])
        assert asyncio.all_tasks() == tasks
        assert open_files() == files
        assert glob(f"{tmp_path}/**/*.tmp", recursive=True) == []

    async def test_cancelled_requests_leave_no_thread(self, clock: Clock, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        store = FileStore(tmp_path, clock=clock)
        app = Site(store, clock).app()
        for number in range(4):
            task = asyncio.create_task(_awaited(asgi(app, http_scope("/set")), number))
            await asyncio.wait([task])
        await store.aclose()
        started = set(threading.enumerate()) - before
        for thread in started:
            thread.join(timeout=5)
        assert not any(thread.is_alive() for thread in started)

    @pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
    async def test_a_client_that_leaves_a_stream_keeps_what_was_saved_at_its_start(
        self, site: Site, spec_version: str
    ) -> None:
        async def stream(request: Request) -> Response:
            request.session["begun"] = True

            async def body() -> AsyncIterator[bytes]:
                while True:
                    yield b"more"
                    await asyncio.sleep(0)

            return StreamingResponse(body())

        heard: list[Message] = []

        streaming = asyncio.Event()

        async def receive() -> Message:
            await streaming.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if len(heard) == 3:
                raise OSError("the client has gone")
            heard.append(message)
            if len(heard) == 3:
                streaming.set()
            await asyncio.sleep(0)

        async with site.visitor(Route("/", stream)) as client:
            scope = http_scope("/", [(b"cookie", f"id={client.cookies['id']}".encode())])
            scope["asgi"] = {"version": "3.0", "spec_version": spec_version}
            before = asyncio.all_tasks()
            with suppress(ClientDisconnect):
                await site.app(Route("/", stream))(scope, receive, send)
            assert asyncio.all_tasks() == before
            assert (await client.get("/show")).json() == {"a": 1, "list": [], "begun": True}


class TestGarbage:
    """What a request leaves is gone when it ends, without waiting for the garbage collector."""

    @pytest.fixture(autouse=True)
    def without_collector(self) -> Iterator[None]:
        gc.disable()
        gc.collect()
        gc.freeze()  # what other tests left is not looked at again, which takes its time
        yield
        gc.unfreeze()
        gc.enable()

    @staticmethod
    async def left_by(app: ASGIApp, headers: list[tuple[bytes, bytes]]) -> int:
        """How many objects the collector finds after a request, and not after a first one."""
        for _ in range(2):
            gc.collect()
            with suppress(RuntimeError):
                await asgi(app, http_scope("/", list(headers)))
        return gc.collect()

    @pytest.mark.parametrize("act", ["nothing", "read", "change", "rotate", "flush", "fail"])
    async def test_a_request_leaves_no_more_cycles_than_without_sessions(
        self, site: Site, act: str
    ) -> None:
        sessions: list[weakref.ref[Session]] = []

        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            session = scope.get("session")
            if isinstance(session, Session):
                sessions.append(weakref.ref(session))
                match act:
                    case "read":
                        session.get("a")
                    case "change":
                        session["list"].append(1)
                    case "rotate":
                        session.rotate_id()
                    case "flush":
                        session.flush()
            if act == "fail":
                raise RuntimeError
            await PlainTextResponse("done")(scope, receive, send)

        app = SessionMiddleware(page, **site.options)
        bare = await self.left_by(page, [])
        async with site.visitor() as client:
            headers = [(b"cookie", f"id={client.cookies['id']}".encode())]
        assert await self.left_by(app, headers) <= bare
        assert [ref() for ref in sessions] == [None, None]

    async def test_touching_an_excluded_session_leaves_nothing(self, clock: Clock) -> None:
        marks: list[weakref.ref[Any]] = []

        class Mark:
            pass

        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            mark = Mark()
            marks.append(weakref.ref(mark))
            with pytest.raises(SessionError):
                scope["session"].get("a")
            await PlainTextResponse("done")(scope, receive, send)

        app = SessionMiddleware(page, MemoryStore(clock=clock), exclude=["/"], clock=clock)
        for _ in range(3):
            await asgi(app, http_scope("/"))
        gc.collect()
        assert [ref() for ref in marks] == [None] * 3

    async def test_a_store_that_is_down_leaves_nothing(
        self, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sessions: list[weakref.ref[Session]] = []

        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            sessions.append(weakref.ref(scope["session"]))
            scope["session"].get("a")

        caplog.set_level("CRITICAL")  # pytest would keep the logged error, and its traceback
        (tmp_path / "file").touch()
        store = FileStore(tmp_path / "file", clock=clock)  # no folder can be there
        app = SessionMiddleware(page, store, clock=clock)
        heard = await asgi(app, http_scope("/", [(b"cookie", b"id=" + b"A" * 43)]))
        await store.aclose()
        assert heard[0]["status"] == 503
        assert sessions[0]() is None
