"""What a response tells caches, once it depends on a session."""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders

RawHeaders = list[tuple[bytes, bytes]]

_DIRECTIVE = re.compile(rb'[^\s,="]+(?:=(?:"[^"]*"|[^\s,"]*))?')  # RFC 9111 5.2
_SHARED = {b"public", b"s-maxage", b"must-understand"}  # what lets a shared cache keep an answer


def vary_by_cookie(headers: RawHeaders) -> None:
    """Say that another visitor may get another answer (RFC 9110 12.5.5)."""
    for name, _ in headers:
        if name == b"vary":
            MutableHeaders(raw=headers).add_vary_header("Cookie")
            return
    headers.append((b"vary", b"Cookie"))


def keep_private(headers: RawHeaders) -> None:
    """Keep an answer that hands out an id from all shared caches, whatever the handler said.

    ``private`` is added unless it or ``no-store`` is there (RFC 9111 5.2.2), and what contradicts
    it is removed. So is what is addressed to one kind of cache, and would win there (RFC 9213).
    """
    directives: list[bytes] = []
    others: RawHeaders = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"cache-control":
            directives += _DIRECTIVE.findall(value)
        elif not lower.endswith(b"-cache-control") and lower != b"surrogate-control":
            others.append((name, value))
    kept = [each for each in directives if not _is_shared(each.lower())]
    if not {b"private", b"no-store"} & {each.lower() for each in kept}:
        kept.insert(0, b"private")
    headers[:] = [*others, (b"cache-control", b", ".join(kept))]


def _is_shared(directive: bytes) -> bool:
    """``private="..."`` is about a few headers only."""
    return directive.partition(b"=")[0] in _SHARED or directive.startswith(b"private=")
