from __future__ import annotations

import sys
from pathlib import Path

# Worker processes take over the path; they must find the jobs of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))
