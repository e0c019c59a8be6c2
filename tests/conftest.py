"""What holds for every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# One thread per test process: the processes of pytest-xdist share the cores, and sums then have
# one order. The variable is for the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# No deadline, because the time of one example depends on what else the machine does.
settings.register_profile("gp-prune", deadline=None, print_blob=True)
settings.load_profile("gp-prune")


@pytest.fixture(scope="session")
def task_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `load_task(..., cache_dir=task_cache)`: each task is trained once per run."""
    base = tmp_path_factory.getbasetemp()
    # Every process of pytest-xdist has a folder of its own; what is above it belongs to the run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return shared / "task-cache"
