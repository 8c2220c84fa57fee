"""What measures and stresses the engine, and draws what the README shows: see README.md."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# The engine of this checkout, whether one is installed or not; in subprocesses, too.
sys.path.insert(0, str(REPOSITORY / "engine" / "src"))
