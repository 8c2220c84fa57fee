"""What all commands share: the project that they serve, its environments, its advice."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from ..config import MemoryStoreConfig, ProjectConfig
from ..config.sources import current_environment, environment_file, environment_variable
from ..problems import ConfigError, Problem, redact
from ..store import SessionStore, StoreNotReady, StoreUnavailable
from ..stores import MissingPackage, describe, open_store

T = TypeVar("T")


class WrongUsage(click.ClickException):
    """What was asked for, or configured, can't be done: exit status 2. A failure has 1."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl+C. The exit status is the one that shells give it, 128 + SIGINT."""

    exit_code = 130


class Group(click.Group):
    """A group in which a wrong configuration, or a full disk below the output, is one message."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise WrongUsage(str(error)) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError:
            if (reason := _why_output_fails()) is None:
                raise
            click.echo(f"Error: can't write the output: {reason}", err=True)
            sys.exit(1)


@dataclass(frozen=True)
class Project:
    """What the command was made for. It travels in click's context."""

    config_class: type[ProjectConfig]
    app: str  # for uvicorn: "my_app.app:create_app"
    dotenv: frozenset[str] = frozenset()  # the variables that .env has set

    @classmethod
    def current(cls) -> Project:
        """That of the command that runs."""
        project = click.get_current_context().find_object(Project)
        assert project is not None
        return project

    @property
    def name(self) -> str:
        return self.config_class.app_name

    def origin(self, source: str) -> str:
        """Who sets a value, for people: a variable that .env has set is marked."""
        return f"{source} (.env)" if source in self.dotenv else source


class Environment:
    """An environment of the project: its file, its configuration, its store."""

    def __init__(self, name: str | None) -> None:
        project = Project.current()
        self.name = name or current_environment(project.name)
        self.path = environment_file(self.name)
        self.sources = project.config_class.read_sources(self.name)
        self.config = project.config_class.from_sources(self.sources)

    def __str__(self) -> str:
        return f"{self.name} ({describe(self.config)})"

    def require_shared_store(self) -> None:
        """Refuse a store that no other process than the app reaches."""
        if isinstance(self.config.middlewares.session.store, MemoryStoreConfig):
            raise WrongUsage(
                f"{self.path}: the store is memory: its sessions are inside the running app, where"
                " no other process reaches them, and end when it stops. To keep them elsewhere:"
                f" {command_name()} config set-store {self.name}"
            )

    def open_store(self) -> SessionStore:
        """The store, or a message that says where it is configured wrongly."""
        try:
            return open_store(self.config)
        except MissingPackage as missing:
            raise WrongUsage(
                f"{self.path}: the {missing.extra} store needs a package that is not installed."
                f" Run: {install_command(missing.extra)}"
            ) from None
        except ConfigError as error:
            raise ConfigError(*map(self._blame, error.problems)) from None

    def run(self, work: Callable[[SessionStore], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` makes of the store; what stops it is one message."""

        async def open_and_work() -> T:
            store = self.open_store()
            try:
                return await work(store)
            finally:
                await store.aclose()

        return self.run_async(open_and_work())

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns; what stops it is one message."""
        try:
            return asyncio.run(work)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except StoreNotReady as error:
            advice = f"Run: {command_name()} migrate --env {self.name}"
            raise click.ClickException(f"{error}. {advice}") from None
        except StoreUnavailable as error:
            raise click.ClickException(redact(str(error)).rstrip(".")) from None

    def _blame(self, problem: Problem) -> Problem:
        return replace(problem, source=self.sources.blame(tuple(problem.key.split("."))))


class _EnvironmentOption(click.Option):
    """``--env``, whose help names the app's variable."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        variable = environment_variable(Project.current().name)
        help_text = f"The environment: config/NAME.toml.  [default: ${variable}, else dev]"
        return "--env NAME", help_text


environment_option = click.option("--env", "environment", cls=_EnvironmentOption)


def read_dotenv() -> frozenset[str]:
    """Set the variables of the project's ``.env`` that are not set yet; their names.

    Raises:
        ConfigError: the file can't be read.
    """
    if not os.path.exists(".env"):
        return frozenset()
    from dotenv import dotenv_values

    try:
        values = dotenv_values(".env")
        added = {name: value for name, value in values.items() if value and not os.getenv(name)}
        os.environ.update(added)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(Problem(text=f"can't be read: {reason}", source=".env")) from None
    return frozenset(added)


def command_name() -> str:
    """How to run the command here, for advice that can be pasted."""
    name = click.get_current_context().find_root().info_name or ""
    if uses_uv():
        return f"uv run {name}"
    typed = Path(sys.argv[0])
    if typed.name == name and shutil.which(name) is None:  # it is in .venv/bin, say
        return os.path.relpath(typed)
    return name


def uses_uv() -> bool:
    """Whether uv runs this command, locked the project, or made the environment, without pip."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ or os.path.exists("uv.lock"):
        return True
    try:
        return "\nuv = " in Path(sys.prefix, "pyvenv.cfg").read_text("utf-8")
    except OSError:  # no virtual environment
        return False


def install_command(extra: str, group: str = "") -> str:
    """What to run for a store's packages, and for the server that its tests need."""
    beside = Path(command_name()).with_name("pip")  # of an environment that is not activated
    pip = str(beside) if beside.parent.name == "bin" and beside.exists() else "pip"
    if not _declares(extra):  # not a generated project
        return f"{'uv add' if uses_uv() else f'{pip} install'} 'serversessions[{extra}]'"
    rest = f" --group {group}" if group else ""
    if uses_uv():
        return f"uv sync --inexact --extra {extra}{rest}"
    return f"{pip} install --editable '.[{extra}]'{rest}"


def _declares(extra: str) -> bool:
    try:
        project = tomllib.loads(Path("pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    return extra in project.get("optional-dependencies", {})


def _why_output_fails() -> str | None:
    """The reason why standard output takes no more; what is left for it is dropped."""
    try:
        click.echo()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error.strerror
    return None
