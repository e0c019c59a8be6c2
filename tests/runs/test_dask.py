"""A Dask cluster gives what one process gives, also when one of its workers is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from jobs_of_tests import Sum, TrainedSlowly
from run_folders import USER_TASK, content

from gp_prune.errors import UserError
from gp_prune.runs.dask import DaskCluster
from gp_prune.runs.host import Host
from gp_prune.runs.inside import InsideStep
from gp_prune.runs.job_queue import run_with_journal
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal import Journal
from gp_prune.runs.journal_lines import reader
from gp_prune.search.config import SearchConfig
from gp_prune.search.run import evolve

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="gp-prune[dask] is absent")

SMALL = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits", "cnn-digits"),
    population=6,
    generations=2,
    seed=5,
    ladder=(0.4,),
    budgets=(0.4,),
    rung_steps=(0,),
    promote=(0.25,),
    fine_tune_steps=3,
    final_steps=3,
    final_seeds=2,
    front_size=4,
    calibration=128,
)
MODULE = [sys.executable, "-m"]


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        # Nothing of what Dask writes or warns about belongs to the tests.
        self._log = (folder / "dask.log").open("wb")
        file = folder / "scheduler.json"
        address = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        self.processes = [self._start("scheduler", *address, "--scheduler-file", str(file))]
        deadline = time.monotonic() + 600
        while not file.is_file() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline, (folder / "dask.log").read_text()
            time.sleep(0.1)
        self.address = str(json.loads(file.read_text())["address"])
        options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
        for _ in range(workers):
            self.processes.append(self._start("worker", self.address, *options))

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*MODULE, "dask", *command],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},  # jobs of the tests
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def kill_worker(self) -> None:
        """End a worker with the nanny that would start it again, as a machine that fails."""
        process = self.processes.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, 2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory, task_cache: Path) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("alone") / "run"
    evolve(SMALL, folder, source=TaskSource(cache_dir=str(task_cache)))
    return with_journal(folder)


def with_journal(folder: Path) -> dict[str, bytes]:
    return {**content(folder), JOURNAL: (folder / JOURNAL).read_bytes()}


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(started: Start, tmp_path: Path, task_cache: Path) -> Start:
    """`start(address)`: the search in a process of its own, in the folder "run"."""

    def start(address: str, **options: int) -> subprocess.Popen[str]:
        settings = tmp_path / "c.toml"
        settings.write_text(SMALL.to_toml())
        return started(
            "evolve", "--quiet", "--dask", address, "--cache-dir", task_cache,
            "--config", settings, "--out", tmp_path / "run", **options,
        )  # fmt: skip

    return start


@needs_dask
@pytest.mark.slow
def test_a_cluster_gives_the_same_front(
    cluster: Cluster, wanted: dict[str, bytes], tmp_path: Path, start: Start
) -> None:
    run = start(cluster.address)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert with_journal(tmp_path / "run") == wanted


@needs_dask
@pytest.mark.slow
def test_a_cluster_tells_how_much_of_its_jobs_is_done(cluster: Cluster, tmp_path: Path) -> None:
    heard: list[float] = []
    step = InsideStep("sums")
    step.hear = lambda inside: heard.append(inside.done)
    runner = DaskCluster(TaskSource(), cluster.address, inside=step)
    try:
        with Journal(tmp_path, reader(Sum)) as journal:
            run_with_journal([TrainedSlowly((1,))], runner, journal, inside=step)
    finally:
        runner.close()
    assert 0.5 in heard and heard[-1] == 1 and heard == sorted(heard)


@needs_dask
@pytest.mark.slow
def test_a_user_task_gives_the_same_with_any_workers(
    cluster: Cluster, tmp_path: Path, task_cache: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(USER_TASK)
    search = replace(SMALL, tasks=(f"{file}:build",))
    source = TaskSource(cache_dir=str(task_cache))
    found = {}
    for name, options in {
        "one": {"workers": 1}, "two": {"workers": 2}, "cluster": {"cluster": cluster.address},
    }.items():  # fmt: skip
        folder = tmp_path / name / "run"  # the name of the folder is in the results
        evolve(search, folder, source=source, **options)  # type: ignore[arg-type]
        found[name] = with_journal(folder)
    assert found["one"] == found["two"] == found["cluster"]
    assert str(tmp_path).encode() not in b"".join(
        text for name, text in found["one"].items() if name.startswith("metrics")
    )


@needs_dask
@pytest.mark.slow
def test_a_worker_that_is_killed_half_way_changes_nothing(
    cluster: Cluster, wanted: dict[str, bytes], tmp_path: Path, start: Start
) -> None:
    run = start(cluster.address, pause_at=len(wanted[JOURNAL]) // 2)
    cluster.kill_worker()
    run.send_signal(signal.SIGCONT)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert with_journal(tmp_path / "run") == wanted


def attempt(address: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*MODULE, "gp_prune", "evolve", "--dask", address, "--out", "nowhere", "--quiet"],
        capture_output=True,
        check=False,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2
    assert not Path("nowhere").exists()
    return done


@needs_dask
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("somewhere", "'somewhere' is no address of a Dask scheduler (missing port number"),
        ("carrier://pigeon:9", "is no address of a Dask scheduler (unknown address scheme"),
        (
            "tls://127.0.0.1:9",
            "'tls://127.0.0.1:9' needs certificates; set DASK_DISTRIBUTED__COMM__TLS__CA_FILE",
        ),
    ],
)
def test_a_wrong_address_is_named(address: str, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        DaskCluster(TaskSource(), address)


@needs_dask
@pytest.mark.slow  # it waits for the scheduler
def test_a_scheduler_that_does_not_answer_is_named() -> None:
    (sentence,) = attempt("tcp://127.0.0.1:9").stderr.splitlines()
    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in sentence


@needs_dask
@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, bytes(range(256))]
)
def test_another_program_that_answers_is_no_scheduler(answer: bytes) -> None:
    """Such a peer keeps a client of Dask waiting for ever, or asks it for exabytes of memory."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    kept.append(connection)

        kept: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        (sentence,) = attempt(address).stderr.splitlines()
        for connection in kept:
            connection.close()
    assert f"no Dask scheduler answers at {address!r}" in sentence


