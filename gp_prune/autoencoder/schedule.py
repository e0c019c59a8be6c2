"""The pruning events of a run, drawn before it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from gp_prune.errors import UserError
from gp_prune.statistics.running import derive_seed

Schedule = Callable[[float, float], float]
"""``schedule(t, T)``: the probability, in [0, 1], that pruning happens after epoch t of T."""

FINAL_SHARE = 0.75
"""The schedule ``final`` begins after this share of the epochs."""


def fixed(t: float, T: float, p: float) -> float:
    """``p``."""
    return p


def increase(t: float, T: float, p: float) -> float:
    """``p * t / T``: from 0 to p in a straight line."""
    return p * t / T


def decrease(t: float, T: float, p: float) -> float:
    """``p * (1 - t / T)``: from p to 0 in a straight line."""
    return p * (1 - t / T)


def population(t: float, T: float, p: float, n: int = 1) -> float:
    """``p * t / (T * n)``: as ``increase``, over the number n of pairs that a cell chooses from."""
    return p * t / (T * n)


def exponential(t: float, T: float, p: float) -> float:
    """``p * (1 - exp(-2 * t / T))``: quickly at first, towards 0.86 p."""
    return p * (1 - math.exp(-2 * t / T))


def final(t: float, T: float, p: float) -> float:
    """``p`` if ``t >= 0.75 * T``, otherwise 0."""
    return p if t >= FINAL_SHARE * T else 0.0


def after(t: float, T: float, p: float) -> float:
    """``p`` if ``t >= T``, otherwise 0: only behind the last epoch."""
    return p if t >= T else 0.0


_MAKERS: dict[str, Callable[..., float]] = {
    "fixed": fixed,
    "increase": increase,
    "decrease": decrease,
    "population": population,
    "exponential": exponential,
    "final": final,
    "after": after,
}

SCHEDULES: tuple[str, ...] = tuple(_MAKERS)
"""The names of the schedules."""


def named_schedule(name: str, probability: float, solutions: int = 1) -> Schedule:
    """A schedule by its name.

    Args:
        name: one of :data:`SCHEDULES`.
        probability: the p of its formula, in [0, 1].
        solutions: the n of ``population``, at least 1.

    Raises:
        UserError: the name is unknown, or a number is out of range.
    """
    if name not in _MAKERS:
        raise UserError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    if not 0 <= probability <= 1:
        raise UserError(f"the probability of a schedule is {probability}; it must be in [0, 1]")
    if solutions < 1:
        raise UserError(f"a schedule is for {solutions} solutions; there must be at least 1")
    if name == "population":
        return partial(population, p=probability, n=solutions)
    return partial(_MAKERS[name], p=probability)


def probabilities(schedule: Schedule, epochs: int) -> tuple[float, ...]:
    """The values of a schedule after epochs 1 to ``epochs``.

    Raises:
        UserError: one of them is no probability.
    """
    values = tuple(float(schedule(t, epochs)) for t in range(1, epochs + 1))
    for t, value in enumerate(values, start=1):
        if not 0 <= value <= 1:
            raise UserError(
                f"the schedule is {value} after epoch {t} of {epochs}; it must be in [0, 1]"
            )
    return values


@dataclass(frozen=True)
class Events:
    """When each cell prunes, and what then stays.

    Attributes:
        happens: for every epoch, for every cell, whether it prunes after it.
        stays: for every epoch, the share of the units of the dense network that pruning after it
            leaves; None where an event removes a share of what is alive.
    """

    happens: tuple[tuple[bool, ...], ...]
    stays: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        """Number of events of all cells."""
        return sum(map(sum, self.happens))


def no_events(epochs: int, cells: int) -> Events:
    """Nothing is ever pruned."""
    return Events(((False,) * cells,) * epochs)


def draw_events(probabilities: tuple[float, ...], cells: int, seed: int) -> Events:
    """Independent events of all cells.

    Args:
        probabilities: of an event after each epoch.
        cells: number of cells.
        seed: of the draws.
    """
    drawn = torch.rand(len(probabilities), cells, generator=_generator(seed), dtype=torch.float64)
    return Events(
        tuple(
            tuple(bool(value < p) for value in row)
            for row, p in zip(drawn.tolist(), probabilities, strict=True)
        )
    )


def draw_events_to(
    target: float, probabilities: tuple[float, ...], cells: int, seed: int
) -> Events:
    """Events that end at the same sparsity for every schedule, operator and mode.

    All cells prune after the same epochs, because pairs move between cells. The last of k events
    leaves the share ``1 - target`` of the units, the j-th ``(1 - target) ** (j / k)``, so each
    removes the same share of what it finds. If chance has it that there would be no event, there
    is one after the epoch with the greatest probability, the last of these.

    Args:
        target: share of the units that are gone at the end, in (0, 1).
        probabilities: of an event after each epoch.
        cells: number of cells.
        seed: of the draws.

    Raises:
        UserError: the schedule never prunes.
    """
    if not any(probabilities):
        raise UserError(
            "the schedule never prunes, so no sparsity can be reached; raise its probability, or "
            "take more epochs or another schedule"
        )
    drawn = torch.rand(len(probabilities), generator=_generator(seed), dtype=torch.float64)
    happens = [value < p for value, p in zip(drawn.tolist(), probabilities, strict=True)]
    if not any(happens):
        last = max(range(len(happens)), key=lambda place: (probabilities[place], place))
        happens[last] = True
    total, done, stays = sum(happens), 0, []
    for event in happens:
        done += event
        stays.append((1 - target) ** (done / total))
    return Events(tuple((event,) * cells for event in happens), tuple(stays))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed("events", seed))
