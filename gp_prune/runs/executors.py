"""Where jobs run, and the queue that runs each of them once and writes its result down."""

from __future__ import annotations

import math
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol, Self

from gp_prune.errors import UserError
from gp_prune.runs import processes
from gp_prune.runs.jobs import Job, R, T, TaskSource, Workbench, work
from gp_prune.runs.journal import Journal
from gp_prune.runs.processes import (
    Facts,
    LimitExceeded,
    ResourceLimits,
    Worker,
    WorkerLost,
    cores,
)

TRIES = 2
"""Number of times that a job is tried before it is its result that it exceeds a limit."""

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before a job whose worker was lost is tried once more; then its run stops."""


class JobLost(UserError):
    """Report a job whose workers were lost again and again, which is no result of the job.

    Attributes:
        title: what a person calls the job.
        reason: how the last worker was lost.
    """

    def __init__(self, title: str, reason: str) -> None:
        super().__init__(
            f"{title} could not be computed: {reason}; free memory or give fewer --workers and go "
            "on with --resume, or set it aside with --resume and --skip-lost"
        )
        self.title, self.reason = title, reason

    def __reduce__(self) -> tuple[type[JobLost], tuple[str, str]]:
        """Pickle both arguments; by default an exception is pickled by its message alone."""
        return JobLost, (self.title, self.reason)


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


def transform(
    future: Future[R], function: Callable[[Future[R]], R], cancel: Callable[[], object]
) -> Future[R]:
    """Return a future of what a function makes of another one that is done.

    Args:
        future: the other one.
        function: called with it; what it raises is raised by the result.
        cancel: called when the result is cancelled.
    """
    made: Future[R] = Future()

    def finish(done: Future[R]) -> None:
        if not made.set_running_or_notify_cancel():
            return
        try:
            made.set_result(function(done))
        except BaseException as error:
            made.set_exception(error)

    made.add_done_callback(lambda _: cancel())  # without effect on one that is done
    future.add_done_callback(finish)
    return made


class SkipLost:
    """Sets lost jobs aside: the user has decided that they fail.

    Args:
        runner: runs the jobs.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.prepare, self.close = runner.prepare, runner.close

    def submit(self, job: Job[R]) -> Future[R]:
        """Run the job; the loss of its workers is its result."""

        def result(done: Future[R]) -> R:
            try:
                return done.result()
            except JobLost as lost:
                return job.failed(f"set aside by --skip-lost: {lost.reason}")

        future = self._runner.submit(job)
        return transform(future, result, future.cancel)


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
        try:
            return completed(job.run(self._workbench))
        except Exception as error:
            if not processes.out_of_memory(error):
                raise
            raise JobLost(job.title, "ran out of memory") from error

    def close(self) -> None:
        """Do nothing: there are no processes."""


class Host:
    """Worker processes of one machine for any number of threads, each of which waits for its job.

    A worker is started when one is needed and none is free. A job that exceeds a limit of the
    user is tried once more, in another worker; then that is its result. A job whose worker is lost
    for another reason is tried again after a pause, and with one worker fewer from then on. No
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
        self._changed = threading.Condition()
        self._free: list[Worker] = []
        self._all: set[Worker] = set()
        self._most = math.inf
        self._lent = 0
        self._at_once = 0  # the most that were lent at one time since the last loss
        self._ended = threading.Event()

    @contextmanager
    def borrow(self) -> Iterator[Worker]:
        """Lend a worker as soon as there may be one more; one lost in the body is not used again.

        Raises:
            WorkerLost: the workers have been ended, or none could be started.
        """
        with self._changed:
            while self._lent >= self._most and not self._ended.is_set():
                self._changed.wait()
            if self._ended.is_set():
                raise WorkerLost("the workers have been ended")
            worker = self._living() or Worker()
            self._all.add(worker)
            self._lent += 1
            self._at_once = max(self._at_once, self._lent)
        reusable = False
        try:
            yield worker
            reusable = True
        except Exception as error:
            # Another one was raised by the function that was called, so the answer is complete.
            reusable = not isinstance(error, WorkerLost)
            if not reusable and not isinstance(error, LimitExceeded):
                with self._changed:
                    self._most = max(1, min(self._most, self._at_once) - 1)
                    self._at_once = 0
            raise
        finally:
            with self._changed:
                self._lent -= 1
                if reusable:
                    self._free.append(worker)
                else:
                    self._all.discard(worker)
                self._changed.notify_all()
            if not reusable:  # its answer may still be on the way, and be taken for another
                worker.end()

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
            UserError: workers died over it again and again.
        """

        def load_all(worker: Worker) -> None:
            for name in names:
                self._load(worker, name)

        try:
            self._retry(load_all)
        except WorkerLost as lost:
            raise UserError(
                f"{', '.join(names)} could not be loaded: {lost}; use fewer --workers where "
                "memory is short"
            ) from None

    def run(self, job: Job[R]) -> R:
        """Return the result of a job, which may be that it exceeds a limit.

        Raises:
            JobLost: workers were lost over it again and again.
        """
        limits, reason = self._limits.times(work(job)), ""

        def compute(worker: Worker) -> R:
            if job.task:
                self._load(worker, job.task)
            result: R = worker.call(processes.run, self._source, job, limits=limits)
            return result

        for _ in range(TRIES):
            try:
                return self._retry(compute)
            except LimitExceeded as exceeded:
                reason = str(exceeded)
            except WorkerLost as lost:
                raise JobLost(job.title, str(lost)) from None
        return job.failed(f"{reason}, {TRIES} times")

    def _retry(self, function: Callable[[Worker], T]) -> T:
        """Return what a function gets from a worker; try again, after pauses, when it is lost."""
        for pause in (*PAUSES, 0.0):
            try:
                with self.borrow() as worker:
                    return function(worker)
            except LimitExceeded:
                raise
            except WorkerLost as lost:
                reason = str(lost)
            if self._ended.wait(pause):
                break
        raise WorkerLost(f"{reason}, {len(PAUSES) + 1} times")

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
        with self._changed:
            return [worker.pid for worker in self._all]

    def kill(self) -> None:
        """End all workers at once; calls that wait for them raise :class:`WorkerLost`."""
        with self._changed:
            self._ended.set()
            for worker in self._all:
                worker.kill()
            self._changed.notify_all()

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
    *,
    skip_lost: bool = False,
) -> Runner:
    """Return a runner; one worker means this very process, if nothing is limited or skipped.

    Args:
        source: where the tasks are.
        workers: number of processes.
        limits: what one job may use; a limit needs a process that can be ended.
        cluster: address of a Dask scheduler whose workers take the place of the processes.
        skip_lost: whether jobs whose workers are lost again and again are set aside.

    Raises:
        UserError: the number of workers is not positive, or the cluster cannot be used.
    """
    runner: Runner
    if cluster is not None:
        from gp_prune.runs.dask import DaskCluster

        runner = DaskCluster(source, cluster, limits)
    elif workers < 1:
        raise UserError(f"the number of workers is {workers}; it must be at least 1")
    elif workers == 1 and not skip_lost and (limits is None or not limits.limited):
        runner = InProcess(source)
    else:
        runner = WorkerPool(source, workers, limits)
    return SkipLost(runner) if skip_lost else runner


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
