"""How far a step is: jobs that are done, and shares of those that run, here and in workers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from jobs_of_tests import Sum, Trained, report_twice

from gp_prune.runs.executors import InProcess
from gp_prune.runs.inside import Inside, InsideStep
from gp_prune.runs.job_queue import run_with_journal
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.runs.journal_lines import reader
from gp_prune.runs.processes import Worker


def test_a_step_counts_what_is_done_and_shares_of_what_runs() -> None:
    heard: list[Inside] = []
    step = InsideStep("networks")
    step.hear = heard.append
    step.count(1, 3)
    threads = [threading.Thread(target=step.put, args=(key, 0.5)) for key in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    step.tell()
    step.drop("a")
    step.count(2, 3)
    step.put("c", 1.0)
    step.tell()
    assert heard == [Inside("networks", done, 3) for done in (1, 2.0, 2.5, 3)]


def test_a_job_in_this_process_tells_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gp_prune.training.shares.LEAST_SECONDS", 0.0)
    heard: list[float] = []
    step = InsideStep("sums")
    step.hear = lambda inside: heard.append(inside.done)
    with Journal(tmp_path, reader(Sum)) as journal:
        runner = InProcess(TaskSource(), step)
        jobs = [Trained((1,)), Trained((2,))]
        run_with_journal(jobs, runner, journal, inside=step)
        assert sorted(set(heard)) == [0, 0.5, 1, 1.5, 2] and heard == sorted(heard)
        heard.clear()
        run_with_journal(jobs, runner, journal, inside=step)
    assert heard == [1, 2], "the journal knows both"


def test_a_worker_tells_its_share_before_its_answer() -> None:
    worker = Worker()
    try:
        heard: list[float] = []
        assert worker.call(report_twice, 0.25, hear=heard.append) == "done"
        assert heard == [0.5, 1.0]
        assert worker.call(report_twice, 0.0) == "done"
    finally:
        worker.end()
