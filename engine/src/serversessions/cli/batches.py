"""Going through a store's sessions in batches, with a count that Ctrl+C does not lose."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import click

from ..store import Record, SessionStore
from .project import Environment

BATCH = 1000  # sessions that are read or ended at once

Page = list[tuple[str, Record]]


class Progress:
    """To how many sessions something was done; in a terminal it shows meanwhile."""

    def __init__(self, verb: str) -> None:
        self.count = 0
        self._verb = verb
        self._is_shown = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> None:
        self.advance(0)

    def __exit__(self, *error: object) -> None:
        if self._is_shown:
            click.echo(f"\r{'':{len(self._text)}}\r", nl=False, err=True)

    def advance(self, count: int) -> None:
        self.count += count
        if self._is_shown:
            click.echo(f"\r{self._text}", nl=False, err=True)

    async def finish(self, batch: Coroutine[Any, Any, int]) -> int:
        """Count what a batch comes to. Ctrl+C waits for its end, so that nothing goes uncounted."""
        task = asyncio.ensure_future(batch)
        try:
            await asyncio.shield(task)
        finally:
            self.advance(await task)
        return task.result()

    @property
    def _text(self) -> str:
        return f"{self.count:,} {self._verb}"


def change(
    chosen: Environment,
    work: Callable[[SessionStore, Progress], Coroutine[Any, Any, None]],
    verb: str,
) -> int:
    """The number of sessions that ``work`` changed. An error tells the number until then."""
    progress = Progress(verb)

    async def work_on(store: SessionStore) -> None:
        with progress:
            await work(store, progress)

    try:
        chosen.run(work_on)
    except click.ClickException as error:
        if not progress.count:
            raise
        done = f"{number_of(progress.count)} {verb} so far: run the same command again to go on"
        raise type(error)(f"{error.message}. {done}") from None
    return progress.count


async def scan(store: SessionStore) -> AsyncIterator[Page]:
    """All sessions, page by page."""
    page, cursor = await store.scan(limit=BATCH)
    yield _without_marks(page)
    while cursor:
        page, cursor = await store.scan(cursor, limit=BATCH)
        yield _without_marks(page)


def _without_marks(page: Page) -> Page:
    """The records of sessions; what a rotated id leaves for a minute is none."""
    return [(key, record) for key, record in page if record.version > 0]


async def list_owned(store: SessionStore, owner: str) -> AsyncIterator[Page]:
    """All records of an owner, page by page."""
    after = ""
    while page := await store.list_owned(owner, after=after, limit=BATCH):
        yield page
        after = page[-1][0]


def number_of(sessions: int) -> str:
    """ "1 session", "2 sessions"."""
    return f"{sessions:,} session{'' if sessions == 1 else 's'}"
