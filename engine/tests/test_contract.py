"""The stores that come with the library keep the contract of stores."""

from __future__ import annotations

import pytest

from serversessions.testing import StoreContract


class TestEveryStore(StoreContract):
    """Memory, files, SQLite, PostgreSQL, and Valkey alone."""


@pytest.mark.parametrize("place", ["sentinel", "cluster"], indirect=True)
class TestManyServers(StoreContract):
    """Valkey that a sentinel watches, and Valkey as a Cluster."""
