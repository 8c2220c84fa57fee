"""Several processes on one store: whatever they do at the same moment, sessions stay right."""

from __future__ import annotations

import asyncio
import multiprocessing
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, ParamSpec, TypeVar

import pytest
from msgspec.structs import replace

from serversessions import Record, Session, SessionStore
from serversessions.location import Location
from serversessions.migrations import migrate
from serversessions.stores import open_store
from serversessions.stores.file import FileStore
from serversessions.testing import Clock
from serversessions.testing.contract import ADA, HOUR, new_key

from .test_sessions import Site, puts

P = ParamSpec("P")
T = TypeVar("T")
Shared = tuple[str, str]  # a URL, and the app whose sessions are there

PROCESSES = 3
everywhere = pytest.mark.parametrize(
    "place", ["file", "sqlite", "postgresql", "cache"], indirect=True
)

meeting: Any = None  # in a worker: where all of them wait for each other


def set_meeting(barrier: Any) -> None:
    global meeting
    meeting = barrier


class Workers:
    """Processes that do the same thing at the same time."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._barrier = spawn.Barrier(PROCESSES, timeout=20)
        self._pool = ProcessPoolExecutor(PROCESSES, spawn, set_meeting, (self._barrier,))

    async def all(self, act: Callable[..., Awaitable[T]], *args: Any) -> list[T]:
        """What ``act(number, *args)`` came to in each process."""
        self._barrier.reset()
        loop = asyncio.get_running_loop()
        calls = [
            loop.run_in_executor(self._pool, run, act, number, args) for number in range(PROCESSES)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
            raise error  # the cause first, then those who waited in vain
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    def close(self) -> None:
        self._pool.shutdown()


def run(act: Callable[..., Awaitable[T]], number: int, args: tuple[Any, ...]) -> T:
    async def met() -> T:
        try:
            await meet()
            return await act(number, *args)
        except BaseException:
            meeting.abort()  # let nobody wait for this one
            raise

    return asyncio.run(met())


async def meet() -> None:
    """Go on when all processes are here."""
    await asyncio.to_thread(meeting.wait)


def open_shared(shared: Shared) -> SessionStore:
    url, app = shared
    return open_store(Location(url, app))


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


@pytest.fixture
def shared(place: tuple[str, str], store: SessionStore) -> Shared:
    """What another process needs to open ``store`` too."""
    return place[1], getattr(store, "_prefix", "app")


@pytest.fixture
def site(store: SessionStore, clock: Clock) -> Site:
    return Site(store, clock)


@pytest.fixture
def record(clock: Clock) -> Record:
    return Record(b"{}", clock(), clock() + HOUR)


async def put_many(number: int, shared: Shared, session_id: str) -> set[int]:
    """Ten requests at once, each of which changes a key of its own."""

    store = open_shared(shared)
    site = Site(store, Clock())

    async def put(key: str) -> int:
        async with site.visitor(session_id) as visitor:
            return (await visitor.does(puts(**{key: number}))).status_code

    statuses = await asyncio.gather(*(put(f"{number}-{count}") for count in range(10)))
    await store.aclose()
    return set(statuses)


@everywhere
async def test_writers_of_different_keys_of_one_session_all_survive(
    workers: Workers, shared: Shared, site: Site
) -> None:
    async with site.visitor() as visitor:
        await visitor.does(puts(first=True))
        assert await workers.all(put_many, shared, visitor.id) == [{200}] * PROCESSES
        seen = await visitor.sees()
    keys = {f"{number}-{count}" for number in range(PROCESSES) for count in range(10)}
    assert set(seen) == keys | {"first"}


async def create_each(number: int, shared: Shared, record: Record, keys: list[str]) -> list[bool]:
    store, won = open_shared(shared), []
    for key in keys:
        await meet()
        won.append(await store.create(key, replace(record, data=b"%d" % number)))
    await store.aclose()
    return won


async def update_each(number: int, shared: Shared, record: Record, keys: list[str]) -> list[bool]:
    store, won = open_shared(shared), []
    for key in keys:
        await meet()
        rival = replace(record, data=b"%d" % number, version=2)
        won.append(await store.update(key, rival))
    await store.aclose()
    return won


async def assert_one_won(store: SessionStore, keys: list[str], won: list[list[bool]]) -> None:
    for key, *answers in zip(keys, *won, strict=True):
        record = await store.load(key)
        assert answers.count(True) == 1
        assert record is not None
        assert record.data == b"%d" % answers.index(True)


@everywhere
async def test_of_concurrent_creations_of_one_key_exactly_one_wins(
    workers: Workers, shared: Shared, store: SessionStore, record: Record
) -> None:
    keys = [new_key() for _ in range(50)]
    await assert_one_won(store, keys, await workers.all(create_each, shared, record, keys))


@everywhere
async def test_of_concurrent_updates_of_one_version_exactly_one_wins(
    workers: Workers, shared: Shared, store: SessionStore, record: Record
) -> None:
    keys = [new_key() for _ in range(50)]
    for key in keys:
        await store.create(key, record)
    await assert_one_won(store, keys, await workers.all(update_each, shared, record, keys))


async def rotate_each(number: int, shared: Shared, ids: list[str]) -> list[str | None]:
    """The id that the browser is given for each session, if any."""
    store, given = open_shared(shared), []
    for session_id in ids:
        async with Site(store, Clock()).visitor(session_id) as visitor:
            await meet()
            response = await visitor.does(Session.rotate_id)
            assert response.status_code == 200
            given.append(response.cookies.get("id"))
    await store.aclose()
    return given


@everywhere
async def test_concurrent_rotations_leave_exactly_one_live_id(
    workers: Workers, shared: Shared, site: Site
) -> None:
    ids = []
    for number in range(30):
        async with site.visitor() as visitor:
            await visitor.does(puts(number=number))
            ids.append(visitor.id)
    given = await workers.all(rotate_each, shared, ids)
    for number, (old, *offered) in enumerate(zip(ids, *given, strict=True)):
        seen = []
        for session_id in (old, *filter(None, offered)):
            async with site.visitor(session_id) as visitor:
                seen.append(await visitor.sees())
        assert [data for data in seen if data] == [{"number": number}]
        assert seen[0] == {}


async def log_out_or_write_slowly(
    number: int, shared: Shared, session_id: str
) -> tuple[int, str | None]:
    """The first process logs out when the others have begun to write, who end after that."""

    async def write_slowly(session: Session) -> None:
        session["late"] = number
        if number == 1:
            session.rotate_id()
        await meet()
        await meet()

    store = open_shared(shared)
    async with Site(store, Clock()).visitor(session_id) as visitor:
        if number == 0:
            await meet()
            response = await visitor.does(Session.flush)
            await meet()
        else:
            response = await visitor.does(write_slowly)
    await store.aclose()
    return response.status_code, response.headers.get("set-cookie")


@everywhere
async def test_a_logout_beats_a_slow_writer_in_another_process(
    workers: Workers, shared: Shared, site: Site
) -> None:
    async with site.visitor() as visitor:
        await visitor.does(puts(a=1))
        logout, *writers = await workers.all(log_out_or_write_slowly, shared, visitor.id)
        assert logout[0] == 200
        assert "Max-Age=0" in (logout[1] or "")
        assert writers == [(200, None)] * (PROCESSES - 1)
        assert await visitor.sees() == {}


async def sweep_all(number: int, shared: Shared, lasting: list[str]) -> int:
    """Sweep by two tasks until nothing is left, while live sessions are in use."""

    async def sweep() -> int:
        swept = 0
        while batch := await store.delete_expired(20):
            swept += batch
        return swept

    async def touch() -> int:
        for key in lasting:
            assert await store.touch(key, time.time() + HOUR + number)
        return 0

    store = open_shared(shared)
    swept = await asyncio.gather(sweep(), sweep(), touch())
    await store.aclose()
    return sum(swept)


@everywhere
async def test_concurrent_sweeps_remove_every_expired_record_once_and_no_live_one(
    workers: Workers, shared: Shared, store: SessionStore, record: Record
) -> None:
    expired, lasting = [new_key() for _ in range(400)], [new_key() for _ in range(50)]
    over = replace(record, created=record.created - 2 * HOUR, expires=record.created - HOUR)
    for key in expired:
        await store.create(key, over)
    for key in lasting:
        await store.create(key, record)
    swept = await workers.all(sweep_all, shared, lasting)
    assert sum(swept) == (0 if shared[0].startswith("redis") else len(expired))
    assert await store.delete_expired() == 0
    assert None not in [await store.load(key) for key in lasting]


async def sign_in_or_revoke(number: int, shared: Shared, owner: str) -> list[str]:
    """One process ends a user's sessions over and over, while the others sign that user in."""

    async def sign_in() -> str:
        key, now = new_key(), time.time()
        record = Record(b"{}", now, now + HOUR)
        for version, holder in enumerate((None, owner, None, owner), start=1):
            after = replace(record, version=version, owner=holder)
            if version == 1:
                assert await store.create(key, after)
            elif not await store.update(key, after):
                break  # revoked meanwhile
        return key

    store, keys, end = open_shared(shared), [], time.monotonic() + 1
    while time.monotonic() < end:
        if number == 0:
            await store.delete_owned(owner)
        else:
            keys += await asyncio.gather(*(sign_in() for _ in range(4)))
    await store.aclose()
    return keys


