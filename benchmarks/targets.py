"""What the generated app is to reach, stated before it was built.

For requests in process: the time of a request over that of the same request to a bare Starlette
app, at most. The keys are the rows' names.
"""

from __future__ import annotations

from .place import STORES

IN_PROCESS = {
    **{f"{store} untouched": 1.10 for store in STORES},
    "memory untouched with cookie": 1.8,
    "memory read": 1.8,
    "memory read, 10 KB": 7,
    "memory write": 2.2,
    "file read": 8,
    "file write": 32,
    "cache read": 18,
    "cache read, 64 at once": 9,
    "cache write": 34,
    "cache write, 64 at once": 16,
    "sqlite read": 20,
    "sqlite write": 40,
    "postgresql read": 45,
    "postgresql write": 110,
}
