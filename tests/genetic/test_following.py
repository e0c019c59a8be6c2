"""A genetic pruning that is followed: callbacks hear all of it and change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gp_prune import Callback, GeneticSettings
from gp_prune.genetic.run import GeneticProgress, prune_genetically
from gp_prune.runs.callbacks import Evaluated, RunEnd, RunStep
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.spent import SPENT

TINY = GeneticSettings(
    population=4, generations=1, rounds=1, elites=2, epochs=2, final_epochs=1, samples=50,
    points=2, calibration=32, tolerance=0.9, limit=0.9, batch_size=64, baselines=False,
)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != SPENT)
    # The result names the folder.
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"folder")
        for path in found
    }


@pytest.mark.slow
def test_a_run_that_is_followed_is_the_same(
    tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Follower(Callback):
        evaluated: list[Evaluated] = []  # noqa: RUF012 - of this test alone
        steps: list[RunStep] = []  # noqa: RUF012
        end = RunEnd("")

        def on_evaluation(self, done: Evaluated) -> None:
            self.evaluated.append(done)

        def on_step(self, step: RunStep) -> None:
            self.steps.append(step)

        def on_end(self, end: RunEnd) -> None:
            Follower.end = end

    monkeypatch.setattr("gp_prune.training.shares.LEAST_SECONDS", 0.0)
    source, follower, seen = TaskSource(str(task_cache)), Follower(), list[GeneticProgress]()
    prune_genetically(TINY, tmp_path / "alone", source=source, timed=False)
    prune_genetically(
        TINY, tmp_path / "followed", source=source, timed=False, progress=seen.append,
        callbacks=[follower],
    )  # fmt: skip
    assert files(tmp_path / "followed") == files(tmp_path / "alone")
    assert [step.number for step in follower.steps] == [0, 1, 2]
    assert follower.end.reason == "done" and follower.end.result is not None
    assert {e.step for e in follower.evaluated} == {0, 1, 2, 3}
    inside = [now.inside for now in seen if now.inside and now.inside.what == "networks retrained"]
    assert any(not float(now.done).is_integer() for now in inside), "between two networks"
    assert all(0 <= now.done <= now.of for now in inside)
