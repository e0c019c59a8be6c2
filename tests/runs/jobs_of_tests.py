"""Jobs of the tests, in a module of its own that worker processes can import."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gp_prune.runs.jobs import Job, R, Workbench
from gp_prune.statistics.running import derive_seed
from gp_prune.training.shares import report_share


class Sum(NamedTuple):
    total: float
    parts: tuple[tuple[int, ...], ...]
    names: dict[str, int]
    failure: str = ""


@dataclass(frozen=True)
class Add:
    """Adds numbers; kills its worker where one of them is 13."""

    numbers: tuple[int, ...]
    task: str = ""

    @property
    def key(self) -> str:
        return f"add:{self.numbers}"

    @property
    def title(self) -> str:
        return f"the sum of {self.numbers}"

    def run(self, workbench: Workbench) -> Sum:
        if 13 in self.numbers:
            signal.raise_signal(signal.SIGKILL)
        seed = workbench.recall("seed", lambda: derive_seed("sum"))
        assert seed == derive_seed("sum")
        return Sum(sum(self.numbers) / 3, ((1, 2), self.numbers), {"count": len(self.numbers)})

    def failed(self, reason: str) -> Sum:
        return Sum(0.0, (), {}, reason)


@dataclass(frozen=True)
class Touch(Add):
    """Adds numbers and leaves a file behind."""

    path: str = ""

    def run(self, workbench: Workbench) -> Sum:
        Path(self.path).touch()
        return super().run(workbench)


@dataclass(frozen=True)
class Hoard(Add):
    """Asks for more memory than there is."""

    def run(self, workbench: Workbench) -> Sum:
        bytearray(1 << 62)
        raise AssertionError


def report_twice(pause: float) -> str:
    """Say twice how far a training is, each time after some seconds."""
    for share in (0.5, 1.0):
        time.sleep(pause)
        report_share(share)
    return "done"


class Trained(Add):
    """Says how far it is while it adds numbers."""

    pause = 0.0

    def run(self, workbench: Workbench) -> Sum:
        report_twice(self.pause)
        return super().run(workbench)


class TrainedSlowly(Trained):
    """Leaves time between its two shares."""

    pause = 2.0


class Nobody:
    """Stands in for a runner where no job may be run."""

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def submit(self, job: Job[R]) -> Future[R]:
        raise AssertionError(job.title)

    def close(self) -> None:
        pass
