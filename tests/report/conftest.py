"""Runs that tests show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gp_prune.search.config import SearchConfig
from gp_prune.search.results import SearchResult
from gp_prune.search.run import evolve
from gp_prune.tasks import Task

# Where test modules find browser.py.
sys.path.insert(0, str(Path(__file__).resolve().parent))


def small_task(name: str, seed: int) -> Task:
    """A tiny network that knows its own, slightly wrong labels."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.rand(60, 1, 6, 6, generator=draw)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(24, 3),
        )  # fmt: skip
    with torch.no_grad():
        model[5].bias -= model(inputs).mean(0)  # so that each class occurs
        labels = (model(inputs) + 0.02 * torch.randn(60, 3, generator=draw)).argmax(1)
    return Task(model, (inputs, labels), name=name)


@pytest.fixture(scope="session")
def shown_run(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search that has ended, on tasks whose names are markup."""
    tasks = [small_task("plain", 0), small_task("<b>bold</b>", 1)]
    config = SearchConfig(
        population=6, generations=2, seed=1, ladder=(0.5,), budgets=(0.5, 0.3), final_steps=1,
        final_seeds=2, front_size=4, calibration=16, size_limit=15, height_limit=5,
        start_formulas=("l1", "taylor_sum", "sum[i,k](abs(mul(G, W)))"), no_start_formulas=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "001"
    return evolve(config, folder, tasks=tasks)
