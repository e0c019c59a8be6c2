"""What is known is taken from the journal; the rest is run and written down."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from gp_prune.errors import UserError
from gp_prune.runs import processes
from gp_prune.runs.jobs import Job, R, TaskSource, Workbench, work
from gp_prune.runs.journal import Journal
from gp_prune.runs.limits import ResourceLimits
from gp_prune.runs.processes import Facts, Lost, Processes, Worker, cores

TRIES = 2
"""A job is tried so many times before its loss is its result."""


class Runner(Protocol):
    """Runs jobs; the part of an executor that a run needs."""

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train or load the networks of the tasks, so that they are in the cache."""

    def run(self, jobs: Iterable[Job[R]]) -> Iterator[R]:
        """The results, in the order of the jobs, each as soon as it is known.

        Of an iterator, the first jobs are begun while it makes the others.
        """

    def close(self) -> None:
        """Give processes back."""


class InProcess:
    """Runs jobs here, one after the other."""

    def __init__(self, source: TaskSource) -> None:
        self._workbench = Workbench(source)

    def prepare(self, tasks: Sequence[str]) -> None:
        """Load the tasks."""
        for name in tasks:
            self._workbench.task(name)

    def run(self, jobs: Iterable[Job[R]]) -> Iterator[R]:
        """Run one after the other."""
        for job in jobs:
            yield job.run(self._workbench)

    def close(self) -> None:
        """Nothing to give back."""


class Host:
    """Runs jobs in worker processes for any number of threads, each of which waits for its own.

    A job whose worker dies, hangs or takes too much memory is tried once more, in another worker;
    a second loss is its result. No other job notices.

    Args:
        source: where the workers find the tasks.
        allowance: what one job may use.
        expected: what the workers must find in loading a task, by its name.
    """

    def __init__(
        self,
        source: TaskSource,
        allowance: ResourceLimits,
        expected: Mapping[str, Facts] | None = None,
    ) -> None:
        self._source = source
        self._allowance = allowance
        self._expected = expected or {}
        self._processes = Processes()

    def load(self, *names: str) -> None:
        """Train or load tasks in a worker.

        Raises:
            UserError: the worker died over it.
        """
        try:
            with self._processes.borrow() as borrowed:
                for name in names:
                    self._ready(borrowed, name)
        except Lost as lost:
            raise UserError(
                f"{', '.join(names)} could not be loaded: {lost}; use fewer --workers where "
                "memory is short"
            ) from None

    def run(self, job: Job[R]) -> R:
        """The result of a job, which may be a failure with its reason."""
        reasons = []
        for _ in range(TRIES):
            try:
                with self._processes.borrow() as borrowed:
                    if job.task:
                        self._ready(borrowed, job.task)
                    allowance = self._allowance.times(work(job))
                    result: R = borrowed.call(processes.run, self._source, job, allowance=allowance)
                    return result
            except Lost as lost:
                reasons.append(str(lost))
        return job.failed(f"{reasons[-1]}, {TRIES} times")

    def _ready(self, borrowed: Worker, name: str) -> None:
        """Load the task without a limit: it is no fault of the candidate if that takes long."""
        if name not in borrowed.loaded:
            found: Facts = borrowed.call(processes.load, self._source, name)
            self._check(name, found)
            borrowed.loaded.add(name)

    def _check(self, name: str, found: Facts) -> None:
        """UserError where a result would differ from that of the main process."""
        for fact, wanted in self._expected.get(name, {}).items():
            if found[fact] != wanted:
                remedy = (
                    f"copy the cache folder of {name} from the main machine"
                    if fact == "network"
                    else "install the same version"
                )
                raise UserError(
                    f"a worker on {platform.node()} has another {fact} for {name!r} than the "
                    f"main process, {found[fact]} in the place of {wanted}; {remedy} there"
                )

    def pids(self) -> list[int]:
        """The worker processes that run now."""
        return self._processes.pids()

    def kill(self) -> None:
        """End the workers at once, whatever they are at."""
        self._processes.kill()

    def close(self) -> None:
        """End the workers; nothing may be under way any more."""
        self._processes.close()


