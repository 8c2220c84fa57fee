"""A request's own changes of its session, and how they are put on top of another request's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .contents import dump, pack, peek, try_dump
from .state import SessionState


def find_changes(session: SessionState) -> tuple[list[str], dict[str, Any]]:
    """The request's own top-level changes: keys removed, and keys set with their values."""
    before: dict[str, Any] = {}
    if session._stored is not None:
        stored = session._stored
        packed = pack(session, session._sign_in, session._expiry, stored.id)
        if stored.record.data == try_dump(packed):
            return [], {}
        before = peek(stored.record).data
    touched = session._touched or set()
    removed = [key for key in touched if key in before and not dict.__contains__(session, key)]
    changed = {
        key: dict.__getitem__(session, key) for key in touched if dict.__contains__(session, key)
    }
    return removed, {
        key: value
        for key, value in changed.items()
        if key not in before or try_dump(value) != dump(before[key])
    }


def merge(session: SessionState, data: Mapping[str, Any]) -> dict[str, Any]:
    """What another request has saved meanwhile, with this one's top-level changes on top."""
    removed, changed = find_changes(session)
    merged = dict(data)
    for key, value in data.items():
        own = dict.get(session, key)
        # The request may hold on to what it took out, and change it yet.
        if isinstance(own, (dict, list)) and try_dump(own) == dump(value):
            merged[key] = own
    for key in removed:
        merged.pop(key, None)
    return merged | changed


def name_changes(session: SessionState) -> str:
    """What a request has changed and not saved, for messages."""
    removed, changed = find_changes(session)
    names = [repr(key) for key in (*removed, *changed)]
    names += ["owner"] * session._has_new_sign_in
    names += ["set_expiry()"] * session._has_new_expiry
    names += ["rotate_id()"] * (session._rotates and not session._has_new_sign_in)
    names += ["flush()"] * (session._ended is not None)
    return ", ".join(names)
