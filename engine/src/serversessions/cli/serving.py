"""``run`` and ``migrate``."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any

import click

from ..config import MemoryStoreConfig
from ..config.sources import FOLDER, environment_variable
from ..problems import ConfigError, Problem, redact
from ..store import SessionStore, StoreNotReady, StoreUnavailable
from ..stores import MissingPackage
from .project import Environment, Project, WrongUsage, command_name, environment_option
from .project import install_command as install

GRACE = 7  # seconds for requests under way at SIGTERM: Docker kills after ten, closing takes some
LEVELS = ["critical", "error", "warning", "info", "debug"]
RELOADED = ["*.toml", "*.html", "*.jinja", "*.jinja2"]  # beside Python


def _read_root_path(context: click.Context, option: click.Parameter, path: str) -> str:
    if path and not path.startswith("/"):
        raise click.BadParameter(f'found {path!r}; allowed: a path that begins with "/"')
    return path.rstrip("/")


@click.command()
@environment_option
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="HOST",
    show_default=True,
    show_envvar=True,
    help="The address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    envvar="PORT",
    show_default=True,
    show_envvar=True,
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    envvar="WEB_CONCURRENCY",
    show_default=True,
    show_envvar=True,
    help="How many processes.",
)
@click.option(
    "--root-path",
    default="",
    callback=_read_root_path,
    metavar="PATH",
    help="The prefix that a proxy removes from paths: /shop.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="What is logged; session events are info.",
)
@click.option("--reload", is_flag=True, help="Restart when code, templates or TOML change.")
@click.option(
    "--expose-debug", is_flag=True, help="Serve debug pages beyond this machine, too. Dangerous."
)
def run(
    environment: str | None,
    host: str,
    port: int,
    workers: int,
    root_path: str,
    log_level: str,
    reload: bool,
    expose_debug: bool,
) -> None:
    """Serve the app.

    SIGTERM and Ctrl+C stop it: it takes no more requests, and gives those under way seven seconds.

    Behind a proxy on another machine, the variable FORWARDED_ALLOW_IPS names the proxy's address,
    so that the app sees the visitor's address and scheme.
    """
    from logging.config import dictConfig

    import uvicorn

    # Status 0 for an end that was asked for: uvicorn raises the signal again when it has shut down.
    # And a container's first process is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    log_config = _log_config(log_level)
    dictConfig(log_config)
    chosen, project = Environment(environment), Project.current()
    if reload and workers > 1:
        raise WrongUsage("--reload runs one process: leave out --workers, and WEB_CONCURRENCY")
    if workers > 1 and isinstance(chosen.config.middlewares.session.store, MemoryStoreConfig):
        raise WrongUsage(
            f"{workers} workers can't share the memory store: each would have sessions of its own."
            f" Run one worker, or choose another store: {command_name()} config set-store"
            f" {chosen.name}"
        )
    store = chosen.open_store()
    if chosen.config.debug and not expose_debug and not _is_loopback(host):
        raise WrongUsage(
            f"{chosen.path} has debug = true, and its debug pages show code and settings to"
            f" everyone who can reach {host}. Serve another environment with --env, or listen on"
            " 127.0.0.1. If everyone may see them, add --expose-debug"
        )
    _require_free_port(host, port)
    _prepare_store(store, chosen)
    click.echo(f"Environment: {chosen}")
    os.environ[environment_variable(project.name)] = chosen.name
    uvicorn.run(
        project.app,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        root_path=root_path,
        log_config=log_config,
        log_level=log_level,
        timeout_graceful_shutdown=GRACE,
        **(_reload_options(project.app) if reload else {}),
    )


@click.command()
@environment_option
def migrate(environment: str | None) -> None:
    """Create or update the database's tables."""
    chosen = Environment(environment)
    if chosen.config.database is None:
        raise WrongUsage(f"{chosen.path} has no [database] url: there is nothing to migrate")
    url = chosen.config.database.url
    _migrate(chosen, url)
    click.echo(f"Up to date: {redact(url)}")


def _migrate(chosen: Environment, url: str) -> None:
    config = chosen.config
    try:
        from ..migrations import migrate

        asyncio.run(migrate(url, app=config.app_name, migrations=config.migrations))
    except (ModuleNotFoundError, MissingPackage):
        raise WrongUsage(
            f"the database needs packages that are not installed. Run: {install('database')}"
        ) from None
    except (ValueError, ConfigError) as error:
        text = f'found "{redact(url)}"; {redact(str(error))}'
        if isinstance(error, ConfigError):
            text = error.problems[0].text
        source = chosen.sources.blame(("database", "url"))
        raise ConfigError(Problem("database.url", redact(url), text=text, source=source)) from None
    except StoreUnavailable as error:
        raise click.ClickException(f"can't migrate {redact(url)}: {redact(str(error))}") from None


def _prepare_store(store: SessionStore, chosen: Environment) -> None:
    """Say now what would otherwise show at the first request."""
    config = chosen.config
    if config.debug and config.database is not None:
        _migrate(chosen, config.database.url)
    try:
        asyncio.run(_ping_and_close(store))
    except StoreNotReady as error:
        advice = f"Run: {command_name()} migrate --env {chosen.name}"
        raise click.ClickException(f"{error}. {advice}") from None
    except StoreUnavailable as error:
        click.echo(
            f"Warning: the session store does not answer ({redact(str(error))}). The app starts all"
            " the same; requests that need a session get 503 until it does.",
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
            advice = "stop what listens there, or choose another port with --port or PORT"
        else:
            advice = "choose another address with --host or HOST, and --port or PORT"
        reason = (error.strerror or str(error)).lower()
        raise click.ClickException(
            f"can't listen on {host} port {port}: {reason}; {advice}"
        ) from None


def _is_loopback(host: str) -> bool:
    """Whether this machine alone reaches an address, or, as it is unknown, nobody."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return True
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _log_config(level: str) -> dict[str, Any]:
    """Everything with time and level: uvicorn's lines, session events, and the app's own."""
    text = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler = {"class": "logging.StreamHandler", "formatter": "default"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": {"format": text}},
        "handlers": {"default": handler},
        "root": {"handlers": ["default"], "level": level.upper()},
        "loggers": {"alembic": {"level": "DEBUG" if level == "debug" else "WARNING"}},
    }


def _reload_options(app: str) -> dict[str, Any]:
    """What uvicorn watches; without the package watchfiles it sees Python alone."""
    package = find_spec(app.partition(":")[0].partition(".")[0])
    folders = list(package.submodule_search_locations or []) if package else []
    options: dict[str, Any] = {"reload": True, "reload_dirs": [*folders, str(FOLDER)]}
    if find_spec("watchfiles") is not None:
        return options | {"reload_includes": RELOADED}
    click.echo(
        "--reload sees changes of Python files alone. To have it see TOML and templates, too,"
        " install watchfiles.",
        err=True,
    )
    return options
