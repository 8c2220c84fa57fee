"""Sweeping expired sessions out of the store, in the background."""

from __future__ import annotations

import asyncio
import logging

from .events import log_event
from .store import SessionStore, StoreUnavailable

logger = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two sweeps
BATCH = 1000  # records removed before requests get their turn


async def sweep_forever(store: SessionStore) -> None:
    """Sweep until cancelled. Expiry never waits for it: an expired record is never loaded."""
    while True:
        swept = 0
        try:
            swept = await store.delete_expired(BATCH)
            if swept:
                log_event("session.expired", count=swept)
        except StoreUnavailable as error:
            logger.warning("Could not sweep expired sessions: %s", error)
        except Exception:  # a sweep that fails must not be the last one
            logger.exception("Could not sweep expired sessions")
        await asyncio.sleep(0 if swept == BATCH else INTERVAL)
