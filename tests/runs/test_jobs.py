"""Any job runs in any runner; one whose workers are lost is named, or set aside."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jobs_of_tests import Add, Hoard, Nobody, Sum

from gp_prune.runs import host
from gp_prune.runs.executors import Runner, WorkerPool, make_runner
from gp_prune.runs.host import JobLost
from gp_prune.runs.job_queue import run_with_journal
from gp_prune.runs.jobs import RECALLED, TaskSource, Workbench
from gp_prune.runs.journal import NAME, Journal
from gp_prune.runs.journal_lines import reader

JOBS = [Add((n, n + 1)) for n in range(6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_the_same_for_any_number_of_workers(workers: int) -> None:
    runner = make_runner(TaskSource(), workers)
    try:
        runner.prepare([])
        assert [runner.submit(job).result() for job in JOBS] == [
            job.run(Workbench(TaskSource())) for job in JOBS
        ]
    finally:
        runner.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are tried again at once."""
    monkeypatch.setattr(host, "PAUSES", (0.01, 0.01))


def run_all(numbers: Sequence[int], runner: Runner, folder: Path) -> dict[str, Sum]:
    with Journal(folder, reader(Sum)) as journal:
        return run_with_journal([Add((n,)) for n in numbers], runner, journal)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.usefixtures("hasty")
def test_a_lost_job_stops_the_run_by_name_and_is_set_aside_by_the_user_alone(
    tmp_path: Path, workers: int
) -> None:
    runner = WorkerPool(TaskSource(), workers)
    words = r"^the sum of \(13,\) could not be computed: its worker died \(SIGKILL\), 3 times; .*"
    try:
        with pytest.raises(JobLost, match=words + "--resume and --skip-lost$"):
            run_all([1, 13, 2], runner, tmp_path)
    finally:
        runner.close()
    keys = [json.loads(line)["key"] for line in (tmp_path / NAME).read_text().splitlines()]
    assert keys == [Add((1,)).key], "a loss is no result"
    skipping = make_runner(TaskSource(), workers, skip_lost=True)
    failure = "set aside by --skip-lost: its worker died (SIGKILL), 3 times"
    try:
        results = run_all([1, 13, 2], skipping, tmp_path)
    finally:
        skipping.close()
    assert [results[Add((n,)).key].failure for n in (1, 13, 2)] == ["", failure, ""]
    again = run_all([1, 13, 2], Nobody(), tmp_path)
    assert again == results, "the decision is kept"


def test_memory_that_is_short_in_this_process_is_a_loss_too(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, reader(Sum)) as journal,
        pytest.raises(JobLost, match="could not be computed: ran out of memory; free memory"),
    ):
        run_with_journal([Hoard(())], make_runner(TaskSource(), 1), journal)


def test_a_system_that_starts_no_process_is_a_loss_too(
    monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("subprocess.Popen", refuse)
    runner = WorkerPool(TaskSource(), 2)
    try:
        with pytest.raises(JobLost, match=r"no worker could be started \(Cannot allocate memory\)"):
            runner.submit(Add((1,))).result()
    finally:
        runner.close()


def test_a_lost_job_survives_pickling() -> None:
    lost = pickle.loads(pickle.dumps(JobLost("it", "why")))
    assert (lost.title, lost.reason) == ("it", "why")


def test_a_workbench_keeps_what_was_used_last() -> None:
    workbench = Workbench(TaskSource())
    made: list[int] = []

    def get(number: int) -> int:
        def make() -> int:
            made.append(number)
            return number

        return workbench.recall(str(number), make)

    for number in (*range(RECALLED), 0, RECALLED, 0, 1):
        assert get(number) == number
    assert made == [*range(RECALLED), RECALLED, 1]
