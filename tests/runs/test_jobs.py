"""Any job runs in any runner, is journalled, and is not run again when its run is resumed."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from jobs_of_tests import Add, Hoard, Sum, Touch

from gp_prune.runs import executors
from gp_prune.runs.executors import (
    JobLost,
    JobQueue,
    Runner,
    WorkerPool,
    make_runner,
    run_with_journal,
)
from gp_prune.runs.jobs import RECALLED, Job, TaskSource, Workbench
from gp_prune.runs.journal import NAME, Journal, reader

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


def test_what_the_journal_holds_is_not_run_again(tmp_path: Path) -> None:
    runner = make_runner(TaskSource(), 1)
    with Journal(tmp_path, reader(Sum)) as journal:
        first = run_with_journal([*JOBS, *JOBS], runner, journal)
    assert list(first) == [job.key for job in JOBS]
    with Journal(tmp_path, reader(Sum)) as journal:
        assert run_with_journal(JOBS, _nobody, journal) == first  # type: ignore[arg-type]
        assert journal.known(Add((9,)).key) is None


class _Nobody:
    def submit(self, job: Add) -> Any:
        raise AssertionError


_nobody = _Nobody()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_jobs_are_done_while_others_are_made(tmp_path: Path, workers: int) -> None:
    def made() -> Iterator[Touch]:
        for number in range(6):
            yield Touch((number,), path=str(tmp_path / str(number)))
            deadline = time.monotonic() + 30
            while number < 4 and not (tmp_path / str(number)).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)

    heard: list[tuple[int, int]] = []
    runner = make_runner(TaskSource(), workers)
    try:
        with Journal(tmp_path, reader(Sum)) as journal:
            journal.lend({Add((n,)).key: Add((n,)).run(Workbench(TaskSource())) for n in (4, 5)})
            found = run_with_journal(made(), runner, journal, lambda *state: heard.append(state))
    finally:
        runner.close()
    assert [found[Add((n,)).key].total for n in range(6)] == [n / 3 for n in range(6)]
    assert [done for done, _ in heard] == [1, 2, 3, 4, 5, 6]
    assert heard[-1] == (6, 6) and all(done <= of for done, of in heard)
    keys = [json.loads(line)["key"] for line in (tmp_path / NAME).read_text().splitlines()]
    assert keys == [Add((n,)).key for n in range(6)]


def test_progress_of_a_list_knows_the_end(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    with Journal(tmp_path, reader(Sum)) as journal:
        runner = make_runner(TaskSource(), 1)
        run_with_journal([*JOBS, *JOBS], runner, journal, lambda *state: heard.append(state))
    assert heard == [(n + 1, len(JOBS)) for n in range(len(JOBS))]


class _Waiting:
    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def submit(self, job: Job[Any]) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None:
        pass


def test_what_has_not_begun_is_cancelled_when_the_body_raises(tmp_path: Path) -> None:
    runner = _Waiting()
    with (
        Journal(tmp_path, reader(Sum)) as journal,
        pytest.raises(ZeroDivisionError),
        JobQueue(runner, journal) as queue,
    ):
        for job in JOBS:
            queue.submit(job)
        raise ZeroDivisionError
    assert len(runner.futures) == len(JOBS)
    assert all(future.cancelled() for future in runner.futures)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are tried again at once."""
    monkeypatch.setattr(executors, "PAUSES", (0.01, 0.01))


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
    again = run_all([1, 13, 2], _nobody, tmp_path)  # type: ignore[arg-type]
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
