"""What ``config new`` and ``config set-store`` ask.

The words are those of the template's cookiecutter.json; a test of the template holds them equal.
"""

from __future__ import annotations

STORE = "Where should sessions live?"
STORES = {
    "file": "file: survives restarts; one machine",
    "memory": "memory: nothing to set up; gone when the process ends",
    "database": "database: survives restarts; SQLite for one machine, PostgreSQL for many",
    "cache": "cache: Redis or Valkey; fast, for many machines",
}
LOCATIONS = {
    "path": "In which folder?",
    "url": "In which database? (sqlite:///FILE or postgresql://USER@HOST/NAME)",
    "uri": "On which server?",
}
DEFAULTS = {
    "store": "file",
    "path": "var/sessions",
    "url": "sqlite:///var/app.db",
    "uri": "redis://localhost:6379/0",
}
