"""``config``: environments from the first to the last, and what is in them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

import click
import tomlkit

from .checks import check
from ..config import (
    OVERRIDE_PREFIX,
    CacheStoreConfig,
    DatabaseStoreConfig,
    Key,
    ProjectConfig,
    Sources,
    current_environment,
    environment_file,
    known_environments,
    redact,
)
from ..config.dotenv import list_variables
from ..config.environments import (
    PLACES,
    STORE,
    move_environment,
    new_environment,
    questions,
    refuse_secret,
    write,
)
from ..config.sources import read_environment
from ..stores import MissingPackage, describe_store, open_store
from .common import Group, WrongUsage, command_name

STORES: dict[str, str] = questions()["store"]["choices"]
KEYS = {"database": "database.url", "cache": "middlewares.session.store.uri"}  # may hold a password


@click.group(cls=Group)
def config() -> None:
    """Add, move, show and check environments: config/ENV.toml."""


def _store_options(command: Any) -> Any:
    for option in (
        click.option("--store", type=click.Choice(list(STORES)), help="Where sessions live."),
        click.option("--path", help="The folder of the file store."),
        click.option("--url", help="The database, as an SQLAlchemy URL."),
        click.option("--uri", help="The server of the cache store."),
        click.option("--yes", is_flag=True, help="Ask nothing: take the defaults."),
        click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing."),
    )[::-1]:
        command = option(command)
    return command


@config.command()
@click.argument("environment", metavar="ENV")
@_store_options
def new(
    environment: str, store: str | None, yes: bool, dry_run: bool, **places: str | None
) -> None:
    """Write config/ENV.toml for a new environment."""
    path = environment_file(environment)
    if not path.parent.is_dir():
        raise WrongUsage(f"no {path.parent}/ in {Path.cwd()}: run this in the project's folder")
    store = store or (questions()["store"]["default"] if yes else _ask_for_store())
    place = _place_of(store, places, must_ask=not yes)
    text = new_environment(environment, store, place)
    before = read_environment(environment) if os.path.exists(path) else None
    if before not in (None, text):
        raise WrongUsage(
            f"{path} is there already, and is never overwritten. To change its store: "
            f"{command_name()} config set-store {environment}"
        )
    if before == text:
        click.echo(f"{path} is so already: nothing was changed.")
        return
    added = ProjectConfig.from_toml(text)
    extra = _open_once(added)
    if dry_run:
        _show_diff("", text, path)
        return
    _write(path, text, new=True)
    click.echo(f"Wrote {path}. Sessions live in {describe_store(added)}.")
    _say_what_is_next(environment, added, extra)


@config.command("set-store")
@click.argument("environment", metavar="ENV")
@_store_options
def set_store(
    environment: str, store: str | None, yes: bool, dry_run: bool, **places: str | None
) -> None:
    """Move ENV to another store. The rest of its file stays as it is."""
    path = environment_file(environment)
    sources = Sources.read(environment)
    store = store or (questions()["store"]["default"] if yes else _ask_for_store())
    shared = sources.data.get(store)  # [cache] or [database]
    is_shared = isinstance(shared, dict) and "url" in shared
    place = _place_of(store, places, must_ask=not yes and not is_shared)
    if place is None and not is_shared and store in PLACES:
        place = questions()[PLACES[store]]["default"]
    before, text = move_environment(environment, store, place)
    if before == text:
        click.echo(f"{path} is so already: nothing was changed.")
        return
    moved = ProjectConfig.from_toml(text, source=str(path), overrides=os.environ)
    extra = _open_once(moved)
    if dry_run:
        _show_diff(before, text, path)
        return
    _write(path, text)
    click.echo(f"Changed {path}. Sessions live in {describe_store(moved)}.")
    if variable := sources.variable_in(STORE):
        click.echo(f"{variable} is set here, and wins over the file.")
    click.echo(
        "Sessions are not moved: after a restart with this file every visitor begins a new one."
    )
    _say_what_is_next(environment, moved, extra)


@config.command()
@click.argument("environment", metavar="ENV", required=False)
@click.option("--toml", "form", flag_value="toml", help="As TOML.")
@click.option("--json", "form", flag_value="json", help="As JSON.")
def show(environment: str | None, form: str | None) -> None:
    """Show what ENV amounts to, and where each value comes from. Passwords are hidden."""
    environment = environment or current_environment()
    sources = Sources.read(environment)
    values = dict(_flatten(ProjectConfig.from_sources(sources).model_dump()))
    if form == "toml":
        click.echo(_as_toml(values, sources), nl=False)
    elif form == "json":
        listed = {
            ".".join(key): {"value": value, "source": sources.origin(key)}
            for key, value in values.items()
        }
        document = {"environment": environment, "values": listed}
        click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))
    else:
        rows = [
            (".".join(key), "-" if value is None else tomlkit.item(value).as_string(), key)
            for key, value in values.items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, key in rows:
            click.echo(f"{name:{widths[0]}}  {value:{widths[1]}}  {sources.origin(key)}")


@config.command("check")
@click.argument("environments", metavar="[ENV]...", nargs=-1)
@click.option("--offline", is_flag=True, help="Don't connect to the stores.")
def check_(environments: tuple[str, ...], offline: bool) -> None:
    """Check environments before a deploy: all of them, or those named.

    Saves, reads and deletes a throw-away session in each store. The exit status is 1 if anything is
    wrong; warnings alone leave it at 0.
    """
    names = environments or tuple(known_environments())
    if not names:
        raise WrongUsage(f"no config/*.toml in {Path.cwd()}: run this in the project's folder")
    errors = warnings = 0
    for name in names:
        path = environment_file(name)
        findings = asyncio.run(check(name, offline=offline))
        for finding in findings:
            click.echo(f"{path}: {'error' if finding.is_error else 'warning'}: {finding.text}")
        if not findings:
            click.echo(f"{path}: ok: {describe_store(ProjectConfig.load(name))}")
        errors += sum(finding.is_error for finding in findings)
        warnings += sum(not finding.is_error for finding in findings)
    click.echo(f"{len(names)} checked: {_count(errors, 'error')}, {_count(warnings, 'warning')}")
    sys.exit(1 if errors else 0)


@config.command()
def variables() -> None:
    """Print every environment variable that wins over TOML: the text of .env.example."""
    click.echo(list_variables(), nl=False)


@config.command()
def requirements() -> None:
    """Print the arguments of "pip install" that bring what the environments' stores need."""
    configs = [ProjectConfig.load(name) for name in known_environments()]
    needed = {arguments: None for config in configs if (arguments := _requirements(config))}
    click.echo(" ".join(needed))


