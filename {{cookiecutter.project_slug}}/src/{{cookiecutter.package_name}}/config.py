"""What can be configured: the engine's keys, and your own."""

from __future__ import annotations

from serversessions.config import ProjectConfig


class AppConfig(ProjectConfig):
    """The configuration of one environment: config/NAME.toml, and variables that win over it.

    A table of your own is a class, ``class MailConfig(Table)`` (Table is in serversessions.config,
    too), and one line here: ``mail: MailConfig = MailConfig()``.
    """

    app_name = "{{cookiecutter.package_name}}"
    migrations = "{{cookiecutter.package_name}}:migrations"
