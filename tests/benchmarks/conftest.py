from __future__ import annotations

import sys
from pathlib import Path

# The scripts import their neighbours, as they can when one is run by itself.
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS / name) for name in (".", "discovery", "language")]
