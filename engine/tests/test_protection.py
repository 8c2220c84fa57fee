"""What other sites' pages can't do, what no body may exceed, and what every response says."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from serversessions import Sessions
from serversessions.protection import HEADERS, HTTPS_HEADERS, Protection

MIB = 1024 * 1024
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

# What a browser says of where a request is from, and whether it is refused.
ORIGINS = [
    ({}, False),  # no browser, or a page of the site's own in one from before 2020
    ({"sec-fetch-site": "same-origin"}, False),
    ({"sec-fetch-site": "same-origin", "origin": "null"}, False),
    ({"sec-fetch-site": "none"}, False),  # typed, or opened from a bookmark
    ({"sec-fetch-site": "same-site"}, True),  # another subdomain, or another port
    ({"sec-fetch-site": "cross-site"}, True),
    ({"sec-fetch-site": "cross-site", "origin": "https://testserver"}, True),
    ({"origin": "https://testserver"}, False),
    ({"origin": "https://testserver", "host": "TestServer"}, False),
    ({"origin": "https://testserver:8443", "host": "testserver:8443"}, False),
    ({"origin": "https://[::1]:8443", "host": "[::1]:8443"}, False),
    ({"origin": "https://testserver:8443"}, True),
    ({"origin": "https://testserver.evil.example"}, True),
    ({"origin": "https://evil.example/testserver"}, True),
    ({"origin": "http://testserver"}, True),  # whoever is on the line may have written that page
    ({"origin": "null"}, True),
    ({"origin": "testserver"}, True),
    ({"origin": ""}, True),
]


async def show_method(request: Request) -> Response:
    return PlainTextResponse(request.method)


async def measure(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def measure_fields(request: Request) -> Response:
    async with request.form() as form:
        return PlainTextResponse(str(sum(len(str(value)) for value in form.values())))


async def ignore(request: Request) -> Response:
    return PlainTextResponse("done")


async def greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


async def deny(websocket: WebSocket) -> None:
    await websocket.send_denial_response(PlainTextResponse("no", 404))


def site(*, debug: bool = False, **options: Any) -> Starlette:
    return Starlette(
        debug=debug,
        routes=[
            Route("/", show_method, methods=METHODS),
            Route("/body", measure, methods=["GET", "POST"]),
            Route("/form", measure_fields, methods=["POST"]),
            Route("/ignore", ignore, methods=["POST"]),
            Route("/upload", measure, methods=["POST"], max_body_size=3 * MIB),
            WebSocketRoute("/socket", greet),
            WebSocketRoute("/denied", deny),
        ],
        middleware=[Middleware(Protection, **options)],
    )


def browser(app: Starlette, url: str = "https://testserver") -> TestClient:
    return TestClient(app, base_url=url)


class TestOtherSites:
    @pytest.mark.parametrize(("headers", "is_refused"), ORIGINS)
    def test_only_the_sites_own_pages_may_change_something(
        self, headers: dict[str, str], is_refused: bool
    ) -> None:
        answer = browser(site()).post("/", headers=headers)
        assert answer.status_code == (403 if is_refused else 200)
        if is_refused:
            assert answer.text == "Refused: a page of another site sent this.\n"

    def test_a_link_from_elsewhere_is_followed_and_nothing_else(self) -> None:
        client, elsewhere = browser(site()), {"sec-fetch-site": "cross-site"}
        for method in METHODS:
            answer = client.request(method, "/", headers=elsewhere)
            assert answer.status_code == (200 if method in ("GET", "HEAD") else 403)

    @pytest.mark.parametrize(("headers", "is_refused"), ORIGINS)
    def test_only_the_sites_own_pages_open_a_websocket(
        self, headers: dict[str, str], is_refused: bool
    ) -> None:
        client = browser(site())
        if is_refused:
            with (
                pytest.raises(WebSocketDisconnect) as closed,
                client.websocket_connect("wss://testserver/socket", headers=headers),
            ):
                pass
            assert closed.value.code == 1008
        else:
            with client.websocket_connect("wss://testserver/socket", headers=headers) as connected:
                assert connected.receive_text() == "hello"

    def test_without_tls_a_page_of_either_scheme_is_the_sites_own(self) -> None:
        """As an app sees it behind a proxy that does not say that it speaks TLS."""
        client = browser(site(), "http://testserver")
        for origin in ("http://testserver", "https://testserver"):
            assert client.post("/", headers={"origin": origin}).status_code == 200

    @pytest.mark.parametrize("fetch_site", ["", "same-site", "cross-site"])
    def test_a_trusted_origin_may_do_it_all_the_same(self, fetch_site: str) -> None:
        app = browser(site(trusted_origins=["https://app.example.com"]))
        headers = {"origin": "https://app.example.com", "sec-fetch-site": fetch_site}
        assert app.post("/", headers=headers).status_code == 200
        with app.websocket_connect("wss://testserver/socket", headers=headers):
            pass
        for other in ("https://example.com", "https://app.example.com.evil.example", "null"):
            assert app.post("/", headers={**headers, "origin": other}).status_code == 403

    @pytest.mark.parametrize(
        "origin",
        [
            *("*", "null", "app.example.com", "https://*.example.com", "https://example.com/"),
            *("https://Example.com", "https://example.com:443", "http://example.com:80"),
            *("https://user@example.com", "https://example.com/app", " https://example.com", ""),
        ],
    )
    def test_what_no_browser_sends_can_not_be_trusted(self, origin: str) -> None:
        with pytest.raises(ValueError, match="trusted_origins: found") as refused:
            Protection(site(), trusted_origins=[origin])
        assert repr(origin) in str(refused.value)

    @pytest.mark.parametrize(
        "origin",
        [
            *("http://localhost:5173", "https://example.com:80", "https://[::1]:8443"),
            *("chrome-extension://abcdef", "https://xn--bcher-kva.example"),
        ],
    )
    def test_what_browsers_send_can_be_trusted(self, origin: str) -> None:
        client = browser(site(trusted_origins=[origin]))
        assert client.post("/", headers={"origin": origin}).status_code == 200

    def test_one_text_is_no_list_of_origins(self) -> None:
        with pytest.raises(ValueError, match="trusted_origins: found 'h'"):
            Protection(site(), trusted_origins="https://example.com")

    def test_a_refusal_says_in_the_log_what_differs_and_what_to_do(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        headers = {"origin": "https://example.com\x1b[2J", "host": "127.0.0.1:8000"}
        browser(site()).post("/", headers=headers)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("serversessions.protection", logging.WARNING)
        text = record.getMessage()
        for part in ("POST '/'", r"'https://example.com\x1b[2J'", "'127.0.0.1:8000'"):
            assert part in text
        assert "trusted_origins" in text

    def test_a_refused_request_loads_no_session(self, tmp_path: Any) -> None:
        """So nobody can make a visitor's browser ask the store."""
        sessions = Sessions("redis://127.0.0.1:1/0")  # nobody answers there: a load would show

        async def write(request: Request) -> Response:
            request.session["a"] = 1
            return PlainTextResponse("written")

        app = Starlette(
            routes=[Route("/", write, methods=["POST"])],
            middleware=[Middleware(Protection), sessions.middleware],
        )
        cookie = {"cookie": f"{sessions.cookie_name}={'a' * 43}"}
        assert browser(app).post("/", headers=cookie).status_code == 503
        elsewhere = {**cookie, "sec-fetch-site": "cross-site"}
        assert browser(app).post("/", headers=elsewhere).status_code == 403


