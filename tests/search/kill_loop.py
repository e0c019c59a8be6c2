"""Kills runs at random moments and resumes them; run by test_kills.py in a process of its own.

A warm process forks the runs, so that a run takes a fraction of a second; each is a real process
that works on a run folder of its own and is killed by SIGKILL.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import torch
from run_folders import journal_size, lasting_files

from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.search import run
from gp_prune.search.config import SearchConfig

SETTINGS = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits",),
    granularity="weight",
    population=4,
    generations=1,
    seed=5,
    ladder=(0.4,),
    budgets=(0.4,),
    rung_steps=(0,),
    promote=(0.25,),
    fine_tune_steps=1,
    final_steps=1,
    final_seeds=1,
    front_size=2,
    size_limit=15,
    height_limit=5,
    calibration=16,
)
SIDE_BY_SIDE = 2


class Case:
    """One run that is killed once and then resumed to its end.

    Attributes:
        folder: its run folder.
        share: when it is killed, as a share of the time of a whole run.
    """

    def __init__(self, folder: Path, source: TaskSource) -> None:
        self.folder = folder
        self.source = source
        self.share = 0.0
        self.pid = 0

    def fork(self) -> None:
        """Start the run, or go on with it."""
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            resume = (self.folder / CONFIG).exists()
            settings = None if resume else SETTINGS
            run.evolve(settings, self.folder, source=self.source, resume=resume)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def kill(self) -> bool:
        """Kill the run; False if it had ended before."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        return os.WIFSIGNALED(status)

    def finish(self) -> dict[str, bytes]:
        """Wait for the end of the run; gives all files of its folder."""
        _, status = os.waitpid(self.pid, 0)
        assert status == 0, f"the run in {self.folder} ended with status {status}"
        files: dict[str, bytes] = lasting_files(self.folder)
        return files


def main() -> None:
    """Kill as many runs as asked for; ends with an error where a resumed run differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("cache")
    parser.add_argument("kills", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # The kills are about the run: its network is loaded once, by the process that forks.
    TaskSource.load = functools.cache(TaskSource.load)  # type: ignore[method-assign]
    source = TaskSource(cache_dir=given.cache)
    run.evolve(SETTINGS, given.folder / "warm", source=source)
    wanted = lasting_files(given.folder / "warm")
    seconds = 0.0
    rng = random.Random(0)
    killed, places = 0, set()
    while killed < given.kills:
        cases = [Case(given.folder / f"run{n}", source) for n in range(SIDE_BY_SIDE)]
        started = time.monotonic()
        for case in cases:
            case.share = rng.random()
            case.fork()
        if not seconds:
            for case in cases:
                assert case.finish() == wanted, "another process gives another result"
            seconds = time.monotonic() - started
        else:
            for case in sorted(cases, key=lambda case: case.share):
                time.sleep(max(0.0, started + case.share * seconds - time.monotonic()))
                if case.kill():
                    killed += 1
                    places.add(journal_size(case.folder))
                    case.fork()
                else:
                    case.pid = 0
            for case in cases:
                if case.pid:
                    assert case.finish() == wanted, f"kill {killed} changed the result"
        for case in cases:
            shutil.rmtree(case.folder)
    print(f"{killed} kills, journals of {len(places)} lengths, {len(wanted)} files")


if __name__ == "__main__":
    main()
