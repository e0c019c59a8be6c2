"""The package as it was before statistics were streamed, to measure beside the present one."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

COMMIT = "7cf363a"
"""The last commit whose formulas see 64 samples at 64 positions."""

_ROOT = Path(__file__).resolve().parents[1]
_INSIDE = ("primitives", "evolved_metrics")


def unpack_old(work: Path) -> Path:
    """Return a folder for ``PYTHONPATH`` with that package, laid out as it is installed."""
    folder = work / f"code-{COMMIT}"
    if not folder.exists():
        command = ["git", "-C", str(_ROOT), "archive", COMMIT, "gp_prune", *_INSIDE]
        archive = subprocess.run(command, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder, filter="data")
        for package in _INSIDE:
            (folder / package).rename(folder / "gp_prune" / package)
    return folder
