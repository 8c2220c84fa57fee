"""Decorators for one's own commands: the configuration and the store, with the same messages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from ..store import SessionStore
from .project import Environment, environment_option


def pass_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command of your own the configuration, and the option ``--env`` that chooses it.

        @main.command()
        @pass_config
        def send_report(config: AppConfig) -> None:
            ...

    The command may be ``async``. A wrong configuration is one message, and exit status 2.
    """
    return _give("config", command)


def pass_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give an ``async`` command of your own the session store, which is closed after it.

        @main.command()
        @pass_store
        async def count(store: SessionStore) -> None:
            ...

    With ``@pass_config`` above it, the command gets the configuration, then the store. A store that
    is configured wrongly is one message and exit status 2; one that does not answer, status 1.
    """
    if not isinstance(command, _OwnCommand) and not iscoroutinefunction(command):
        raise TypeError(f"pass_store: {command.__name__} has to be an `async def`")
    return _give("store", command)


def _give(what: str, command: Callable[..., Any]) -> _OwnCommand:
    if isinstance(command, _OwnCommand):
        return _OwnCommand(command.body, (what, *command.takes), command)
    return _OwnCommand(command, (what,), environment_option(command))


class _OwnCommand:
    """A command that is given what it ``takes``, before what its options and arguments say."""

    def __init__(
        self, body: Callable[..., Any], takes: tuple[str, ...], decorated: Callable[..., Any]
    ) -> None:
        functools.update_wrapper(self, decorated)
        self.body = body
        self.takes = takes

    def __call__(self, *args: Any, environment: str | None, **kwargs: Any) -> Any:
        chosen = Environment(environment)
        given: dict[str, Any] = {"config": chosen.config}

        async def work(store: SessionStore) -> Any:
            given["store"] = store
            return await self.body(*(given[what] for what in self.takes), *args, **kwargs)

        if "store" in self.takes:
            chosen.require_shared_store()
            return chosen.run(work)
        result = self.body(*(given[what] for what in self.takes), *args, **kwargs)
        return chosen.run_async(result) if iscoroutinefunction(self.body) else result