@everywhere
async def test_whoever_signs_in_while_the_user_is_logged_out_everywhere_can_be_so_again(
    workers: Workers, shared: Shared, store: SessionStore
) -> None:
    signed_in = await workers.all(sign_in_or_revoke, shared, ADA)
    await store.delete_owned(ADA)
    left = [await store.load(key) for keys in signed_in for key in keys]
    assert [record for record in left if record is not None and record.owner == ADA] == []


async def test_a_burst_of_calls_to_a_cache_waits_for_its_turn(valkey: str) -> None:
    store = open_store(valkey)
    assert await asyncio.gather(*(store.load(new_key()) for _ in range(400))) == [None] * 400
    await store.aclose()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
async def test_a_sweep_spares_what_is_touched_at_that_moment(
    place: tuple[str, str], store: SessionStore, record: Record, clock: Clock
) -> None:
    key = new_key()
    await store.create(key, record)
    clock.advance(2 * HOUR)
    async with connected(place[1]) as toucher, toucher.transaction():
        touch = "UPDATE app_sessions SET expires = expires + 86400 WHERE key = $1"
        await toucher.execute(touch, key)
        async with asyncio.timeout(4):  # it skips what is locked
            assert await store.delete_expired() == 0
    assert await store.load(key) is not None


async def migrate_each(number: int, urls: list[str]) -> None:
    for url in urls:
        await meet()
        await migrate(url, app="app", migrations=None)


