"""Who survives, who breeds, and who is retrained."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from deap import tools

from gp_prune.genetic.elite import Elite
from gp_prune.genetic.plan import Shares
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.variation import Front, Individual, Sum
from gp_prune.runs.hypervolume import hypervolume

REFERENCE = (1.0, 1.0, 1.0)
"""What a front is measured from: a guess that looks at no input, with nothing pruned."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Turn:
    """Where a run stands after a generation or a retraining.

    Attributes:
        round: from 1.
        of: most rounds.
        generation: of the round; None after the retraining of the round.
        evaluations: distinct plans tried so far.
        hypervolume: of all that was tried and retrained, in error by the trivial error, MACs and
            parameters kept.
        front: retrained networks that no other one dominates, the least error first.
        kind: what the errors are: ``"error"`` (rate) or ``"mse"``.
    """

    round: int
    of: int
    generation: int | None
    evaluations: int
    hypervolume: float
    front: tuple[Elite, ...]
    kind: str


class Volume:
    """The volume that all networks so far dominate.

    Attributes:
        size: between 0 and 1.
    """

    def __init__(self) -> None:
        self._points: list[Vector] = []
        self.size = 0.0

    def see(self, point: Vector) -> None:
        """Take in error by the trivial error, MACs kept and parameters kept of one more network."""
        if any(_no_worse(old, point) for old in self._points):
            return
        self._points = [old for old in self._points if not _no_worse(point, old)] + [point]
        self.size = hypervolume(self._points, REFERENCE)


def _no_worse(one: Vector, other: Vector) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def objectives_of(elite: Elite) -> tuple[float, float, float]:
    """Error, MACs kept, parameters kept."""
    return elite.error, elite.shares.macs, elite.shares.params


def nondominated(elites: Sequence[Elite]) -> list[Elite]:
    """Those that no other one dominates, the least error first; of equal ones the first."""
    front: list[Elite] = []
    for elite in sorted(elites, key=objectives_of):
        mine = objectives_of(elite)
        if not any(_no_worse(objectives_of(other), mine) for other in front):
            front.append(elite)
    return front


def compromises(elites: Sequence[Elite], count: int) -> list[Elite]:
    """The best of so many compromises between MACs kept and parameters kept, each once."""
    left = list({id(elite): elite for elite in elites}.values())
    chosen: list[Elite] = []
    for weight in weights(min(count, len(left))):
        order = {elite.number: (kept(elite.shares, weight), elite.error) for elite in left}
        best = min(left, key=lambda elite: order[elite.number])
        chosen.append(best)
        left.remove(best)
    return chosen


TOURNAMENT = 3
"""Individuals of whom a tournament takes the best."""

_LEAST_SHARE = 1e-6


