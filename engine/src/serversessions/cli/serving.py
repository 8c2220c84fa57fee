"""``run`` and ``migrate``."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from pathlib import Path

import click

from ..config import (
    ENVIRONMENT_VARIABLE,
    PACKAGE,
    ConfigError,
    DatabaseStoreConfig,
    MemoryStoreConfig,
    ProjectConfig,
    Sources,
    current_environment,
    environment_file,
    redact,
)
from ..migrations import migrate as migrate_database
from .. import SessionStore, StoreNotReady, StoreUnavailable
from ..stores import describe_store
from .common import WrongUsage, command_name, environment_option, open_configured_store

GRACE = 7  # seconds for requests under way at SIGTERM: Docker kills after ten, closing takes some


@click.command()
@environment_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True)
@click.option("--reload", is_flag=True, help="Restart when the code changes.")
def run(environment: str | None, host: str, port: int, workers: int, reload: bool) -> None:
    """Serve the app.

    SIGTERM and Ctrl+C stop it: it takes no more requests, and gives those under way seven seconds.
    """
    import uvicorn

    # Status 0 for an end that was asked for: uvicorn raises the signal again when it has shut down.
    # And a container's first process is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    environment = environment or current_environment()
    sources, config = _load(environment)
    if reload and workers > 1:
        raise WrongUsage("--reload runs one process: leave --workers out")
    if workers > 1 and isinstance(config.middlewares.session.store, MemoryStoreConfig):
        raise WrongUsage(
            f"{workers} workers can't share the memory store: each would have sessions of its own."
            f" Choose another [middlewares.session.store] in {environment_file(environment)}, or"
            " run one worker"
        )
    store = open_configured_store(config, sources)
    _require_free_port(host, port)
    _prepare_store(store, config, environment)
    click.echo(f"Environment: {environment}. Sessions: {describe_store(config)}")
    os.environ[ENVIRONMENT_VARIABLE] = environment
    uvicorn.run(
        f"{PACKAGE}.app:create_app",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent.parent)] if reload else None,
        timeout_graceful_shutdown=GRACE,
    )


@click.command()
@environment_option
def migrate(environment: str | None) -> None:
    """Create or update the database's tables."""
    environment = environment or current_environment()
    _, config = _load(environment)
    if config.database is None:
        raise WrongUsage(
            f"{environment_file(environment)} has no [database] url: there is nothing to migrate"
        )
    _migrate(config.database.url)
    click.echo(f"Up to date: {redact(config.database.url)}")


def _load(environment: str) -> tuple[Sources, ProjectConfig]:
    try:
        sources = Sources.read(environment)
        return sources, ProjectConfig.from_sources(sources)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None


def _migrate(url: str) -> None:
    try:
        asyncio.run(migrate_database(url))
    except ModuleNotFoundError as error:
        raise WrongUsage(
            f"the database needs the package {error.name!r}, which is not installed: "
            "pip install -e '.[database]' in the project's folder"
        ) from None
    except ValueError as error:
        raise WrongUsage(f'database.url: found "{redact(url)}"; {redact(str(error))}') from None
    except StoreUnavailable as error:
        raise click.ClickException(f"can't migrate {redact(url)}: {error}") from None


def _prepare_store(store: SessionStore, config: ProjectConfig, environment: str) -> None:
    """Say now what would otherwise show at the first request."""
    is_database = isinstance(config.middlewares.session.store, DatabaseStoreConfig)
    if is_database and config.database is not None and config.debug:
        _migrate(config.database.url)
    try:
        asyncio.run(_ping_and_close(store))
    except StoreNotReady as error:
        advice = f"Run: {command_name()} migrate --env {environment}"
        raise click.ClickException(f"{error}. {advice}") from None
    except StoreUnavailable as error:
        click.echo(
            f"Warning: the session store does not answer ({error}). The app starts all the same;"
            " requests that need a session get 503 until it does.",
            err=True,
        )


async def _ping_and_close(store: SessionStore) -> None:
    try:
        await store.ping()
    finally:
        await store.aclose()


def _require_free_port(host: str, port: int) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = "stop what listens there, or choose another one with --port"
        else:
            advice = "choose other ones with --host and --port"
        reason = (error.strerror or str(error)).lower()
        raise click.ClickException(
            f"can't listen on {host} port {port}: {reason}; {advice}"
        ) from None
