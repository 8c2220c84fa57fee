"""Sessions in FastAPI. FastAPI is no dependency, so its absence is a case as well."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from serversessions import SessionClosed, Sessions
from serversessions.config import ProjectConfig
from serversessions.fastapi import OwnerDep, SessionDep, get_owner, name_cookie
from serversessions.protection import HTTPS_HEADERS, Protection

from .documentation import run_examples

WSS = "wss://testserver"
OWNERS: dict[str, str | int | UUID] = {
    "str": "ada",
    "int": 7,
    "UUID": UUID("12345678123456781234567812345678"),
}


def browser(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="https://testserver")


def add_pages(app: FastAPI) -> FastAPI:
    """A handler of each sort that FastAPI knows."""

    @app.get("/public")
    async def public() -> str:
        return "for all"

    @app.post("/sign-in/{kind}")
    async def sign_in(kind: str, session: SessionDep) -> None:
        session.owner = OWNERS[kind]

    @app.post("/names/{name}")
    async def add(name: str, session: SessionDep) -> list[str]:
        names: list[str] = session.setdefault("names", [])
        names.append(name)
        return names

    @app.post("/thread/names/{name}")
    def add_in_a_thread(name: str, session: SessionDep) -> list[str]:
        names: list[str] = session.setdefault("names", [])
        names.append(name)
        return names

    @app.get("/owner")
    async def show_owner(owner: OwnerDep) -> list[str]:
        return [str(owner), type(owner).__name__]

    @app.get("/thread/owner")
    def show_owner_in_a_thread(owner: OwnerDep) -> list[str]:
        return [str(owner), type(owner).__name__]

    @app.get("/guarded", dependencies=[Depends(get_owner)])
    async def guarded() -> str:
        return "for members"

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, owner: OwnerDep, session: SessionDep) -> None:
        session["names"] = ["before"]
        await websocket.accept()
        await websocket.send_text(str(owner))
        session["names"].append(await websocket.receive_text())
        await session.save()
        await websocket.close()

    return app


def wired(sessions: Sessions, *more: Middleware) -> FastAPI:
    app = FastAPI(lifespan=sessions.lifespan, middleware=[*more, sessions.middleware])
    name_cookie(app, sessions)
    return add_pages(app)


@pytest.fixture
def without_store() -> tuple[FastAPI, dict[str, str]]:
    """A site whose store does not answer, and the cookie of a visitor who was there before."""
    sessions = Sessions("redis://127.0.0.1:1/0")
    return wired(sessions), {"cookie": f"{sessions.cookie_name}={'a' * 43}"}


class TestSession:
    @pytest.mark.parametrize("sort", ["", "/thread"])
    def test_it_is_kept_from_one_request_to_the_next(self, sort: str) -> None:
        with browser(wired(Sessions("memory:"))) as client:
            client.post(f"{sort}/names/ada")
            assert client.post(f"{sort}/names/bob").json() == ["ada", "bob"]

    def test_a_websocket_saves_before_and_after_it_is_accepted(self) -> None:
        with browser(wired(Sessions("memory:"))) as client:
            client.post("/sign-in/str")
            with client.websocket_connect("wss://testserver/socket") as connected:
                assert connected.receive_text() == "ada"
                connected.send_text("after")
                with pytest.raises(WebSocketDisconnect):
                    connected.receive_text()
            assert client.post("/names/now").json() == ["before", "after", "now"]

    def test_a_visitor_without_a_cookie_costs_no_call_of_the_store(
        self, without_store: tuple[FastAPI, dict[str, str]]
    ) -> None:
        app, _ = without_store
        assert browser(app).get("/owner").status_code == 401
        assert browser(app).get("/public").status_code == 200

    def test_a_store_that_is_down_makes_no_anonymous_visitor(
        self, without_store: tuple[FastAPI, dict[str, str]]
    ) -> None:
        app, cookie = without_store
        for path in ("/owner", "/thread/owner", "/guarded"):
            answer = browser(app).get(path, headers=cookie)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert browser(app).get("/public", headers=cookie).status_code == 200

    def test_an_error_below_500_keeps_what_was_changed_and_another_drops_it(self) -> None:
        app = wired(Sessions("memory:"))

        @app.post("/fail/{status}")
        async def fail(status: int, session: SessionDep) -> None:
            session.setdefault("names", []).append(str(status))
            raise HTTPException(status)

        client = browser(app)
        for status in (409, 503, 404):
            assert client.post(f"/fail/{status}").status_code == status
        assert client.post("/names/now").json() == ["409", "404", "now"]

    @pytest.mark.parametrize("where", ["task", "dependency"])
    def test_a_change_after_the_response_raises(self, where: str) -> None:
        app = wired(Sessions("memory:"))

        def change(session: SessionDep) -> None:
            session["late"] = 1

        async def change_at_last(session: SessionDep) -> AsyncIterator[None]:
            yield
            session["late"] = 1

        @app.post("/task")
        async def task(tasks: BackgroundTasks, session: SessionDep) -> None:
            tasks.add_task(change, session)

        @app.post("/dependency", dependencies=[Depends(change_at_last)])
        async def dependency() -> None:
            pass

        with pytest.raises(SessionClosed, match="'late'"):
            browser(app).post(f"/{where}")


class TestOwner:
    @pytest.mark.parametrize("kind", OWNERS)
    def test_it_comes_as_it_was_set(self, kind: str) -> None:
        client = browser(wired(Sessions("memory:")))
        client.post(f"/sign-in/{kind}")
        for path in ("/owner", "/thread/owner"):
            assert client.get(path).json() == [str(OWNERS[kind]), kind]

    @pytest.mark.parametrize("path", ["/owner", "/thread/owner", "/guarded"])
    def test_without_one_the_answer_is_401(self, path: str) -> None:
        answer = browser(wired(Sessions("memory:"))).get(path)
        assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})
        assert answer.headers["www-authenticate"] == "APIKey"  # RFC 9110 15.5.2 wants one
        assert answer.headers["vary"] == "Cookie"

    def test_without_one_a_websocket_is_refused(self) -> None:
        client = browser(wired(Sessions("memory:")))
        with (
            pytest.raises(WebSocketDisconnect) as closed,
            client.websocket_connect("wss://testserver/socket"),
        ):
            pass
        assert closed.value.code == 1008

    def test_an_alias_of_ones_own_gives_it_a_type(self) -> None:
        app = wired(Sessions("memory:"))
        app.get("/next")(next_id)
        client = browser(app)
        client.post("/sign-in/int")
        assert client.get("/next").json() == 8


async def next_id(user_id: Annotated[int, Depends(get_owner)]) -> int:
    return user_id + 1


class TestSubApplication:
    def test_it_has_the_session_of_the_app_around_it(self) -> None:
        app = wired(Sessions("memory:"))
        app.mount("/api", add_pages(FastAPI()))
        with browser(app) as client:
            client.post("/names/ada")
            assert client.post("/api/names/bob").json() == ["ada", "bob"]
            client.post("/api/sign-in/int")
            assert client.get("/owner").json() == ["7", "int"]
            with client.websocket_connect("wss://testserver/api/socket") as connected:
                assert connected.receive_text() == "7"
                connected.send_text("done")

    def test_it_may_have_sessions_alone(self) -> None:
        sessions = Sessions("memory:")
        app = FastAPI(lifespan=sessions.lifespan)
        api = add_pages(FastAPI(middleware=[sessions.middleware]))
        app.mount("/api", api)
        name_cookie(api, sessions)
        with browser(app) as client:
            client.post("/api/names/ada")
            assert client.post("/api/names/bob").json() == ["ada", "bob"]
            schema = client.get("/api/openapi.json").json()
            (scheme,) = schema["components"]["securitySchemes"].values()
            assert scheme["name"] in client.cookies

    def test_both_may_have_the_middleware_and_share_the_session(self) -> None:
        sessions = Sessions("memory:")
        app = wired(sessions)
        app.mount("/api", add_pages(FastAPI(middleware=[sessions.middleware])))
        with browser(app) as client:
            client.post("/names/ada")
            assert client.post("/api/names/bob").json() == ["ada", "bob"]
            assert client.post("/names/eve").json() == ["ada", "bob", "eve"]


class AppConfig(ProjectConfig):
    app_name = "my_app"


class TestOpenAPI:
    @pytest.mark.parametrize(
        "sessions",
        [
            Sessions("memory:"),
            Sessions("memory:", name="visit"),
            Sessions(AppConfig()),
            Sessions(AppConfig(), name="visit"),
        ],
        ids=["url", "url-name", "config", "config-name"],
    )
    def test_the_scheme_names_the_cookie_that_the_app_sets(self, sessions: Sessions) -> None:
        client = browser(wired(sessions))
        client.post("/names/ada")
        (name,) = client.cookies
        for _ in range(2):  # FastAPI keeps the first
            schema = client.get("/openapi.json").json()
            (scheme,) = schema["components"]["securitySchemes"].values()
            assert scheme["description"].startswith("Names the session.")
            assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "cookie", name)

    def test_only_routes_that_use_the_session_need_the_cookie(self) -> None:
        paths = wired(Sessions("memory:")).openapi()["paths"]
        needing = {
            path for path, methods in paths.items() for m in methods.values() if "security" in m
        }
        assert set(paths) - needing == {"/public"}

    def test_two_apps_with_two_cookies_have_one_each(self) -> None:
        for name in ("one", "two"):
            schema = wired(Sessions("memory:", name=name)).openapi()
            (scheme,) = schema["components"]["securitySchemes"].values()
            assert scheme["name"] == f"__Host-{name}"

    def test_an_app_without_sessions_has_no_scheme(self) -> None:
        app = FastAPI()
        name_cookie(app, Sessions("memory:"))
        assert "components" not in app.openapi()


class TestProtection:
    """The limit of bodies passes FastAPI's own reading of them, and the headers its own answers."""

    def test_a_body_that_is_too_large_gets_413(self) -> None:
        app = wired(Sessions("memory:"), Middleware(Protection, max_body=1000))

        @app.post("/json")
        async def take(body: dict[str, str]) -> int:
            return len(body["a"])

        @app.post("/upload", max_body_size=3000)
        async def upload(body: dict[str, str]) -> int:
            return len(body["a"])

        client = browser(app)
        assert client.post("/json", json={"a": "b" * 900}).json() == 900
        assert client.post("/upload", json={"a": "b" * 2900}).json() == 2900
        for path, size in (("/json", 1000), ("/upload", 3000)):
            text = b'{"a": "%b"}' % (b"b" * size)
            whole = client.post(path, content=text, headers={"content-type": "application/json"})
            pieces = client.post(
                path, content=iter([text]), headers={"content-type": "application/json"}
            )
            assert (whole.status_code, pieces.status_code) == (413, 413)

    def test_answers_of_fastapis_own_have_the_headers(self) -> None:
        client = browser(wired(Sessions("memory:"), Middleware(Protection)))
        for answer in (client.get("/docs"), client.get("/owner"), client.get("/nowhere")):
            for name, value in HTTPS_HEADERS:
                assert answer.headers[name.decode()] == value.decode()


