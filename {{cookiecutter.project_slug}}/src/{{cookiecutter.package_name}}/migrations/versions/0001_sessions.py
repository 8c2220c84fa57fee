"""The table of sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(64), nullable=True),
    )
    op.create_index("ix_sessions_expires", "sessions", ["expires"])
    has_owner = sa.text("owner IS NOT NULL")
    op.create_index(
        "ix_sessions_owner",
        "sessions",
        ["owner", "key"],
        sqlite_where=has_owner,
        postgresql_where=has_owner,
    )


def downgrade() -> None:
    op.drop_table("sessions")
