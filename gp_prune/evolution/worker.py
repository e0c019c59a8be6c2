"""Floor 9: what a worker process does: answer one request after the other until its stdin ends."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from typing import IO, TYPE_CHECKING

from gp_prune.evolution.processes import receive, send

if TYPE_CHECKING:
    from gp_prune.evolution.jobs import Job, R, Workbench
    from gp_prune.evolution.source import TaskSource
    from gp_prune.tasks import Task


def serve() -> None:
    """Answer requests from stdin on what was stdout; what code here prints goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(sys.stdin.buffer, requests), daemon=True)
    reader.start()
    while True:
        send(answers, _answer(requests.get()))


def _read(stream: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    """Hand requests on; leave at once when the parent is gone, whatever is being computed."""
    while (request := receive(stream)) is not None:
        requests.put(request)
    os._exit(1)


def _answer(request: bytes) -> bytes:
    """The value of the request, or the exception that it raised."""
    try:
        function, args = pickle.loads(request)
        return pickle.dumps((True, function(*args)))
    except BaseException as error:
        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        try:
            return pickle.dumps((False, error))
        except Exception:  # an exception of a library need not survive pickling
            return pickle.dumps((False, RuntimeError(traceback.format_exc())))


Facts = dict[str, str]
"""The digest of a network, and the versions of the packages that prune and tune it."""

_PACKAGES = ("gp-prune", "torch", "torch-pruning")

_workbenches: dict[TaskSource, Workbench] = {}
"""The workbench of this process for every source, with the tasks that it has loaded."""


def _workbench(source: TaskSource) -> Workbench:
    if source not in _workbenches:
        import warnings

        import torch

        from gp_prune.evolution.jobs import Workbench
        from gp_prune.vision import TorchvisionWarning

        torch.set_num_threads(1)
        # The main process has given it already.
        warnings.simplefilter("ignore", TorchvisionWarning)
        _workbenches[source] = Workbench(source)
    return _workbenches[source]


def load(source: TaskSource, name: str) -> Facts:
    """Load a task, training its network if no cache has it; gives what decides its results."""
    return facts(_workbench(source).task(name)[0])


def facts(task: Task) -> Facts:
    """What must be the same on every machine for the results to be the same."""
    import importlib.metadata

    from gp_prune.evolution.seeds import network_digest

    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"network": network_digest(task.model), **packages}


def run(source: TaskSource, job: Job[R]) -> R:
    """The result of a job."""
    return job.run(_workbench(source))
