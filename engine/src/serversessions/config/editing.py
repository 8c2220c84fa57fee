"""Changing one table of a TOML text, and not one byte of the rest.

The text is taken apart into statements: a header, or a key with its value and comment. Only those
of the table are written anew, each by tomlkit, which keeps its spacing and its comment. (tomlkit on
a whole text moves comments about, and gives up on some tables with dotted keys.)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit
from tomlkit.items import InlineTable, Table

from .sources import Key


def set_table(
    text: str, table: Key, values: Mapping[str, str], *, keep_others: bool = False
) -> str:
    """A TOML text in which ``table`` has these values; and only these, unless ``keep_others``.

    Comments on lines of their own stay, as does the comment beside a key that stays.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    left, lines = dict(values), list[str]()
    place, lead = None, ""  # where the values go that are not there yet, and what precedes each
    for statement in _split(text):
        names = statement.key[len(table) :]
        is_inside = statement.key[: len(table)] == table
        if statement.is_header and is_inside and not names:
            lines.append(statement.text)
            place = len(lines)
        elif is_inside and names and names[0] in left and not statement.is_header:
            lines.append(statement.with_value(left.pop(names[0])))
            place, lead = len(lines), statement.lead
        elif is_inside and names and not keep_others:
            continue
        elif statement.holds(table):
            lines.append(statement.with_table(table[len(statement.key) :], values, keep_others))
            left = {}
        else:
            lines.append(statement.text)
    if left and place is None:
        head = "".join(lines)
        gap = newline * (2 if head and not head.endswith("\n") else 1 if head else 0)
        lines.append(f"{gap}[{'.'.join(table)}]{newline}")
        place = len(lines)
    added = [f"{lead}{name} = {_quote(value)}{newline}" for name, value in left.items()]
    if added and place is not None:
        if not lines[place - 1].endswith("\n"):
            lines[place - 1] += newline
        lines[place:place] = added
    return "".join(lines)


@dataclass
class _Statement:
    """A header, a key with its value, or, without a ``key``, a blank line or a comment."""

    text: str
    key: Key
    is_header: bool

    def holds(self, table: Key) -> bool:
        """Whether its value is an inline table that is, or should have in it, this table."""
        is_above = table[: len(self.key)] == self.key
        return bool(self.key) and not self.is_header and is_above

    @property
    def lead(self) -> str:
        """What stands before the last part of the key."""
        keys = self.text.partition("=")[0]
        return keys[: keys.rindex(self.key[-1])].rstrip("\"'")

    def with_value(self, value: str) -> str:
        document, table, name = self._open()
        if table[name] != value:
            table[name] = value
        return document.as_string()

    def with_table(self, below: Key, values: Mapping[str, str], keep_others: bool) -> str:
        """The statement, whose value is an inline table, with a table in it changed."""
        document, table, name = self._open()
        for part in below:
            table = table[name]
            table.setdefault(part, tomlkit.inline_table())
            name = part
        others = table[name] if keep_others else {}
        changed = tomlkit.inline_table()
        changed.update({**others, **values})
        if table[name] != changed:
            table[name] = changed
        return document.as_string()

    def _open(self) -> tuple[tomlkit.TOMLDocument, Any, str]:
        """The parsed statement, and the table and the name in it that hold the value."""
        document = tomlkit.parse(self.text)
        table: Any = document
        name = next(iter(table))
        while isinstance(table[name], Table):
            table = table[name]
            name = next(iter(table))
        return document, table, name


def _split(text: str) -> Iterator[_Statement]:
    """The statements of a TOML text. Together they are the text."""
    header: Key = ()
    pending = ""
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        pending += line
        try:
            data = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue  # a value that goes on
        is_header = pending.lstrip().startswith("[")
        if is_header:
            header = _path(data)
            yield _Statement(pending, header, is_header)
        elif data:
            depth = len(_path(tomlkit.parse(pending)))
            yield _Statement(pending, (*header, *_path(data)[:depth]), is_header)
        else:
            yield _Statement(pending, (), is_header)
        pending = ""


def _path(data: Any) -> Key:
    """The key of a statement: of tomlkit's tables, an inline one is a value."""
    path: list[str] = []
    while isinstance(data, dict) and not isinstance(data, InlineTable) and data:
        path.append(next(iter(data)))
        data = data[path[-1]]
    return tuple(path)


def _quote(value: str) -> str:
    return tomlkit.item(value).as_string()
