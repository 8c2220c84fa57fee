"""What pydantic found wrong, told to a person: where, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..problems import ConfigError, Problem
from .sources import Sources
from .table import Key, WrongTable, members, tables_in

_ALLOWED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
    "list_type": "an array",
    "tuple_type": "an array",
    "set_type": "an array",
    "greater_than_equal": "{ge} or more",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}


def explain(error: ValidationError, root: type[BaseModel], sources: Sources) -> ConfigError:
    """All mistakes that were found in ``sources``, which were to be a ``root``."""
    problems = [
        problem
        for details in error.errors(include_url=False)
        for problem in _explain(details, root, sources)
    ]
    return ConfigError(*dict.fromkeys(problems))


def _explain(error: ErrorDetails, root: type[BaseModel], sources: Sources) -> Iterator[Problem]:
    kind, found, context = error["type"], error["input"], error.get("ctx", {})
    key, table, siblings = _locate(error["loc"], root)
    if kind in ("union_tag_invalid", "union_tag_not_found"):  # which of several tables is it?
        tag = context["discriminator"].strip("'")
        key, found = (*key, tag), found.get(tag)
    name, source = ".".join(key), sources.blame(key)
    reason = context.get("error")
    if kind == "extra_forbidden":
        if variable := sources.variable_in(key):  # it may have made the table
            source = f"{variable} (environment variable)"
        noun = "table" if isinstance(found, dict) and table is root else "key"
        yield _unknown(key, noun, table, siblings, source)
    elif kind in ("missing", "union_tag_not_found"):
        yield Problem(name, None, "a value", "missing; it is required here", source)
    elif isinstance(reason, WrongTable):
        for problem in reason.problems:
            full = (*key, *problem.key.split("."))
            yield replace(problem, key=".".join(full), source=sources.blame(full))
    elif kind == "value_error" and isinstance(found, dict | BaseModel):
        yield Problem(name, "a table", None, str(reason), source)
    else:
        rule = _ALLOWED.get(kind, error["msg"].removeprefix("Input should be ")).format(**context)
        rule = str(reason) if kind == "value_error" else rule.replace("'", '"')
        yield Problem(name, sources.show(key, found), rule, source=source)


def _locate(
    loc: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[Key, type[BaseModel], list[type[BaseModel]]]:
    """Where an error is: the key as in TOML, its table, and the tables that could be there instead.

    Pydantic also names which one of several types it tried.
    """
    key: list[str] = []
    table, siblings, tried = root, [root], list[Any]()
    for part in map(str, loc):
        if len(tried) > 1:
            siblings = [one for each in tried for one in tables_in(each)]
            table = next((one for one in siblings if _is_tagged(one, part)), table)
            tried = []
            continue
        key.append(part)
        if tried and get_origin(tried[0]) is dict:
            tried = members(get_args(tried[0])[1])
            continue
        if tried and (below := list(tables_in(tried[0]))):
            table, siblings = below[0], below
        field = table.model_fields.get(part)
        tried = members(field.annotation) if field else []
    return tuple(key), table, siblings


def _unknown(
    key: Key,
    noun: str,
    table: type[BaseModel],
    siblings: list[type[BaseModel]],
    source: str,
) -> Problem:
    """What is allowed beside an unknown key, and what it may have been meant to be."""
    name, allowed = key[-1], ", ".join(table.model_fields)
    text = f"unknown {noun}; "
    owners = [sibling for sibling in siblings if name in sibling.model_fields]
    if owners:
        tag = next((tag for tag in ("type", "kind") if tag in owners[0].model_fields), None)
        it = f'{tag} = "{owners[0].model_fields[tag].default}"' if tag else owners[0].__name__
        text += f"it belongs to {it}; allowed: {allowed}"
    else:
        close = get_close_matches(name, table.model_fields, 1)
        text += f"did you mean {close[0]!r}? " if close else ""
        text += f"allowed: {allowed}"
    if len(key) == 1 and noun == "table":
        text += f". Declare a table of your own in {table.__name__} ({table.__module__})"
    return Problem(".".join(key), name, allowed, text, source)


def _is_tagged(table: type[BaseModel], tag: str) -> bool:
    """Whether pydantic calls a table so among several: by a literal in it, or by its name."""
    literals = [
        value
        for field in table.model_fields.values()
        if get_origin(field.annotation) is Literal
        for value in get_args(field.annotation)
    ]
    return tag in literals or tag == table.__name__
