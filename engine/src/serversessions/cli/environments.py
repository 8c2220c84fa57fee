"""``config new`` and ``config set-store``: environments are written, never overwritten."""

from __future__ import annotations

import asyncio
import os
from difflib import unified_diff
from pathlib import Path
from typing import Any

import click

from ..config import CacheStoreConfig, DatabaseStoreConfig, ProjectConfig
from ..config.environments import (
    LOCATED_BY,
    STORE,
    TEMPLATE,
    find_missing,
    list_own_keys,
    move_environment,
    new_environment,
    refuse_secret,
    write,
)
from ..config.sources import environment_file, override_variable, read_environment
from ..problems import redact
from ..stores import MissingPackage, describe, open_store
from . import questions
from .project import Project, WrongUsage, command_name, install_command, uses_uv

KEYS = {"database": "database.url", "cache": "middlewares.session.store.uri"}  # may hold a password


def _store_options(command: Any) -> Any:
    for option in (
        click.option(
            "--store", type=click.Choice(list(questions.STORES)), help="Where sessions live."
        ),
        click.option("--path", help="The folder of the file store."),
        click.option("--url", help="The database, as an SQLAlchemy URL."),
        click.option("--uri", help="The server of the cache store."),
        click.option("--yes", is_flag=True, help="Ask nothing: take the defaults."),
        click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing."),
    )[::-1]:
        command = option(command)
    return command


@click.command()
@click.argument("environment", metavar="ENV")
@_store_options
def new(
    environment: str, store: str | None, yes: bool, dry_run: bool, **located: str | None
) -> None:
    """Write config/ENV.toml for a new environment."""
    path, config_class = environment_file(environment), Project.current().config_class
    if not path.parent.is_dir():
        raise WrongUsage(f"no {path.parent}/ in {Path.cwd()}: run this in the project's folder")
    store = store or (questions.DEFAULTS["store"] if yes else _ask_for_store())
    answers = dict(questions.DEFAULTS)
    if (answer := _locate(store, located, must_ask=not yes)) is not None:
        answers[LOCATED_BY[store]] = answer
    text = new_environment(config_class, environment, store, answers)
    before = read_environment(environment, config_class.app_name) if os.path.exists(path) else None
    if before not in (None, text):
        raise WrongUsage(
            f"{path} is there already, and is never overwritten. To change its store: "
            f"{command_name()} config set-store {environment}"
        )
    if before == text:
        click.echo(f"No change: {path} already says this.")
        return
    added, missing = find_missing(config_class, text, str(path))
    extra = _open_once(added)
    if dry_run:
        _show_diff("", text, path)
        return
    _write(path, text, new=True)
    click.echo(f"Wrote {path}. Sessions live in {describe(added)}.")
    for key in missing:
        variable = override_variable(config_class.app_name, tuple(key.split(".")))
        click.echo(f"Missing: {key}. Add it to {path} and to {TEMPLATE}, or set {variable}.")
    for other, keys in list_own_keys(config_class, text).items():
        click.echo(f"{other} also sets {', '.join(keys)}: add here what {environment} needs.")
    _say_what_is_next(environment, added, extra)


@click.command("set-store")
@click.argument("environment", metavar="ENV")
@_store_options
def set_store(
    environment: str, store: str | None, yes: bool, dry_run: bool, **located: str | None
) -> None:
    """Move ENV to another store. The rest of its file stays as it is."""
    path, config_class = environment_file(environment), Project.current().config_class
    sources = config_class.read_sources(environment)
    store = store or (questions.DEFAULTS["store"] if yes else _ask_for_store())
    shared = sources.data.get(store)  # [cache] or [database]
    is_shared = isinstance(shared, dict) and "url" in shared
    answer = _locate(store, located, must_ask=not yes and not is_shared)
    if answer is None and not is_shared and store in LOCATED_BY:
        answer = questions.DEFAULTS[LOCATED_BY[store]]
    before, text = move_environment(config_class, environment, store, answer)
    if before == text:
        click.echo(f"No change: {path} already says this.")
        return
    moved = config_class.from_toml(text, source=str(path), overrides=os.environ)
    extra = _open_once(moved)
    if dry_run:
        _show_diff(before, text, path)
        return
    _write(path, text)
    click.echo(f"Changed {path}. Sessions live in {describe(moved)}.")
    if variable := sources.variable_in(STORE):
        click.echo(f"{variable} is set here, and wins over the file.")
    if answer is None and is_shared and (variable := sources.variable((store, "url"))):
        click.echo(
            f"The file has no {store}.url: it comes from {variable}, which has to be set wherever"
            f" {environment} runs."
        )
    click.echo(
        "Sessions are not moved: after a restart with this file every visitor begins a new one."
    )
    _say_what_is_next(environment, moved, extra)


