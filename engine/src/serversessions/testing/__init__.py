"""What tests of sessions need: the contract of stores, a clock, and real servers from wheels.

``pytest_plugins = ["serversessions.testing.fixtures"]`` in a ``conftest.py`` brings the fixtures.
"""

import pytest

# So that a failure shows both sides. It has to come before the imports below: hence noqa.
pytest.register_assert_rewrite(f"{__name__}.contract", f"{__name__}.owner_contract")

from .clock import Clock  # noqa: E402
from .contract import StoreContract  # noqa: E402
from .records import empty  # noqa: E402

__all__ = ["Clock", "StoreContract", "empty"]
