"""The stores that config/ names keep all that a store promises."""

from serversessions.testing import StoreContract


class TestStore(StoreContract):
    """Its tests run on the fixture ``store``."""
