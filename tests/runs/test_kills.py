"""Every kind of run that is killed, or whose workers are, ends as one that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gp_prune.runs.jobs import TaskSource

LOOPS = Path(__file__).with_name("kill_loops.py")


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked"),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="workers are found in /proc"),
]


def kill(folder: Path, cache: Path, *options: str) -> dict[str, int]:
    """Kill runs and workers of every kind; return the number of kills by kind."""
    TaskSource(cache_dir=str(cache)).load("lenet-digits")
    program = [sys.executable, str(LOOPS), str(folder), str(cache), *options]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills: dict[str, int] = json.loads(done.stdout)
    return kills


def test_kills_of_every_kind_change_nothing(tmp_path: Path, task_cache: Path) -> None:
    kills = kill(tmp_path, task_cache, "--one", "5", "--two", "3", "--alone", "3")
    # evolve, with a user task too, genetic, autoencode; 1 and 2 workers; runs and workers alone
    assert len(kills) == 16
    assert sum(kills.values()) >= 40
    assert min(kills.values()) >= 3


@pytest.mark.skipif("GP_PRUNE_KILLS" not in os.environ, reason="half an hour; set GP_PRUNE_KILLS=1")
def test_200_kills_change_nothing(tmp_path: Path, task_cache: Path) -> None:
    kills = kill(tmp_path, task_cache)
    assert len(kills) == 16
    assert sum(kills.values()) >= 200
    assert sum(count for kind, count in kills.items() if "alone" in kind) >= 50
