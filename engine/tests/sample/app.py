"""The app: nothing but its sessions."""

from __future__ import annotations

from starlette.applications import Starlette

from serversessions import Sessions

from .config import AppConfig


def create_app(config: AppConfig | None = None) -> Starlette:
    config = config or AppConfig.load()
    sessions = Sessions(config)
    return Starlette(
        debug=config.debug,
        routes=[*sessions.routes],
        middleware=[sessions.middleware],
        lifespan=sessions.lifespan,
    )