def pieces(size: int) -> Iterator[bytes]:
    """A body that does not tell its length."""
    for _ in range(size // 1024):
        yield b"a" * 1024
    yield b"a" * (size % 1024)


def whole(size: int) -> bytes:
    return b"a" * size


Body = Callable[[int], Any]


class TestBodies:
    @pytest.mark.parametrize("body", [whole, pieces])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_body_may_have_a_mebibyte_and_no_byte_more(self, method: str, body: Body) -> None:
        client = browser(site())
        taken = client.request(method, "/body", content=body(MIB))
        assert (taken.status_code, taken.text) == (200, str(MIB))
        assert client.request(method, "/body", content=body(MIB + 1)).status_code == 413

    @pytest.mark.parametrize("body", [whole, pieces])
    def test_the_limit_can_be_set(self, body: Body) -> None:
        client = browser(site(max_body=10))
        assert client.post("/body", content=body(10)).text == "10"
        assert client.post("/body", content=body(11)).status_code == 413

    def test_a_route_may_take_more(self) -> None:
        client = browser(site())
        assert client.post("/upload", content=whole(3 * MIB)).text == str(3 * MIB)
        assert client.post("/upload", content=pieces(3 * MIB)).text == str(3 * MIB)
        assert client.post("/upload", content=pieces(3 * MIB + 1)).status_code == 413

    @pytest.mark.parametrize("field", ["field", "file"])
    def test_a_form_is_not_read_to_its_end(self, field: str) -> None:
        client = browser(site(max_body=1000))
        sent: dict[str, Any] = {"data": {"a": "b" * 2000}}
        if field == "file":
            sent = {"files": {"a": ("a.txt", b"b" * 2000)}}
        assert client.post("/form", **sent).status_code == 413
        assert client.post("/form", data={"a": "b" * 500}).text == "500"

    def test_a_page_that_reads_no_body_does_not_take_too_large_a_one_either(self) -> None:
        assert browser(site(max_body=10)).post("/ignore", content=whole(11)).status_code == 413

    def test_the_app_may_word_the_answer(self) -> None:
        async def apologize(request: Request, error: Exception) -> Response:
            return PlainTextResponse("Too much, sorry.", 413)

        app = site(max_body=10)
        app.add_exception_handler(413, apologize)
        assert browser(app).post("/body", content=pieces(11)).text == "Too much, sorry."

    @pytest.mark.parametrize("found", [-1, "1M", None, True, 1.5])
    def test_a_limit_is_a_number_of_bytes(self, found: Any) -> None:
        with pytest.raises(ValueError, match=r"max_body: found .*; allowed: a number of bytes"):
            Protection(site(), max_body=found)

    async def test_http_2_may_send_a_body_that_no_header_announces(self) -> None:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"a" * 600, "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "scheme": "https",
            "path": "/body",
            "root_path": "",
            "query_string": b"",
            "headers": [],
        }
        await site(max_body=1000)(scope, receive, send)
        assert sent[0]["status"] == 413

    @pytest.mark.parametrize("body", [whole, pieces])
    async def test_a_client_of_a_real_server_hears_of_it(self, body: Body) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b"a" * 65536

        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(site(), log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx2.AsyncClient(base_url=url) as client:
                content = whole(4 * MIB) if body is whole else chunks()
                refused = await client.post("/body", content=content)
                assert refused.status_code == 413
                assert (await client.post("/body", content=b"abc")).text == "3"
        finally:
            server.should_exit = True
            await serving


def names(headers: Any) -> dict[str, str]:
    """Those of a response that are Protection's, by name."""
    ours = {name.decode() for name, _ in HTTPS_HEADERS}
    return {name: value for name, value in headers.items() if name in ours}


def expected(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


class TestHeaders:
    def test_every_response_has_them(self) -> None:
        client = browser(site(max_body=10))
        answers = [
            client.get("/"),
            client.get("/nowhere"),
            client.get("/socket"),
            client.delete("/form"),
            client.post("/", headers={"sec-fetch-site": "cross-site"}),
            client.post("/body", content=whole(11)),
            client.post("/body", content=pieces(11)),
        ]
        assert [each.status_code for each in answers] == [200, 404, 404, 405, 403, 413, 413]
        for answer in answers:
            assert names(answer.headers) == expected(HTTPS_HEADERS)

    def test_what_they_are(self) -> None:
        assert expected(HTTPS_HEADERS) == {
            "content-security-policy": "frame-ancestors 'none'",
            "referrer-policy": "same-origin",
            "strict-transport-security": "max-age=31536000",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }

    def test_only_tls_outside_debug_promises_tls(self) -> None:
        assert names(browser(site(), "http://testserver").get("/").headers) == expected(HEADERS)
        assert names(browser(site(debug=True)).get("/").headers) == expected(HEADERS)

    def test_a_refused_websocket_has_them_where_it_is_answered(self) -> None:
        client = browser(site())
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("wss://testserver/denied"),
        ):
            pass
        assert names(denied.value.headers) == expected(HTTPS_HEADERS)

    @pytest.mark.parametrize("name", [name.decode() for name, _ in HTTPS_HEADERS])
    def test_a_page_has_the_last_word(self, name: str) -> None:
        async def page(request: Request) -> Response:
            return PlainTextResponse("", headers={name.title(): "own"})

        app = Starlette(routes=[Route("/", page)], middleware=[Middleware(Protection)])
        answer = browser(app).get("/")
        assert answer.headers.get_list(name) == ["own"]
        wanted = expected(HTTPS_HEADERS) | {name: "own"}
        if name == "x-frame-options":  # browsers would follow the policy, not the page
            del wanted["content-security-policy"]
        assert names(answer.headers) == wanted

    def test_headers_are_not_added_twice(self) -> None:
        """Nor to a message that the app sends again."""
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
        own = start["headers"]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(start)
            await send({"type": "http.response.body"})

        protected = Starlette(
            routes=[Mount("/", app, middleware=[Middleware(Protection)])],
            middleware=[Middleware(Protection)],
        )
        for _ in range(2):
            answer = browser(protected).get("/")
            assert len(answer.headers) == len(HTTPS_HEADERS)
        assert own == []

    def test_the_sessions_own_answers_have_them_too(self) -> None:
        sessions = Sessions("redis://127.0.0.1:1/0")

        async def read(request: Request) -> Response:
            return PlainTextResponse(str(request.session.get("a")))

        app = Starlette(
            routes=[Route("/", read)], middleware=[Middleware(Protection), sessions.middleware]
        )
        cookie = {"cookie": f"{sessions.cookie_name}={'a' * 43}"}
        answer = browser(app).get("/", headers=cookie)
        assert answer.status_code == 503
        assert names(answer.headers) == expected(HTTPS_HEADERS)


class TestWhatElse:
    def test_the_lifespan_runs(self) -> None:
        with browser(site()) as client:
            assert client.get("/").text == "GET"

    def test_a_pages_own_errors_stay(self) -> None:
        async def fail(request: Request) -> Response:
            raise HTTPException(409, "taken")

        app = Starlette(
            routes=[Route("/", fail, methods=["POST"])], middleware=[Middleware(Protection)]
        )
        answer = browser(app).post("/", content=b"a")
        assert (answer.status_code, answer.text) == (409, "taken")
