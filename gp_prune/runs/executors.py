"""Where jobs run, and the queue that runs each of them once and writes its result down."""

from __future__ import annotations

import platform
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol, Self

from gp_prune.errors import UserError
from gp_prune.runs import processes
from gp_prune.runs.jobs import Job, R, TaskSource, Workbench, work
from gp_prune.runs.journal import Journal
from gp_prune.runs.processes import Facts, ResourceLimits, Worker, WorkerLost, cores

TRIES = 2
"""Number of times that a job is tried before the loss of its worker is its result."""


class Runner(Protocol):
    """Runs jobs; the part of an executor that a run needs."""

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train or load the networks of the tasks, so that they are in the cache."""

    def submit(self, job: Job[R]) -> Future[R]:
        """Begin a job as soon as there is room for it."""

    def close(self) -> None:
        """End all processes."""


def completed(result: R) -> Future[R]:
    """Return a future whose result is there already."""
    future: Future[R] = Future()
    future.set_result(result)
    return future


class InProcess:
    """Runs jobs in this process, each as soon as it is submitted."""

    def __init__(self, source: TaskSource) -> None:
        self._workbench = Workbench(source)

    def prepare(self, tasks: Sequence[str]) -> None:
        """Load the tasks."""
        for name in tasks:
            self._workbench.task(name)

    def submit(self, job: Job[R]) -> Future[R]:
        """Run the job now."""
        return completed(job.run(self._workbench))

    def close(self) -> None:
        """Do nothing: there are no processes."""


class Host:
    """Worker processes of one machine for any number of threads, each of which waits for its job.

    A worker is started when one is needed and none is free. A job whose worker dies, hangs or
    takes too much memory is tried once more, in another worker; a second loss is its result. No
    other job notices.

    Args:
        source: where the workers find the tasks.
        limits: what one job may use.
        expected: what the workers must find in loading a task, by its name.
    """

    def __init__(
        self,
        source: TaskSource,
        limits: ResourceLimits,
        expected: Mapping[str, Facts] | None = None,
    ) -> None:
        self._source = source
        self._limits = limits
        self._expected = expected or {}
        self._lock = threading.Lock()
        self._free: list[Worker] = []
        self._all: set[Worker] = set()
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[Worker]:
        """Lend a worker; one that is lost in the body is not used again.

        Raises:
            WorkerLost: the workers have been ended.
        """
        with self._lock:
            if self._closed:
                raise WorkerLost("the workers have been ended")
            worker = self._living() or Worker()
            self._all.add(worker)
        try:
            yield worker
        except Exception as error:
            with self._lock:
                if isinstance(error, WorkerLost):
                    self._all.discard(worker)
                else:  # the function that was called raised it, so the answer is complete
                    self._free.append(worker)
            raise
        except BaseException:  # its answer may still be on the way, and would be taken for another
            with self._lock:
                self._all.discard(worker)
            worker.end()
            raise
        with self._lock:
            self._free.append(worker)

    def _living(self) -> Worker | None:
        """Return a free worker; those that died while they were free are no job's fault."""
        while self._free:
            worker = self._free.pop()
            if worker.alive:
                return worker
            worker.end()
            self._all.discard(worker)
        return None

    def load(self, *names: str) -> None:
        """Train or load tasks in a worker.

        Raises:
            UserError: the worker died over it.
        """
        try:
            with self.borrow() as worker:
                for name in names:
                    self._load(worker, name)
        except WorkerLost as lost:
            raise UserError(
                f"{', '.join(names)} could not be loaded: {lost}; use fewer --workers where "
                "memory is short"
            ) from None

    def run(self, job: Job[R]) -> R:
        """Return the result of a job, which may be a failure with its reason."""
        reasons = []
        for _ in range(TRIES):
            try:
                with self.borrow() as worker:
                    if job.task:
                        self._load(worker, job.task)
                    limits = self._limits.times(work(job))
                    result: R = worker.call(processes.run, self._source, job, limits=limits)
                    return result
            except WorkerLost as lost:
                reasons.append(str(lost))
        return job.failed(f"{reasons[-1]}, {TRIES} times")

    def _load(self, worker: Worker, name: str) -> None:
        """Load a task without a limit: it is no fault of the candidate if that takes long."""
        if name not in worker.loaded:
            self._check(name, worker.call(processes.load, self._source, name))
            worker.loaded.add(name)

    def _check(self, name: str, facts: Facts) -> None:
        """Raise a UserError where a result would differ from that of the main process."""
        for fact, wanted in self._expected.get(name, {}).items():
            if facts[fact] != wanted:
                remedy = (
                    f"copy the cache folder of {name} from the main machine"
                    if fact == "network"
                    else "install the same version"
                )
                raise UserError(
                    f"a worker on {platform.node()} has another {fact} for {name!r} than the "
                    f"main process, {facts[fact]} in the place of {wanted}; {remedy} there"
                )

    def pids(self) -> list[int]:
        """Return the numbers of the worker processes."""
        with self._lock:
            return [worker.pid for worker in self._all]

    def kill(self) -> None:
        """End all workers at once; calls that wait for them raise :class:`WorkerLost`."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.kill()

    def close(self) -> None:
        """End all workers and close their pipes; no thread may use one any more."""
        self.kill()
        for worker in self._all:
            worker.end()


class WorkerPool:
    """Runs jobs in worker processes with one torch thread each.

    Args:
        source: where the workers find the tasks.
        workers: number of processes.
        limits: what one job may use.
    """

    def __init__(
        self, source: TaskSource, workers: int, limits: ResourceLimits | None = None
    ) -> None:
        self.host = Host(source, limits or ResourceLimits())
        self._source = source
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="gp-prune")

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train what was never trained, several at a time; workers then load all tasks.

        The loading goes on while the main process does something else, for which a core is left;
        a worker that has no task loaded loads what it needs for its first jobs.

        Raises:
            UserError: a task cannot be loaded, or a worker died over it.
        """
        untrained = [name for name in tasks if not self._source.trained(name)]
        for future in [self._threads.submit(self.host.load, name) for name in untrained]:
            future.result()
        for _ in range(min(self._workers, max(1, cores() - 1))):
            self._threads.submit(self.host.load, *tasks)

    def submit(self, job: Job[R]) -> Future[R]:
        """Run the job in the next worker that is free."""
        return self._threads.submit(self.host.run, job)

    def close(self) -> None:
        """End the processes at once, also in the middle of a job."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.host.kill()
        self._threads.shutdown(wait=True)
        self.host.close()


def make_runner(
    source: TaskSource,
    workers: int,
    limits: ResourceLimits | None = None,
    cluster: str | None = None,
) -> Runner:
    """Return a runner; one worker means this very process, if nothing is limited.

    Args:
        source: where the tasks are.
        workers: number of processes.
        limits: what one job may use; a limit needs a process that can be ended.
        cluster: address of a Dask scheduler whose workers take the place of the processes.

    Raises:
        UserError: the number of workers is not positive, or the cluster cannot be used.
    """
    if cluster is not None:
        from gp_prune.runs.dask import DaskCluster

        return DaskCluster(source, cluster, limits)
    if workers < 1:
        raise UserError(f"the number of workers is {workers}; it must be at least 1")
    if workers == 1 and (limits is None or not limits.limited):
        return InProcess(source)
    return WorkerPool(source, workers, limits)


class JobQueue(Generic[R]):
    """Jobs that are run at most once, and whose results are recorded in their order.

    As a context manager it cancels the jobs that have not begun when its body raises.

    Args:
        runner: runs what the journal does not know.
        journal: remembers results, those of earlier runs of the same folder and of a run that
            is reused included.
        progress: hears how many of how many distinct jobs are done.
        of: number of distinct jobs where it is known; else progress hears how many so far.

    Attributes:
        results: what is known, by the keys of the jobs.
    """

    def __init__(
        self,
        runner: Runner,
        journal: Journal[R],
        progress: Callable[[int, int], None] = lambda done, of: None,
        of: int = 0,
    ) -> None:
        self._runner = runner
        self._journal = journal
        self._progress = progress
        self._of = of
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
            return
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
        result = future.result()
        self._journal.outcome(job, result)
        self.results[job.key] = result
        self._progress(len(self.results), max(self._of, len(self._asked)))

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
) -> dict[str, R]:
    """Return the result of every job by its key; no job is run twice.

    Args:
        jobs: what is wanted. Of an iterator, the first jobs run while it makes the others.
        runner: see :class:`JobQueue`, also for the others.
        journal: remembers results.
        progress: hears how many of how many distinct jobs are done.
    """
    of = len({job.key for job in jobs}) if isinstance(jobs, Sequence) else 0
    with JobQueue(runner, journal, progress, of) as queue:
        for job in jobs:
            queue.submit(job)
        return queue.collect()
