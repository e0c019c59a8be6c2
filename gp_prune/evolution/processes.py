"""Floor 9: worker processes that may hang, die or be killed without harm to the run.

Each is a plain child that is asked one thing at a time through its stdin and answers on a pipe.
So it is known at any moment what a worker is at: one that dies costs just that. Workers end with
their parent, however that ends, because their stdin then ends.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from gp_prune.evolution.allowance import Allowance, watched

HEADER = 8
"""Bytes of the length that stands before each message."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from gp_prune.evolution.worker import serve; serve()"
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
        self, function: Callable[..., Any], *args: Any, allowance: Allowance | None = None
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
        with watched(self._process.pid, allowance or Allowance(), self._process.kill) as reasons:
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
