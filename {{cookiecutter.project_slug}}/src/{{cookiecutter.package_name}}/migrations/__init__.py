"""The database's migrations, shipped with the package. A new one goes into ``versions/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy as sa


async def migrate(url: str) -> None:
    """Bring the database at an SQLAlchemy URL up to date. Safe to run at any time, by many at once.

    Raises:
        StoreUnavailable: the database can't be reached, or refuses.
    """
    from alembic import command
    from alembic.config import Config

    from ..sessions.stores.database import metadata, open_engine, unavailable

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
    finally:
        await engine.aclose()
