"""The command, with commands of the app's own."""

from __future__ import annotations

import click

from serversessions import SessionStore
from serversessions.cli import create_command, pass_config, pass_store

from .config import AppConfig

main = create_command(AppConfig, app="tests.sample.app:create_app")


@main.command()
@click.argument("name")
@pass_config
def greet(config: AppConfig, name: str) -> None:
    """Greet somebody from the mail server."""
    click.echo(f"Hello {name} from {config.mail.host}")


@main.command()
@pass_store
async def is_ready(store: SessionStore) -> None:
    """Say whether the session store answers."""
    await store.ping()
    click.echo("ready")


@main.command()
@pass_config
@click.option("--twice", is_flag=True)
@pass_store
async def report(config: AppConfig, store: SessionStore, twice: bool) -> None:
    """Mail the number of sessions."""
    page, _ = await store.scan()
    click.echo(f"To {config.mail.host}: {len(page) * (1 + twice)}")
