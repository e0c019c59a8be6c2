"""Kills runs, or their workers alone, at random moments; run by test_kills.py as a program.

A warm process forks the runs, so that most of them take a second; each is a real process that works
on a run folder and is killed by SIGKILL, or whose workers are. Killed runs are resumed, killed once
more, and in the end compared file by file with a run that nobody killed. Prints the kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from run_folders import USER_TASK, journal_size, lasting_files

from gp_prune import AutoencodeSettings, GeneticSettings, autoencode
from gp_prune.autoencoder import run as autoencoder_run
from gp_prune.genetic import run as genetic_run
from gp_prune.runs import executors, host
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.search import run as search_run
from gp_prune.search.config import SearchConfig

STOPPED = 3
"""Exit code of a run that gave a job up; it goes on when it is resumed."""

EACH = 4
"""Kills of one run before it may end."""

SEARCH = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits",), granularity="weight", population=4, generations=1, seed=5,
    ladder=(0.4,), budgets=(0.4,), rung_steps=(0,), promote=(0.25,), fine_tune_steps=1,
    final_steps=1, final_seeds=1, front_size=2, size_limit=15, height_limit=5, calibration=16,
)  # fmt: skip
GENETIC = GeneticSettings(
    population=4, generations=1, rounds=1, elites=1, epochs=1, final_epochs=1, points=1, samples=50,
    calibration=32, tolerance=0.5, limit=0.5, batch_size=256, baselines=False, most=200,
    mutations=("l1", "magnitude"),
)  # fmt: skip
AUTOENCODER = AutoencodeSettings(
    loss="l1", epochs=6, batch_size=9, learning_rate=0.05, probability=0.8, amount=0.2, samples=20,
    mode="coevolve", cells=4, selection_samples=15, temperature=0.2,
)  # fmt: skip


USER = "evolve with a user task"
COMMANDS = ("evolve", USER, "genetic", "autoencode")


class Kind(NamedTuple):
    """What is killed.

    Attributes:
        command: one of :data:`COMMANDS`.
        workers: number of processes.
        alone: whether the workers are killed and the run is not.
    """

    command: str
    workers: int
    alone: bool

    def __str__(self) -> str:
        return f"{self.command}, {self.workers} workers{', these alone' if self.alone else ''}"


class Loop:
    """Runs in a folder, with tasks from a cache."""

    def __init__(self, folder: Path, cache: str) -> None:
        self.folder = folder
        self.source = TaskSource(cache_dir=cache)
        self.rng = random.Random(0)
        self.wanted: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[Kind, float] = {}
        random_state = np.random.RandomState(0)
        labels = np.arange(60) % 3
        bits = (random_state.rand(3, 12) < 0.6)[labels] ^ (random_state.rand(60, 12) < 0.05)
        self.data = str(folder / "own.npz")
        self.code = folder / "own.py"
        self.code.write_text(USER_TASK)
        np.savez(self.data, inputs=bits.astype(np.float32), labels=labels)

    def start(self, kind: Kind, folder: Path) -> None:
        """Run, or go on with it, in this process."""
        resume = (folder / CONFIG).exists()
        options: dict[str, Any] = {
            "source": self.source, "workers": kind.workers, "resume": resume,
        }  # fmt: skip
        if kind.command == "evolve":
            search_run.evolve(None if resume else SEARCH, folder, **options)
        elif kind.command == USER:
            own_search = replace(SEARCH, tasks=(f"{self.code}:build",))
            trust = (str(self.code),) if resume else ()
            search_run.evolve(None if resume else own_search, folder, trust=trust, **options)
        elif kind.command == "genetic":
            settings = None if resume else GENETIC
            genetic_run.prune_genetically(settings, folder, timed=False, **options)
        else:
            own = AutoencodeSettings(**{**vars(AUTOENCODER), "data": self.data})
            autoencode(None if resume else own, folder, **options)

    def fork(self, kind: Kind, folder: Path) -> int:
        """Start the run in a process of its own."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            if kind.alone:
                pool = kind.workers  # also where there is one

                def make(source: TaskSource, *_: object, **__: object) -> executors.Runner:
                    return executors.WorkerPool(source, pool)

                for module in (search_run, genetic_run, autoencoder_run):
                    vars(module)["make_runner"] = make
            self.start(kind, folder)
            code = 0
        except host.JobLost:
            code = STOPPED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def measure(self, kind: Kind) -> None:
        """Run once to the end: what is wanted, and how long it takes."""
        folder = self.folder / "run"  # its name is in the results
        started = time.monotonic()
        self.finish(kind, self.fork(kind, folder), folder)
        self.seconds[kind] = time.monotonic() - started
        shutil.rmtree(folder)

    def finish(self, kind: Kind, pid: int, folder: Path) -> None:
        """Let a run end and compare it with what is wanted; the first of a command sets that."""
        _, status = os.waitpid(pid, 0)
        while os.WIFEXITED(status) and os.WEXITSTATUS(status) == STOPPED:
            _, status = os.waitpid(self.fork(kind, folder), 0)
        if status:
            sys.exit(f"{kind}: a run ended with status {status}")
        found = lasting_files(folder)
        wanted = self.wanted.setdefault(kind.command, found)
        if found != wanted:
            names = found.keys() | wanted.keys()
            odd = sorted(name for name in names if found.get(name) != wanted.get(name))
            sys.exit(f"{kind}: a resumed run has other {', '.join(odd)}")

    def kill(self, kind: Kind) -> int:
        """Begin a run, kill and resume it, and compare it at the end; return the kills."""
        folder = self.folder / "run"
        kills = 0
        pid = self.fork(kind, folder)
        while kills < EACH:
            time.sleep(self.rng.random() * self.seconds[kind])
            if kind.alone:
                if not alive(pid):
                    break
                kills += self._kill_worker(pid, folder)
                continue
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.WIFEXITED(status):
                if status:
                    sys.exit(f"{kind}: a run ended with status {status}")
                pid = self.fork(kind, folder)
                break
            kills += 1
            pid = self.fork(kind, folder)
        self.finish(kind, pid, folder)
        shutil.rmtree(folder)
        return kills

    def _kill_worker(self, pid: int, folder: Path) -> int:
        """Kill a worker of a run; wait until the run has got on, so that it is no job's fifth."""
        workers = children(pid)
        if not workers:
            return 0
        before = journal_size(folder)
        try:
            os.kill(self.rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            return 0
        while alive(pid) and journal_size(folder) == before:
            time.sleep(0.02)
        return 1


def alive(pid: int) -> bool:
    """Whether a child still runs; it is not waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def children(pid: int) -> list[int]:
    """Numbers of the processes that a process has started."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except OSError:
            continue
    return found


def main() -> None:
    """Kill as often as asked for; end with an error where a resumed run differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache")
    parser.add_argument("--one", type=int, default=40, help="kills per command with one worker")
    parser.add_argument("--two", type=int, default=10, help="kills per command with two workers")
    parser.add_argument("--alone", type=int, default=9, help="kills of workers, for each number")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="what is killed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    vars(host)["PAUSES"] = (0.05, 0.1, 0.2, 0.4)
    loop = Loop(given.folder, given.cache)
    plan: list[tuple[Callable[[str], Kind], int]] = [
        (lambda command: Kind(command, 1, False), given.one),
        (lambda command: Kind(command, 2, False), given.two),
        (lambda command: Kind(command, 1, True), given.alone),
        (lambda command: Kind(command, 2, True), given.alone),
    ]
    counts: Counter[str] = Counter()
    for make, wanted in plan:
        for command in given.commands.split(","):
            kind = make(command)
            loop.measure(kind)
            while counts[str(kind)] < wanted:
                counts[str(kind)] += loop.kill(kind)
            print(f"{kind}: {counts[str(kind)]} kills", file=sys.stderr, flush=True)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
