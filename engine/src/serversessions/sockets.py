"""Signed out means out: an accepted WebSocket whose session has ended is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Message, Send

from .store import StoreUnavailable

logger = logging.getLogger(__name__)


class Watch:
    """Looks every so many seconds whether the session of one socket still lives.

    While the store can't tell, nobody is thrown out. Once the session is over the browser is told
    1008, a policy (RFC 6455 7.4.1), and what the app still sends raises ``OSError``, as for any
    socket that is gone (ASGI 2.4).
    """

    def __init__(self, is_live: Callable[[], Awaitable[bool]], every: float, send: Send) -> None:
        self._is_live = is_live
        self._every = every
        self._send = send
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def send(self, message: Message) -> None:
        """Pass on what the app sends."""
        if self._is_closed:
            raise OSError("this WebSocket was closed, since its session has ended")
        await self._send(message)

    async def _look(self) -> None:
        while not self._is_closed:
            await asyncio.sleep(self._every)
            try:
                self._is_closed = not await self._is_live()
            except StoreUnavailable as error:
                logger.warning("Could not look whether the session of a socket lives: %s", error)
        reason = "the session has ended"
        await self._send({"type": "websocket.close", "code": 1008, "reason": reason})
