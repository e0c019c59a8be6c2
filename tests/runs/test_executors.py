"""Workers that hang, die or take too much memory cost a candidate, never the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.runs.executors import InProcess, WorkerPool, make_runner
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.runs.journal_lines import reader
from gp_prune.runs.processes import ResourceLimits
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.objectives import WORST_ERROR

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc here")


class Misbehaving:
    """Stands in for a plan: does something in the worker that unpacks it."""

    def __init__(self, function: object, *args: object) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


def evaluation(misbehaving: Misbehaving | None = None) -> Evaluation:
    plan = {"digest": "none", "plan": misbehaving}
    return Evaluation("lenet-digits", plan, steps=0, seed=0)


@needs_proc
@pytest.mark.parametrize(
    ("misbehaving", "limits", "reason"),
    # One limit each: on a busy machine, what allocates may take long before it has taken much.
    [
        pytest.param(
            Misbehaving(time.sleep, 600),
            ResourceLimits(seconds=1),
            "took more than 1 s",
            marks=pytest.mark.slow,
        ),
        (
            Misbehaving(list, range(10**9)),
            ResourceLimits(megabytes=200),
            "took more than 200 MB of memory",
        ),
    ],
    ids=["hangs", "allocates"],
)
def test_a_candidate_is_tried_twice_and_then_fails_by_name(
    tmp_path: Path,
    task_cache: Path,
    misbehaving: Misbehaving,
    limits: ResourceLimits,
    reason: str,
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    runner = WorkerPool(source, 1, limits)
    try:
        runner.prepare(["lenet-digits"])
        bad = evaluation(misbehaving)
        outcome = runner.submit(bad).result()
        assert outcome == Outcome(WORST_ERROR, None, 1.0, f"{reason}, 2 times")
        with Journal(tmp_path, reader(Outcome)) as journal:
            journal.outcome(bad, outcome)
        with Journal(tmp_path, reader(Outcome)) as again:
            assert again.known(bad.key) == outcome
    finally:
        runner.close()


@pytest.mark.slow
def test_a_loss_touches_no_other_evaluation(task_cache: Path, tmp_path: Path) -> None:
    once = tmp_path / "once"
    # Unpacking makes the folder, then kills the worker; the second time the folder is there.
    steps = Misbehaving(os.mkdir, once), Misbehaving(signal.raise_signal, signal.SIGKILL)
    dies_once = Misbehaving(max, *steps)
    runner = WorkerPool(TaskSource(cache_dir=str(task_cache)), 2)
    try:
        with pytest.raises(FileExistsError):  # the second try runs, and finds what the first left
            runner.submit(evaluation(dies_once)).result()
        assert once.is_dir()
        with pytest.raises(UserError):  # a plan without content is refused, by a living worker
            runner.submit(evaluation()).result()
    finally:
        runner.close()


def test_one_worker_is_this_process_unless_something_is_limited() -> None:
    assert isinstance(make_runner(TaskSource(), 1), InProcess)
    limited = make_runner(TaskSource(), 1, ResourceLimits(seconds=60))
    assert isinstance(limited, WorkerPool)
    limited.close()
    with pytest.raises(UserError, match="number of workers is 0"):
        make_runner(TaskSource(), 0)
