"""Follow a run from Python: what is called at its start, during its steps and at its end.

A search, a genetic pruning and a training of autoencoders all take ``callbacks=``. What they are
given are plain numbers and texts, so one callback serves all three; the adapters of
:mod:`gp_prune.runs.trackers` are examples. A callback changes no result: all random numbers of a
run come from its own seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gp_prune.errors import UserError

DONE = "done"
STOPPED = "stopped"
FAILED = "failed"


class StopRun(Exception):
    """End a run from a callback; its folder stays, and the run can be resumed."""


@dataclass(frozen=True)
class RunStart:
    """What is known when a run starts, or goes on.

    Attributes:
        kind: ``"search"``, ``"genetic"`` or ``"autoencoder"``.
        folder: the run folder.
        settings: of the run, by name.
    """

    kind: str
    folder: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the name of the run folder."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class Evaluated:
    """How much of a step is done.

    Attributes:
        step: the number that :class:`RunStep` will have.
        done: evaluations, or trained networks, that are done.
        of: number of them in the step; in a search it is expected, and may change.
    """

    step: int
    done: int
    of: int


@dataclass(frozen=True)
class RunStep:
    """The state of a run after a step: a generation, a retraining or an epoch.

    Attributes:
        number: of the step; no step of a run has the number of another one.
        figures: numbers by name, all of them finite.
        texts: texts by name, such as the best formula.
        state: the same as an object: :class:`~gp_prune.search.nsga2.Generation`,
            :class:`~gp_prune.genetic.engine.RoundStatus` or
            :class:`~gp_prune.autoencoder.population.GenerationReport`.
    """

    number: int
    figures: Mapping[str, float]
    texts: Mapping[str, str] = field(default_factory=dict)
    state: Any = None

    def __post_init__(self) -> None:
        """Leave out what is not finite: no tracker can draw it."""
        object.__setattr__(self, "figures", _finite(self.figures))


@dataclass(frozen=True)
class RunEnd:
    """How a run has ended.

    Attributes:
        reason: ``"done"``, ``"stopped"`` (by an interrupt or a callback) or ``"failed"``.
        figures: numbers of the result by name; empty unless it is done.
        texts: texts of the result by name, such as the recommended formula.
        result: what the function returns; None unless it is done.
    """

    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    result: Any = None

    def __post_init__(self) -> None:
        """Leave out what is not finite."""
        object.__setattr__(self, "figures", _finite(self.figures))


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


class Callback:
    """Follow a run; derive from it and override what you need.

    All methods are called in the main process and in its main thread, one after the other, so the
    run waits for them. What they raise ends the run, as an interrupt does; :class:`StopRun` says
    that this is wanted. A resumed run goes through all steps again, also those that its journal
    holds; one that has ended already calls nothing.
    """

    def on_start(self, start: RunStart) -> None:
        """Hear that a run starts."""

    def on_evaluation(self, done: Evaluated) -> None:
        """Hear that one more evaluation of a step is done."""

    def on_step(self, step: RunStep) -> None:
        """Hear that a step is done."""

    def on_end(self, end: RunEnd) -> None:
        """Hear that a run has ended, in whatever way."""


AnyCallback = Callback | Callable[[Any], object]
"""A callback, or a function that is called with ``state`` of each :class:`RunStep`."""


class _Function(Callback):
    """A function as a callback."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def on_step(self, step: RunStep) -> None:
        self._function(step.state)


class Callbacks:
    """The callbacks of one run; as a context manager the start and the end of the run.

    Args:
        callbacks: of the user.
        start: what is known when the run starts.

    Raises:
        UserError: one of them is neither a :class:`Callback` nor a function.
    """

    def __init__(self, callbacks: Sequence[AnyCallback], start: RunStart) -> None:
        self._callbacks = [_as_callback(callback) for callback in callbacks]
        self._start = start
        self._end = RunEnd(FAILED)
        self._endings = ExitStack()

    def evaluated(self, step: int, done: int, of: int) -> None:
        """Say how much of a step is done."""
        for callback in self._callbacks:
            callback.on_evaluation(Evaluated(step, done, of))

    def step(self, step: RunStep) -> None:
        """Say that a step is done."""
        for callback in self._callbacks:
            callback.on_step(step)

    def done(self, end: RunEnd) -> None:
        """Keep what is said when the body ends without an exception."""
        self._end = end

    def __enter__(self) -> Self:
        """Start; where a callback raises, those before it are told of the end."""
        with ExitStack() as endings:
            for callback in self._callbacks:
                callback.on_start(self._start)
                endings.push(_ending(callback, self))
            self._endings = endings.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell all callbacks of the end, the last first, also where one of them raises."""
        self._endings.__exit__(kind, error, trace)

    def end(self, error: BaseException | None) -> RunEnd:
        """Return how the run has ended."""
        if isinstance(error, KeyboardInterrupt | StopRun):
            return RunEnd(STOPPED)
        return RunEnd(FAILED) if error is not None else self._end


def _ending(callback: Callback, run: Callbacks) -> Callable[..., None]:
    def end(kind: object, error: BaseException | None, trace: object) -> None:
        callback.on_end(run.end(error))

    return end


def _as_callback(callback: object) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if isinstance(callback, type) or not callable(callback):
        raise UserError(
            f"{callback!r} is no callback; give an object of a class that is derived from "
            "gp_prune.Callback, or a function"
        )
    return _Function(callback)