def _ask_for_store() -> str:
    """Ask as cookiecutter does: by number."""
    click.echo(questions.STORE)
    numbers = {str(number): store for number, store in enumerate(questions.STORES, 1)}
    for number, store in numbers.items():
        click.echo(f"  {number} - {questions.STORES[store]}")
    return numbers[_prompt("  Choose from", default="1", kind=click.Choice(list(numbers)))]


def _locate(store: str, located: dict[str, str | None], *, must_ask: bool) -> str | None:
    """Where the store is: what was given, or is answered; None for the default."""
    option = LOCATED_BY.get(store)
    for other, value in located.items():
        if value is not None and other != option:
            allowed = f"--{option}" if option else "no such option"
            raise WrongUsage(f"--{other} does not go with the {store} store: it takes {allowed}")
    if option is None:
        return None
    answer = located[option]
    if answer is None and must_ask:
        answer = _prompt(questions.LOCATIONS[option], default=questions.DEFAULTS[option])
    if answer is not None and store in KEYS:
        refuse_secret(answer, Project.current().name, KEYS[store])
    return answer


def _prompt(label: str, *, default: str, kind: click.Choice[str] | None = None) -> str:
    try:
        answer: str = click.prompt(label, default=default, type=kind)
    except (click.Abort, RuntimeError):  # which input() raises when standard input is closed
        click.echo()  # the end of the prompt's line
        raise WrongUsage(
            "no answer: nothing was changed. Without a terminal, give --store and --yes"
        ) from None
    return answer


def _write(path: Path, text: str, *, new: bool = False) -> None:
    try:
        write(path, text, new=new)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}; nothing was changed") from None


def _open_once(config: ProjectConfig) -> str | None:
    """Refuse a location that the store can't read. The extra that is not installed yet, if any."""
    try:
        store = open_store(config)
    except MissingPackage as missing:
        return missing.extra
    asyncio.run(store.aclose())
    return None


def _show_diff(before: str, after: str, path: Path) -> None:
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    name = str(path) if before else "/dev/null"
    click.echo(redact("".join(unified_diff(old, new, name, str(path)))), nl=False)


def _say_what_is_next(environment: str, config: ProjectConfig, extra: str | None) -> None:
    command, location = command_name(), config.location
    steps = [
        f"{command} config check {environment}",
        f"{command} run --env {environment}",
    ]
    if isinstance(config.middlewares.session.store, DatabaseStoreConfig) and not config.debug:
        steps.insert(0, f"{command} migrate --env {environment}")
    if is_on_server(config):
        variable = override_variable(Project.current().name, tuple(location.key.split(".")))
        steps.insert(0, f"export {variable}=...  # the whole URL, if it has a password")
    if extra:
        note = "  # make does it by itself" if os.path.exists("Makefile") and not uses_uv() else ""
        steps.insert(0, install_command(*needed_by(config)) + note)
    click.echo("Next:\n" + "\n".join(f"  {step}" for step in steps))


def needed_by(config: ProjectConfig) -> tuple[str, str]:
    """The extra that a store needs, and the group with the server for its tests; "" for none."""
    chosen = config.middlewares.session.store
    if not isinstance(chosen, CacheStoreConfig | DatabaseStoreConfig):
        return "", ""
    if not is_on_server(config):
        return chosen.type, ""
    return chosen.type, "cache" if chosen.type == "cache" else "postgresql"


def is_on_server(config: ProjectConfig) -> bool:
    """Whether a server holds the sessions."""
    chosen = config.middlewares.session.store
    is_remote = isinstance(chosen, CacheStoreConfig | DatabaseStoreConfig)
    return is_remote and not config.location.url.startswith("sqlite")
