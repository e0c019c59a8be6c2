"""How often each variation operator is used, by what became of its offspring.

Probability matching (Goldberg 1990): the rate of an operator is proportional to its success, with
a floor that keeps all of them in use. The rates are a function of the run, like all else in it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

FLOOR = 0.03
"""Least rate of an operator that is used at all."""

DECAY = 0.8
"""What a generation counts when the next one is done."""

PRIOR_USES = 10.0
"""So many uses with average success stand at the beginning of every account."""


class AdaptiveOperatorRates:
    """The rates of a set of operators.

    Args:
        weights: how often each is used at first, relative to the others; one with weight 0 never
            is.
        adaptive: whether the rates follow the success of the operators.
    """

    def __init__(self, weights: Mapping[str, float], *, adaptive: bool = True) -> None:
        total = sum(weights.values())
        self._first = {name: weight / total for name, weight in weights.items() if weight > 0}
        self._adaptive = adaptive
        self._uses = dict.fromkeys(self._first, 0.0)
        self._successes = dict.fromkeys(self._first, 0.0)

    def draw(self, rng: random.Random) -> str:
        """The name of an operator, drawn by the rates."""
        rates = self.rates()
        (name,) = rng.choices(list(rates), list(rates.values()))
        return name

    def rates(self) -> dict[str, float]:
        """The rate of every operator that is used; they sum to 1.

        An operator keeps its first rate as long as it is as successful as the average.
        """
        if not self._adaptive:
            return dict(self._first)
        average = sum(self._successes.values()) / max(1.0, sum(self._uses.values()))
        if average == 0:
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

    def learn(self, offspring: Iterable[tuple[str, bool]]) -> None:
        """Take in a generation.

        Args:
            offspring: for every new candidate its operator and whether it has survived.
        """
        for account in (self._uses, self._successes):
            for name in account:
                account[name] *= DECAY
        for name, survived in offspring:
            self._uses[name] += 1.0
            self._successes[name] += float(survived)
