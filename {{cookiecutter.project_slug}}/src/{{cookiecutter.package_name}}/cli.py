"""The project's command. Your own commands go below: functions with ``@main.command()``."""

from serversessions.cli import create_command

from .config import AppConfig

main = create_command(AppConfig, app="{{cookiecutter.package_name}}.app:create_app")
