"""What can be configured: the engine's keys, and this app's own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from serversessions.config import Duration, ProjectConfig, Table


class MailConfig(Table):
    """``[mail]``."""

    host: str = "localhost"
    """the server that sends mail"""
    port: int = 25
    password: SecretStr | None = None
    """of the account there"""
    log_file: Path | None = None
    timeout: Duration | None = None
    admins: tuple[str, ...] = ()
    tokens: tuple[SecretStr, ...] = ()
    """of those who may send"""
    encryption: Literal["none", "tls"] = "tls"


class AppConfig(ProjectConfig):
    """The configuration of one environment."""

    app_name = "my_app"
    migrations = "tests.sample:migrations"

    mail: MailConfig = MailConfig()
