"""Decide who survives, who breeds, who is retrained and who is pruned further."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from deap import tools

from gp_prune.genetic.elite import Elite
from gp_prune.genetic.plan import KeptShares
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.variation import Individual, ParetoFitness, WeightedFitness
from gp_prune.runs.evolution import find_nondominated

REFERENCE = (1.0, 1.0, 1.0)
"""What a front is measured from: a guess that looks at no input, with nothing pruned."""

TOURNAMENT = 3
"""Individuals of whom a tournament takes the best."""

_LEAST_SHARE = 1e-6


class _Judged(Protocol):
    error: float
    shares: KeptShares


N = TypeVar("N", bound=_Judged)


def select_nondominated(networks: Sequence[Elite]) -> list[Elite]:
    """Return those that no other one dominates, the least error first; of equal ones the first."""
    vectors = {id(n): (n.error, n.shares.macs, n.shares.params) for n in networks}
    ordered = sorted(networks, key=lambda network: vectors[id(network)])
    return [ordered[n] for n in find_nondominated([vectors[id(e)] for e in ordered])]


def choose_compromises(
    networks: Sequence[N],
    count: int,
    counted: Callable[[KeptShares], KeptShares] = lambda shares: shares,
) -> list[N]:
    """Choose the best of ``count`` compromises between MACs and parameters, each network once.

    Args:
        networks: to choose from.
        count: most networks.
        counted: what of the shares kept counts; of networks that are equal by it, the one with
            the least error is chosen.
    """
    left = list({id(network): network for network in networks}.values())
    chosen: list[N] = []
    count = min(count, len(left))
    for step in range(count):
        weight = 0.5 if count == 1 else step / (count - 1)
        order = [(log_kept(counted(network.shares), weight), network.error) for network in left]
        chosen.append(left.pop(order.index(min(order))))
    return chosen


def log_kept(shares: KeptShares, weight: float) -> float:
    """Return the logarithm of a weighted geometric mean of the MACs and parameters kept.

    Args:
        shares: what is kept.
        weight: of the parameters, from 0 (MACs alone) to 1.
    """
    macs, params = (math.log(max(share, _LEAST_SHARE)) for share in (shares.macs, shares.params))
    return (1 - weight) * macs + weight * params


class Fitness:
    """Fitness and selection, as the settings say.

    Args:
        settings: lambdas and selection.
        dense_error: validation error of the dense network, in the unit of the data.
        trivial_error: that of a guess that looks at no input.
        unit: what the error is divided by in the fitness: 1 for an error rate, the trivial error
            for a mean squared one.

    Attributes:
        reach: share of the way from the dense to the trivial error that retraining makes up for.
    """

    def __init__(
        self, settings: GeneticSettings, dense_error: float, trivial_error: float, unit: float
    ) -> None:
        self._settings = settings
        self._dense = dense_error
        self._trivial = trivial_error
        self._unit = unit
        self.reach = settings.reach

    def objectives(self, error: float, shares: KeptShares) -> tuple[float, float, float]:
        """Return error as a share of the trivial error, MACs kept, parameters kept."""
        return error / self._trivial, shares.macs, shares.params

    def merit(self, error: float, shares: KeptShares) -> float:
        """Return the fitness of the paper (less is better); without lambdas the product kept.

        The latter compares only networks that are good enough in error.
        """
        shares = self._counted(shares)
        if self._settings.pareto:
            return log_kept(shares, 0.5)
        parts = (error / self._unit, shares.macs, shares.params)
        return sum(
            weight * part for weight, part in zip(self._settings.lambdas, parts, strict=True)
        )

    def _counted(self, shares: KeptShares) -> KeptShares:
        """Return what is kept, but no less than is small enough."""
        goals = self._settings
        return KeptShares(max(shares.macs, goals.goal_macs), max(shares.params, goals.goal_params))

    def merit_of(self, elite: Elite) -> float:
        """Return the merit of a retrained network."""
        return self.merit(elite.error, elite.shares)

    def assign(self, individual: Individual) -> None:
        """Set the fitness of a plan that has been evaluated.

        What has lost more than retraining is likely to bring back counts as having gained nothing,
        so it ranks after every plan that has not.
        """
        within = self.within_reach(individual)
        shares = self._counted(individual.shares) if within else KeptShares(1.0, 1.0)
        if self._settings.pareto:
            individual.fitness = ParetoFitness(self.objectives(individual.error, shares))
        else:
            beyond = 0.0 if within else sum(self._settings.lambdas)
            individual.fitness = WeightedFitness((self.merit(individual.error, shares) + beyond,))

    def within_reach(self, individual: Individual) -> bool:
        """Return whether retraining is likely to bring a plan's network back.

        The errors that are compared are of the same samples: those on which plans are tried.
        """
        room = self.reach * max(0.0, self._trivial - self._dense)
        return individual.error <= individual.elite.trial_error + room

    def is_tolerable(self, elite: Elite) -> bool:
        """Return whether a retrained network may be pruned further."""
        return elite.error <= self._dense + self._settings.tolerance

    def is_good(self, elite: Elite) -> bool:
        """Return whether a network may be recommended."""
        return elite.error <= self._dense + self._settings.limit

    def position(self, shares: KeptShares) -> tuple[float, float]:
        """Return where a network lies among the compromises: logarithms of what is kept.

        With lambdas each counts in proportion to its weight.
        """
        macs, params = log_kept(shares, 0.0), log_kept(shares, 1.0)
        if self._settings.pareto:
            return macs, params
        _, by_macs, by_params = self._settings.lambdas
        total = by_macs + by_params or 1.0
        return macs * by_macs / total, params * by_params / total

    def select_survivors(self, pool: Sequence[Individual], rng: random.Random) -> list[Individual]:
        """Select those that make the next generation."""
        count = min(self._settings.population, len(pool))
        selection = self._settings.selects
        if selection == "nsga2":
            chosen: list[Individual] = tools.selNSGA2(list(pool), count)
            return chosen
        ranked = sorted(pool, key=lambda i: i.fitness.values)  # stable, so the older goes first
        if selection == "truncation":
            return ranked[:count]
        # The best stays in any case; the others are drawn without replacement.
        chosen, rest = ranked[:1], ranked[1:]
        draw = _draw_tournament if selection == "tournament" else _draw_roulette
        while len(chosen) < count:
            chosen.append(rest.pop(draw(rest, rng)))
        return chosen

    def select_parent(self, population: Sequence[Individual], rng: random.Random) -> Individual:
        """Select one that breeds: the better of two that are drawn."""
        return self.compare(rng.choice(population), rng.choice(population))[0]

    def compare(self, one: Individual, other: Individual) -> tuple[Individual, Individual]:
        """Return the winner and the loser of two: by dominance, then by crowding distance."""
        if other.fitness.dominates(one.fitness):
            return other, one
        if one.fitness.dominates(other.fitness) or self._settings.selects != "nsga2":
            return one, other
        crowding = [getattr(i.fitness, "crowding_dist", 0.0) for i in (one, other)]
        return (other, one) if crowding[1] > crowding[0] else (one, other)

    def select_elites(self, tried: Sequence[Individual], count: int) -> list[Individual]:
        """Choose those to retrain: changed ones, and within reach if any are.

        For the front they are the best compromises between MACs and parameters, from MACs alone to
        parameters alone; with lambdas the best by fitness.
        """
        changed = [i for i in tried if i.plan != i.elite.plan]
        able = [i for i in changed if self.within_reach(i)]
        if not able:
            return sorted(changed, key=lambda i: i.error)[:count]
        if self._settings.pareto:
            return choose_compromises(able, count, self._counted)
        return sorted(able, key=lambda i: i.fitness.values)[:count]

    def select_parents(self, elites: Sequence[Elite], count: int) -> list[Elite]:
        """Choose the networks from which the next round starts."""
        if self._settings.pareto:
            return choose_compromises(elites, count, self._counted)
        distinct = {id(elite): elite for elite in elites}
        return sorted(distinct.values(), key=self.merit_of)[:count]


def _draw_tournament(ranked: Sequence[Individual], rng: random.Random) -> int:
    """Draw some and return the place of the best."""
    return min(rng.randrange(len(ranked)) for _ in range(TOURNAMENT))


def _draw_roulette(ranked: Sequence[Individual], rng: random.Random) -> int:
    """Draw a place in proportion to how far its fitness is below the worst."""
    values = [individual.fitness.values[0] for individual in ranked]
    spread = values[-1] - values[0]
    chances = [values[-1] - value + 0.01 * spread + 1e-12 for value in values]
    (place,) = rng.choices(range(len(ranked)), chances)
    return place
