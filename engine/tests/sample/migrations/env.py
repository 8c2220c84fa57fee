"""What Alembic runs."""

from sqlalchemy import MetaData
from tests.sample.config import AppConfig

from serversessions.migrations import run

run(AppConfig, MetaData())
