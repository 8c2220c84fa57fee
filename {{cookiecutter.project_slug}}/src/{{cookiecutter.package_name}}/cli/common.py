"""What all commands share."""

from __future__ import annotations

import click

from ..config import ENVIRONMENT_VARIABLE


class WrongUsage(click.ClickException):
    """What was asked for, or configured, can't be done: exit status 2. A failure has 1."""

    exit_code = 2


environment_option = click.option(
    "--env",
    "environment",
    metavar="NAME",
    help=f"The environment: config/NAME.toml.  [default: ${ENVIRONMENT_VARIABLE}, else dev]",
)


def command_name() -> str:
    """The command as it was typed, for advice that can be pasted."""
    return click.get_current_context().find_root().info_name or ""
