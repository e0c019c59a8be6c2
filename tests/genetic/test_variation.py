"""Offspring, selection and the choice of the elite."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gp_prune import Metric
from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.engine import Engine
from gp_prune.genetic.plan import CHANNELS, GeneLayout, KeptShares
from gp_prune.genetic.selection import Fitness, compromises, nondominated
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.variation import Individual, Variation, WeightedFitness
from gp_prune.metric.mutation import random_mutation
from gp_prune.pruning import trace
from gp_prune.statistics import Batch

SETTINGS = GeneticSettings(population=6)
METRICS = [Metric.load(name) for name in ("l1", "taylor_weights", "magnitude", "wanda_weight")]


@pytest.fixture(scope="module")
def dense(networks):
    """The layout and the unpruned elite of a LeNet, rated by some metrics."""
    model, inputs = networks("lenet")
    layout = GeneLayout(model, trace(model, inputs[:1]), "auto")
    batches = [Batch(inputs, torch.arange(5), torch.arange(5))]

    def rate(elite):
        ratings = MetricScores(layout, METRICS)
        loss = torch.nn.functional.cross_entropy
        ratings.measure(model, elite.plan, batches, loss, inputs[:1], 0)
        return ratings

    plan = layout.plan(layout.full())
    return layout, Elite(0, 0, layout.full(), plan, KeptShares(1.0, 1.0), "dense", 0.02, score=rate)


def pool():
    return [random_mutation(), *(metric.as_mutation() for metric in METRICS)]


def whole(elite):
    return Individual(elite, elite.masks, elite.plan, elite.shares)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), restore=st.sampled_from([0.0, 0.5, 1 - 1e-12]))
def test_a_line_of_offspring_keeps_a_unit_of_every_gene(dense, seed, restore):
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


def test_offspring_depend_on_the_seed_alone(dense):
    layout, elite = dense

    def line(seed):
        rng, variation = random.Random(seed), Variation(layout, SETTINGS, pool())
        individual = whole(elite)
        for _ in range(5):
            individual = variation.child([individual], rng)
        return individual

    assert line(1).plan == line(1).plan
    assert line(1).plan != line(2).plan


def test_the_genes_of_two_parents_are_mixed(dense):
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


def test_the_best_does_not_make_way_for_its_own_offspring(dense):
    layout, _ = dense
    for lambdas, place in (((1.0, 1.0, 1.0), None), ((), "its own")):
        options = replace(SETTINGS, lambdas=lambdas, crossover_rate=1.0)
        engine = SimpleNamespace(
            settings=options, variation=Variation(layout, options, pool()),
            fitness=Fitness(options, 0.02, 0.9, 1.0),
        )  # fmt: skip
        (best,) = individuals(dense, [(0.01, 0.1, 0.1)])
        engine.fitness.assign(best)
        child = Engine._breed(engine, [best], random.Random(0))
        # On the front an offspring takes the place of what it dominates alone.
        assert child.replaces is (place and best)


def test_greedy_mutations_take_the_lowest_scores(dense, networks):
    layout, elite = dense
    model, _ = networks("lenet")
    metrics = [metric.as_mutation(temperature=0.0) for metric in METRICS[:1] + METRICS[2:3]]
    variation = Variation(layout, replace(SETTINGS, restore=0.0), metrics)
    child = variation.child([whole(elite)], random.Random(3))
    changed = [n for n, mask in enumerate(child.masks) if not mask.all()]
    assert changed
    for number in changed:
        gene = layout.genes[number]
        weight = model.get_submodule(gene.name).weight.detach().abs()
        scores = (weight.flatten(1).sum(1) if gene.kind == CHANNELS else weight.flatten()).numpy()
        mask = child.masks[number]
        assert scores[~mask].max() <= scores[mask].min()


def individuals(dense, vectors):
    _, elite = dense
    made = []
    for error, macs, params in vectors:
        individual = Individual(elite, elite.masks, elite.plan, KeptShares(macs, params))
        individual.error = error
        made.append(individual)
    return made


VECTORS = st.lists(
    st.tuples(*(st.sampled_from([0.01, 0.1, 0.3, 0.6, 0.9]) for _ in range(3))),
    min_size=1, max_size=14,
)  # fmt: skip


@given(VECTORS)
def test_nsga2_keeps_the_front_that_fits(dense, vectors):
    judge = Fitness(replace(SETTINGS, reach=1.0, population=4), 0.02, 0.9, 1.0)
    pool = individuals(dense, vectors)
    for individual in pool:
        judge.assign(individual)
    chosen = judge.survivors(pool, random.Random(0))
    assert len(chosen) == min(4, len(pool))
    values = [individual.fitness.values for individual in pool]

    def dominated(one):
        return any(
            other != one and all(a <= b for a, b in zip(other, one, strict=True))
            for other in values
        )

    front = [individual for individual in pool if not dominated(individual.fitness.values)]
    if len(front) >= 4:
        assert all(any(c is f for f in front) for c in chosen)
    else:
        assert all(any(c is f for c in chosen) for f in front)


@given(VECTORS, st.sampled_from(["truncation", "tournament", "roulette"]), st.integers(0, 99))
def test_the_best_survives_every_selection(dense, vectors, selection, seed):
    options = replace(SETTINGS, lambdas=(1.0, 2.0, 0.5), selection=selection, population=3)
    judge = Fitness(options, 0.02, 0.9, 1.0)
    pool = individuals(dense, vectors)
    for individual in pool:
        judge.assign(individual)
        assert isinstance(individual.fitness, WeightedFitness)
    chosen = judge.survivors(pool, random.Random(seed))
    assert len({id(individual) for individual in chosen}) == len(chosen) == min(3, len(pool))
    best = min(individual.fitness.values for individual in pool)
    assert chosen[0].fitness.values == best
    if selection == "truncation":
        values = sorted(individual.fitness.values for individual in pool)
        assert [individual.fitness.values for individual in chosen] == values[:3]


def test_what_is_out_of_reach_stands_behind_all_others(dense):
    for lambdas in ((), (1.0, 0.0, 100.0)):
        judge = Fitness(replace(SETTINGS, lambdas=lambdas, reach=0.1, population=2), 0.02, 0.9, 1.0)
        good, lost, start = individuals(dense, [(0.09, 0.5, 0.5), (0.5, 0.0, 0.0), (0.02, 1, 1)])
        for individual in (good, lost, start):
            judge.assign(individual)
        assert judge.within_reach(good)
        assert not judge.within_reach(lost)
        chosen = judge.survivors([lost, start, good], random.Random(0))
        assert not any(individual is lost for individual in chosen)


def test_the_elite_are_compromises_between_macs_and_parameters(dense):
    layout, elite = dense
    judge = Fitness(replace(SETTINGS, reach=1.0), 0.02, 0.9, 1.0)
    tried = individuals(dense, [(0.1, 0.1, 0.9), (0.1, 0.3, 0.3), (0.1, 0.9, 0.1), (0.1, 0.8, 0.8)])
    masks = [mask.copy() for mask in elite.masks]
    masks[0][0] = False
    for individual in tried:
        individual.plan = layout.plan(masks)
        judge.assign(individual)
    assert [i.shares.macs for i in judge.elites(tried, 3)] == [0.1, 0.3, 0.9]
    (one,) = judge.elites(tried, 1)
    assert one.shares.macs in (0.1, 0.3, 0.9)
    # Where none is within reach, the least error is all there is to go by.
    judge.reach = 1e-9
    assert [i.error for i in judge.elites(tried, 2)] == [0.1, 0.1]


def test_fronts_of_networks(dense):
    _, first = dense
    shares = [(1.0, 1.0), (0.5, 0.5), (0.2, 0.8), (0.6, 0.5), (0.2, 0.9)]
    errors = [0.01, 0.02, 0.03, 0.02, 0.03]
    elites = [
        Elite(n, 1, first.masks, first.plan, KeptShares(*pair), "", error)
        for n, (pair, error) in enumerate(zip(shares, errors, strict=True))
    ]
    assert [elite.number for elite in nondominated(elites)] == [0, 1, 2]
    assert [elite.number for elite in compromises(elites, 2)] == [2, 1]
    assert len(compromises(elites, 9)) == 5


def test_what_was_pruned_keeps_its_last_score(dense, networks):
    layout, elite = dense
    model, inputs = networks("lenet")
    masks = [mask.copy() for mask in elite.masks]
    masks[0][[1, 4]] = False
    masks[2][::3] = False
    plan = layout.plan(masks)
    batches = [Batch(inputs, torch.arange(5), torch.arange(5))]
    ratings = MetricScores(layout, METRICS, elite.scores)
    ratings.measure(model, plan, batches, torch.nn.functional.cross_entropy, inputs[:1], 0)
    for metric in METRICS:
        for number, mask in enumerate(masks):
            kind = "channel" if layout.genes[number].kind == CHANNELS else "weight"
            if metric.granularity != kind:
                continue
            before, after = elite.scores.of(metric, number), ratings.of(metric, number)
            dead = torch.from_numpy(~mask)
            if metric.name in ("l1", "magnitude") and number == 0:
                assert torch.allclose(before, after)
            assert torch.equal(before[dead], after[dead]) or kind == "channel"
            assert np.isfinite(after.numpy()).all()
