"""A dict that notes whether it was read, and which of its values may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from starlette.middleware.sessions import Session as StarletteSession

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_keys, dict_values


class TrackedDict(StarletteSession):
    """Starlette's session, so that whatever works with that works with this; but it misses nothing.

    ``accessed`` is set by whatever reads it, ``modified`` by whatever changes it. A dict or list
    that is handed out may change unnoticed: its key counts as touched.
    """

    __slots__ = ("accessed",)  # every request sets it: several times faster than an attribute
    # Keys that were set or removed, or whose dict or list was handed out. Once they are saved, only
    # the latter stay here.
    _touched: set[str] | None = None

    def mark_accessed(self) -> None:
        """Note that the response depends on the session."""
        self.accessed = True

    def __getitem__(self, key: str) -> Any:
        self.mark_accessed()
        value = dict.__getitem__(self, key)
        if isinstance(value, (dict, list)):
            self._touch(key)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        self.mark_accessed()
        value = dict.get(self, key, default)
        if isinstance(value, (dict, list)):
            self._touch(key)
        return value

    def __contains__(self, key: object) -> bool:
        self.mark_accessed()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self.mark_accessed()
        return dict.__iter__(self)

    def __len__(self) -> int:
        self.mark_accessed()
        return dict.__len__(self)

    def __reversed__(self) -> Iterator[str]:
        self.mark_accessed()
        return dict.__reversed__(self)

    def __eq__(self, other: object) -> bool:
        self.mark_accessed()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        self.mark_accessed()
        return dict.__ne__(self, other)

    def keys(self) -> dict_keys[str, Any]:
        self.mark_accessed()
        return dict.keys(self)

    def values(self) -> dict_values[str, Any]:
        self._touch_all()
        return dict.values(self)

    def items(self) -> dict_items[str, Any]:
        self._touch_all()
        return dict.items(self)

    def copy(self) -> dict[str, Any]:
        self._touch_all()
        return dict.copy(self)

    # dict's own three have overloads for keys that are no strings, which no session has: hence the
    # ignored overrides.
    def __or__(self, other: Any, /) -> dict[str, Any]:  # type: ignore[override]
        self._touch_all()
        return dict.__or__(self, other)

    def __ror__(self, other: Any, /) -> dict[str, Any]:  # type: ignore[override]
        self._touch_all()
        return dict.__ror__(self, other)

    def __setitem__(self, key: str, value: Any) -> None:
        self._change(key)
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        self._change(key)
        dict.__delitem__(self, key)

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self._change(key)
        return dict.pop(self, key, *default)

    def popitem(self) -> tuple[str, Any]:
        for key in list(self)[-1:]:
            self._change(key)
        return dict.popitem(self)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, /, *args: Any, **kwargs: Any) -> None:
        changes = dict(*args, **kwargs)
        for key in changes:
            self._change(key)
        dict.update(self, changes)

    def __ior__(self, changes: Any, /) -> Self:  # type: ignore[override]
        self.update(changes)
        return self

    def __reduce_ex__(self, protocol: object) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Copies are plain dicts: there is one session."""
        return dict, (dict(self),)

    def _change(self, key: str) -> None:
        """Note that a key is about to change."""
        self.accessed = self.modified = True
        self._touch(key)

    def _touch(self, key: str) -> None:
        """Note that a key may change: its dict or list is handed out, say."""
        if self._touched is None:
            self._touched = {key}
        else:
            self._touched.add(key)

    def _touch_all(self) -> None:
        self.mark_accessed()
        self._touched = set(self._touched or ()).union(dict.keys(self))
