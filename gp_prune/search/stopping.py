"""When a search ends before its last generation, and how far its front has come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gp_prune.runs.hypervolume import hypervolume as dominated_volume
from gp_prune.search.archive import WORST, Objectives
from gp_prune.search.config import SearchConfig


def hypervolume(front: Iterable[Objectives]) -> float:
    """The volume of all objectives that a front dominates and that are better than the worst.

    It lies between 0 (nothing better than the worst) and 2 (no error with nothing kept).
    """
    return dominated_volume(front, WORST)


class StopRules:
    """The rules that end a search early.

    All but the time limit depend on what was found alone. So that a finished run stays what it is
    when it is resumed, the end by the time limit is written down by the caller and given to
    ``stopped_before``.

    Args:
        config: the settings; 0 means that a rule never applies.
        clock: tells the seconds.
    """

    def __init__(self, config: SearchConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._started = clock()

    def room(self, wanted: int, evaluated: int) -> int:
        """How many of the wanted new behaviours may be tried after those evaluated so far."""
        most = self._config.max_evaluations
        return min(wanted, max(0, most - evaluated)) if most else wanted

    def reached(self, evaluated: int, idle: int, *, stopped_before: bool = False) -> str:
        """Which rule ends the search, as half a sentence; empty if none does.

        Args:
            evaluated: distinct behaviours evaluated so far.
            idle: generations since the front last grew.
            stopped_before: whether an earlier session ended here because its time was up.
        """
        config = self._config
        if config.max_evaluations and evaluated >= config.max_evaluations:
            return f"{evaluated} behaviours have been evaluated"
        if config.stall and idle >= config.stall:
            return f"the front has not grown for {idle} generations"
        late = config.time_limit and self._clock() - self._started >= config.time_limit
        return TIME_IS_UP if stopped_before or late else ""


TIME_IS_UP = "the time limit is reached"
