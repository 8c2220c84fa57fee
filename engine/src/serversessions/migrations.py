"""The database's tables: the sessions', and by Alembic those of the app's owner."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from .location import Location
from .store import StoreUnavailable
from .stores import open_store
from .stores.database_url import SQLITE_SCHEMES, read_postgresql_url, read_sqlite_url
from .stores.sql import POSTGRESQL, SQLITE, drop_table
from .stores.threads import Threads

if TYPE_CHECKING:
    import sqlalchemy as sa

# Alembic knows one migration at a time in a process. A thread of its own ends with the process,
# however long another one's migration takes.
_thread = Threads(1, "migration")


class Config(Protocol):
    """What ``run`` asks of a configuration. ``ProjectConfig`` has it."""

    app_name: ClassVar[str]

    @property
    def database(self) -> Any: ...

    @classmethod
    def load(cls, environment: str | None = None) -> Self: ...


async def migrate(url: str, *, app: str, migrations: str | None) -> None:
    """Bring the database at a URL up to date. Safe to run at any time, by many at once.

    ``migrations`` is the package that holds the app's, such as ``"my_app:migrations"``. Without
    it, the table of the sessions of ``app`` is created, unless it is there.

    Raises:
        ValueError: the URL is wrong.
        StoreUnavailable: the database can't be reached, refuses, or has migrations of its own.
    """
    if migrations is not None:
        await _thread.run(_upgrade, url, migrations)
        return
    store: Any = open_store(Location(url, app))
    try:
        await store.create_table()
    finally:
        await store.aclose()


def run(config_class: type[Config], metadata: sa.MetaData) -> None:
    """The whole of an app's ``migrations/env.py``.

    ``metadata`` has the tables of the app's own models, which ``alembic revision --autogenerate``
    compares with the database; it looks at no others. Alembic's own command works on the database
    of the current environment; ``-x env=prod`` names another.
    """
    from alembic import context

    def work(connection: sa.Connection) -> None:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=f"{config_class.app_name}_alembic_version",
            include_name=is_own,
            render_as_batch=True,  # SQLite can't alter most of a table otherwise
        )
        with context.begin_transaction():
            context.run_migrations()

    def is_own(name: str | None, kind: str, parents: Any) -> bool:
        return kind != "table" or parents["schema_qualified_table_name"] in metadata.tables

    connection = context.config.attributes.get("connection")
    if connection is not None:
        work(connection)
        return
    config = config_class.load(context.get_x_argument(as_dictionary=True).get("env"))
    if config.database is None:
        raise StoreUnavailable(
            "this environment has no [database] url: there is nothing to migrate"
        )
    _run_alone(config.database.url, work)


def create_sessions_table(app: str) -> None:
    """For ``upgrade()`` of a revision: create the table of an app's sessions."""
    from alembic import op

    dialect = SQLITE if op.get_context().dialect.name == "sqlite" else POSTGRESQL
    for statement in dialect.write_table(f"{app}_sessions"):
        op.execute(statement)


def drop_sessions_table(app: str) -> None:
    """For ``downgrade()`` of a revision: remove the table of an app's sessions."""
    from alembic import op

    op.execute(drop_table(f"{app}_sessions"))


def _upgrade(url: str, migrations: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    def upgrade(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", migrations.replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    try:
        _run_alone(url, upgrade)
    except CommandError as error:
        raise StoreUnavailable(
            f"{str(error).rstrip('.')}. Is the database ahead of this code, or another"
            " application's?"
        ) from error


def _run_alone(url: str, work: Callable[[sa.Connection], None]) -> None:
    """Run ``work`` in a transaction of its own, while no other caller of this runs."""
    import sqlalchemy as sa

    errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, OSError)
    try:
        if url.partition(":")[0] in SQLITE_SCHEMES:
            _run_on_sqlite(url, work)
        else:
            from .stores.postgresql import ERRORS

            errors += ERRORS
            asyncio.run(_run_on_postgresql(url, work))
    except errors as error:
        raise _unavailable(error) from error


def _run_on_sqlite(url: str, work: Callable[[sa.Connection], None]) -> None:
    import sqlalchemy as sa

    from .stores.sqlite import connect

    place = read_sqlite_url(url)
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: connect(*place),  # SQLite alone opens the file: see there
        isolation_level="AUTOCOMMIT",
        poolclass=sa.NullPool,
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            work(connection)
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


async def _run_on_postgresql(url: str, work: Callable[[sa.Connection], None]) -> None:
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import create_async_engine

    from .stores.postgresql import LOCK

    options = {
        **read_postgresql_url(url),
        "command_timeout": None,  # however long it takes: the others, and to change a large table
        # What has no name is prepared and executed in one go, as poolers need it.
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: "",
    }
    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args=options, poolclass=sa.NullPool
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        await connection.run_sync(work)


def _unavailable(error: Exception) -> StoreUnavailable:
    """What a driver raised, in one line, without the statement and its parameters."""
    raised = getattr(error, "orig", None) or error
    cause = raised.__cause__ or raised  # asyncpg's own, below SQLAlchemy's
    if isinstance(cause, socket.gaierror):
        return StoreUnavailable(f"database: its host is not known: {cause.strerror}")
    return StoreUnavailable(f"database: {str(cause).partition(chr(10))[0] or 'no answer in time'}")
