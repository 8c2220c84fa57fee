"""``sessions``: count, list and end the sessions of an environment, however many there are."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, TypeVar

import click
import msgspec

from ..config import (
    CacheStoreConfig,
    MemoryStoreConfig,
    ProjectConfig,
    Sources,
    current_environment,
    environment_file,
    format_duration,
    parse_duration,
    redact,
)
from .. import Record, SessionStore, StoreNotReady, StoreUnavailable, hash_owner
from ..expiry import Expiry
from ..owners import OwnedData
from ..stores import describe_store
from .common import Group, WrongUsage, command_name, environment_option, open_configured_store

T = TypeVar("T")
Page = list[tuple[str, Record]]

BATCH = 1000  # sessions that are read or ended at once
AGES = {"1h": 3600, "1d": 86400, "7d": 7 * 86400, "30d": 30 * 86400, "older": inf}  # seconds
HEADINGS = ("KEY", "BEGAN", "SIGNED IN", "LAST SEEN", "EXPIRES", "BROWSER")
BAR = 40  # characters


class _Interrupted(click.ClickException):
    """Ctrl+C. The exit status is the one that shells give it, 128 + SIGINT."""

    exit_code = 130


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


@click.group(cls=Group)
def sessions() -> None:
    """Count, list and end sessions.

    They are read and ended in batches, however many there are. What Ctrl+C or a failing store
    interrupts goes on when the same command is run again. Nothing shows a session's data or id.
    """


@sessions.command()
@environment_option
@json_option
def stats(environment: str | None, as_json: bool) -> None:
    """Count sessions: live and expired ones, by owner and by age.

    Expired are those that were not swept yet; the rest is of live ones, and bytes are of their
    data. While the store is in use the figures are approximate.
    """
    place = _Place(environment)
    progress = _Progress("counted")
    counts = place.run(lambda store: _count(store, progress))
    if as_json:
        click.echo(_dump({"environment": place.environment, **counts}))
    else:
        _print_counts(place, counts)


@sessions.command("list")
@environment_option
@owner_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="No more than N.")
@click.option("--json", "as_json", is_flag=True, help="As JSON Lines: an object on each line.")
def list_(environment: str | None, owner: str | None, limit: int | None, as_json: bool) -> None:
    """List live sessions, in no order of time.

    The key tells sessions apart, and opens none. The browser is what it said of itself when its
    user signed in. A session was last seen then or later: not every use is noted.
    """
    place = _Place(environment)
    form = _as_json if as_json else _as_row

    async def print_all(store: SessionStore) -> None:
        printed = 0
        async for page in _scan(store) if owner is None else _list_owned(store, owner):
            now = time.time()
            lines = [form(place, *found, now) for found in page if found[1].expires > now]
            lines = lines[: None if limit is None else limit - printed]
            if lines and not printed and not as_json:
                click.echo(_row(HEADINGS))
            if lines:
                click.echo("\n".join(lines))
            printed += len(lines)
            if printed == limit:
                return

    place.run(print_all)


@sessions.command()
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
    """End live sessions, after asking: whoever is in one is signed out.

    One of --owner, --all and --older-than says which. A session that gets a new id at that very
    moment may be missed by the last two; --owner goes on until none is left.
    """
    if [owner is not None, every, older_than is not None].count(True) != 1:
        raise WrongUsage(
            "give exactly one of --owner USER, --all and --older-than DURATION, to say which"
            " sessions to end"
        )
    place = _Place(environment)
    if not yes:
        _ask(place, owner, every)

    async def revoke_all(store: SessionStore, progress: _Progress) -> None:
        if owner is not None:
            while page := await store.list_owned(owner, limit=BATCH):
                await progress.finish(store.delete(*dict(page), owner=owner))
            return
        now = time.time()
        end = inf if older_than is None else now - older_than
        async for page in _scan(store):
            keys = [key for key, each in page if each.created < end and each.expires > now]
            if keys:
                await progress.finish(store.delete(*keys))

    _change(place, revoke_all, "revoked", as_json)


@sessions.command()
@environment_option
@json_option
def purge(environment: str | None, as_json: bool) -> None:
    """Remove expired sessions now. The running app does that every minute."""
    place = _Place(environment)

    async def purge_all(store: SessionStore, progress: _Progress) -> None:
        while await progress.finish(store.delete_expired(BATCH)) == BATCH:
            pass

    _change(place, purge_all, "purged", as_json)
    if isinstance(place.config.middlewares.session.store, CacheStoreConfig):
        click.echo("A cache needs no purge: it forgets each session when it expires.", err=True)


class _Place:
    """Where the sessions of an environment are."""

    def __init__(self, environment: str | None) -> None:
        self.environment = environment or current_environment()
        self._sources = Sources.read(self.environment)
        self.config = ProjectConfig.from_sources(self._sources)
        settings = self.config.middlewares.session
        self.expiry = Expiry(settings.expiry, settings.max_lifetime)
        if isinstance(settings.store, MemoryStoreConfig):
            raise WrongUsage(
                f"{environment_file(self.environment)}: the store is memory: its sessions are"
                " inside the running app, where no other process reaches them, and end when it"
                f" stops. To keep them elsewhere: {command_name()} config set-store"
                f" {self.environment}"
            )

    def __str__(self) -> str:
        return f"{self.environment} ({describe_store(self.config)})"

    def run(self, work: Callable[[SessionStore], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` makes of the store; what stops it is one message."""

        async def open_and_work() -> T:
            store = open_configured_store(self.config, self._sources)
            try:
                return await work(store)
            finally:
                await store.aclose()

        try:
            return asyncio.run(open_and_work())
        except KeyboardInterrupt:
            raise _Interrupted("interrupted") from None
        except StoreNotReady as error:
            advice = f"Run: {command_name()} migrate --env {self.environment}"
            raise click.ClickException(f"{error}. {advice}") from None
        except StoreUnavailable as error:
            raise click.ClickException(redact(str(error)).rstrip(".")) from None


