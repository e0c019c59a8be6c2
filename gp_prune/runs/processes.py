"""One worker process: what it may use, how it is asked, and what it does.

A worker answers one request after the other until its stdin ends. Requests and answers are pickled
and preceded by their length. In contrast to ``multiprocessing``, ``pebble`` and ``loky`` (see
``benchmarks/results/libraries.md``) the user's script is not imported, a lost worker costs no
other job its result, memory is limited, and a worker ends at once when its parent is killed.
"""

from __future__ import annotations

import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gp_prune._compat import import_torch
from gp_prune.errors import UserError

if TYPE_CHECKING:
    from gp_prune.runs.jobs import Job, R, TaskSource, Workbench
    from gp_prune.tasks import Task

HEADER = 8
"""Bytes of the length before each message."""

SHARE = b"share "
"""Begins a message before the answer: how much of it is done. No pickle begins so."""

_LOOK_SECONDS = 0.05

WORKER_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**24),
}
"""Environment with which glibc keeps freed memory: each evaluation needs as much as the one before,
and the system takes longer to give a new page than a small network to fill it. Other libraries
ignore it."""

# ``sys`` is a part of the interpreter, so nothing is imported before the path is set.
_START = (
    "import sys; sys.path[:] = sys.argv[1:]; from gp_prune.runs.processes import serve; serve()"
)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class ResourceLimits:
    """What one job may use; 0 means no limit, the default.

    A limit makes a result depend on the machine: a job that takes too long here may be quick
    enough elsewhere. Without one, results are the same everywhere.

    Attributes:
        seconds: longest time of one job, the loading of the task not counted.
        megabytes: most memory (of 2**20 bytes) that a worker may take beyond what it had when the
            job began.

    Raises:
        UserError: a limit is negative or not finite, or memory cannot be watched on this system.
    """

    seconds: float = 0.0
    megabytes: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, value in (("time", self.seconds), ("memory", self.megabytes)):
            if not (math.isfinite(value) and value >= 0):
                raise UserError(
                    f"the {name} limit of a candidate is {value}; it must be a finite number, "
                    "and 0 means none"
                )
        if self.megabytes and not _statm("self").is_file():
            raise UserError(
                "a memory limit for candidates needs /proc, which this system lacks; leave it out"
            )

    def times(self, count: int) -> ResourceLimits:
        """Return what a number of jobs may use together."""
        return ResourceLimits(self.seconds * count, self.megabytes * count)

    @property
    def limited(self) -> bool:
        """Tell whether there is any limit."""
        return bool(self.seconds or self.megabytes)


def resident_memory(pid: int) -> int:
    """Return the bytes of memory of a process; 0 for one that has ended or cannot be seen."""
    try:
        pages = int(_statm(str(pid)).read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()


def _statm(process: str) -> Path:
    return Path("/proc", process, "statm")


class WorkerLost(Exception):
    """A worker was lost before it answered; the message says why."""


class LimitExceeded(WorkerLost):
    """A worker was ended because its job took more than the user allows."""


class Worker:
    """One worker process with one torch thread; not to be asked from two threads at once.

    Attributes:
        loaded: names of the tasks that it has loaded; kept by the user of the worker.

    Raises:
        WorkerLost: the system starts no process.
    """

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        # In a new group: Ctrl-C reaches the main process alone, which then ends its workers.
        group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        environment = {**WORKER_MEMORY, **os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)  # an empty entry of it is the working directory
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *_import_path()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                **group,
            )
        except OSError as error:
            raise WorkerLost(f"no worker could be started ({error.strerror})") from error

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        limits: ResourceLimits | None = None,
        hear: Callable[[float], None] | None = None,
    ) -> Any:
        """Return ``function(*args)``, computed in the worker; raise the exception that it raised.

        Args:
            function: a function that the worker can import.
            args: what pickle can carry.
            limits: what it may use.
            hear: called with the share of a training in it that is done.

        Raises:
            LimitExceeded: it took more than the limits and was killed.
            WorkerLost: the worker died or ran out of memory; it cannot be used again.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        request = pickle.dumps((function, args, hear is not None))
        with self._watched(limits or ResourceLimits()) as reasons:
            try:
                send(self._process.stdin, request)
                answer = receive(self._process.stdout)
                while answer is not None and answer.startswith(SHARE):
                    if hear is not None:
                        hear(float(answer.removeprefix(SHARE)))
                    answer = receive(self._process.stdout)
            except (OSError, ValueError):  # a ValueError: the pipes were closed meanwhile
                answer = None
        if answer is None or reasons:
            self.end()
            if reasons:
                raise LimitExceeded(reasons[0])
            raise WorkerLost(f"its worker died ({self._death()})")
        done, value = pickle.loads(answer)
        if done:
            return value
        if isinstance(value, BaseException) and out_of_memory(value):
            self.end()
            raise WorkerLost("ran out of memory")
        raise value

    @contextmanager
    def _watched(self, limits: ResourceLimits) -> Iterator[list[str]]:
        """Kill the process if it exceeds the limits in the body; yield a list of the reason."""
        reasons: list[str] = []
        if not limits.limited:
            yield reasons
            return
        over = threading.Event()

        def watch() -> None:
            started, before = time.monotonic(), resident_memory(self.pid)
            while not over.wait(_LOOK_SECONDS):
                if limits.seconds and time.monotonic() - started > limits.seconds:
                    reasons.append(f"took more than {limits.seconds:g} s")
                elif resident_memory(self.pid) - before > limits.megabytes * 2**20 > 0:
                    reasons.append(f"took more than {limits.megabytes:g} MB of memory")
                if reasons:
                    self.kill()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield reasons
        finally:
            over.set()
            thread.join()

    def _death(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            with suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once; a call that waits for it raises :class:`WorkerLost`."""
        self._process.kill()

    def end(self) -> None:
        """End the process at once and close its pipes."""
        # It has nothing to put in order: files are written in one step, results are sent.
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was still to be sent has nowhere to go
                pipe.close()


def _import_path() -> list[str]:
    """Return ``sys.path`` with the working directory last, so that it shadows no package."""
    here = os.getcwd()
    ahead = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]
    return ahead if len(ahead) == len(sys.path) else [*ahead, here]


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


def out_of_memory(error: BaseException) -> bool:
    """Tell whether Python, numpy or torch (on a CPU or a GPU) got no memory."""
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
    import_torch()  # which every request needs
    while True:
        send(answers, _answer(requests.get(), answers))


def _read(stream: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    """Hand requests on; end the process at once when the parent is gone, whatever it computes."""
    while (request := receive(stream)) is not None:
        requests.put(request)
    os._exit(1)


def _answer(request: bytes, answers: IO[bytes]) -> bytes:
    """Return the value of the request, or the exception that it raised."""
    try:
        function, args, followed = pickle.loads(request)
        if not followed:
            return pickle.dumps((True, function(*args)))
        from gp_prune.training.shares import listening

        with listening(lambda share: send(answers, SHARE + repr(share).encode())):
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
    """Load a task, training its network if no cache has it; return what decides its results."""
    return facts(_workbench(source).task(name)[0])


def facts(task: Task) -> Facts:
    """Return what must be the same on every machine for the results to be the same."""
    import importlib.metadata

    from gp_prune.runs.jobs import network_digest
    from gp_prune.tasks import is_task_name

    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    known = {"network": network_digest(task.model), **packages}
    # The samples of a built-in task are part of what its network is known by.
    return known if is_task_name(task.name) else {"data": task.digest, **known}


def run(source: TaskSource, job: Job[R]) -> R:
    """Return the result of a job, computed in this process."""
    return job.run(_workbench(source))
