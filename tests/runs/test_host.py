"""Workers are lent, and one that is lost is replaced, with one fewer from then on."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gp_prune.runs import host as module
from gp_prune.runs.host import Host
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.processes import ResourceLimits, Worker, WorkerLost


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


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


@pytest.mark.slow
def test_a_loss_is_tried_again_with_pauses_and_then_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.05, 0.1))
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
