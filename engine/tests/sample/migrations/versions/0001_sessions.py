"""The table of sessions."""

from serversessions.migrations import create_sessions_table, drop_sessions_table

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_sessions_table("my_app")


def downgrade() -> None:
    drop_sessions_table("my_app")
