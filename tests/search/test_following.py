"""A search that is followed: callbacks hear all of it and change nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from run_folders import all_files

from gp_prune import Callback, SearchConfig, StopRun, TensorBoard, evolve
from gp_prune.errors import UserError
from gp_prune.runs.callbacks import Evaluated, RunEnd, RunStart, RunStep
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.results import SearchResult

TINY = SearchConfig(
    tasks=("lenet-digits",), validate_on=(), population=4, generations=2, ladder=(0.4,),
    budgets=(0.4,), fine_tune_steps=1, final_steps=1, final_seeds=1, front_size=3, calibration=16,
    no_start_formulas=True,
)  # fmt: skip


class Meddler(Callback):
    """Draws random numbers and turns settings of torch while it follows."""

    def __init__(self) -> None:
        self.evaluated: dict[int, list[Evaluated]] = {}
        self.steps: list[RunStep] = []
        self.start: RunStart | None = None
        self.end: RunEnd | None = None

    def on_start(self, start: RunStart) -> None:
        self.start = start

    def on_evaluation(self, done: Evaluated) -> None:
        random.random()
        np.random.rand()
        torch.manual_seed(done.done)
        self.evaluated.setdefault(done.step, []).append(done)

    def on_step(self, step: RunStep) -> None:
        random.seed(step.number)
        self.steps.append(step)

    def on_end(self, end: RunEnd) -> None:
        self.end = end


def search(folder: Path, cache: Path, *callbacks: Callback) -> SearchResult:
    return evolve(TINY, folder, source=TaskSource(cache_dir=str(cache)), callbacks=callbacks)


@pytest.mark.slow
def test_a_search_that_is_followed_is_the_same(tmp_path: Path, task_cache: Path) -> None:
    meddler = Meddler()
    search(tmp_path / "alone", task_cache)
    result = search(tmp_path / "followed", task_cache, meddler, TensorBoard(tmp_path / "logs"))
    assert all_files(tmp_path / "followed") == all_files(tmp_path / "alone")
    assert list((tmp_path / "logs" / "followed").iterdir())
    assert meddler.start is not None and meddler.start.settings["population"] == 4
    assert [step.number for step in meddler.steps] == list(meddler.evaluated) == [0, 1, 2]
    for part in meddler.evaluated.values():
        assert [e.done for e in part] == sorted(e.done for e in part)
        assert all(e.done <= e.of for e in part)
    last = meddler.steps[-1]
    assert last.figures["hypervolume"] == last.state.hypervolume
    assert last.figures["least/error"] == last.state.front[0].objectives[0]
    assert last.texts["best formula"] == str(last.state.front[0].expression)
    assert meddler.end is not None and meddler.end.result is result
    assert meddler.end.texts["recommended"] == result.recommended.name
    with pytest.raises(UserError, match="has done generation 2 already, so it cannot end after "):
        evolve(None, tmp_path / "alone", resume=True, changes={"generations": 1})
    assert set(meddler.end.figures) == {"size", "test_error/equal_macs", "test_error/equal_params"}


@pytest.mark.slow
def test_a_search_that_a_callback_stops_goes_on(tmp_path: Path, task_cache: Path) -> None:
    class Stopper(Meddler):
        def on_step(self, step: RunStep) -> None:
            super().on_step(step)
            if step.number == 1:
                raise StopRun

    stopper, meddler = Stopper(), Meddler()
    with pytest.raises(StopRun):
        search(tmp_path / "run", task_cache, stopper)
    assert stopper.end == RunEnd("stopped")
    source = TaskSource(cache_dir=str(task_cache))
    evolve(None, tmp_path / "run", source=source, resume=True, callbacks=[meddler])
    search(tmp_path / "whole", task_cache)
    assert [step.number for step in meddler.steps] == [0, 1, 2]
    assert all_files(tmp_path / "run") == all_files(tmp_path / "whole")
