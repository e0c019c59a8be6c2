"""Floor 9: where evaluations run: in this process, or in a pool of worker processes.

Results come back in the order of the requests, and every evaluation carries its own seed, so the
result of a search depends neither on the executor nor on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from gp_prune.errors import UserError
from gp_prune.search.evaluation import Evaluation, Evaluator, Outcome, TaskSource
from gp_prune.vision import TorchvisionWarning


class Runner(Protocol):
    """Runs evaluations; the part of an executor that a search needs."""

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train or load the networks of the tasks, so that they are in the cache."""

    def run(self, evaluations: Sequence[Evaluation]) -> Iterator[Outcome]:
        """The outcomes, in the order of the evaluations, each as soon as it is known."""

    def close(self) -> None:
        """Give processes back."""


class InProcess:
    """Runs evaluations here, one after the other."""

    def __init__(self, source: TaskSource) -> None:
        self._evaluator = Evaluator(source)

    def prepare(self, tasks: Sequence[str]) -> None:
        """Load the tasks."""
        for name in tasks:
            self._evaluator.task(name)

    def run(self, evaluations: Sequence[Evaluation]) -> Iterator[Outcome]:
        """Evaluate one after the other."""
        for evaluation in evaluations:
            yield self._evaluator.evaluate(evaluation)

    def close(self) -> None:
        """Nothing to give back."""


class WorkerPool:
    """Runs evaluations in spawned processes with one torch thread each.

    A worker that dies takes the pool with it; the pool is then made anew, and what was under way
    is run again, one by one. An evaluation that goes on killing workers is an error by name.

    Args:
        source: where the workers find the tasks.
        workers: number of processes.
    """

    def __init__(self, source: TaskSource, workers: int) -> None:
        self._source = source
        self._workers = workers
        self._pool = self._start()

    def _start(self) -> Executor:
        return ProcessPoolExecutor(
            self._workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(self._source,),
        )

    def prepare(self, tasks: Sequence[str]) -> None:
        """Train or load the tasks, several at a time.

        Raises:
            UserError: a worker died; also where a script starts workers without a main guard.
        """
        try:
            for future in [self._pool.submit(_load, name) for name in tasks]:
                future.result()
        except BrokenProcessPool:
            raise UserError(
                f"a worker died while it loaded {', '.join(tasks)}; use fewer workers where memory "
                'is short, and in a script call evolve under `if __name__ == "__main__":`'
            ) from None

    def run(self, evaluations: Sequence[Evaluation]) -> Iterator[Outcome]:
        """Evaluate in the workers; at most a few evaluations per worker are under way.

        Raises:
            UserError: a worker died twice over one evaluation, which the sentence names.
        """
        done = 0
        alone = 0  # after a death, so many evaluations run one by one: the next death has a name
        deaths = 0
        while done < len(evaluations):
            ahead = 1 if alone else 4 * self._workers
            try:
                for outcome in self._ordered(evaluations[done:], ahead):
                    done += 1
                    alone, deaths = max(0, alone - 1), 0
                    yield outcome
                    if ahead == 1 and not alone:
                        break
            except BrokenProcessPool:
                deaths += 1
                if ahead == 1 and deaths > 2:
                    raise UserError(
                        f"a worker died {deaths} times while it evaluated {evaluations[done].key}; "
                        "where memory is short use fewer --workers, then go on with --resume"
                    ) from None
                alone = 4 * self._workers
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._start()

    def _ordered(self, evaluations: Sequence[Evaluation], ahead: int) -> Iterator[Outcome]:
        waiting: list[Future[Outcome]] = []
        position = 0
        try:
            while waiting or position < len(evaluations):
                while position < len(evaluations) and len(waiting) < ahead:
                    waiting.append(self._pool.submit(_evaluate, evaluations[position]))
                    position += 1
                yield waiting[0].result()
                del waiting[0]
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def make_runner(source: TaskSource, workers: int) -> Runner:
    """A runner with that many workers; one worker means this very process."""
    if workers < 1:
        raise UserError(f"the number of workers is {workers}; it must be at least 1")
    return InProcess(source) if workers == 1 else WorkerPool(source, workers)


_evaluator: Evaluator | None = None
"""The evaluator of this worker process; None in the main process."""


def _start_worker(source: TaskSource) -> None:
    import signal
    import threading

    import torch

    global _evaluator
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    # The main process alone answers Ctrl-C; workers end when their pool is shut down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The main process has given it already.
    warnings.simplefilter("ignore", TorchvisionWarning)
    _evaluator = Evaluator(source)


def _end_with_parent() -> None:
    """Leave when the main process is gone: a pool's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker process"
    parent.join()
    os._exit(1)


def _worker() -> Evaluator:
    assert _evaluator is not None, "not a worker process"
    return _evaluator


def _load(name: str) -> None:
    _worker().task(name)


def _evaluate(evaluation: Evaluation) -> Outcome:
    return _worker().evaluate(evaluation)
