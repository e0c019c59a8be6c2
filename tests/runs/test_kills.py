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


@pytest.mark.slow
@pytest.mark.skipif("GP_PRUNE_KILLS" not in os.environ, reason="half an hour; set GP_PRUNE_KILLS=1")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="workers are found in /proc")
def test_200_kills_change_nothing(tmp_path: Path, task_cache: Path) -> None:
    TaskSource(cache_dir=str(task_cache)).load("lenet-digits")
    program = [sys.executable, str(LOOPS), str(tmp_path), str(task_cache)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert len(kills) == 12, "evolve, genetic, autoencode; 1 and 2 workers; runs and workers alone"
    assert sum(kills.values()) >= 200
    assert sum(count for kind, count in kills.items() if "alone" in kind) >= 50