class Fitness:
    """Fitness and selection, as the settings say.

    Args:
        settings: lambdas and selection.
        dense_error: validation error of the dense network, in the unit of the data.
        trivial_error: that of a guess that looks at no input.
        unit: what the error is divided by in the fitness: 1 for an error rate, the trivial error
            for a mean squared one.
    """

    def __init__(
        self, settings: GeneticSettings, dense_error: float, trivial_error: float, unit: float
    ) -> None:
        self._settings = settings
        self._dense = dense_error
        self._trivial = trivial_error
        self._unit = unit
        self.reach = settings.reach

    def objectives(self, error: float, macs: float, params: float) -> tuple[float, float, float]:
        """Error as a share of the trivial error, MACs kept, parameters kept."""
        return error / self._trivial, macs, params

    def merit(self, elite: Elite) -> float:
        """The fitness of the paper (less is better); without lambdas the product of what is kept.

        Only for networks that are good enough in error the latter says which is the better.
        """
        macs, params = elite.shares.macs, elite.shares.params
        return self._merit(elite.error, macs, params)

    def _merit(self, error: float, macs: float, params: float) -> float:
        if self._settings.pareto:
            return kept(Shares(macs, params), 0.5)
        parts = (error / self._unit, macs, params)
        return sum(
            weight * part for weight, part in zip(self._settings.lambdas, parts, strict=True)
        )

    def rate(self, individual: Individual) -> None:
        """Set the fitness of a plan that has been tried.

        What has lost more than retraining is likely to bring back counts as having gained nothing,
        so it stands behind every plan that has not.
        """
        error = individual.error
        macs, params = individual.shares.macs, individual.shares.params
        if not self.within_reach(individual):
            macs = params = 1.0
        if self._settings.pareto:
            individual.fitness = Front(self.objectives(error, macs, params))
        else:
            beyond = 0.0 if self.within_reach(individual) else sum(self._settings.lambdas)
            individual.fitness = Sum((self._merit(error, macs, params) + beyond,))

    def within_reach(self, individual: Individual) -> bool:
        """Whether retraining is likely to bring a plan's network back."""
        room = self.reach * max(0.0, self._trivial - self._dense)
        return individual.error <= individual.elite.error + room

    def tolerable(self, elite: Elite) -> bool:
        """Whether a retrained network may be pruned further."""
        return elite.error <= self._dense + self._settings.tolerance

    def place(self, shares: Shares) -> tuple[float, float]:
        """Where a network lies among the compromises: logarithms of what is kept.

        With lambdas each counts in proportion to its weight.
        """
        macs, params = kept(shares, 0.0), kept(shares, 1.0)
        if self._settings.pareto:
            return macs, params
        _, by_macs, by_params = self._settings.lambdas
        total = by_macs + by_params or 1.0
        return macs * by_macs / total, params * by_params / total

    def good(self, elite: Elite) -> bool:
        """Whether a network may be recommended."""
        return elite.error <= self._dense + self._settings.limit

    def survivors(self, pool: Sequence[Individual], rng: random.Random) -> list[Individual]:
        """Those that make the next generation."""
        count = min(self._settings.population, len(pool))
        if self._settings.selects == "nsga2":
            chosen: list[Individual] = tools.selNSGA2(list(pool), count)
            return chosen
        ranked = sorted(pool, key=lambda i: i.fitness.values)  # stable, so the older goes first
        if self._settings.selects == "truncation":
            return ranked[:count]
        # The best stays in any case; the others are drawn without replacement.
        chosen, rest = ranked[:1], ranked[1:]
        draw = _tournament if self._settings.selects == "tournament" else _roulette
        while len(chosen) < count:
            taken = draw(rest, rng)
            chosen.append(rest.pop(taken))
        return chosen

    def parent(self, population: Sequence[Individual], rng: random.Random) -> Individual:
        """One that breeds: of two drawn the better one."""
        return self.better(rng.choice(population), rng.choice(population))[0]

    def better(self, one: Individual, other: Individual) -> tuple[Individual, Individual]:
        """The winner and the loser of two: by dominance, then by crowding distance."""
        if other.fitness.dominates(one.fitness):
            return other, one
        if one.fitness.dominates(other.fitness) or self._settings.selects != "nsga2":
            return one, other
        crowded = _distance(other) > _distance(one)
        return (other, one) if crowded else (one, other)

    def elites(self, tried: Sequence[Individual], count: int) -> list[Individual]:
        """Those to retrain: other than what they stand on, and within reach if any are.

        For the front they are the best of so many compromises between MACs and parameters, from
        MACs alone to parameters alone; with lambdas the best by fitness.
        """
        changed = [i for i in tried if i.plan != i.elite.plan]
        able = [i for i in changed if self.within_reach(i)]
        if not able:
            return sorted(changed, key=lambda i: i.error)[:count]
        if not self._settings.pareto:
            return sorted(able, key=lambda i: i.fitness.values)[:count]
        chosen: list[Individual] = []
        for weight in weights(min(count, len(able))):
            order = {id(i): (kept(i.shares, weight), i.error) for i in able}
            best = min(able, key=lambda i: order[id(i)])
            chosen.append(best)
            able = [i for i in able if i is not best]
        return chosen


def kept(shares: Shares, weight: float) -> float:
    """How much is kept: the logarithm of a weighted geometric mean of MACs and parameters.

    Args:
        shares: what is kept.
        weight: of the parameters, from 0 (MACs alone) to 1.
    """
    macs, params = (math.log(max(share, _LEAST_SHARE)) for share in (shares.macs, shares.params))
    return (1 - weight) * macs + weight * params


def weights(count: int) -> list[float]:
    """So many compromises between MACs (0) and parameters (1)."""
    return [0.5] if count == 1 else [step / (count - 1) for step in range(count)]


def _distance(individual: Individual) -> float:
    return float(getattr(individual.fitness, "crowding_dist", 0.0))


def _tournament(ranked: Sequence[Individual], rng: random.Random) -> int:
    """The place of the best of some that are drawn."""
    return min(rng.randrange(len(ranked)) for _ in range(TOURNAMENT))


def _roulette(ranked: Sequence[Individual], rng: random.Random) -> int:
    """A place drawn in proportion to how far a fitness is below the worst."""
    values = [individual.fitness.values[0] for individual in ranked]
    spread = values[-1] - values[0]
    chances = [values[-1] - value + 0.01 * spread + 1e-12 for value in values]
    (place,) = rng.choices(range(len(ranked)), chances)
    return place
