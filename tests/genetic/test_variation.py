"""Offspring."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune import Metric
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.plan import CHANNELS, GeneLayout
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.variation import Individual, Variation
from gp_prune.metric.mutation import MetricMutation, random_mutation

MakeNetwork = Callable[[str], tuple[nn.Module, Tensor]]
Dense = tuple[GeneLayout, Elite]


SETTINGS = GeneticSettings(population=6)


METRICS = [Metric.load(name) for name in ("l1", "taylor_weights", "magnitude", "wanda_weight")]


def pool() -> list[MetricMutation]:
    return [random_mutation(), *(metric.as_mutation() for metric in METRICS)]


def whole(elite: Elite) -> Individual:
    return Individual(elite, elite.masks, elite.plan, elite.shares)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), restore=st.sampled_from([0.0, 0.5, 1 - 1e-12]))
def test_a_line_of_offspring_keeps_a_unit_of_every_gene(
    dense: Dense, seed: int, restore: float
) -> None:
    layout, elite = dense
    rng = random.Random(seed)
    variation = Variation(layout, replace(SETTINGS, restore=restore, amount=0.5), pool())
    one = two = whole(elite)
    for _ in range(6):
        one, two = variation.child([one], rng), variation.child([one, two], rng)
        for individual in (one, two):
            assert all(mask.any() for mask in individual.masks)
            assert individual.plan == layout.plan(individual.masks)
            assert individual.shares == layout.shares(individual.plan)
            assert individual.origin
    if restore > 0.9:  # there is nothing to bring back
        assert all(mask.all() for mask in one.masks)


def test_offspring_depend_on_the_seed_alone(dense: Dense) -> None:
    layout, elite = dense

    def line(seed: int) -> Individual:
        rng, variation = random.Random(seed), Variation(layout, SETTINGS, pool())
        individual = whole(elite)
        for _ in range(5):
            individual = variation.child([individual], rng)
        return individual

    assert line(1).plan == line(1).plan
    assert line(1).plan != line(2).plan


def test_the_genes_of_two_parents_are_mixed(dense: Dense) -> None:
    layout, elite = dense
    rng = random.Random(0)
    variation = Variation(layout, replace(SETTINGS, restore=0.0), [random_mutation(1e-6)])
    other = whole(elite)
    masks = [mask.copy() for mask in other.masks]
    for mask in masks:
        mask[: len(mask) // 2] = False
    plan = layout.plan(masks)
    half = Individual(elite, tuple(masks), plan, layout.shares(plan))
    seen = set()
    for _ in range(40):
        child = variation.child([half, other], rng)
        assert child.replaces is other
        # A mutation changes one unit of a gene at most here.
        seen.add(tuple(mask.mean() > 0.75 for mask in child.masks))
        for mask in child.masks:
            assert mask.mean() < 0.6 or mask.mean() > 0.8
    assert len(seen) > 10
    uniform = Variation(layout, replace(SETTINGS, crossover="uniform"), pool())
    assert uniform.child([half, other], rng).replaces is None


def test_greedy_mutations_take_the_lowest_scores(dense: Dense, networks: MakeNetwork) -> None:
    layout, elite = dense
    model, _ = networks("lenet")
    metrics = [metric.as_mutation(temperature=0.0) for metric in METRICS[:1] + METRICS[2:3]]
    variation = Variation(layout, replace(SETTINGS, restore=0.0), metrics)
    child = variation.child([whole(elite)], random.Random(3))
    changed = [n for n, mask in enumerate(child.masks) if not mask.all()]
    assert changed
    for number in changed:
        gene = layout.genes[number]
        weight = model.get_parameter(f"{gene.name}.weight").detach().abs()
        scores = (weight.flatten(1).sum(1) if gene.kind == CHANNELS else weight.flatten()).numpy()
        mask = child.masks[number]
        assert scores[~mask].max() <= scores[mask].min()
