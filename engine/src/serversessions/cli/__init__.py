"""The project's command."""

from __future__ import annotations

import click

from .environments import config
from .serving import migrate, run
from .sessions import sessions


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run this project and look after its sessions."""


for command in (run, migrate, config, sessions):
    main.add_command(command)