class _Progress:
    """To how many sessions something was done; in a terminal, a bar shows it meanwhile."""

    def __init__(self, verb: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.count = 0
        console = Console(stderr=True)
        text = TextColumn("{task.completed:,.0f} {task.description}")
        columns = (BarColumn(), text, TimeElapsedColumn())
        disable = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=disable)
        self._task = self._bar.add_task(verb, total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, count: int) -> None:
        self.count += count
        self._bar.advance(self._task, count)

    async def finish(self, batch: Coroutine[Any, Any, int]) -> int:
        """Count what a batch comes to. Ctrl+C waits for its end, so that nothing goes uncounted."""
        task = asyncio.ensure_future(batch)
        try:
            await asyncio.shield(task)
        finally:
            self.advance(await task)
        return task.result()


def _change(
    place: _Place,
    work: Callable[[SessionStore, _Progress], Coroutine[Any, Any, None]],
    verb: str,
    as_json: bool,
) -> None:
    """Do what can be done again, and say to how many sessions it was done, also if it stopped."""
    progress = _Progress(verb)

    async def work_on(store: SessionStore) -> None:
        with progress:
            await work(store, progress)

    try:
        place.run(work_on)
    except click.ClickException as error:
        if not progress.count:
            raise
        done = f"{_sessions(progress.count)} {verb} so far: run the same command again to go on"
        raise type(error)(f"{error.message}. {done}") from None
    if as_json:
        click.echo(_dump({"environment": place.environment, verb: progress.count}))
    else:
        click.echo(f"{_sessions(progress.count)} {verb}.")


def _ask(place: _Place, owner: str | None, every: bool) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise WrongUsage("this can't be undone, and there is no terminal to ask on: give --yes")
    if owner is not None:
        which = f"{_sessions(place.run(lambda store: _count_owned(store, owner)))} of this user"
    else:
        which = "all sessions" if every else "the sessions that began longer ago than that"
    click.confirm(f"{place}\nEnd {which}? This can't be undone", abort=True, err=True)


