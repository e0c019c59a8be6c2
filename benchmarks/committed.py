"""Settings that are committed before a test split is read."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def check_committed(paths: Sequence[Path]) -> str:
    """Return the commit in which files were changed last.

    Args:
        paths: what decides a result before the test split is read.

    Raises:
        SystemExit: a file has changes that are not committed.
    """
    names = [str(path.relative_to(ROOT)) for path in paths]
    state = ["git", "-C", str(ROOT), "status", "--porcelain", "--", *names]
    changed = subprocess.run(state, check=True, capture_output=True, text=True).stdout.strip()
    if changed:
        raise SystemExit(
            f"the test split is read once, by committed settings; commit these first:\n{changed}"
        )
    last = ["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", *names]
    return subprocess.run(last, check=True, capture_output=True, text=True).stdout.strip()
