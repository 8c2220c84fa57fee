"""The session's cookie (RFC 6265bis): reading ids from a request, writing one to a response."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

SameSite = Literal["strict", "lax", "none"]


@dataclass(frozen=True)
class SessionCookie:
    """The cookie's name and attributes."""

    name: str = "id"
    path: str = "/"
    domain: str | None = None
    secure: bool = True
    http_only: bool = True
    same_site: SameSite = "lax"
    partitioned: bool = False

    def read(self, header: bytes) -> list[str]:
        """The values of this cookie that have the shape of an id. Any other is no id at all.

        A browser sends several cookies of one name if they were set for different paths, domains or
        partitions (RFC 6265bis 5.8.3): by another app, or by this one before its configuration was
        changed. Each is a candidate.
        """
        return [found.decode() for found in self._pattern.findall(b";" + header)]

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


def prefixed_name(name: str, *, secure: bool, path: str, domain: str | None) -> str:
    """The name with ``__Host-`` before it, wherever browsers take that (RFC 6265bis 4.1.3.2).

    No other host, such as a sibling domain, can set such a cookie (ASVS 5, 3.3.1). A name that has
    a prefix stays.
    """
    has_prefix = name.lower().startswith(("__host-", "__secure-"))
    is_allowed = secure and path == "/" and domain is None
    return f"__Host-{name}" if is_allowed and not has_prefix else name
