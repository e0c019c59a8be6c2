"""Offspring: crossover of plans gene by gene, and mutations that metrics guide."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from deap import base

from gp_prune.errors import UserError
from gp_prune.genetic.elite import KINDS, Elite
from gp_prune.genetic.plan import CHANNELS, Layout, Marks, Masks, Plan, Shares
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.metric.mutation import MetricMutation
from gp_prune.runs.rates import AdaptiveOperatorRates

MOST_AT_ONCE = 0.9
"""Largest share of what is alive in a layer that one mutation takes."""

RESTORE = "restore "
"""Before the name of a mutation that brings something back."""


class Front(base.Fitness):  # type: ignore[misc]
    """Error, MACs kept and parameters kept, all minimised."""

    weights = (-1.0, -1.0, -1.0)


class Sum(base.Fitness):  # type: ignore[misc]
    """The three as one weighted sum, minimised."""

    weights = (-1.0,)


class Individual:
    """A plan in a population.

    Attributes:
        elite: the retrained network whose weights it stands on.
        masks: the genome.
        plan: what it removes.
        shares: what it keeps.
        origin: the mutations that made it, by kind of site.
        error: validation error of its network before retraining; set by the trial.
        fitness: DEAP's; set by the trial.
        replaces: whose place it takes, if anyone's.
    """

    def __init__(
        self,
        elite: Elite,
        masks: Masks,
        plan: Plan,
        shares: Shares,
        origin: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.elite = elite
        self.masks = masks
        self.plan = plan
        self.shares = shares
        self.origin = origin
        self.error = float("inf")
        self.fitness: base.Fitness = Front()
        self.replaces: Individual | None = None

    @property
    def key(self) -> tuple[int, str]:
        """Equal exactly for individuals that are the same network."""
        return self.elite.number, self.plan.digest()


class Variation:
    """Draws offspring.

    Args:
        layout: the sites.
        settings: rates and kinds of the operators.
        pool: the mutations.

    Raises:
        UserError: no mutation can change a kind of site that the network has, or one that the
            settings name can change none of them.
    """

    def __init__(
        self, layout: Layout, settings: GeneticSettings, pool: Sequence[MetricMutation]
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._pool: dict[str, dict[str, MetricMutation]] = {}
        self._rates: dict[str, AdaptiveOperatorRates] = {}
        for kind in dict.fromkeys(site.kind for site in layout.sites):
            fitting = [m for m in pool if m.granularity is None or KINDS[m.granularity] == kind]
            if not fitting:
                raise UserError(
                    f"none of the mutations {', '.join(m.name for m in pool)} ranks {kind}, which "
                    "the network has genes for; add one that does, or random, or use another "
                    "granularity"
                )
            self._pool[kind] = {mutation.name: mutation for mutation in fitting}
            self._rates[kind] = _rates(fitting, settings)
        if settings.mutations:
            self._check_use(pool)

    def _check_use(self, pool: Sequence[MetricMutation]) -> None:
        """Refuse a mutation that was asked for and would never be drawn."""
        for mutation in pool:
            if mutation.granularity is not None and KINDS[mutation.granularity] not in self._pool:
                raise UserError(
                    f"mutation {mutation.name!r} ranks {KINDS[mutation.granularity]}, which are "
                    "not pruned here; leave it out, or use another granularity or lambdas"
                )

    def rates(self) -> dict[str, float]:
        """The rate of every mutation, by kind of site and name."""
        return {
            f"{kind}: {name}": rate
            for kind, rates in self._rates.items()
            for name, rate in rates.rates().items()
        }

    def learn(self, offspring: Iterable[tuple[Individual, bool]]) -> None:
        """Take in which offspring have survived."""
        seen = list(offspring)
        for kind, rates in self._rates.items():
            rates.learn(
                (name, survived)
                for individual, survived in seen
                for site_kind, name in individual.origin
                if site_kind == kind
            )

    def child(self, parents: Sequence[Individual], rng: random.Random) -> Individual:
        """One offspring, with the weights of the first parent.

        Args:
            parents: one, or two of which the first is the better. In the microbial crossover of
                Harvey (2011) the offspring takes the place of the second, in the uniform one both
                parents stay; either way each gene comes from either parent with the same chance.
            rng: all randomness.
        """
        first, *others = parents
        masks = list(first.masks)
        for other in others:
            pairs = zip(masks, other.masks, strict=True)
            masks = [own if rng.random() < 0.5 else theirs for own, theirs in pairs]
        plan = self._layout.plan(masks)
        origin = self._mutate(first.elite, masks, plan, rng)
        plan = self._layout.plan(masks)
        shares = self._layout.shares(plan)
        born = Individual(first.elite, tuple(masks), plan, shares, origin)
        if others and self._settings.crossover == "microbial":
            born.replaces = others[0]
        return born

    def _mutate(
        self, elite: Elite, masks: list[Marks], plan: Plan, rng: random.Random
    ) -> tuple[tuple[str, str], ...]:
        """Change some genes in place; the mutations by kind of site."""
        sites = [n for n in range(len(masks)) if rng.random() < 0.5]
        sites = sites or [rng.randrange(len(masks))]
        drawn: dict[str, str] = {}
        alive, room = self._alive(plan)
        for number in sites:
            kind = self._layout.sites[number].kind
            if kind not in drawn:
                drawn[kind] = self._rates[kind].draw(rng)
            back = drawn[kind].startswith(RESTORE)
            mutation = self._pool[kind][drawn[kind].removeprefix(RESTORE)]
            generator = torch.Generator().manual_seed(rng.getrandbits(63))
            scores = elite.scores(mutation.metric, number)
            share = min(rng.expovariate(1.0) * mutation.amount, MOST_AT_ONCE)
            count = max(1, round(share * int(alive[number].sum())))
            changed = masks[number].copy()
            if back:
                dead = room[number] & ~masks[number]
                count = min(count, int(dead.sum()))
                chosen = mutation.to_restore(scores, torch.from_numpy(~dead), count, generator)
            else:
                count = min(count, int(alive[number].sum()) - 1)
                chosen = mutation.to_prune(
                    scores, torch.from_numpy(alive[number]), max(0, count), generator
                )
            changed[chosen.numpy()] = back
            masks[number] = changed
        return tuple(drawn.items())

    def _alive(self, plan: Plan) -> tuple[list[Marks], list[Marks]]:
        """For every site what is alive under a plan, and where something may be restored."""
        removed, marks = dict(plan.removed), plan.marks()
        alive, room = [], []
        for site in self._layout.sites:
            if site.kind == CHANNELS:
                here = np.ones(site.size, dtype=bool)
                here[list(removed.get(site.name, ()))] = False
                alive.append(here)
                room.append(np.ones(site.size, dtype=bool))
            else:
                weights = marks[site.name]
                alive.append(weights.ravel())
                room.append(_between(weights).ravel())
        return alive, room


def _between(weights: Marks) -> Marks:
    """The weights whose row and column have others that are alive."""
    flat = weights.reshape(*weights.shape[:2], -1)
    rows, columns = np.any(flat, axis=(1, 2)), np.any(flat, axis=(0, 2))
    both = np.outer(rows, columns).reshape(*flat.shape[:2], *(1 for _ in weights.shape[2:]))
    return np.ascontiguousarray(np.broadcast_to(both, weights.shape))


def _rates(pool: Sequence[MetricMutation], settings: GeneticSettings) -> AdaptiveOperatorRates:
    weights = {}
    for mutation in pool:
        weights[mutation.name] = (1 - settings.restore) / len(pool)
        weights[RESTORE + mutation.name] = settings.restore / len(pool)
    return AdaptiveOperatorRates(weights, adaptive=settings.adaptive)
