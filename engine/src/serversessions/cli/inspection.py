"""``config``: the group, and what looks at environments and changes none."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from ..config.sources import Sources, environment_file, known_environments
from ..config.table import Key
from ..config.values import SECRETS, to_plain
from ..config.variables import list_variables
from ..problems import redact
from .checks import check
from .environments import needed_by, new, set_store
from .project import Environment, Group, Project, WrongUsage


@click.group("config", cls=Group)
def config_group() -> None:
    """Add, move, show and check environments: config/ENV.toml."""


config_group.add_command(new)
config_group.add_command(set_store)


@config_group.command()
@click.argument("environment", metavar="[ENV]", required=False)
@click.option("--toml", "form", flag_value="toml", help="As TOML.")
@click.option("--json", "form", flag_value="json", help="As JSON.")
def show(environment: str | None, form: str | None) -> None:
    """Show what ENV amounts to, and where each value comes from.

    That is its file, an environment variable, a variable that the file .env sets (a variable that
    is set already wins over .env), or the default. Passwords and secrets are hidden.
    """
    chosen = Environment(environment)
    values = dict(_flatten(chosen.config))
    origins = {key: _origin(chosen.sources, key) for key in values}
    if form == "toml":
        click.echo(_as_toml(values, origins), nl=False)
    elif form == "json":
        listed = {
            ".".join(key): {"value": value, "source": origins[key]} for key, value in values.items()
        }
        document = {"environment": chosen.name, "values": listed}
        click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))
    else:
        import tomlkit

        rows = [
            (".".join(key), "-" if value is None else tomlkit.item(value).as_string(), key)
            for key, value in values.items()
        ]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, key in rows:
            click.echo(f"{name:{widths[0]}}  {value:{widths[1]}}  {origins[key]}")


@config_group.command("check")
@click.argument("environments", metavar="[ENV]...", nargs=-1)
@click.option("--offline", is_flag=True, help="Don't connect to the stores.")
def check_(environments: tuple[str, ...], offline: bool) -> None:
    """Check environments before a deploy: all of them, or those named.

    Saves, reads and deletes a session of its own in each store. The exit status is 1 if anything is
    wrong; with warnings alone it is 0. Notes say what would be a warning outside debug.
    """
    names = environments or tuple(known_environments())
    if not names:
        raise WrongUsage(f"no config/*.toml in {Path.cwd()}: run this in the project's folder")
    counts = {"error": 0, "warning": 0, "note": 0}
    for name in names:
        path = environment_file(name)
        config, findings = asyncio.run(check(name, offline=offline))
        if config and all(finding.level == "note" for finding in findings):
            click.echo(f"{path}: ok: {config}")
        for finding in findings:
            click.echo(f"{path}: {finding.level}: {finding.text}")
            counts[finding.level] += 1
    found = ", ".join(_count(number, level) for level, number in counts.items())
    click.echo(f"{len(names)} checked: {found}")
    sys.exit(1 if counts["error"] else 0)


@config_group.command()
def variables() -> None:
    """Print every environment variable that wins over TOML: the text of .env.example."""
    click.echo(list_variables(Project.current().config_class), nl=False)


@config_group.command()
def requirements() -> None:
    """Print the arguments of "pip install" that bring what the environments' stores need."""
    needed: dict[str, None] = {}
    for name in known_environments():
        extra, group = needed_by(Project.current().config_class.load(name))
        if extra:
            needed[f"--editable .[{extra}]" + (f" --group {group}" if group else "")] = None
    click.echo(" ".join(needed))


def _origin(sources: Sources, key: Key) -> str:
    return Project.current().origin(sources.origin(key))


def _flatten(table: BaseModel | dict[str, Any], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """All keys with their values as TOML has them, without secrets."""
    data = table.model_dump() if isinstance(table, BaseModel) else table
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, (*above, name))
        else:
            yield (*above, name), _hide(value)


def _hide(value: Any) -> Any:
    if isinstance(value, SECRETS):
        return "***"
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_hide(one) for one in value]
    if isinstance(value, dict):
        return {key: _hide(one) for key, one in value.items()}
    plain = to_plain(value)
    return redact(plain) if isinstance(plain, str) else plain


def _as_toml(values: dict[Key, Any], origins: dict[Key, str]) -> str:
    """The values as TOML, each with a comment that says where it comes from."""
    import tomlkit

    document: Any = tomlkit.document()
    for key, value in sorted(values.items(), key=lambda item: len(item[0])):
        if value is None:
            continue
        table = document
        for part in key[:-1]:
            table = table.setdefault(part, tomlkit.table())
        table[key[-1]] = value
        table.item(key[-1]).comment(origins[key])
    return tomlkit.dumps(document)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