def _ask_for_store() -> str:
    """Ask as cookiecutter does: by number."""
    label, default = questions()["store"]["label"], questions()["store"]["default"]
    click.echo(label)
    for number, choice in enumerate(STORES.values(), 1):
        click.echo(f"  {number} - {choice}")
    numbers = {str(number): store for number, store in enumerate(STORES, 1)}
    usual = next(number for number, store in numbers.items() if store == default)
    return numbers[_prompt("  Choose from", default=usual, kind=click.Choice(list(numbers)))]


def _place_of(store: str, places: dict[str, str | None], *, must_ask: bool) -> str | None:
    """Where the store is: what was given, or is answered; None for the default."""
    option = PLACES.get(store)
    for other, value in places.items():
        if value is not None and other != option:
            allowed = f"--{option}" if option else "nothing more"
            raise WrongUsage(f"--{other} does not go with the {store} store: it takes {allowed}")
    place = places[option] if option else None
    if option and place is None and must_ask:
        question = questions()[option]
        place = _prompt(question["label"], default=question["default"])
    if place is not None and store in KEYS:
        refuse_secret(place, KEYS[store])
    return place


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
    """Refuse a place that the store can't read. The extra that is not installed yet, if any."""
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
    command = command_name()
    steps = [
        f"{command} config check {environment}",
        f"{command} run --env {environment}",
    ]
    if isinstance(config.middlewares.session.store, DatabaseStoreConfig) and not config.debug:
        steps.insert(0, f"{command} migrate --env {environment}")
    if config.store_url and not config.store_url[1].startswith("sqlite"):
        variable = OVERRIDE_PREFIX + config.store_url[0].replace(".", "__").upper()
        steps.insert(0, f"export {variable}=...  # the whole URL, if it has a password")
    if extra:
        needed = _requirements(config).replace(f".[{extra}]", f"'.[{extra}]'")
        steps.insert(0, f"pip install {needed}  # make does it by itself")
    click.echo("Next:\n" + "\n".join(f"  {step}" for step in steps))


def _requirements(config: ProjectConfig) -> str:
    """What pip has to install for a store and its tests."""
    chosen = config.middlewares.session.store
    if not isinstance(chosen, CacheStoreConfig | DatabaseStoreConfig):
        return ""
    is_sqlite = config.store_url is not None and config.store_url[1].startswith("sqlite")
    group = "" if is_sqlite else f" --group {'cache' if chosen.type == 'cache' else 'postgresql'}"
    return f"--editable .[{chosen.type}]{group}"


def _flatten(table: dict[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, (*above, name))
        else:
            yield (*above, name), redact(value) if isinstance(value, str) else value


def _as_toml(values: dict[Key, Any], sources: Sources) -> str:
    """The values as TOML, each with a comment that says where it comes from."""
    document: Any = tomlkit.document()
    for key, value in sorted(values.items(), key=lambda item: len(item[0])):
        if value is None:
            continue
        table = document
        for part in key[:-1]:
            table = table.setdefault(part, tomlkit.table())
        table[key[-1]] = value
        table.item(key[-1]).comment(sources.origin(key))
    return tomlkit.dumps(document)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
