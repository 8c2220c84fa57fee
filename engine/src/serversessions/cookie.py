"""The session's cookie (RFC 6265bis): reading the id from a request, writing it to a response."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal


@dataclass(frozen=True)
class SessionCookie:
    """The cookie's name and attributes."""

    name: str = "id"
    path: str = "/"
    domain: str | None = None
    secure: bool = True
    http_only: bool = True
    same_site: Literal["strict", "lax", "none"] = "strict"
    partitioned: bool = False

    def read(self, header: bytes) -> str | None:
        """The first value of this cookie that has the shape of an id. Any other is no id at all."""
        found = self._pattern.search(b";" + header)
        return None if found is None else found[1].decode()

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        name = re.escape(self.name.encode())
        return re.compile(rb";[ \t]*%b[ \t]*=[ \t]*([A-Za-z0-9_-]{43})[ \t]*(?![^;])" % name)

    def set(self, session_id: str, max_age: int | None) -> str:
        """The Set-Cookie value that hands out an id for ``max_age`` seconds."""
        lifetime = "" if max_age is None else f"; Max-Age={max_age}"
        return f"{self.name}={session_id}{lifetime}{self._attributes}"

    def remove(self) -> str:
        """The Set-Cookie value that makes the browser forget: same name, path and domain."""
        return f"{self.name}=; Max-Age=0{self._attributes}"

    @cached_property
    def _attributes(self) -> str:
        return (
            f"; Path={self.path}"
            + (f"; Domain={self.domain}" if self.domain else "")
            + ("; HttpOnly" if self.http_only else "")
            + ("; Secure" if self.secure else "")
            + f"; SameSite={self.same_site.capitalize()}"
            + ("; Partitioned" if self.partitioned else "")
        )
