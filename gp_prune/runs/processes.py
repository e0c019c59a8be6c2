"""What a worker process does: answer one request after the other until its stdin ends."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from gp_prune.runs.limits import ResourceLimits, watched

if TYPE_CHECKING:
    from gp_prune.runs.jobs import Job, R, TaskSource, Workbench
    from gp_prune.tasks import Task


HEADER = 8
"""Bytes of the length that stands before each message."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from gp_prune.runs.processes import serve; serve()"
)


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Lost(Exception):
    """A worker was lost before it answered; the message says why."""


class Worker:
    """One worker process with one torch thread; not to be asked from two threads at once.

    Attributes:
        loaded: what it has been made ready for; free for the user of the worker.
    """

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        # A group of its own: Ctrl-C reaches the main process alone, which then ends its workers.
        group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            **group,
        )

    def call(
        self, function: Callable[..., Any], *args: Any, allowance: ResourceLimits | None = None
    ) -> Any:
        """``function(*args)`` in the worker; an exception there is raised here.

        Args:
            function: a function that the worker can import.
            args: what pickle can carry.
            allowance: what it may use.

        Raises:
            Lost: the worker died, was killed for using too much, or ran out of memory; it is of
                no use any more.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request = pickle.dumps((function, args))
        with watched(
            self._process.pid, allowance or ResourceLimits(), self._process.kill
        ) as reasons:
            try:
                send(self._process.stdin, request)
                answer = receive(self._process.stdout)
            except (OSError, ValueError):  # a ValueError: the pipes were closed meanwhile
                answer = None
        if answer is None or reasons:
            self.end()
            raise Lost(reasons[0] if reasons else f"its worker died ({self._death()})")
        done, value = pickle.loads(answer)
        if done:
            return value
        if isinstance(value, BaseException) and _out_of_memory(value):
            self.end()
            raise Lost("ran out of memory")
        raise value

    def _death(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            try:
                return signal.Signals(-code).name
            except ValueError:
                pass
        return f"exit code {code}"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once; a call that waits for it then fails with :class:`Lost`."""
        self._process.kill()

    def end(self) -> None:
        """End the process at once and give back all that it had."""
        # It has nothing to put in order: files are written in one step, results are sent.
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                continue  # what was still to be sent has nowhere to go


class Processes:
    """Workers for any number of threads: each borrows one for as long as it needs it.

    A worker is started when one is asked for and none is free, so there are never more than were
    in use at the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Worker] = []
        self._all: set[Worker] = set()
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[Worker]:
        """A worker; one that is lost in the body is not used again.

        Raises:
            Lost: the workers have been closed.
        """
        with self._lock:
            if self._closed:
                raise Lost("the workers have been ended")
            worker = self._living() or Worker()
            self._all.add(worker)
        try:
            yield worker
        except Lost:
            with self._lock:
                self._all.discard(worker)
            raise
        except Exception:  # what was called raised it, so the answer is complete
            self._back(worker)
            raise
        except BaseException:  # its answer may still be on the way, and would be taken for another
            with self._lock:
                self._all.discard(worker)
            worker.end()
            raise
        self._back(worker)

    def _living(self) -> Worker | None:
        """A free worker; those that died since they were last asked are no candidate's fault."""
        while self._free:
            worker = self._free.pop()
            if worker.alive:
                return worker
            worker.end()
            self._all.discard(worker)
        return None

    def _back(self, worker: Worker) -> None:
        with self._lock:
            self._free.append(worker)

    def pids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [worker._process.pid for worker in self._all]

    def kill(self) -> None:
        """End all workers at once; calls that wait for them fail."""
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.kill()

    def close(self) -> None:
        """End all workers and give back what they had; nobody may use one any more."""
        self.kill()
        for worker in self._all:
            worker.end()


def send(stream: IO[bytes], message: bytes) -> None:
    """Write one message."""
    stream.write(len(message).to_bytes(HEADER, "big") + message)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes | None:
    """Read one message; None at the end of the stream, also in the middle of a message."""
    header = stream.read(HEADER)
    if len(header) < HEADER:
        return None
    size = int.from_bytes(header, "big")
    message = stream.read(size)
    return message if len(message) == size else None


def _out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy or torch (on a CPU or a GPU) got no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


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

        from gp_prune._compat import TorchvisionWarning
        from gp_prune.runs.jobs import Workbench

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

    from gp_prune.runs.jobs import network_digest

    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"network": network_digest(task.model), **packages}


def run(source: TaskSource, job: Job[R]) -> R:
    """The result of a job."""
    return job.run(_workbench(source))
