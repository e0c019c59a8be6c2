"""Create offspring: crossover of plans gene by gene, and mutations that metrics guide."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from deap import base

from gp_prune.errors import UserError
from gp_prune.genetic.elite import GENE_KINDS, Elite
from gp_prune.genetic.plan import CHANNELS, GeneLayout, GeneticPlan, KeptShares, Marks, Masks
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.metric.mutation import MetricMutation
from gp_prune.runs.evolution import AdaptiveOperatorRates

MOST_AT_ONCE = 0.9
"""Largest share of what is alive in a layer that one mutation removes."""

RESTORE = "restore "
"""Stands before the name of a mutation that restores something."""


class ParetoFitness(base.Fitness):  # type: ignore[misc]
    """Error, MACs kept and parameters kept, all minimised."""

    weights = (-1.0, -1.0, -1.0)


class WeightedFitness(base.Fitness):  # type: ignore[misc]
    """The three as one weighted sum, minimised."""

    weights = (-1.0,)


class Individual:
    """A plan in a population.

    Attributes:
        elite: the retrained network whose weights it uses.
        masks: the genome.
        plan: what it removes.
        shares: what it keeps.
        origin: the mutations that made it, by kind of gene.
        error: validation error of its network before retraining; set when it is evaluated.
        fitness: DEAP's; set when it is evaluated.
        replaces: the parent whose place it takes, if any.
    """

    def __init__(
        self,
        elite: Elite,
        masks: Masks,
        plan: GeneticPlan,
        shares: KeptShares,
        origin: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.elite = elite
        self.masks = masks
        self.plan = plan
        self.shares = shares
        self.origin = origin
        self.error = float("inf")
        self.fitness: base.Fitness = ParetoFitness()
        self.replaces: Individual | None = None

    @property
    def key(self) -> tuple[int, str]:
        """Return what is equal exactly for individuals that are the same network."""
        return self.elite.number, self.plan.digest()


class Variation:
    """Draws offspring.

    Args:
        layout: the genes.
        settings: rates and kinds of the operators.
        pool: the mutations.

    Raises:
        UserError: no mutation can change a kind of gene that the network has, or one that the
            settings name can change none of them.
    """

    def __init__(
        self, layout: GeneLayout, settings: GeneticSettings, pool: Sequence[MetricMutation]
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._pool: dict[str, dict[str, MetricMutation]] = {}
        self._rates: dict[str, AdaptiveOperatorRates] = {}
        for kind in dict.fromkeys(gene.kind for gene in layout.genes):
            able = [m for m in pool if m.granularity is None or GENE_KINDS[m.granularity] == kind]
            if not able:
                raise UserError(
                    f"none of the mutations {', '.join(m.name for m in pool)} ranks {kind}, which "
                    "the network has genes for; add one that does, or random, or use another "
                    "granularity"
                )
            weights = {}
            for mutation in able:
                weights[mutation.name] = (1 - settings.restore) / len(able)
                weights[RESTORE + mutation.name] = settings.restore / len(able)
            self._pool[kind] = {mutation.name: mutation for mutation in able}
            self._rates[kind] = AdaptiveOperatorRates(weights, adaptive=settings.adaptive)
        for mutation in pool if settings.mutations else ():
            kind = GENE_KINDS.get(mutation.granularity or "", "")
            if kind and kind not in self._pool:
                raise UserError(
                    f"mutation {mutation.name!r} ranks {kind}, which are not pruned here; leave it "
                    "out, or use another granularity or lambdas"
                )

    def rates(self) -> dict[str, float]:
        """Return the rate of every mutation, by kind of gene and name."""
        return {
            f"{kind}: {name}": rate
            for kind, rates in self._rates.items()
            for name, rate in rates.rates().items()
        }

    def learn(self, offspring: Iterable[tuple[Individual, float]]) -> None:
        """Adapt the rates to the success of each offspring, from 0 to 1."""
        seen = list(offspring)
        for kind, rates in self._rates.items():
            rates.learn(
                (name, success)
                for individual, success in seen
                for gene_kind, name in individual.origin
                if gene_kind == kind
            )

    def child(self, parents: Sequence[Individual], rng: random.Random) -> Individual:
        """Create one offspring, with the weights of the first parent.

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
            masks = [mask if rng.random() < 0.5 else theirs for mask, theirs in pairs]
        origin = self._mutate(first.elite, masks, rng)
        plan = self._layout.plan(masks)
        child = Individual(first.elite, tuple(masks), plan, self._layout.shares(plan), origin)
        if others and self._settings.crossover == "microbial":
            child.replaces = others[0]
        return child

    def _mutate(
        self, elite: Elite, masks: list[Marks], rng: random.Random
    ) -> tuple[tuple[str, str], ...]:
        """Change some genes in place; return the mutations by kind of gene."""
        alive, room = self._alive(self._layout.plan(masks))
        genes = [n for n in range(len(masks)) if rng.random() < 0.5]
        genes = genes or [rng.randrange(len(masks))]
        drawn: dict[str, str] = {}
        for number in genes:
            kind = self._layout.genes[number].kind
            if kind not in drawn:
                drawn[kind] = self._rates[kind].draw(rng)
            restores = drawn[kind].startswith(RESTORE)
            mutation = self._pool[kind][drawn[kind].removeprefix(RESTORE)]
            generator = torch.Generator().manual_seed(rng.getrandbits(63))
            scores = elite.scores.of(mutation.metric, number) if mutation.metric else None
            share = min(rng.expovariate(1.0) * mutation.amount, MOST_AT_ONCE)
            count = max(1, round(share * int(alive[number].sum())))
            changed = masks[number].copy()
            if restores:
                dead = room[number] & ~masks[number]
                count = min(count, int(dead.sum()))
                units = mutation.to_restore(scores, torch.from_numpy(~dead), count, generator)
            else:
                count = max(0, min(count, int(alive[number].sum()) - 1))
                units = mutation.to_prune(scores, torch.from_numpy(alive[number]), count, generator)
            changed[units.numpy()] = restores
            masks[number] = changed
        return tuple(drawn.items())

    def _alive(self, plan: GeneticPlan) -> tuple[list[Marks], list[Marks]]:
        """Mark for every gene what is alive under a plan, and where units may be restored."""
        removed, marks = dict(plan.removed), plan.marks()
        alive, room = [], []
        for gene in self._layout.genes:
            if gene.kind == CHANNELS:
                stays = np.ones(gene.size, dtype=bool)
                stays[list(removed.get(gene.name, ()))] = False
                alive.append(stays)
                room.append(np.ones(gene.size, dtype=bool))
            else:
                weights = marks[gene.name]
                alive.append(weights.ravel())
                room.append(_between_alive(weights).ravel())
        return alive, room


def _between_alive(weights: Marks) -> Marks:
    """Mark the weights whose row and column have others that are alive."""
    flat = weights.reshape(*weights.shape[:2], -1)
    rows, columns = np.any(flat, axis=(1, 2)), np.any(flat, axis=(0, 2))
    both = np.outer(rows, columns).reshape(*flat.shape[:2], *(1 for _ in weights.shape[2:]))
    return np.ascontiguousarray(np.broadcast_to(both, weights.shape))