class TestWithoutFastAPI:
    @pytest.mark.parametrize("left", ["nothing", "an empty folder"])
    def test_the_import_says_what_to_install(
        self, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "fastapi"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "serversessions.fastapi")
        if left == "nothing":
            monkeypatch.setitem(sys.modules, "fastapi", None)
        else:  # as pip leaves one, if someone wrote a file into it
            (tmp_path / "fastapi").mkdir()
            monkeypatch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(
            ImportError, match=r"serversessions\.fastapi needs FastAPI: `uv add fastapi`"
        ):
            importlib.import_module("serversessions.fastapi")


class TestPage:
    """docs/fastapi.md, from top to bottom."""

    @pytest.fixture
    def page(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.chdir(tmp_path)
        return run_examples("fastapi.md", monkeypatch)

    def test_its_own_test_passes(self, page: dict[str, Any]) -> None:
        page["test_who_has_signed_in_is_known"]()

    def test_the_app_does_what_the_page_says(self, page: dict[str, Any]) -> None:
        with browser(page["app"]) as client, browser(page["app"]) as phone:
            client.post("/basket/apple")
            assert client.post("/basket/pear").json() == ["apple", "pear"]
            wrong = client.post("/sign-in", json={"name": "ada", "password": "count"})
            assert wrong.status_code == 403
            for each in (client, phone):
                assert each.get("/members/news").status_code == 401
                with pytest.raises(WebSocketDisconnect), each.websocket_connect(f"{WSS}/echo"):
                    pass
                right = each.post("/sign-in", json={"name": "ada", "password": "countess"})
                assert right.json() == "Hello ada"
                assert each.get("/hello").json() == "Hello 7"
                assert each.get("/api/me").json() == 7
                assert each.get("/members/news").status_code == 200
            assert client.get("/basket").json() == ["apple", "pear"]
            with client.websocket_connect(f"{WSS}/echo") as connected:
                connected.send_text("ahoy")
                assert connected.receive_text() == "7: ahoy"
            assert client.post("/sign-out-elsewhere").json() == 1
            assert (client.get("/me").status_code, phone.get("/me").status_code) == (200, 401)
            elsewhere = {"sec-fetch-site": "cross-site"}
            assert client.post("/sign-out", headers=elsewhere).status_code == 403
            for path in ("", "/api"):
                schema = client.get(f"{path}/openapi.json").json()
                assert schema["components"]["securitySchemes"]["session"]["name"] in client.cookies

    async def test_a_lifespan_of_ones_own_calls_that_of_the_sessions(
        self, page: dict[str, Any]
    ) -> None:
        async with page["lifespan"](page["app"]):
            await page["sessions"].store.ping()

    def test_a_sub_application_may_have_sessions_alone(self, page: dict[str, Any]) -> None:
        with browser(page["website"]) as client:
            client.get("/shop/visits")
            assert client.get("/shop/visits").json() == 2

    def test_a_front_end_at_another_origin_is_answered(self, page: dict[str, Any]) -> None:
        with browser(page["backend"]) as client:
            for origin in page["FRONT_ENDS"]:
                headers = {"origin": origin, "sec-fetch-site": "same-site"}
                asked = client.options(
                    "/visits", headers={**headers, "access-control-request-method": "POST"}
                )
                answer = client.post("/visits", headers=headers)
                for each in (asked, answer):
                    assert each.status_code == 200
                    assert each.headers["access-control-allow-origin"] == origin
                    assert each.headers["access-control-allow-credentials"] == "true"
            assert client.post("/visits").json() == 3
            other = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
            assert client.post("/visits", headers=other).status_code == 403
