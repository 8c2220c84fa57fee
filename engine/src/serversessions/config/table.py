"""``Table``, what every table of the configuration is, and questions about the types in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from ..problems import Problem, redact
from .values import SECRETS

Key = tuple[str, ...]  # of a value, as it nests in TOML: ("cache", "url")


class Table(BaseModel):
    """A table of the configuration; derive your own from it.

    It is frozen, refuses unknown keys, and takes no value for another: ``"1"`` is not a number. An
    array is read as the tuple, list or set that a key is annotated with, a string as a ``Path``.
    What a ``SecretStr`` holds is never shown. The string below a key describes it in .env.example.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # it may hold a password
    )

    @model_validator(mode="before")
    @classmethod
    def _take_what_toml_has(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: _convert(value, members(cls.model_fields[key].annotation))
            if key in cls.model_fields
            else value
            for key, value in values.items()
        }

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """A configuration may be logged: its passwords may not."""
        for key, value in super().__repr_args__():
            yield key, _redact_all(value)


class WrongTable(ValueError):
    """What a check of a whole table found. The keys of its problems begin at that table."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def _convert(value: Any, types: list[Any]) -> Any:
    if isinstance(value, list):
        kinds = [get_origin(one) for one in types if get_origin(one) in (tuple, set, frozenset)]
        return kinds[0](value) if kinds else value
    return Path(value) if isinstance(value, str) and Path in types else value


def _redact_all(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case dict():
            return {key: _redact_all(one) for key, one in value.items()}
        case list() | tuple():
            return type(value)(map(_redact_all, value))
    return value


def members(annotation: Any) -> list[Any]:
    """The types of which a value may be one, without None."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [one for part in get_args(annotation) for one in members(part)]
    return [] if annotation is NoneType else [annotation]


def tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables that a value of this type is, may be or holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from tables_in(part)


def types_at(root: type[BaseModel], key: Sequence[str]) -> list[Any]:
    """The types that a key's value may have; none for an unknown key."""
    types: list[Any] = [root]
    for part in key:
        below: list[Any] = []
        for one in types:
            if get_origin(one) is dict:
                below += members(get_args(one)[1])
            elif isinstance(one, type) and issubclass(one, BaseModel) and part in one.model_fields:
                below += members(one.model_fields[part].annotation)
        types = below
    return types


def is_text(annotation: Any) -> bool:
    """Whether values of this type are strings in TOML."""
    if get_origin(annotation) is Literal:
        return all(isinstance(one, str) for one in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, (str, Path, *SECRETS))


def holds_secret(annotation: Any) -> bool:
    """Whether a value of this type is a secret, or has one in it."""
    if isinstance(annotation, type) and issubclass(annotation, SECRETS):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(holds_secret(field.annotation) for field in annotation.model_fields.values())
    return any(holds_secret(part) for part in get_args(annotation))
