"""Workers that hang, die or take too much memory cost a candidate, never the run."""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.runs import executors
from gp_prune.runs.executors import Host, InProcess, WorkerPool, make_runner
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal, reader
from gp_prune.runs.processes import ResourceLimits, Worker, WorkerLost, resident_memory
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.objectives import WORST_ERROR

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc here")


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.end()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_answers(worker: Worker) -> None:
    assert [worker.call(pow, 2, n) for n in range(3)] == [1, 2, 4]
    assert worker.call(os.getpid) != os.getpid()


@pytest.mark.parametrize("variable", ["", os.pathsep, f"{os.pathsep}/nowhere", "."])
@pytest.mark.parametrize("entry", [None, "", "."])
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


def test_a_worker_heeds_the_environment_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "1"):
        monkeypatch.setenv("PYTHONFAULTHANDLER", value)
        worker = Worker()
        try:
            assert worker.call(faulthandler.is_enabled) is bool(value)
        finally:
            worker.end()


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


def test_workers_are_used_again_and_lost_ones_are_not() -> None:
    host = Host(TaskSource(), ResourceLimits())
    with host.borrow() as first, host.borrow() as second:
        pids = {worker.call(os.getpid) for worker in (first, second)}
    with host.borrow() as again:
        assert again.call(os.getpid) in pids
    with pytest.raises(WorkerLost), host.borrow() as lost:
        lost.call(os._exit, 0)
    left = set(host.pids())
    assert len(left) == 1 and left < pids
    idle = left.pop()
    os.kill(idle, signal.SIGKILL)
    os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)  # until it is dead; the host collects it
    with host.borrow() as fresh:  # a worker that died while it was idle costs nobody a try
        assert fresh.call(os.getpid) not in pids
    host.close()
    assert all(map(gone, pids))
    with pytest.raises(WorkerLost, match="ended"), host.borrow():
        pass


def test_a_loss_is_tried_again_with_pauses_and_then_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "PAUSES", (0.05, 0.1))
    host = Host(TaskSource(), ResourceLimits())
    calls: list[float] = []

    def die(worker: Worker, times: int) -> int:
        calls.append(time.monotonic())
        if len(calls) <= times:
            worker.call(os._exit, 3)
        answer: int = worker.call(abs, -7)
        return answer

    try:
        assert host._retry(lambda worker: die(worker, 2)) == 7
        assert calls[1] - calls[0] >= 0.05 and calls[2] - calls[1] >= 0.1
        calls.clear()
        with pytest.raises(WorkerLost, match=r"^its worker died \(exit code 3\), 3 times$"):
            host._retry(lambda worker: die(worker, 3))
    finally:
        host.close()


def test_after_a_loss_there_is_one_worker_fewer_down_to_one() -> None:
    host = Host(TaskSource(), ResourceLimits())
    lent: list[int] = []
    counting = threading.Lock()

    def lose_one_of(count: int) -> None:
        together = threading.Barrier(count)

        def work(number: int) -> None:
            with host.borrow() as worker:
                together.wait()
                if number == 0:
                    worker.call(os._exit, 3)
                worker.call(abs, 3)

        with ThreadPoolExecutor(count) as threads:
            futures = [threads.submit(work, number) for number in range(count)]
        assert [type(future.exception()) for future in futures] == [
            WorkerLost,
            *[type(None)] * (count - 1),
        ]

    def borrow(together: threading.Barrier) -> int:
        with host.borrow():
            with counting:
                lent.append(1)
                now = sum(lent)
            together.wait(timeout=600)  # as many as may at one time do
            with counting:
                lent.append(-1)
        return now

    for count, most in ((3, 2), (2, 1), (1, 1)):
        lose_one_of(count)
        with ThreadPoolExecutor(4) as threads:
            assert max(threads.map(borrow, [threading.Barrier(most)] * 8)) == most
    host.close()


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


class Misbehaving:
    """Stands in for a plan: does something in the worker that unpacks it."""

    def __init__(self, function: object, *args: object) -> None:
        self.reduced = (function, args)

    def __reduce__(self) -> tuple[object, ...]:
        return self.reduced


def evaluation(misbehaving: Misbehaving | None = None) -> Evaluation:
    plan = {"digest": "none", "plan": misbehaving}
    return Evaluation("lenet-digits", plan, steps=0, seed=0)


@needs_proc
@pytest.mark.parametrize(
    ("misbehaving", "limits", "reason"),
    # One limit each: on a busy machine, what allocates may take long before it has taken much.
    [
        pytest.param(
            Misbehaving(time.sleep, 600),
            ResourceLimits(seconds=1),
            "took more than 1 s",
            marks=pytest.mark.slow,
        ),
        (
            Misbehaving(list, range(10**9)),
            ResourceLimits(megabytes=200),
            "took more than 200 MB of memory",
        ),
    ],
    ids=["hangs", "allocates"],
)
def test_a_candidate_is_tried_twice_and_then_fails_by_name(
    tmp_path: Path,
    task_cache: Path,
    misbehaving: Misbehaving,
    limits: ResourceLimits,
    reason: str,
) -> None:
    source = TaskSource(cache_dir=str(task_cache))
    runner = WorkerPool(source, 1, limits)
    try:
        runner.prepare(["lenet-digits"])
        bad = evaluation(misbehaving)
        outcome = runner.submit(bad).result()
        assert outcome == Outcome(WORST_ERROR, None, 1.0, f"{reason}, 2 times")
        with Journal(tmp_path, reader(Outcome)) as journal:
            journal.outcome(bad, outcome)
        with Journal(tmp_path, reader(Outcome)) as again:
            assert again.known(bad.key) == outcome
    finally:
        runner.close()


@pytest.mark.slow
def test_a_loss_touches_no_other_evaluation(task_cache: Path, tmp_path: Path) -> None:
    once = tmp_path / "once"
    # Unpacking makes the folder, then kills the worker; the second time the folder is there.
    steps = Misbehaving(os.mkdir, once), Misbehaving(signal.raise_signal, signal.SIGKILL)
    dies_once = Misbehaving(max, *steps)
    runner = WorkerPool(TaskSource(cache_dir=str(task_cache)), 2)
    try:
        with pytest.raises(FileExistsError):  # the second try runs, and finds what the first left
            runner.submit(evaluation(dies_once)).result()
        assert once.is_dir()
        with pytest.raises(UserError):  # a plan without content is refused, by a living worker
            runner.submit(evaluation()).result()
    finally:
        runner.close()


def test_one_worker_is_this_process_unless_something_is_limited() -> None:
    assert isinstance(make_runner(TaskSource(), 1), InProcess)
    limited = make_runner(TaskSource(), 1, ResourceLimits(seconds=60))
    assert isinstance(limited, WorkerPool)
    limited.close()
    with pytest.raises(UserError, match="number of workers is 0"):
        make_runner(TaskSource(), 0)
