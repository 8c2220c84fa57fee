"""What tests of sessions need: the contract of stores, a clock, and real servers from wheels.

``pytest_plugins = ["serversessions.testing.fixtures"]`` in a ``conftest.py`` brings the fixtures.
"""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")  # so that a failure shows both sides

from .clock import Clock  # noqa: E402
from .contract import StoreContract  # noqa: E402

__all__ = ["Clock", "StoreContract"]