async def _scan(store: SessionStore) -> AsyncIterator[Page]:
    page, cursor = await store.scan(limit=BATCH)
    yield page
    while cursor:
        page, cursor = await store.scan(cursor, limit=BATCH)
        yield page


async def _list_owned(store: SessionStore, owner: str) -> AsyncIterator[Page]:
    after = ""
    while page := await store.list_owned(owner, after=after, limit=BATCH):
        yield page
        after = page[-1][0]


async def _count_owned(store: SessionStore, owner: str) -> int:
    return sum([len(page) async for page in _list_owned(store, owner)])


async def _count(store: SessionStore, progress: _Progress) -> dict[str, Any]:
    live = owned = size = 0
    ages = [0] * len(AGES)
    limits = list(AGES.values())
    with progress:
        async for page in _scan(store):
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


def _print_counts(place: _Place, counts: dict[str, Any]) -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console(highlight=False)
    can_plot = console.is_terminal and not console.options.ascii_only
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row("live", f"{counts['live']:,}")
    table.add_row("expired", f"{counts['expired']:,}")
    table.add_row("with an owner", f"{counts['with_owner']:,}")
    table.add_row("without", f"{counts['without_owner']:,}")
    table.add_row("data", decimal(counts["bytes"]))
    table.add_row()
    most = max(counts["by_age"].values())
    for name, number in counts["by_age"].items():
        bar = Bar(most, 0, number, width=BAR) if can_plot and number else ""
        table.add_row(name if name == "older" else f"< {name}", f"{number:,}", bar)
    click.echo(place)
    console.print(table)


def _as_json(place: _Place, key: str, record: Record, now: float) -> str:
    signed_in, user_agent = _read_sign_in(record)
    return _dump(
        {
            "key": key,
            "has_owner": record.owner is not None,
            "created_at": _utc(record.created),
            "signed_in_at": _utc(signed_in),
            "last_seen_at": _utc(_last_seen(place, record, signed_in)),
            "expires_at": _utc(record.expires),
            "user_agent": user_agent,
        }
    )


def _as_row(place: _Place, key: str, record: Record, now: float) -> str:
    signed_in, user_agent = _read_sign_in(record)
    times = (record.created, signed_in, _last_seen(place, record, signed_in))
    ago = ("-" if at is None else f"{_span(now - at)} ago" for at in times)
    expires = f"in {_span(record.expires - now)}"
    return _row((key[:8], *ago, expires, _escape(user_agent or "-")))


def _last_seen(place: _Place, record: Record, signed_in: float | None) -> float:
    return max(signed_in or 0, place.expiry.last_use(record.created, record.expires))


def _row(cells: Iterable[str]) -> str:
    row = "".join(f"{cell:12}" for cell in cells).rstrip()
    return row[: shutil.get_terminal_size().columns] if sys.stdout.isatty() else row


def _read_sign_in(record: Record) -> tuple[float | None, str | None]:
    """When and with which browser a session's user signed in, if it has one."""
    try:
        content = _read_owned(record.data) if record.owner is not None else None
    except (ValueError, RecursionError):  # damaged: the app refuses it
        content = None
    return (content.signed_in, content.user_agent) if content is not None else (None, None)


_read_owned = msgspec.json.Decoder(OwnedData).decode


def _escape(text: str) -> str:
    """A text that tells a terminal nothing but its characters."""
    return "".join(
        character if " " <= character <= "~" else ascii(character)[1:-1] for character in text
    )


def _dump(value: object) -> str:
    return json.dumps(value).replace("\x7f", r"\u007f")  # the control character that JSON may hold


def _utc(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _span(seconds: float) -> str:
    """A time roughly: its two largest units."""
    text = format_duration(timedelta(seconds=max(seconds, 0)))
    return "".join(re.findall(r"\d+\D", text)[:2]) or "0s"


def _sessions(number: int) -> str:
    return f"{number:,} session{'' if number == 1 else 's'}"
