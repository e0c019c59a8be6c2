"""What evolutionary runs share: the volume that a front dominates, and rates of operators."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import moocore
import numpy

LEAST_GROWTH = 1e-6
"""A hypervolume has grown if it is greater by more than this share: less may be rounding."""

FLOOR = 0.03
"""Least rate of an operator that is used at all."""

DECAY = 0.8
"""Weight of a generation's uses and successes after each further generation."""

PRIOR_USES = 10.0
"""Number of uses with average success that every operator starts with."""


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """Return the volume that points dominate and that is below a reference.

    Args:
        points: vectors of objectives, all minimised.
        reference: the worst that counts; a point that is nowhere below it adds nothing.
    """
    front = sorted(map(tuple, points))
    if not front:
        return 0.0
    return float(moocore.hypervolume(numpy.asarray(front), ref=numpy.asarray(reference)))


def volume_gains(
    offspring: Sequence[Sequence[float]],
    parents: Iterable[Sequence[float]],
    reference: Sequence[float],
) -> list[float]:
    """Return what each offspring adds to the hypervolume of the parents, by the largest gain.

    Each is added by itself, so that equally good offspring have equal gains. The numbers are from 0
    to 1, since gains shrink as a front gets better; all are 0 where none adds anything.

    Args:
        offspring: vectors of objectives, all minimised.
        parents: those that were there before.
        reference: the worst that counts.
    """
    known = list(parents)
    known = [known[number] for number in find_nondominated(known)]
    before = hypervolume(known, reference)
    gains = [hypervolume([*known, point], reference) - before for point in offspring]
    most = max(gains, default=0.0)
    if most <= before * LEAST_GROWTH:
        return [0.0] * len(gains)
    return [max(0.0, gain) / most for gain in gains]


def find_nondominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other one dominates; of equal ones the first.

    Args:
        points: vectors of objectives, all minimised.
    """
    if not points:
        return []
    front = moocore.is_nondominated(numpy.asarray(points, dtype=float), keep_weakly=False)
    return [int(index) for index in numpy.flatnonzero(front)]


class Growth:
    """Count the generations since the hypervolume of the front last grew.

    Attributes:
        volume: the greatest so far.
        idle: generations without growth.
    """

    def __init__(self) -> None:
        self.volume = 0.0
        self.idle = 0

    def update(self, volume: float) -> None:
        """Take in the hypervolume of one more generation."""
        if volume > self.volume * (1 + LEAST_GROWTH):
            self.volume = volume
            self.idle = 0
        else:
            self.idle += 1


class AdaptiveOperatorRates:
    """How often each variation operator is used, by the success of its offspring.

    Probability matching (Goldberg 1990): the rate of an operator is proportional to its success,
    with a floor that keeps all of them in use.

    Args:
        weights: how often each is used at first, relative to the others; one with weight 0 is
            never used.
        adaptive: whether the rates follow the success of the operators.
    """

    def __init__(self, weights: Mapping[str, float], *, adaptive: bool = True) -> None:
        total = sum(weights.values())
        self._first = {name: weight / total for name, weight in weights.items() if weight > 0}
        self._adaptive = adaptive
        self._uses = dict.fromkeys(self._first, 0.0)
        self._successes = dict.fromkeys(self._first, 0.0)

    def draw(self, rng: random.Random) -> str:
        """Draw the name of an operator by the rates."""
        rates = self.rates()
        (name,) = rng.choices(list(rates), list(rates.values()))
        return name

    def rates(self) -> dict[str, float]:
        """Return the rate of every operator that is used; they sum to 1.

        An operator keeps its first rate as long as it is as successful as the average.
        """
        average = sum(self._successes.values()) / max(1.0, sum(self._uses.values()))
        if not self._adaptive or average == 0:
            return dict(self._first)
        merits = {
            name: first * (self._successes[name] + PRIOR_USES * average)
            / (self._uses[name] + PRIOR_USES)
            for name, first in self._first.items()
        }  # fmt: skip
        total = sum(merits.values())
        floor = min(FLOOR, 1 / len(merits))
        free = 1 - floor * len(merits)
        return {name: floor + free * merit / total for name, merit in merits.items()}

    def learn(self, offspring: Iterable[tuple[str, float]]) -> None:
        """Take in a generation.

        Args:
            offspring: for every new candidate its operator and its success, from 0 to 1: whether it
                has survived, or how much it adds.
        """
        for account in (self._uses, self._successes):
            for name in account:
                account[name] *= DECAY
        for name, success in offspring:
            self._uses[name] += 1.0
            self._successes[name] += success
