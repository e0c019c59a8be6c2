"""When to prune: the probability of a pruning event after epoch t of T.

Every schedule is a function of ``(t, T)`` with ``t`` from 1 to T; a user's own works as these do.
The seven are those of Jorgensen et al. (GECCO 2025, arXiv 2505.05138), as the paper means them:
``decrease`` starts at p (in its code at 1), and ``after`` does fire, once, behind the last epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from gp_prune.errors import UserError

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
