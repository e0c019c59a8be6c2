"""Workers that hang, die or take too much memory lose their job alone."""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.runs.processes import (
    WORKER_MEMORY,
    ResourceLimits,
    Worker,
    WorkerLost,
    resident_memory,
)

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc here")


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.end()


def test_a_worker_answers(worker: Worker) -> None:
    assert [worker.call(pow, 2, n) for n in range(3)] == [1, 2, 4]
    assert worker.call(os.getpid) != os.getpid()


_PATHS = list(product(("", os.pathsep, f"{os.pathsep}/nowhere", "."), (None, "", ".")))
_FIRST = [("", None), (os.pathsep, ""), (f"{os.pathsep}/nowhere", "."), (".", None), (".", "")]
"""Every value of either; the other pairs take as long and come in the slow stage."""


@pytest.mark.parametrize(
    ("variable", "entry"),
    [pytest.param(*p, marks=[] if p in _FIRST else [pytest.mark.slow]) for p in _PATHS],
)
def test_a_worker_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, entry: str | None
) -> None:
    """An empty entry of the path is the working directory, as in a session or by `export X=$X:`."""
    for name in ("json", "queue", "torch", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported by a worker')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", variable)
    if entry is not None:
        monkeypatch.setattr(sys, "path", [entry, str(tmp_path), *sys.path])
    worker = Worker()
    try:
        assert worker.call(abs, -1) == 1
    finally:
        worker.end()


def test_a_worker_heeds_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the memory is set where the user has not."""
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    for value, trim in (("", WORKER_MEMORY["MALLOC_TRIM_THRESHOLD_"]), ("1", "131072")):
        monkeypatch.setenv("PYTHONFAULTHANDLER", value)
        worker = Worker()
        try:
            assert worker.call(faulthandler.is_enabled) is bool(value)
            assert worker.call(os.getenv, "MALLOC_TRIM_THRESHOLD_") == trim
        finally:
            worker.end()
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")


def test_an_exception_of_the_function_is_raised_here(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        worker.call(divmod, 1, 0)
    assert "in a worker:" in caught.value.__notes__[0]
    assert worker.call(abs, -1) == 1, "it is still of use"


def test_what_a_function_prints_does_not_disturb_the_answers(worker: Worker) -> None:
    worker.call(print, "to stderr")
    worker.call(os.write, 1, b"to stderr, too\n")
    assert worker.call(abs, -1) == 1


def test_a_hanging_function_is_ended(worker: Worker) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerLost, match=r"took more than 0\.3 s"):
        worker.call(time.sleep, 600, limits=ResourceLimits(seconds=0.3))
    assert time.monotonic() - started < 300


def test_a_function_that_holds_the_lock_of_python_is_ended(worker: Worker) -> None:
    with pytest.raises(WorkerLost, match=r"took more than 0\.3 s"):
        worker.call(pow, 3, 10**10, limits=ResourceLimits(seconds=0.3))


def test_a_stopped_worker_is_ended(worker: Worker) -> None:
    with pytest.raises(WorkerLost, match=r"took more than 0\.5 s"):
        worker.call(signal.raise_signal, signal.SIGSTOP, limits=ResourceLimits(seconds=0.5))


@needs_proc
def test_a_function_that_takes_too_much_memory_is_ended(worker: Worker) -> None:
    worker.call(abs, -1)  # it is up: the limit counts from here
    with pytest.raises(WorkerLost, match="took more than 100 MB of memory"):
        worker.call(list, range(10**9), limits=ResourceLimits(megabytes=100))


def test_what_cannot_get_memory_has_lost_its_worker(worker: Worker) -> None:
    with pytest.raises(WorkerLost, match="ran out of memory"):
        worker.call(bytearray, 1 << 62)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_function_that_kills_its_worker(worker: Worker, number: signal.Signals) -> None:
    with pytest.raises(WorkerLost, match=f"died \\({number.name}\\)"):
        worker.call(signal.raise_signal, number)


def test_a_worker_that_leaves(worker: Worker) -> None:
    with pytest.raises(WorkerLost, match="died \\(exit code 3\\)"):
        worker.call(os._exit, 3)


@needs_proc
def test_memory_in_use() -> None:
    before = resident_memory(os.getpid())
    with mmap.mmap(-1, 50_000_000) as held:  # pages that no earlier object has left behind
        for place in range(0, len(held), mmap.PAGESIZE):
            held[place] = 1
        assert 45e6 < resident_memory(os.getpid()) - before < 80e6
    assert resident_memory(2**22 + 1) == 0


@pytest.mark.parametrize("limit", [{"seconds": -1.0}, {"megabytes": float("nan")}])
def test_a_limit_must_be_a_number(limit: dict[str, float]) -> None:
    with pytest.raises(UserError, match="must be a finite number, and 0 means none"):
        ResourceLimits(**limit)
