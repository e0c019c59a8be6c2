"""Runs that are stopped, killed, resumed, or spread over workers end as the run in one piece."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_folders import all_files

from gp_prune import AutoencodeSettings, Metric, autoencode
from gp_prune.autoencoder.population import GenerationReport
from gp_prune.errors import UserError

MODES = ("canonical", "coevolve")
LOOP = Path(__file__).with_name("autoencode_kill_loop.py")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stop", [1, 3])
def test_k_generations_and_then_the_rest_are_the_whole_run(
    small: AutoencodeSettings, tmp_path: Path, mode: str, stop: int
) -> None:
    settings = replace(small, mode=mode, updates="asynchronous")

    def interrupt(now: GenerationReport) -> None:
        if now.number == stop:
            raise KeyboardInterrupt

    autoencode(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        autoencode(settings, tmp_path / "parts", progress=interrupt)
    assert not (tmp_path / "parts" / "result.json").exists()
    autoencode(None, tmp_path / "parts", resume=True)
    whole, parts = all_files(tmp_path / "whole"), all_files(tmp_path / "parts")
    assert parts.keys() == whole.keys()
    assert parts == whole
    before = all_files(tmp_path / "parts")
    autoencode(None, tmp_path / "parts", resume=True)
    assert all_files(tmp_path / "parts") == before, "a finished run stays as it is"


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["synchronous", "asynchronous"])
def test_the_number_of_workers_changes_nothing(
    small: AutoencodeSettings, tmp_path: Path, updates: str
) -> None:
    metric = tmp_path / "mine.json"  # which travels to the workers
    Metric.parse("sum[i,k](abs(mul(W, G)))", name="mine").save(metric)
    settings = replace(
        small, updates=updates, cells=6, topology="torus", epochs=2, operator=str(metric)
    )
    autoencode(settings, tmp_path / "one")
    autoencode(settings, tmp_path / "two", workers=2)
    assert all_files(tmp_path / "two") == all_files(tmp_path / "one")


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_result(
    small: AutoencodeSettings, tmp_path: Path, kill_a_worker: Callable[[], int]
) -> None:
    settings = replace(small, cells=6, updates="synchronous")
    killed: list[int] = []

    def kill_one(now: GenerationReport) -> None:
        if now.number < now.of and len(killed) < 2:
            killed.append(kill_a_worker())

    autoencode(settings, tmp_path / "one")
    autoencode(settings, tmp_path / "two", workers=2, progress=kill_one)
    assert len(set(killed)) == 2
    assert all_files(tmp_path / "two") == all_files(tmp_path / "one")


def test_a_schedule_of_ones_own_and_its_resume(small: AutoencodeSettings, tmp_path: Path) -> None:
    def late(t: float, T: float) -> float:
        return float(t == T - 1)

    settings = replace(small, operator="random", cells=2)
    result = autoencode(settings, tmp_path / "run", schedule=late)
    assert {row.generation for row in result.history if row.pruned} == {3}
    with pytest.raises(UserError, match=r"^the schedule changed since the run was begun"):
        autoencode(None, tmp_path / "run", resume=True)
    autoencode(None, tmp_path / "run", schedule=late, resume=True)


def test_a_run_does_not_go_on_with_other_data(small: AutoencodeSettings, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **np.load(small.data))
    settings = replace(small, data=str(path))
    autoencode(settings, tmp_path / "run")
    arrays = dict(np.load(path))
    np.savez(path, inputs=1 - arrays["inputs"], labels=arrays["labels"])
    with pytest.raises(UserError, match=f"^the data '{re.escape(str(path))}' changed since the"):
        autoencode(None, tmp_path / "run", resume=True)


def test_a_damaged_state_is_named(small: AutoencodeSettings, tmp_path: Path) -> None:
    autoencode(small, tmp_path / "run")
    for state in (tmp_path / "run" / "states").iterdir():
        state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"state .* cannot be read"):
        autoencode(None, tmp_path / "run", resume=True)


def test_what_a_kill_left_half_written_is_cleared_away(
    small: AutoencodeSettings, tmp_path: Path
) -> None:
    def interrupt(now: GenerationReport) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        autoencode(small, folder, progress=interrupt)
    left = [folder / ".result.json.ab12_xyz", folder / "states" / ".0f.safetensors.q1w2e3r4"]
    for path in left:
        path.write_text("half")
    autoencode(None, folder, resume=True)
    assert not any(path.exists() for path in left)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
@pytest.mark.parametrize("mode", MODES)
def test_every_resume_after_a_kill_ends_as_the_run_without(
    small: AutoencodeSettings, tmp_path: Path, mode: str
) -> None:
    settings = replace(small, mode=mode, epochs=6, operator="random", schedule="fixed")
    autoencode(settings, tmp_path / "whole")
    wanted = all_files(tmp_path / "whole")
    (tmp_path / "runs").mkdir()
    program = [sys.executable, str(LOOP), str(tmp_path / "whole"), str(tmp_path / "runs"), "20"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8
    for folder in (tmp_path / "runs").iterdir():
        assert all_files(folder) == wanted, folder.name
