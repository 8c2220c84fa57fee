"""Keys, owners and pages of records, as tests of stores need them."""

from __future__ import annotations

import secrets

from ..owners import hash_owner
from ..store import Record, SessionStore

HOUR = 3600
ADA, BOB = hash_owner("ada"), hash_owner("bob")


def new_key() -> str:
    return secrets.token_hex(32)


async def scan_all(store: SessionStore, limit: int = 1000) -> list[tuple[str, Record]]:
    """What all pages hold; any of them may be empty."""
    found, cursor = await store.scan(limit=limit)
    while cursor:
        page, cursor = await store.scan(cursor, limit=limit)
        found += page
    return found


async def empty(store: SessionStore) -> None:
    """Remove all sessions of a store, and close it."""
    try:
        for key, _ in await scan_all(store):
            await store.delete(key)
    finally:
        await store.aclose()
