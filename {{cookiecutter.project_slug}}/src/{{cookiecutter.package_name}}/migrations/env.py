"""Alembic's entry: it runs the migrations with what ``migrate`` hands over."""

from alembic import context

context.configure(**context.config.attributes)
with context.begin_transaction():
    context.run_migrations()
