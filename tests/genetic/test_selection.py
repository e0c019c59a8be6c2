"""Selection and the choice of the elite."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gp_prune.genetic.elite import Elite
from gp_prune.genetic.plan import GeneLayout, KeptShares
from gp_prune.genetic.selection import Fitness, choose_compromises, select_nondominated
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.variation import Individual, WeightedFitness

Dense = tuple[GeneLayout, Elite]
Vector = tuple[float, float, float]


SETTINGS = GeneticSettings(population=6)


def individuals(dense: Dense, vectors: list[Vector]) -> list[Individual]:
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
def test_below_the_goals_the_error_decides(dense: Dense, vectors: list[Vector]) -> None:
    both: list[tuple[float, ...]] = [(), (1.0, 10.0, 10.0)]
    for lambdas in both:
        settings = replace(SETTINGS, lambdas=lambdas, reach=1.0, goal_macs=0.3, goal_params=0.3)
        fitness = Fitness(settings, 0.005, 0.9, 1.0)
        pool = individuals(dense, vectors)
        small = [i for i in pool if i.shares.macs <= 0.3 and i.shares.params <= 0.3]
        for individual in pool:
            fitness.assign(individual)
            assert fitness.merit(individual.error, individual.shares) == fitness.merit(
                individual.error,
                KeptShares(max(0.3, individual.shares.macs), max(0.3, individual.shares.params)),
            )
        for one in small:
            for other in small:
                assert (one.fitness.values < other.fitness.values) == (one.error < other.error)
        if small:
            parent = choose_compromises(pool, 1, fitness._counted)[0]
            assert parent in small and parent.error == min(i.error for i in small)


@given(VECTORS)
def test_nsga2_keeps_the_front_that_fits(dense: Dense, vectors: list[Vector]) -> None:
    fitness = Fitness(replace(SETTINGS, reach=1.0, population=4), 0.02, 0.9, 1.0)
    pool = individuals(dense, vectors)
    for individual in pool:
        fitness.assign(individual)
    chosen = fitness.select_survivors(pool, random.Random(0))
    assert len(chosen) == min(4, len(pool))
    values = [individual.fitness.values for individual in pool]

    def dominated(one: Vector) -> bool:
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
def test_the_best_survives_every_selection(
    dense: Dense, vectors: list[Vector], selection: str, seed: int
) -> None:
    options = replace(SETTINGS, lambdas=(1.0, 2.0, 0.5), selection=selection, population=3)
    fitness = Fitness(options, 0.02, 0.9, 1.0)
    pool = individuals(dense, vectors)
    for individual in pool:
        fitness.assign(individual)
        assert isinstance(individual.fitness, WeightedFitness)
    chosen = fitness.select_survivors(pool, random.Random(seed))
    assert len({id(individual) for individual in chosen}) == len(chosen) == min(3, len(pool))
    best = min(individual.fitness.values for individual in pool)
    assert chosen[0].fitness.values == best
    if selection == "truncation":
        values = sorted(individual.fitness.values for individual in pool)
        assert [individual.fitness.values for individual in chosen] == values[:3]


def test_what_is_out_of_reach_stands_behind_all_others(dense: Dense) -> None:
    for lambdas in ((), (1.0, 0.0, 100.0)):
        fitness = Fitness(
            replace(SETTINGS, lambdas=lambdas, reach=0.1, population=2), 0.02, 0.9, 1.0
        )
        good, lost, start = individuals(dense, [(0.09, 0.5, 0.5), (0.5, 0.0, 0.0), (0.02, 1, 1)])
        for individual in (good, lost, start):
            fitness.assign(individual)
        assert fitness.within_reach(good)
        assert not fitness.within_reach(lost)
        chosen = fitness.select_survivors([lost, start, good], random.Random(0))
        assert not any(individual is lost for individual in chosen)


def test_the_elite_are_compromises_between_macs_and_parameters(dense: Dense) -> None:
    layout, elite = dense
    fitness = Fitness(replace(SETTINGS, reach=1.0), 0.02, 0.9, 1.0)
    tried = individuals(dense, [(0.1, 0.1, 0.9), (0.1, 0.3, 0.3), (0.1, 0.9, 0.1), (0.1, 0.8, 0.8)])
    masks = [mask.copy() for mask in elite.masks]
    masks[0][0] = False
    for individual in tried:
        individual.plan = layout.plan(masks)
        fitness.assign(individual)
    assert [i.shares.macs for i in fitness.select_elites(tried, 3)] == [0.1, 0.3, 0.9]
    (one,) = fitness.select_elites(tried, 1)
    assert one.shares.macs in (0.1, 0.3, 0.9)
    # Where none is within reach, the least error is all there is to go by.
    fitness.reach = 1e-9
    assert [i.error for i in fitness.select_elites(tried, 2)] == [0.1, 0.1]


def test_fronts_of_networks(dense: Dense) -> None:
    _, first = dense
    shares = [(1.0, 1.0), (0.5, 0.5), (0.2, 0.8), (0.6, 0.5), (0.2, 0.9)]
    errors = [0.01, 0.02, 0.03, 0.02, 0.03]
    elites = [
        Elite(n, 1, first.masks, first.plan, KeptShares(*pair), "", error)
        for n, (pair, error) in enumerate(zip(shares, errors, strict=True))
    ]
    assert [elite.number for elite in select_nondominated(elites)] == [0, 1, 2]
    assert [elite.number for elite in choose_compromises(elites, 2)] == [2, 1]
    assert len(choose_compromises(elites, 9)) == 5


def test_reach_compares_errors_of_the_same_samples(dense: Dense) -> None:
    _, elite = dense
    fitness = Fitness(replace(SETTINGS, reach=0.1), 0.02, 0.92, 1.0)
    start = Elite(1, 1, elite.masks, elite.plan, KeptShares(1, 1), "", 0.02)
    individual = Individual(start, start.masks, start.plan, KeptShares(0.5, 0.5))
    individual.error = 0.15
    assert not fitness.within_reach(individual)
    start.trial_error = 0.10  # the first samples are harder than all
    assert fitness.within_reach(individual)
    start.trial_error = 0.01  # they are easier
    assert not fitness.within_reach(individual)
