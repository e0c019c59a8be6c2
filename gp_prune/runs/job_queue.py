"""The queue that runs each job at most once and writes its result down."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Generic, Self

from gp_prune.runs.executors import Runner, completed
from gp_prune.runs.inside import POLL_SECONDS, InsideStep
from gp_prune.runs.jobs import Job, R
from gp_prune.runs.journal import Journal


class JobQueue(Generic[R]):
    """Jobs that are run at most once, and whose results are recorded in their order.

    As a context manager it cancels the jobs that have not begun when its body raises.

    Args:
        runner: runs what the journal does not know.
        journal: remembers results, those of earlier runs of the same folder and of a run that
            is reused included.
        progress: hears how many of how many distinct jobs are done.
        of: number of distinct jobs where it is known; else progress hears how many so far.
        inside: is told the same, and how much of the running jobs is done, which the runner puts
            there; None for nobody.

    Attributes:
        results: what is known, by the keys of the jobs.
    """

    def __init__(
        self,
        runner: Runner,
        journal: Journal[R],
        progress: Callable[[int, int], None] = lambda done, of: None,
        of: int = 0,
        inside: InsideStep | None = None,
    ) -> None:
        self._runner = runner
        self._journal = journal
        self._progress = progress
        self._of = of
        self._inside = inside
        self._asked: set[str] = set()
        # With lent results in their places, so that the journal is the same with and without.
        self._waiting: deque[tuple[Job[R], Future[R]]] = deque()
        self.results: dict[str, R] = {}

    def submit(self, job: Job[R]) -> None:
        """Begin a job unless its result is known; record earlier ones that are done."""
        if job.key in self._asked:
            return
        self._asked.add(job.key)
        known = self._journal.known(job.key)
        if known is not None:
            self.results[job.key] = known
            self._tell()
            return
        if self._inside is not None:  # it may run now, in this process
            self._inside.count(len(self.results), max(self._of, len(self._asked)))
        lent = self._journal.lent(job.key)
        future = self._runner.submit(job) if lent is None else completed(lent)
        self._waiting.append((job, future))
        while self._waiting and self._waiting[0][1].done():
            self._record()

    def collect(self) -> dict[str, R]:
        """Wait for all jobs; return the results by the keys of the jobs."""
        while self._waiting:
            self._record()
        self._journal.sync()
        return self.results

    def _record(self) -> None:
        job, future = self._waiting.popleft()
        while self._inside is not None and not wait([future], POLL_SECONDS).done:
            self._inside.tell()
        result = future.result()
        if self._inside is not None:
            self._inside.drop(job.key)
        self._journal.outcome(job, result)
        self.results[job.key] = result
        self._tell()

    def _tell(self) -> None:
        done, of = len(self.results), max(self._of, len(self._asked))
        self._progress(done, of)
        if self._inside is not None:
            self._inside.count(done, of)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for _, future in self._waiting:
            future.cancel()


def run_with_journal(
    jobs: Iterable[Job[R]],
    runner: Runner,
    journal: Journal[R],
    progress: Callable[[int, int], None] = lambda done, of: None,
    inside: InsideStep | None = None,
) -> dict[str, R]:
    """Return the result of every job by its key; no job is run twice.

    Args:
        jobs: what is wanted. Of an iterator, the first jobs run while it makes the others.
        runner: see :class:`JobQueue`, also for the others.
        journal: remembers results.
        progress: hears how many of how many distinct jobs are done.
        inside: see :class:`JobQueue`.
    """
    of = len({job.key for job in jobs}) if isinstance(jobs, Sequence) else 0
    with JobQueue(runner, journal, progress, of, inside) as queue:
        for job in jobs:
            queue.submit(job)
        return queue.collect()
