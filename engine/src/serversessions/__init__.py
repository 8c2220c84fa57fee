"""Server-side sessions for Starlette: one middleware, one dict, and stores behind one protocol."""

from .contents import SessionDataError
from .middleware import SessionMiddleware
from .owners import OwnedSession, delete_owned, hash_owner
from .session import Session
from .state import SessionClosed
from .store import (
    CorruptRecord,
    Record,
    SessionError,
    SessionStore,
    StoreNotReady,
    StoreUnavailable,
)
from .wiring import Sessions

__version__ = "0.2.0"

__all__ = [
    "CorruptRecord",
    "OwnedSession",
    "Record",
    "Session",
    "SessionClosed",
    "SessionDataError",
    "SessionError",
    "SessionMiddleware",
    "SessionStore",
    "Sessions",
    "StoreNotReady",
    "StoreUnavailable",
    "delete_owned",
    "hash_owner",
]
