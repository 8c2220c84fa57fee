"""A small HTTP client. Its connections are taken at random, so that all workers are met."""

from __future__ import annotations

import asyncio
import json
import random
import re
from dataclasses import dataclass
from typing import Any

TIMEOUT = 15.0  # seconds: longer than any timeout of the app's, which so has given up first
FAILURES = (OSError, EOFError)  # a timeout too; there was no answer, or not all of it
COOKIE = "__Host-id"  # its name, as the site's configuration has it

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COOKIE = re.compile(rb"\r\nset-cookie: *%b=([^;\r]*)" % COOKIE.encode(), re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """One that arrived whole. ``id`` is the one that its cookie hands out, if any."""

    status: int
    id: str
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """The body's JSON."""
        data: dict[str, Any] = json.loads(self.body)
        return data


class Client:
    """Of a server on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, session_id: str = "") -> Answer:
        """Ask with the cookie of a session, if any.

        Raises:
            FAILURES: the answer did not arrive.
        """
        cookie = f"Cookie: {COOKIE}={session_id}\r\n" if session_id else ""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{cookie}Content-Length: 0\r\n\r\n"
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await self._connect()
            try:
                writer.write(head.encode())
                answer = await _read(reader)
            except BaseException:
                writer.close()
                raise
        self._idle.append((reader, writer))
        return answer

    def close(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop(random.randrange(len(self._idle)))
            if not reader.at_eof() and reader.exception() is None:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    length, cookie = _LENGTH.search(head), _COOKIE.search(head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    return Answer(int(head[9:12]), cookie[1].decode() if cookie else "", body)
