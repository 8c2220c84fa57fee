"""``sessions``: count, list and end the sessions of an environment, however many there are."""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from math import inf
from typing import Any

import click

from ..config import CacheStoreConfig
from ..expiry import Expiry, parse_duration
from ..owners import hash_owner
from ..store import SessionStore
from . import batches
from .batches import Progress, change, list_owned, number_of, scan
from .formats import HEADINGS, dump, print_counts, row, session_as_json, session_as_row
from .project import Environment, Group, WrongUsage, environment_option

AGES = {"1h": 3600, "1d": 86400, "7d": 7 * 86400, "30d": 30 * 86400, "older": inf}  # seconds


def _read_age(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text).total_seconds()
    except ValueError as allowed:
        raise click.BadParameter(f"found {text!r}; allowed: {allowed}") from None


def _read_user(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    try:
        return None if text is None else hash_owner(text)
    except UnicodeEncodeError:
        raise click.BadParameter(f"found {text!r}; allowed: text in UTF-8") from None


owner_option = click.option(
    "--owner", metavar="USER", callback=_read_user, help="Those of the user with this id."
)
json_option = click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")


@click.group("sessions", cls=Group)
def sessions_group() -> None:
    """Count, list and end sessions.

    They are read and ended in batches, however many there are. What Ctrl+C or a failing store
    interrupts goes on when the same command is run again. Nothing shows a session's data or id.
    """


@sessions_group.command()
@environment_option
@json_option
def stats(environment: str | None, as_json: bool) -> None:
    """Count sessions: live and expired, with and without an owner, by age.

    Expired sessions are those that were not swept yet. All other figures are about live ones, and
    bytes are those of their data. While the store is in use the figures are approximate.
    """
    chosen = _choose(environment)
    progress = Progress("counted")
    counts = chosen.run(lambda store: _count(store, progress))
    if as_json:
        click.echo(dump({"environment": chosen.name, **counts}))
    else:
        click.echo(chosen)
        print_counts(counts)


@sessions_group.command("list")
@environment_option
@owner_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="No more than N.")
@click.option("--json", "as_json", is_flag=True, help="As JSON Lines: an object on each line.")
def list_(environment: str | None, owner: str | None, limit: int | None, as_json: bool) -> None:
    """List live sessions, in no order of time.

    The key tells sessions apart, and opens none. The browser is what it called itself when its user
    signed in. A session was last seen at that time or later: not every use is noted.
    """
    chosen = _choose(environment)
    settings = chosen.config.middlewares.session
    expiry = Expiry(settings.expiry, settings.max_lifetime)
    form = session_as_json if as_json else session_as_row

    async def print_all(store: SessionStore) -> None:
        printed = 0
        async for page in scan(store) if owner is None else list_owned(store, owner):
            now = time.time()
            lines = [form(expiry, *found, now) for found in page if found[1].expires > now]
            lines = lines[: None if limit is None else limit - printed]
            if lines and not printed and not as_json:
                click.echo(row(HEADINGS))
            if lines:
                click.echo("\n".join(lines))
            printed += len(lines)
            if printed == limit:
                return

    chosen.run(print_all)


@sessions_group.command()
@environment_option
@owner_option
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option(
    "--older-than",
    metavar="DURATION",
    callback=_read_age,
    help="Those that began longer ago: 12h, 30d, 1h30m.",
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def revoke(
    environment: str | None,
    owner: str | None,
    every: bool,
    older_than: float | None,
    yes: bool,
    as_json: bool,
) -> None:
    """End live sessions, after asking: their visitors are signed out.

    One of --owner, --all and --older-than says which. A session that gets a new id at that very
    moment may be missed by the last two; --owner goes on until none is left.
    """
    if [owner is not None, every, older_than is not None].count(True) != 1:
        raise WrongUsage(
            "give exactly one of --owner USER, --all and --older-than DURATION, to say which"
            " sessions to end"
        )
    chosen = _choose(environment)
    if not yes:
        _ask(chosen, owner, every)

    async def revoke_all(store: SessionStore, progress: Progress) -> None:
        if owner is not None:
            await store.repair()  # a restore or an eviction may have taken sessions off the index
            while page := await store.list_owned(owner, limit=batches.BATCH):
                await progress.finish(store.delete(*dict(page), owner=owner))
            await progress.finish(store.delete_owned(owner))  # what does not look live, too
            return
        now = time.time()
        end = inf if older_than is None else now - older_than
        async for page in scan(store):
            keys = [key for key, each in page if each.created < end and each.expires > now]
            if keys:
                await progress.finish(store.delete(*keys))

    _report(chosen, change(chosen, revoke_all, "revoked"), "revoked", as_json)


@sessions_group.command()
@environment_option
@json_option
def purge(environment: str | None, as_json: bool) -> None:
    """Remove expired sessions now. The running app does that every minute."""
    chosen = _choose(environment)

    async def purge_all(store: SessionStore, progress: Progress) -> None:
        while await progress.finish(store.delete_expired(batches.BATCH)) == batches.BATCH:
            pass

    _report(chosen, change(chosen, purge_all, "purged"), "purged", as_json)
    if isinstance(chosen.config.middlewares.session.store, CacheStoreConfig):
        click.echo("A cache needs no purge: it forgets each session when it expires.", err=True)


def _choose(environment: str | None) -> Environment:
    chosen = Environment(environment)
    chosen.require_shared_store()
    return chosen


def _report(chosen: Environment, number: int, verb: str, as_json: bool) -> None:
    if as_json:
        click.echo(dump({"environment": chosen.name, verb: number}))
    else:
        click.echo(f"{number_of(number)} {verb}.")


def _ask(chosen: Environment, owner: str | None, every: bool) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise WrongUsage("this can't be undone, and there is no terminal to ask on: give --yes")
    if owner is not None:
        which = f"{number_of(chosen.run(lambda store: _count_owned(store, owner)))} of this user"
    else:
        which = "all sessions" if every else "the sessions that began longer ago than that"
    click.confirm(f"{chosen}\nEnd {which}? This can't be undone", abort=True, err=True)


async def _count_owned(store: SessionStore, owner: str) -> int:
    return sum([len(page) async for page in list_owned(store, owner)])


async def _count(store: SessionStore, progress: Progress) -> dict[str, Any]:
    live = owned = size = 0
    ages = [0] * len(AGES)
    limits = list(AGES.values())
    with progress:
        async for page in scan(store):
            now = time.time()
            for _, record in page:
                if record.expires > now:
                    live += 1
                    owned += record.owner is not None
                    size += len(record.data)
                    ages[bisect_right(limits, now - record.created)] += 1
            progress.advance(len(page))
    return {
        "live": live,
        "expired": progress.count - live,
        "bytes": size,
        "with_owner": owned,
        "without_owner": live - owned,
        "by_age": dict(zip(AGES, ages, strict=True)),
    }
