"""The tables of a database: of the sessions and of the app's owner, of one app and of several."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from serversessions import StoreNotReady, StoreUnavailable
from serversessions.location import Location
from serversessions.migrations import migrate
from serversessions.stores import open_store
from serversessions.stores.postgresql import LOCK
from serversessions.stores.sqlite import SQLiteStore

from .faults import PostgreSQL, assert_unavailable, opened, site_at, until, write_until, writers
from .test_sessions import puts
from .test_sqlite import posix_locks


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
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


async def create(url: str) -> None:
    await migrate(url, app="app", migrations=None)


async def fetch(url: str, statement: str) -> list[Any]:
    """What the first column holds, asked from outside of the site."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url)
        try:
            return [row[0] for row in await connection.fetch(statement)]
        finally:
            await connection.close()
    path = urlsplit(url).path.removeprefix("/")
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as other:
        return [row[0] for row in other.execute(statement)]


async def tables(url: str) -> set[str]:
    if url.startswith("postgresql"):
        return set(await fetch(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
    return set(await fetch(url, "SELECT name FROM sqlite_master WHERE type = 'table'"))


class TestTable:
    async def test_a_missing_table_means_503_and_store_not_ready(self, url: str) -> None:
        async with opened(url) as store:
            with pytest.raises(StoreNotReady):
                await store.ping()
        async with site_at(url) as site, site.visitor("A" * 43) as visitor:
            assert_unavailable(await visitor.does(dict))
            visitor.client.cookies.clear()
            assert_unavailable(await visitor.does(puts(a=1)))
            await create(url)
            await visitor.does(puts(a=1))
            assert await visitor.sees() == {"a": 1}

    async def test_a_table_dropped_under_load_means_503_until_it_is_there_again(
        self, url: str
    ) -> None:
        await create(url)
        async with site_at(url) as site, site.visitor() as visitor:
            await visitor.does(puts(a=1))
            over = asyncio.Event()
            writing = asyncio.create_task(write_until(over, visitor, "key"))
            await fetch(url, "DROP TABLE app_sessions")
            assert_unavailable(await visitor.does(dict))
            await create(url)
            over.set()
            await writing
            await visitor.does(puts(a=1))
            assert (await visitor.sees())["a"] == 1

    async def test_a_change_of_the_table_under_load_is_noticed_by_nobody(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await create(url)
        async with site_at(url) as site, writers(site) as lost:
            for change in (
                "ALTER TABLE app_sessions ADD COLUMN note VARCHAR",
                "CREATE INDEX note ON app_sessions (note)",
            ):
                await asyncio.sleep(0.1)
                await fetch(url, change)
            await create(url)
        assert lost == set()
        assert "unavailable" not in caplog.text  # nobody has heard 503

    async def test_many_create_it_at_once(self, url: str) -> None:
        async with opened(url) as one, opened(url) as other:
            await asyncio.gather(*(store.create_table() for store in [one, other] * 5))
            await one.ping()

    async def test_two_apps_in_one_database_are_apart(self, url: str) -> None:
        stores: list[Any] = [open_store(Location(url, app)) for app in ("blog", "shop")]
        for store, app in zip(stores, ("blog", "shop"), strict=True):
            await migrate(url, app=app, migrations=None)
            await store.ping()
        assert await tables(url) == {"blog_sessions", "shop_sessions"}
        for store in stores:
            await store.aclose()

    @pytest.mark.parametrize("table", ["", "a b", 'a"; DROP TABLE x', "ä", "1a", "a" * 53])
    def test_a_name_that_no_table_has_is_refused(self, table: str) -> None:
        with pytest.raises(ValueError, match="table: allowed: up to 52 letters"):
            SQLiteStore("sqlite:///app.db", table=table)


START = """
import asyncio, sys
from starlette.applications import Starlette
from serversessions import Sessions

async def start(url):
    sessions = Sessions(url)
    async with sessions.lifespan(Starlette()):
        await sessions.store.ping()

asyncio.run(start(sys.argv[1]))
print(*sorted({"alembic", "asyncpg", "sqlalchemy"} & set(sys.modules)))
"""


async def test_an_app_starts_without_alembic_and_sqlalchemy(url: str) -> None:
    answer = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", START, url], check=True, stdout=subprocess.PIPE
    )
    assert answer.stdout.decode().split() == ["asyncpg"] * url.startswith("postgresql")


class App:
    """An app of its own: a package with a configuration, models and migrations."""

    def __init__(self, folder: Path, url: str) -> None:
        self.name = f"app_{secrets.token_hex(4)}"
        self.url = url
        self._folder = folder
        self.migrations = folder / self.name / "migrations"
        self._write("pyproject.toml", f'[tool.alembic]\nscript_location = "{self.name}/migrations"')
        self._write(
            "config/dev.toml",
            f'debug = true\ndatabase.url = "{url}"\nmiddlewares.session.store.type = "database"',
        )
        self._write(f"{self.name}/__init__.py")
        self._write(
            f"{self.name}/config.py",
            "from serversessions.config import ProjectConfig\n"
            f'class AppConfig(ProjectConfig):\n    app_name = "{self.name}"',
        )
        self._write(f"{self.name}/models.py", "import sqlalchemy as sa\nmetadata = sa.MetaData()\n")
        self._write(
            f"{self.name}/migrations/env.py",
            "from serversessions.migrations import run\n"
            f"from {self.name}.config import AppConfig\n"
            f"from {self.name}.models import metadata\n"
            "run(AppConfig, metadata)",
        )
        self._write(f"{self.name}/migrations/script.py.mako", TEMPLATE)
        self.add_revision(
            "0001",
            None,
            f'create_sessions_table("{self.name}")',
            f'drop_sessions_table("{self.name}")',
        )

    def _write(self, path: str, text: str = "") -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def add_revision(self, revision: str, after: str | None, up: str, down: str = "pass") -> None:
        self._write(
            f"{self.name}/migrations/versions/{revision}.py",
            "import sqlalchemy as sa\nfrom alembic import op\n"
            "from serversessions.migrations import create_sessions_table, drop_sessions_table\n"
            f"revision, down_revision = {revision!r}, {after!r}\n"
            f"def upgrade():\n    {up}\ndef downgrade():\n    {down}",
        )

    def add_model(self, text: str) -> None:
        with (self._folder / self.name / "models.py").open("a") as file:
            file.write(f"{text}\n")

    async def migrate(self) -> None:
        await migrate(self.url, app=self.name, migrations=f"{self.name}:migrations")

    async def alembic(self, *arguments: str) -> str:
        """What Alembic's own command prints, in the app's folder."""
        command = [sys.executable, "-m", "alembic", *arguments]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=self._folder,
            env={"PYTHONPATH": f"{self._folder}:{':'.join(sys.path)}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


TEMPLATE = """
from alembic import op
import sqlalchemy as sa

revision, down_revision = ${repr(up_revision)}, ${repr(down_revision)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
"""


@pytest.fixture
def new_app(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], App]:
    """A way to an app whose database is at the URL."""

    def new_app() -> App:
        folder = tmp_path / secrets.token_hex(4)
        monkeypatch.syspath_prepend(folder)
        return App(folder, url)

    return new_app


@pytest.fixture
def app(new_app: Callable[[], App]) -> App:
    return new_app()


class TestOwnMigrations:
    async def test_the_tables_are_named_after_the_app(self, app: App) -> None:
        await app.migrate()
        await app.migrate()
        assert await tables(app.url) == {f"{app.name}_sessions", f"{app.name}_alembic_version"}
        store = open_store(Location(app.url, app.name))
        await store.ping()
        await store.aclose()

    async def test_two_apps_with_the_same_revisions_are_apart(
        self, new_app: Callable[[], App]
    ) -> None:
        apps = [new_app(), new_app()]
        for app in apps:
            await app.migrate()
        assert len(await tables(apps[0].url)) == 4

    async def test_alembics_own_command_sees_the_owners_models_alone(self, app: App) -> None:
        await fetch(app.url, "CREATE TABLE foreign_table (x INTEGER)")
        assert "0001" not in await app.alembic("current")
        await app.alembic("upgrade", "head")
        assert "0001 (head)" in await app.alembic("current")
        app.add_model('sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))')

        await app.alembic("revision", "--autogenerate", "--rev-id", "0002", "-m", "orders")
        (written,) = app.migrations.glob("versions/0002*.py")
        text = written.read_text()
        assert "op.create_table('orders'" in text
        assert "sessions" not in text
        assert "foreign" not in text

        await app.migrate()  # the same history
        assert "0002 (head)" in await app.alembic("current")
        own = {f"{app.name}_sessions", f"{app.name}_alembic_version"}
        assert await tables(app.url) == own | {"orders", "foreign_table"}
        await app.alembic("check")  # nothing is left to be generated
        await app.alembic("downgrade", "base")
        assert await tables(app.url) == {f"{app.name}_alembic_version", "foreign_table"}

    async def test_a_revision_that_fails_changes_nothing(self, app: App) -> None:
        app.add_revision("0002", "0001", 'op.execute("CREATE TABLE half (x INT)"); op.execute("?")')
        with pytest.raises(StoreUnavailable, match=r"^database: .*syntax error[^\n]*$"):
            await app.migrate()
        assert await tables(app.url) == set()

    async def test_those_of_another_code_are_one_message(self, app: App) -> None:
        await app.migrate()
        await fetch(app.url, f"UPDATE {app.name}_alembic_version SET version_num = '9999'")
        with pytest.raises(StoreUnavailable, match=r"'9999'\. Is the database ahead"):
            await app.migrate()
        await fetch(app.url, f"UPDATE {app.name}_alembic_version SET version_num = '0001'")
        await app.migrate()

    async def test_many_migrate_at_once(self, app: App) -> None:
        await asyncio.gather(*(app.migrate() for _ in range(5)))
        assert await fetch(app.url, f"SELECT count(*) FROM {app.name}_alembic_version") == [1]

    async def test_no_lock_of_a_running_site_is_dropped(self, app: App, tmp_path: Path) -> None:
        """Unless it is on a server: see ``stores.sqlite``."""
        await app.migrate()
        store = open_store(Location(app.url, app.name))
        await asyncio.gather(*(store.load("a") for _ in range(20)))
        held = posix_locks(tmp_path / "app.db")
        await app.migrate()
        assert posix_locks(tmp_path / "app.db") == held
        assert (held == set()) is app.url.startswith("postgresql")
        await store.aclose()

    async def test_a_database_that_does_not_answer_is_one_message(self, app: App) -> None:
        for url in ("postgresql://u:s3cret@127.0.0.1:1/x", "sqlite:////proc/none/app.db"):
            app.url = url
            with pytest.raises(StoreUnavailable, match=r"^database: ") as raised:
                await app.migrate()
            assert "s3cret" not in str(raised.value)


async def test_they_wait_for_each_other_however_long_it_takes(
    postgresql_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgresql_server.start()
    app = App(tmp_path, f"{postgresql_server.url}?command_timeout=0.2")
    monkeypatch.syspath_prepend(tmp_path)
    other = await asyncpg.connect(postgresql_server.url)
    await other.execute(f"SELECT pg_advisory_lock({LOCK})")
    migration = asyncio.create_task(app.migrate())
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    await until(lambda: postgresql_server.tell(waiting))
    await asyncio.sleep(0.5)
    assert not migration.done()
    await other.close()
    await migration
    postgresql_server.stop()
