"""Real servers that a test can stop, pause, cut off and fill, and visitors of a site on them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError

from serversessions.location import Location
from serversessions.stores import open_store
from serversessions.testing import Clock, servers

from .test_sessions import Act, Site, Visitor, puts

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

    def __init__(self, command: Sequence[object], port: int, **options: Any) -> None:
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
        port = servers.free_port()
        command = [servers.valkey_program(), "--port", port, "--bind", "127.0.0.1", "--dir", folder]
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
    """On a data folder of its own, where ``visitor`` needs a password."""

    end = signal.SIGINT
    crash = signal.SIGQUIT

    def __init__(
        self, new: servers.PostgreSQLData, *settings: str, port: int | None = None
    ) -> None:
        port = port or servers.free_port()
        super().__init__(new.command(port, *settings), port, **new.options)
        self.new = new
        self._settings = new.data / "postgresql.auto.conf"
        hba = new.data / "pg_hba.conf"
        hba.write_text("host all visitor 127.0.0.1/32 scram-sha-256\n" + hba.read_text())
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
        """Cut the connections of those that are done but not acknowledged; the number cut."""
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
        yield PostgreSQL(new)


@pytest.fixture
async def valkey_server(tmp_path: Path) -> AsyncIterator[Valkey]:
    server = Valkey(tmp_path)
    await server.start()
    yield server
    server.stop()


@pytest.fixture(params=["cache", "postgresql"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """A running server of each kind, with its own settings as they were, and no session."""
    server: Server = Valkey(tmp_path)
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql_server")
    await server.start()
    if request.param == "postgresql":
        await create_table(server.url)
    yield server
    server.stop()


async def create_table(url: str) -> None:
    """Make a database ready."""
    async with opened(url) as store:
        await store.create_table()


@asynccontextmanager
async def opened(url: str, wait: float = 10) -> AsyncIterator[Any]:
    """The store at a URL; it waits for its server, a lock or a connection for so many seconds."""
    if url.startswith("redis"):
        query: dict[str, object] = {"socket_timeout": wait, "socket_connect_timeout": wait}
    elif url.startswith("sqlite"):
        query = {"timeout": wait}
    else:
        # asyncpg tells the event loop, not its caller, that a request for TLS was cancelled.
        query = {"timeout": wait, "command_timeout": wait, "sslmode": "disable"}
    for name, value in query.items():
        if f"{name}=" not in url:
            url += f"{'&' if '?' in url else '?'}{name}={value}"
    options = {"pool_timeout": timedelta(seconds=wait)}
    store = open_store(Location(url, options=options))
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def site_at(url: str, wait: float = 10) -> AsyncIterator[Site]:
    async with opened(url, wait) as store:
        yield Site(store, Clock(), exclude=["/static"])


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
