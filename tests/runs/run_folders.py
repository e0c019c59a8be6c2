"""What tests compare of run folders."""

from __future__ import annotations

from pathlib import Path

from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.spent import SPENT
from gp_prune.search.results import COMPARISON, FRONT, METRICS

USER_TASK = """
import torch
from gp_prune import Task


def build():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.rand(60, 1, 6, 6, generator=draw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(96, 3)
        )
    with torch.no_grad():
        model[3].bias -= model(inputs).mean(0)  # so that each class occurs
        labels = (model(inputs) + 0.01 * torch.randn(60, 3, generator=draw)).argmax(1)
    return Task(model, (inputs, labels))
"""
"""A file with a user's task: a network that knows its own, slightly wrong labels."""


def content(folder: Path) -> dict[str, bytes]:
    """What must be equal for equal settings: the front, the comparison, the metrics."""
    files = [folder / FRONT, folder / COMPARISON, *sorted((folder / METRICS).iterdir())]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def all_files(folder: Path) -> dict[str, bytes]:
    """All files of a run folder but for its times, which are never the same."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SPENT]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lasting_files(folder: Path) -> dict[str, bytes]:
    """All files of a run folder but for temporary ones, which a kill may leave."""
    files = all_files(folder).items()
    return {name: data for name, data in files if not Path(name).name.startswith(".")}


def journal_size(folder: Path) -> int:
    """Bytes that the journal of a run has now; -1 where there is none."""
    path = folder / JOURNAL
    return path.stat().st_size if path.exists() else -1
