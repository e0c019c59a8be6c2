"""Draw the pruning events of a run before it begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gp_prune.errors import UserError
from gp_prune.statistics.running import derive_seed

Schedule = Callable[[float, float], float]
"""``schedule(t, T)``: the probability, in [0, 1], that pruning happens after epoch t of T."""

FINAL_SHARE = 0.75
"""The schedule ``final`` begins after this share of the epochs."""

_FORMULAS: dict[str, Callable[..., float]] = {
    "fixed": lambda t, T, p, n: p,
    "increase": lambda t, T, p, n: p * t / T,
    "decrease": lambda t, T, p, n: p * (1 - t / T),
    "population": lambda t, T, p, n: p * t / (T * n),
    "exponential": lambda t, T, p, n: p * (1 - math.exp(-2 * t / T)),  # soon near 0.86 p
    "final": lambda t, T, p, n: p if t >= FINAL_SHARE * T else 0.0,
    "after": lambda t, T, p, n: p if t >= T else 0.0,  # only after the last epoch
}
"""Every schedule by its name, with the greatest probability p and the n of ``population``: the
number of pairs that a cell chooses from."""

SCHEDULES: tuple[str, ...] = tuple(_FORMULAS)
"""The names of the schedules."""


def named_schedule(name: str, probability: float, solutions: int = 1) -> Schedule:
    """Return a schedule by its name.

    Args:
        name: one of :data:`SCHEDULES`.
        probability: the p of its formula, in [0, 1].
        solutions: the n of ``population``, at least 1.

    Raises:
        UserError: the name is unknown, or a number is out of range.
    """
    if name not in _FORMULAS:
        raise UserError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    if not 0 <= probability <= 1:
        raise UserError(f"the probability of a schedule is {probability}; it must be in [0, 1]")
    if solutions < 1:
        raise UserError(f"a schedule is for {solutions} solutions; there must be at least 1")
    return partial(_FORMULAS[name], p=probability, n=solutions)


def evaluate_schedule(schedule: Schedule, epochs: int) -> tuple[float, ...]:
    """Return the values of a schedule after epochs 1 to ``epochs``.

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
class PruningEvents:
    """The epochs after which each cell prunes, and how much then stays.

    Attributes:
        happens: for every epoch, for every cell, whether it prunes after it.
        stays: for every epoch, the share of the units of the dense network that pruning after it
            leaves; None where an event removes a share of what is alive.
    """

    happens: tuple[tuple[bool, ...], ...]
    stays: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        """Return the number of events of all cells."""
        return sum(map(sum, self.happens))


def draw_events(probabilities: tuple[float, ...], cells: int, seed: int) -> PruningEvents:
    """Draw independent events of all cells.

    Args:
        probabilities: of an event after each epoch.
        cells: number of cells.
        seed: of the draws.
    """
    rows = _draw(seed, len(probabilities), cells)
    pairs = zip(rows, probabilities, strict=True)
    return PruningEvents(tuple(tuple(value < p for value in row) for row, p in pairs))


def draw_events_to(
    target: float, probabilities: tuple[float, ...], cells: int, seed: int
) -> PruningEvents:
    """Draw events that end at the same sparsity for every schedule, operator and mode.

    All cells prune after the same epochs, because pairs move between cells. The last of k events
    leaves the share ``1 - target`` of the units, the j-th ``(1 - target) ** (j / k)``, so each
    removes the same share of what is left. If no event is drawn, there is one after the epoch with
    the greatest probability, the last of these.

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
    pairs = zip(_draw(seed, len(probabilities)), probabilities, strict=True)
    happens = [value < p for value, p in pairs]
    if not any(happens):
        last = max(range(len(happens)), key=lambda epoch: (probabilities[epoch], epoch))
        happens[last] = True
    done = list(itertools.accumulate(map(int, happens)))
    stays = tuple((1 - target) ** (count / done[-1]) for count in done)
    return PruningEvents(tuple((event,) * cells for event in happens), stays)


def _draw(seed: int, *shape: int) -> list[Any]:
    generator = torch.Generator().manual_seed(derive_seed("events", seed))
    values: list[Any] = torch.rand(*shape, generator=generator, dtype=torch.float64).tolist()
    return values
