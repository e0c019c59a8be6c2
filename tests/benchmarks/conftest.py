from __future__ import annotations

import sys
from pathlib import Path

# The scripts import their neighbours, as they can when one is run by itself.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