class WorkerPool:
    """Runs jobs in worker processes with one torch thread each.

    Args:
        source: where the workers find the tasks.
        workers: number of processes.
        allowance: what one job may use.
    """

    def __init__(
        self, source: TaskSource, workers: int, allowance: ResourceLimits | None = None
    ) -> None:
        self.host = Host(source, allowance or ResourceLimits())
        self._source = source
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="gp-prune")

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train what was never trained, several at a time; workers then load all tasks.

        The loading goes on while the main process does something else, for which a core is left;
        a worker that finds none loads what it needs for its first jobs.

        Raises:
            UserError: a task cannot be loaded, or a worker died over it.
        """
        untrained = [name for name in tasks if not self._source.trained(name)]
        for future in [self._threads.submit(self.host.load, name) for name in untrained]:
            future.result()
        for _ in range(min(self._workers, max(1, cores() - 1))):
            self._threads.submit(self.host.load, *tasks)

    def run(self, jobs: Iterable[Job[R]]) -> Iterator[R]:
        """Run in the workers."""
        for _, future in in_order(jobs, lambda job: self._threads.submit(self.host.run, job)):
            yield future.result()

    def close(self) -> None:
        """End the processes at once, also in the middle of a job."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.host.kill()
        self._threads.shutdown(wait=True)
        self.host.close()


def in_order(
    jobs: Iterable[Job[R]], submit: Callable[[Job[R]], Future[R]]
) -> Iterator[tuple[Job[R], Future[R]]]:
    """Submit all jobs, and give each back with its future in their order.

    What is done is given back while further jobs are still being made. When nobody waits any
    more, what has not begun is taken back.
    """
    waiting: deque[tuple[Job[R], Future[R]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, submit(job)))
            while waiting and waiting[0][1].done():
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for _, future in waiting:
            future.cancel()


def make_runner(
    source: TaskSource, workers: int, allowance: ResourceLimits | None = None
) -> Runner:
    """A runner with that many workers; one worker means this very process, if nothing is limited.

    Args:
        source: where the tasks are.
        workers: number of processes.
        allowance: what one job may use; a limit needs a process that can be ended.

    Raises:
        UserError: the number of workers is not positive.
    """
    if workers < 1:
        raise UserError(f"the number of workers is {workers}; it must be at least 1")
    allowance = allowance or ResourceLimits()
    if workers == 1 and not allowance.limited:
        return InProcess(source)
    return WorkerPool(source, workers, allowance)


def run_with_journal(
    jobs: Iterable[Job[R]],
    runner: Runner,
    journal: Journal[R],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, R]:
    """The result of every job by its key; nothing is done twice.

    Args:
        jobs: what is wanted; the same one may stand there several times. Of an iterator, the first
            jobs are done already while it makes the others.
        runner: runs what the journal does not know.
        journal: remembers results, those of earlier runs of the same folder and of a run that
            is reused included.
        progress: hears how many of how many distinct jobs are done; of an iterator, of how many
            so far.
    """
    known_of = len({job.key for job in jobs}) if isinstance(jobs, Sequence) else 0
    found: dict[str, R] = {}
    asked: set[str] = set()
    # New jobs in the order of the requests, so that the journal is the same with and without
    # reuse; each with its result where another run has lent it.
    pending: deque[tuple[Job[R], R | None]] = deque()

    def unknown() -> Iterator[Job[R]]:
        for job in jobs:
            if job.key in asked:
                continue
            asked.add(job.key)
            known = journal.known(job)
            if known is not None:
                found[job.key] = known
                continue
            lent = journal.lent(job)
            pending.append((job, lent))
            if lent is None:
                yield job

    def record(job: Job[R], result: R) -> None:
        journal.outcome(job, result)
        found[job.key] = result
        progress(len(found), max(known_of, len(asked)))

    def record_lent() -> None:
        while pending and pending[0][1] is not None:
            record(*pending.popleft())  # type: ignore[arg-type]

    for result in runner.run(unknown()):
        record_lent()
        record(pending.popleft()[0], result)
    record_lent()
    journal.sync()
    return found
