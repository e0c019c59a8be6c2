"""Tasks in memory travel in files that do not stay behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from own_networks import regression

from gp_prune.errors import UserError
from gp_prune.runs.held import read_held, written

KILLED = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from own_networks import regression
from gp_prune.runs.held import written
with written({"a": regression()}) as (file,):
    print(os.path.dirname(file.path), flush=True)
    if sys.argv[2:]:
        sys.stdin.read()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(temporary: Path, *more: str) -> subprocess.Popen[str]:
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(temporary), *more],
        env=os.environ | path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_tasks_are_read_back_and_their_files_are_deleted(temporary: Path) -> None:
    task = regression()
    with written({"a": task}) as (file,):
        assert read_held(file).digest == task.digest
        with open(file.path, "ab") as content:
            content.write(b" ")
        with pytest.raises(UserError, match="changed since the run began"):
            read_held(file)
    assert not any(temporary.glob("gp-prune-*"))
    with written({}) as files:
        assert not files and not any(temporary.glob("gp-prune-*"))


@pytest.mark.slow
def test_files_of_a_killed_process_are_deleted_and_those_of_a_living_one_stay(
    temporary: Path,
) -> None:
    killed = start(temporary)
    left = Path(killed.communicate()[0].strip())
    assert any(left.glob("*.task"))
    with start(temporary, "wait") as living:
        assert living.stdout is not None
        kept = Path(living.stdout.readline().strip())
        for folder in (left, kept):
            os.utime(folder, (0, 0))
        with written({"a": regression()}):
            assert kept.is_dir() and not left.exists()
        living.communicate()
    assert not any(temporary.glob("gp-prune-*"))
