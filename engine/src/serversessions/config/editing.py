"""Changing one table of a TOML text, and not one byte of the rest.

A scanner takes the text apart into statements: a header, or a key with its value and comment. Only
those of the table are changed. (tomlkit 0.15 can't: it moves comments and blank lines, and fails on
dotted keys that make a table.) The text has to be valid TOML.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .table import Key

_TOKEN = re.compile(
    r'''(?sx)
      """(?:\\.|[^\\])*?"{3,5} | \'\'\'.*?\'{3,5} | "(?:\\.|[^"\\])*" | '[^']*'  # a string
    | \#[^\n]*
    | [\[\]{}=\n]
    | [^\#\[\]{}=\n"']+
    '''
)
_KEY_PART = re.compile(r"""(?x) "(?:\\.|[^"\\])*" | '[^']*' | [\w-]+ """)


def set_table(
    text: str, table: Key, values: Mapping[str, str], *, keep_others: bool = False
) -> str:
    """A TOML text in which ``table`` has these values; and only these, unless ``keep_others``.

    Comments on lines of their own stay, as does the comment beside a key that stays.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    left, lines = dict(values), list[str]()
    end, lead = None, ""  # where values go that are not there yet, and what precedes each
    for statement in _split(text):
        key, names = statement.key, statement.key[len(table) :]
        is_inside = key[: len(table)] == table
        if statement.is_header and key == table:
            lines.append(statement.text)
            end = len(lines)
        elif is_inside and len(names) == 1 and names[0] in left and not statement.is_header:
            lines.append(statement.with_value(left.pop(names[0])))
            end, lead = len(lines), statement.lead
        elif is_inside and names and not keep_others:
            continue
        elif key and key == table[: len(key)] and not statement.is_header:
            lines.append(statement.with_table(table[len(key) :], values, keep_others))
            left = {}
        else:
            lines.append(statement.text)
    if left and end is None:
        head = "".join(lines)
        gap = newline * (2 if head and not head.endswith("\n") else 1 if head else 0)
        lines.append(f"{gap}[{'.'.join(table)}]{newline}")
        end = len(lines)
    added = [f"{lead}{name} = {_quote(value)}{newline}" for name, value in left.items()]
    if added and end is not None:
        if not lines[end - 1].endswith("\n"):
            lines[end - 1] += newline
        lines[end:end] = added
    return "".join(lines)


@dataclass
class _Statement:
    """A header, a key with its value, or, without a ``key``, a blank line or a comment."""

    text: str
    key: Key = ()
    is_header: bool = False
    equals: int = 0  # where the value's "=" is
    end: int = 0  # of the value, or of the header

    @property
    def lead(self) -> str:
        """What stands before the last part of the key."""
        *_, last = _KEY_PART.finditer(self.text, 0, self.equals)
        return self.text[: last.start()]

    def with_value(self, value: str) -> str:
        return self._replace(_quote(value)) if self._data != value else self.text

    def with_table(self, below: Key, values: Mapping[str, str], keep_others: bool) -> str:
        """The statement, whose value is an inline table, with a table in it changed."""
        import tomlkit

        document: Any = tomlkit.parse(f"value = {self._value}")
        table, name = document, "value"
        for part in below:
            table = table[name]
            table.setdefault(part, tomlkit.inline_table())
            name = part
        changed = tomlkit.inline_table()
        changed.update({**(table[name] if keep_others else {}), **values})
        if table[name] == changed:
            return self.text
        table[name] = changed
        return self._replace(document["value"].as_string())

    @property
    def _value(self) -> str:
        return self.text[self.equals + 1 : self.end].strip()

    @property
    def _data(self) -> object:
        return tomllib.loads(f"value = {self._value}")["value"]

    def _replace(self, value: str) -> str:
        start = self.text.index(self._value, self.equals + 1)
        return self.text[:start] + value + self.text[self.end :]


def _split(text: str) -> Iterator[_Statement]:
    """The statements of a TOML text. Together they are the text."""
    header: Key = ()
    start = depth = equals = end = 0
    for token in _TOKEN.finditer(text):
        kind = token[0][0]
        depth += (kind in "[{") - (kind in "]}")
        if kind == "=" and not depth and not equals:
            equals = token.start()
        elif kind not in "#\n" and not token[0].isspace():
            end = token.end() - (len(token[0]) - len(token[0].rstrip()))
        is_last = token.end() == len(text)
        if not is_last and (kind != "\n" or depth):
            continue
        line = text[start : token.end()]
        if end <= start:
            yield _Statement(line)
        elif equals:
            key = (*header, *_read_key(f"{text[start:equals]}=0"))
            yield _Statement(line, key, False, equals - start, end - start)
        else:
            header = _read_key(line)
            yield _Statement(line, header, True, end=end - start)
        start, equals, end = token.end(), 0, 0


def _read_key(statement: str) -> Key:
    """The key of a header, or of a pair whose value is no table."""
    data: object = tomllib.loads(statement)
    key: list[str] = []
    while isinstance(data, dict) and data:
        key.append(next(iter(data)))
        data = data[key[-1]]
    return tuple(key)


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007F")
