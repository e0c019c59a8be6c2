"""Jobs are journalled in their order, and not run again when their run is resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from jobs_of_tests import Add, Nobody, Sum, Touch

from gp_prune.runs.executors import make_runner
from gp_prune.runs.job_queue import JobQueue, run_with_journal
from gp_prune.runs.jobs import Job, TaskSource, Workbench
from gp_prune.runs.journal import NAME, Journal
from gp_prune.runs.journal_lines import reader

JOBS = [Add((n, n + 1)) for n in range(6)]


def test_what_the_journal_holds_is_not_run_again(tmp_path: Path) -> None:
    runner = make_runner(TaskSource(), 1)
    with Journal(tmp_path, reader(Sum)) as journal:
        first = run_with_journal([*JOBS, *JOBS], runner, journal)
    assert list(first) == [job.key for job in JOBS]
    with Journal(tmp_path, reader(Sum)) as journal:
        assert run_with_journal(JOBS, Nobody(), journal) == first
        assert journal.known(Add((9,)).key) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_jobs_are_done_while_others_are_made(tmp_path: Path, workers: int) -> None:
    def made() -> Iterator[Touch]:
        for number in range(6):
            yield Touch((number,), path=str(tmp_path / str(number)))
            deadline = time.monotonic() + 600
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
