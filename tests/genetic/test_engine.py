"""The steps of the genetic algorithm."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import Engine
from gp_prune.genetic.plan import GeneLayout, KeptShares
from gp_prune.genetic.selection import Fitness
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.variation import Individual, Variation
from gp_prune.metric.mutation import random_mutation

Dense = tuple[GeneLayout, Elite]


def test_the_best_does_not_make_way_for_its_own_offspring(dense: Dense) -> None:
    layout, elite = dense
    runs: list[tuple[tuple[float, ...], bool]] = [((1.0, 1.0, 1.0), False), ((), True)]
    for lambdas, makes_way in runs:
        settings = GeneticSettings(population=6, lambdas=lambdas, crossover_rate=1.0)
        fitness = Fitness(settings, 0.02, 0.9, 1.0)
        variation = Variation(layout, settings, [random_mutation()])
        engine: Any = SimpleNamespace(settings=settings, variation=variation, fitness=fitness)
        best = Individual(elite, elite.masks, elite.plan, KeptShares(0.1, 0.1))
        best.error = 0.01
        fitness.assign(best)
        child = Engine._breed(engine, [best], random.Random(0))
        # On the front an offspring takes the place of what it dominates alone.
        assert child.replaces is (best if makes_way else None)
