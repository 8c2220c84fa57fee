"""The database's migrations, shipped with the package. A new one goes into ``versions/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .store import StoreUnavailable

if TYPE_CHECKING:
    import sqlalchemy as sa


async def migrate(url: str) -> None:
    """Bring the database at an SQLAlchemy URL up to date. Safe to run at any time, by many at once.

    Raises:
        StoreUnavailable: the database can't be reached, refuses, or has migrations of its own.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    from .stores.database import metadata, open_engine, unavailable

    def upgrade(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
        config.attributes.update(connection=connection, target_metadata=metadata)
        command.upgrade(config, "head")

    engine = open_engine(url)
    try:
        await engine.run_alone(upgrade)
    except engine.errors as error:
        raise unavailable(error) from error
    except CommandError as error:
        raise StoreUnavailable(
            f"{str(error).rstrip('.')}. Is the database ahead of this code, or another"
            " application's?"
        ) from error
    finally:
        await engine.aclose()
