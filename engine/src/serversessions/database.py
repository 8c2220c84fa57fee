"""SQLAlchemy on the app's own database, for the tables of its owner. The stores need none of it."""

from __future__ import annotations

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .stores.database_url import SQLITE_SCHEMES, read_postgresql_url, read_sqlite_url


def open_engine(url: str) -> AsyncEngine:
    """An engine for a ``[database]`` URL, with all that the URL may say. Nothing connects yet.

    Raises:
        ValueError: the URL is wrong.
        ModuleNotFoundError: the extra ``database`` is not installed.
    """
    if url.partition(":")[0] in SQLITE_SCHEMES:
        path, timeout = read_sqlite_url(url)
        address = URL.create("sqlite+aiosqlite", database=path)
        return create_async_engine(address, connect_args={"timeout": timeout})
    return create_async_engine("postgresql+asyncpg://", connect_args=read_postgresql_url(url))
