"""What pydantic found wrong, told to a person: where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import zip_longest
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..problems import ConfigError
from .sources import Sources

Table = type[BaseModel]

_ALLOWED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "string_type": "a string",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "greater_than_equal": "{ge} or more",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}


def explain(error: ValidationError, root: Table, sources: Sources) -> ConfigError:
    """All mistakes that were found in ``sources``, which were to be a ``root``."""
    details = error.errors(include_url=False)
    lines = [line for one in details for line in _explain(one, root, sources)]
    return ConfigError("\n".join(dict.fromkeys(lines)))


def tables_in(annotation: Any) -> Iterator[Table]:
    """The tables that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from tables_in(part)


def _explain(error: ErrorDetails, root: Table, sources: Sources) -> list[str]:
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    key = _key(error["loc"])
    if kind == "union_tag_invalid":
        key, found = (*key, "type"), found["type"]
    variable = sources.variable(key)
    if kind == "extra_forbidden":  # a variable may have made the table
        variable = variable or sources.variable_in(key)
    where = f"{variable} (environment variable)" if variable else sources.name
    where += f": {'.'.join(key)}" if key else ""
    if kind == "extra_forbidden":
        return [f"{where}: unknown key; {_hint(error['loc'], root)}"]
    if kind == "missing":
        return [f"{where}: missing; it is required here"]
    if kind == "value_error" and isinstance(found, dict | BaseModel):
        return [f"{where}: {line}" for line in str(context["error"]).splitlines()]
    if kind == "value_error":
        rule = str(context["error"])
    else:
        rule = _ALLOWED.get(kind, error["msg"]).format(**context).replace("'", '"')
    return [f"{where}: found {sources.show(key, found)}; allowed: {rule}"]


def _key(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Where an error is, as in TOML: pydantic also names the type of store that it tried."""
    parts = [str(part) for part in loc]
    if parts[:3] == ["middlewares", "session", "store"]:
        del parts[3:4]
    return tuple(parts)


def _hint(loc: tuple[int | str, ...], root: Table) -> str:
    """What is allowed beside an unknown key, and what it may have been meant to be."""
    key, (table, siblings) = str(loc[-1]), _table_at(loc[:-1], root)
    known = list(table.model_fields)
    owners = [sibling for sibling in siblings if key in sibling.model_fields]
    if owners:
        return f'it belongs to type = "{_type_of(owners[0])}"; allowed: {", ".join(known)}'
    close = get_close_matches(key, known, 1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}allowed: {', '.join(known)}"


def _table_at(loc: tuple[int | str, ...], root: Table) -> tuple[Table, list[Table]]:
    """The table in which an unknown key was found, and those that could have been in its place."""
    table, siblings = root, [root]
    for part, following in zip_longest(loc, loc[1:]):
        if part in table.model_fields:
            siblings = list(tables_in(table.model_fields[str(part)].annotation))
            table = next((one for one in siblings if _type_of(one) == following), siblings[0])
    return table, siblings


def _type_of(table: Table) -> object:
    return table.model_fields["type"].default if "type" in table.model_fields else None
