"""Threads for blocking calls that take microseconds."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
Job = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class Threads:
    """Up to ``count`` calls at a time, in the order in which they came.

    There and back costs half as much as by a ``ThreadPoolExecutor``, which has a second future and
    a lock for each call. The threads start with the first call, and don't keep a process alive.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._name = name
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """What ``work(*args)`` comes to. Whoever stops waiting before it began has prevented it."""
        if self._process != os.getpid():  # a child has none of its parent's threads
            self._begin()
        while len(self._threads) < self.count:
            name = f"{self._name}-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, work, args))
        return future

    def shutdown(self, *, wait: bool) -> None:
        """End the threads once all that they were given is done; ``wait`` blocks until then."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while job := self._jobs.get():
            future, work, args = job
            if not future.cancelled():
                result = error = None
                try:
                    result = work(*args)
                except BaseException as raised:
                    error = raised
                with suppress(RuntimeError):  # its event loop has been closed
                    future.get_loop().call_soon_threadsafe(_settle, future, result, error)
                del result, error
            del job, future, work, args  # a thread that waits holds on to nothing


def _settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
