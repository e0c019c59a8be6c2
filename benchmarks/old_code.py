"""The package as it was at an older commit, to measure beside the present one."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

COMMIT = "7cf363a"
"""The last commit whose formulas see 64 samples at 64 positions."""

_ROOT = Path(__file__).resolve().parents[1]
_INSIDE = ("primitives", "evolved_metrics")
_NETWORKS = Path("gp_prune", "tasks", "cifar_resnet.py")
"""A network definition of the present code that the benchmarks score with both."""


def unpack_old(work: Path, commit: str = COMMIT) -> Path:
    """Return a folder for ``PYTHONPATH`` with that package, laid out as it is installed.

    Where the package has no :mod:`gp_prune.tasks.cifar_resnet` yet, it gets that of the present.
    """
    folder = work / f"code-{commit}"
    if not folder.exists():
        command = ["git", "-C", str(_ROOT), "archive", commit, "gp_prune", *_INSIDE]
        archive = subprocess.run(command, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            packed.extractall(folder, filter="data")
        for package in _INSIDE:
            (folder / package).rename(folder / "gp_prune" / package)
    if not (folder / _NETWORKS).exists():
        shutil.copyfile(_ROOT / _NETWORKS, folder / _NETWORKS)
    return folder
