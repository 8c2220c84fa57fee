"""The project's command: ``create_command`` makes it, and one's own commands are added to it."""

from __future__ import annotations

import click

from ..config import ProjectConfig
from .inspection import config_group
from .own import pass_config, pass_store
from .project import Group, Project, read_dotenv
from .serving import migrate, run
from .sessions import sessions_group

__all__ = ["create_command", "pass_config", "pass_store"]


def create_command(config_class: type[ProjectConfig], *, app: str) -> click.Group:
    """The command of a project: ``run``, ``migrate``, ``config`` and ``sessions``.

        main = create_command(AppConfig, app="my_app.app:create_app")

        @main.command()
        @pass_config
        def send_report(config: AppConfig) -> None:
            ...

    ``app`` is the function that returns the app, as uvicorn writes it. The command reads ``.env``
    in the folder where it runs; variables that are set already win over it.
    """

    @click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
    @click.pass_context
    def main(context: click.Context) -> None:
        """Run this project and look after its sessions."""
        context.obj = Project(config_class, app, read_dotenv())

    for command in (run, migrate, config_group, sessions_group):
        main.add_command(command)
    return main
