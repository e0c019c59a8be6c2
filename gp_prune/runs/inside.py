"""How far the step of a run is that is being done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

POLL_SECONDS = 0.25
"""After which the main process looks again how far the workers are."""


class Inside(NamedTuple):
    """How far a step is.

    Attributes:
        what: is counted, in the plural.
        done: number of them that are done; of one that is being done its share.
        of: number of all, which may be an estimate.
    """

    what: str
    done: float
    of: int


class InsideStep:
    """Follow the jobs of a step: those that are done, and the shares of those that run.

    Shares may come from any thread; ``hear`` is called in the main one alone.

    Attributes:
        what: is counted, in the plural.
        hear: called with the state when it may have changed.
        active: whether anybody wants to know how much of a job is done.
    """

    def __init__(self, what: str = "") -> None:
        self.what = what
        self.hear: Callable[[Inside], None] = lambda inside: None
        self.active = True
        self._done = self._of = 0
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}

    def put(self, key: str, share: float) -> None:
        """Keep the share of a job that is done; from any thread."""
        with self._lock:
            self._running[key] = share

    def drop(self, key: str) -> None:
        """Forget the share of a job, which is counted now or has failed."""
        with self._lock:
            self._running.pop(key, None)

    def count(self, done: int, of: int) -> None:
        """Say how many jobs are done, of how many."""
        self._done, self._of = done, of
        self.tell()

    def tell(self) -> None:
        """Call ``hear``; in the main thread."""
        with self._lock:
            running = sum(self._running.values())
        self.hear(Inside(self.what, min(self._of, self._done + running), self._of))
