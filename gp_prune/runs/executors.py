"""Where jobs run: in this process, in worker processes, or on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from typing import Protocol

from gp_prune.errors import UserError
from gp_prune.runs import processes
from gp_prune.runs.host import Host, JobLost
from gp_prune.runs.inside import POLL_SECONDS, InsideStep
from gp_prune.runs.jobs import Job, R, TaskSource, Workbench
from gp_prune.runs.processes import (
    Facts,
    ResourceLimits,
    cores,
)


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


@contextmanager
def _followed(key: str, inside: InsideStep) -> Iterator[None]:
    """Tell how much is done of the training in the body."""
    from gp_prune.training.shares import listening

    def hear(share: float) -> None:
        inside.put(key, share)
        inside.tell()

    with listening(hear) if inside.active else nullcontext():
        yield


def load_tasks(source: TaskSource, tasks: Sequence[str], inside: InsideStep) -> Iterator[str]:
    """Train or load tasks in this process, and yield the name of each that is ready."""
    for number, name in enumerate(tasks):
        inside.count(number, len(tasks))
        with _followed(name, inside):
            source.load_once(name)
        inside.drop(name)
        yield name
    inside.count(len(tasks), len(tasks))


class InProcess:
    """Runs jobs in this process, each as soon as it is submitted.

    Args:
        source: where the tasks are.
        inside: is told how much of a job is done.
    """

    def __init__(self, source: TaskSource, inside: InsideStep | None = None) -> None:
        self._workbench = Workbench(source)
        self._inside = inside or InsideStep()
        self._inside.active = inside is not None

    def prepare(self, tasks: Sequence[str]) -> None:
        """Load the tasks."""
        for _ in load_tasks(self._workbench.source, tasks, self._inside):
            pass

    def submit(self, job: Job[R]) -> Future[R]:
        """Run the job now."""
        try:
            with _followed(job.key, self._inside):
                return completed(job.run(self._workbench))
        except Exception as error:
            if not processes.out_of_memory(error):
                raise
            raise JobLost(job.title, "ran out of memory") from error

    def close(self) -> None:
        """Do nothing: there are no processes."""


class WorkerPool:
    """Runs jobs in worker processes with one torch thread each.

    Args:
        source: where the workers find the tasks.
        workers: number of processes.
        limits: what one job may use.
        inside: is told how much of a job, or of the training of a task, is done.
    """

    def __init__(
        self,
        source: TaskSource,
        workers: int,
        limits: ResourceLimits | None = None,
        inside: InsideStep | None = None,
    ) -> None:
        self._facts: dict[str, Facts] = {}
        self._inside = inside or InsideStep()
        self.host = Host(source, limits or ResourceLimits(), self._facts, inside)
        self._source = source
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="gp-prune")

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train what was never trained, several at a time; then load all tasks, here and there.

        Workers must find the networks and data of the main process: a user's function may give
        another network at each call.

        The loading goes on while the main process does something else, for which a core is left;
        a worker that has no task loaded loads what it needs for its first jobs.

        Raises:
            UserError: a task cannot be loaded, or a worker died over it.
        """
        untrained = [name for name in tasks if not self._source.trained(name)]
        self._inside.count(0, len(tasks))
        for future in [self._threads.submit(self.host.load, name) for name in untrained]:
            while not wait([future], POLL_SECONDS).done:
                self._inside.tell()
            future.result()
        for number, name in enumerate(tasks, 1):
            self._facts[name] = processes.facts(self._source.load_once(name))
            self._inside.drop(name)
            self._inside.count(number, len(tasks))
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


def in_process(
    workers: int,
    limits: ResourceLimits | None = None,
    cluster: str | None = None,
    *,
    skip_lost: bool = False,
) -> bool:
    """Return whether jobs run in this very process, see :func:`make_runner`."""
    limited = limits is not None and limits.limited
    return cluster is None and workers == 1 and not skip_lost and not limited


def make_runner(
    source: TaskSource,
    workers: int,
    limits: ResourceLimits | None = None,
    cluster: str | None = None,
    *,
    skip_lost: bool = False,
    inside: InsideStep | None = None,
) -> Runner:
    """Return a runner; one worker means this very process, if nothing is limited or skipped.

    Args:
        source: where the tasks are.
        workers: number of processes.
        limits: what one job may use; a limit needs a process that can be ended.
        cluster: address of a Dask scheduler whose workers take the place of the processes.
        skip_lost: whether jobs whose workers are lost again and again are set aside.
        inside: is told how much of the running jobs is done, and in :meth:`Runner.prepare` of the
            tasks.

    Raises:
        UserError: the number of workers is not positive, or the cluster cannot be used.
    """
    runner: Runner
    if cluster is not None:
        from gp_prune.runs.dask import DaskCluster

        runner = DaskCluster(source, cluster, limits, inside)
    elif workers < 1:
        raise UserError(f"the number of workers is {workers}; it must be at least 1")
    elif in_process(workers, limits, skip_lost=skip_lost):
        runner = InProcess(source, inside)
    else:
        runner = WorkerPool(source, workers, limits, inside)
    return SkipLost(runner) if skip_lost else runner
