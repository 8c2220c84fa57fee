"""What Alembic runs. The sessions' table has its revision; tables of your own join it here."""

from serversessions.migrations import run
from sqlalchemy import MetaData

from {{cookiecutter.package_name}}.config import AppConfig

metadata = MetaData()  # in its place, that of your models: Base.metadata
run(AppConfig, metadata)