@needs_dask
@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before a worker came", "half way"])
def test_a_scheduler_that_is_killed_is_one_sentence(
    tmp_path: Path, wanted: dict[str, bytes], task_cache: Path, start: Start, moment: str
) -> None:
    cluster = Cluster(tmp_path, workers=int(moment == "half way"))
    try:
        if moment == "half way":
            run = start(cluster.address, pause_at=len(wanted[JOURNAL]) // 2)
        else:
            run = start(cluster.address)
            while b"Receive client connection" not in (tmp_path / "dask.log").read_bytes():
                assert run.poll() is None, "the run ended before the scheduler could be killed"
                time.sleep(0.01)
            time.sleep(3)  # of the 30 seconds that it waits for a worker
        os.killpg(cluster.processes[0].pid, signal.SIGKILL)
        run.send_signal(signal.SIGCONT)
        _, errors = run.communicate(timeout=600)
    finally:
        cluster.close()
    assert run.returncode == 2
    (sentence,) = errors.splitlines()
    assert f"the Dask scheduler at {cluster.address} is gone" in sentence
    assert "--resume" in sentence
    if moment == "half way":
        evolve(None, tmp_path / "run", source=TaskSource(str(task_cache)), resume=True)
        assert with_journal(tmp_path / "run") == wanted


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'gp-prune\[dask\]'"):
        DaskCluster(TaskSource(), "tcp://127.0.0.1:9")


@pytest.mark.parametrize("fact", ["network", "torch"])
def test_a_machine_with_something_else_is_refused(fact: str) -> None:
    found = {"network": "sha256:1", "torch": "2.0"}
    host = Host(TaskSource(), SMALL.limits, {"lenet-digits": {**found, fact: "other"}})
    with pytest.raises(UserError, match=f"has another {fact} for 'lenet-digits'"):
        host._check("lenet-digits", found)
    host._check("cnn-digits", found)
