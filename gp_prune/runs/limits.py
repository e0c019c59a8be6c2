"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gp_prune.errors import UserError

_LOOK_SECONDS = 0.05


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
        """What so many jobs may use together."""
        return ResourceLimits(self.seconds * count, self.megabytes * count)

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.seconds or self.megabytes)


@contextmanager
def watched(pid: int, allowance: ResourceLimits, kill: Callable[[], None]) -> Iterator[list[str]]:
    """Kill a process that uses more than it may while the body runs.

    Args:
        pid: the process.
        allowance: what it may use from now on.
        kill: ends the process.

    Yields:
        A list that holds the reason once the process was killed for one.
    """
    reasons: list[str] = []
    if not allowance.limited:
        yield reasons
        return
    over = threading.Event()

    def watch() -> None:
        started, before = time.monotonic(), resident_memory(pid)
        while not over.wait(_LOOK_SECONDS):
            reason = ""
            if allowance.seconds and time.monotonic() - started > allowance.seconds:
                reason = f"took more than {allowance.seconds:g} s"
            elif resident_memory(pid) - before > allowance.megabytes * 2**20 > 0:
                reason = f"took more than {allowance.megabytes:g} MB of memory"
            if reason:
                reasons.append(reason)
                kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield reasons
    finally:
        over.set()
        thread.join()


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process has in use; 0 for one that has ended or cannot be seen."""
    try:
        pages = int(_statm(str(pid)).read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    import resource

    return pages * resource.getpagesize()


def _statm(process: str) -> Path:
    return Path("/proc", process, "statm")


def give_back_memory() -> None:
    """Give the system what was freed; takes some milliseconds.

    The GNU C library keeps it for later, and of a long run, which makes and frees tensors of all
    sizes, it keeps more and more. Other C libraries have no such function, and then nothing is
    done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
