"""Worker processes of one machine, lent to threads: what is lost is replaced and tried again."""

from __future__ import annotations

import math
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from gp_prune.errors import UserError
from gp_prune.runs import processes
from gp_prune.runs.inside import InsideStep
from gp_prune.runs.jobs import Job, R, T, TaskSource, work
from gp_prune.runs.processes import Facts, LimitExceeded, ResourceLimits, Worker, WorkerLost

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
        inside: is told how much of a job, or of the training of a task, is done.
    """

    def __init__(
        self,
        source: TaskSource,
        limits: ResourceLimits,
        expected: Mapping[str, Facts] | None = None,
        inside: InsideStep | None = None,
    ) -> None:
        self._source = source
        self._inside = inside
        self._limits = limits
        self._expected = {} if expected is None else expected  # which may be filled later
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
            hear = self._hear(job.key)
            result: R = worker.call(processes.run, self._source, job, limits=limits, hear=hear)
            return result

        for _ in range(TRIES):
            try:
                return self._retry(compute)
            except LimitExceeded as exceeded:
                reason = str(exceeded)
            except WorkerLost as lost:
                raise JobLost(job.title, str(lost)) from None
        return job.failed(f"{reason}, {TRIES} times")

    def _hear(self, key: str) -> Callable[[float], None] | None:
        inside = self._inside
        return partial(inside.put, key) if inside is not None and inside.active else None

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
            found = worker.call(processes.load, self._source, name, hear=self._hear(name))
            self._check(name, found)
            worker.loaded.add(name)

    def _check(self, name: str, facts: Facts) -> None:
        """Raise a UserError where a result would differ from that of the main process."""
        for fact, wanted in self._expected.get(name, {}).items():
            if facts[fact] != wanted:
                remedy = "install the same version"
                if fact in ("network", "data"):
                    remedy = f"copy the cache folder, or the files, of {name} from the main machine"
                    if name.rpartition(":")[0].endswith(".py"):
                        remedy = (
                            "let the function give the same network and data at every call, and "
                            "copy the files that it reads from the main machine"
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