async def test_processes_that_migrate_one_sqlite_database_at_once_all_succeed(
    workers: Workers, tmp_path: Path
) -> None:
    urls = [f"sqlite:///{tmp_path}/{number}/app.db" for number in range(25)]
    await workers.all(migrate_each, urls)
    for url in urls:
        store = open_shared((url, "app"))
        await store.ping()
        await store.aclose()


async def test_processes_that_migrate_one_postgresql_database_at_once_all_succeed(
    workers: Workers, postgresql: str
) -> None:
    urls = [f"{postgresql}_{secrets.token_hex(4)}" for _ in range(3)]
    names = [url.rpartition("/")[2] for url in urls]
    async with connected(postgresql) as connection:
        for name in names:
            await connection.execute(f"CREATE DATABASE {name}")
    await workers.all(migrate_each, urls)
    for url in urls:
        store = open_shared((url, "app"))
        await store.ping()
        await store.aclose()
    async with connected(postgresql) as connection:
        for name in names:
            await connection.execute(f"DROP DATABASE {name}")


async def create_in_each(number: int, folders: list[str], record: Record) -> list[str]:
    keys = []
    for folder in folders:
        store, key = FileStore(folder), "ab" + new_key()[2:]
        await meet()
        assert await store.create(key, replace(record, owner=ADA))
        await store.aclose()
        keys.append(key)
    return keys


async def test_processes_that_make_one_new_folder_at_once_all_write_into_it(
    workers: Workers, tmp_path: Path, record: Record
) -> None:
    folders = [str(tmp_path / str(number) / "sessions") for number in range(30)]
    made = await workers.all(create_in_each, folders, record)
    for folder, *keys in zip(folders, *made, strict=True):
        store = FileStore(folder)
        assert [await store.load(key) for key in keys] == [replace(record, owner=ADA)] * 3
        await store.aclose()
