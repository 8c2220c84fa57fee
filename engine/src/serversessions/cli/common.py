"""What all commands share."""

from __future__ import annotations

from typing import Any

import click

from ..config import ENVIRONMENT_VARIABLE, ConfigError, ProjectConfig, Sources
from .. import SessionStore
from ..stores import open_store


class WrongUsage(click.ClickException):
    """What was asked for, or configured, can't be done: exit status 2. A failure has 1."""

    exit_code = 2


class Group(click.Group):
    """A group in which a wrong configuration is one message."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise WrongUsage(str(error)) from None


environment_option = click.option(
    "--env",
    "environment",
    metavar="NAME",
    help=f"The environment: config/NAME.toml.  [default: ${ENVIRONMENT_VARIABLE}, else dev]",
)


def command_name() -> str:
    """The command as it was typed, for advice that can be pasted."""
    return click.get_current_context().find_root().info_name or ""


def open_configured_store(config: ProjectConfig, sources: Sources) -> SessionStore:
    """The store of an environment, or a message that says where it is configured wrongly."""
    try:
        return open_store(config)
    except ConfigError as error:
        key = tuple(str(error).partition(":")[0].split("."))
        raise WrongUsage(f"{sources.variable(key) or sources.name}: {error}") from None
