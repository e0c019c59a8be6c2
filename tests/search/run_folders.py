"""What tests compare of run folders."""

from __future__ import annotations

from pathlib import Path

from gp_prune.search.results import COMPARISON, FRONT, METRICS


def content(folder: Path) -> dict[str, bytes]:
    """What must be equal for equal settings: the front, the comparison, the metrics."""
    files = [folder / FRONT, folder / COMPARISON, *sorted((folder / METRICS).iterdir())]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
