from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune import Metric
from gp_prune.errors import UserError
from gp_prune.language.record import synthetic_layer
from gp_prune.metric.mutation import MetricMutation, random_mutation
from gp_prune.pruning import DegenerateScores

L1 = Metric.load("l1")
Draw = tuple[torch.Tensor, torch.Tensor, int]
TEMPERATURES = [0.0, 1e-320, 1e-9, 0.1, 1.0, 1e9, math.inf]


def mutations() -> st.SearchStrategy[MetricMutation]:
    return st.one_of(
        st.just(random_mutation()),
        st.builds(MetricMutation, st.just(L1), st.sampled_from(TEMPERATURES)),
    )


@st.composite
def draws(draw: st.DrawFn) -> Draw:
    """Draw scores, which units are alive, and how many of those to prune."""
    size = draw(st.integers(1, 40))
    values = draw(
        st.lists(st.sampled_from([-1e300, -1.0, 0.0, 0.5, 1e300]), min_size=size, max_size=size)
    )
    alive = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return (
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(alive),
        draw(st.integers(0, sum(alive))),
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(mutations(), draws(), st.integers(0, 99))
def test_draws_distinct_units_that_are_alive(
    mutation: MetricMutation, drawn: Draw, seed: int
) -> None:
    scores, alive, count = drawn
    units = mutation.to_prune(scores, alive, count, seeded(seed))
    assert units.dtype == torch.int64
    assert len(set(units.tolist())) == len(units) == count
    assert alive[units].all()
    again = mutation.to_prune(scores, alive, count, seeded(seed))
    assert torch.equal(units, again)


@given(mutations(), draws(), st.integers(0, 99))
def test_restoring_is_pruning_of_what_is_dead_with_the_scores_turned_round(
    mutation: MetricMutation, drawn: Draw, seed: int
) -> None:
    scores, alive, count = drawn
    restored = mutation.to_restore(scores, ~alive, count, seeded(seed))
    assert torch.equal(restored, mutation.to_prune(-scores, alive, count, seeded(seed)))


@given(draws(), st.integers(0, 99))
def test_at_temperature_zero_the_lowest_scores_go(drawn: Draw, seed: int) -> None:
    scores, alive, count = drawn
    units = MetricMutation(L1, 0.0).to_prune(scores, alive, count, seeded(seed))
    taken = scores[units].sort().values
    assert torch.equal(taken, scores[alive].sort().values[:count])


@given(mutations(), draws(), st.floats(0.1, 10), st.integers(0, 99))
def test_only_the_order_of_the_scores_counts(
    mutation: MetricMutation, drawn: Draw, factor: float, seed: int
) -> None:
    scores, alive, count = drawn
    ranks = torch.unique(scores, return_inverse=True)[1].double()
    units = mutation.to_prune(scores, alive, count, seeded(seed))
    assert torch.equal(units, mutation.to_prune(ranks * factor, alive, count, seeded(seed)))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_the_first_unit_drawn_follows_the_law_of_ranks(temperature: float) -> None:
    scores = torch.tensor([3.0, 0.0, 2.0, 9.0, 1.0])
    alive = torch.tensor([True, True, True, False, True])
    ranks = np.array([3, 0, 2, 1])  # of units 0, 1, 2, 4
    weights = np.exp(-ranks / (temperature * 4))
    generator = seeded()
    mutation = MetricMutation(L1, temperature)
    draws = 4000
    taken = [int(mutation.to_prune(scores, alive, 1, generator)) for _ in range(draws)]
    counts = np.bincount(taken, minlength=5)
    assert counts[3] == 0
    expected = weights / weights.sum() * draws
    observed = counts[[0, 1, 2, 4]]
    assert np.abs(observed - expected).max() < 5 * math.sqrt(draws) / 2


def test_equal_scores_are_drawn_alike_even_at_temperature_zero() -> None:
    generator = seeded()
    mutation = MetricMutation(L1, 0.0)
    alive = torch.ones(4, dtype=torch.bool)
    taken = [int(mutation.to_prune(torch.zeros(4), alive, 1, generator)) for _ in range(2000)]
    assert np.bincount(taken, minlength=4).min() > 400


@pytest.mark.parametrize("mutation", [random_mutation(), L1.as_mutation(math.inf)])
def test_without_metric_or_at_infinite_temperature_the_scores_do_not_matter(
    mutation: MetricMutation,
) -> None:
    alive = torch.ones(10, dtype=torch.bool)
    scores = torch.arange(10.0)
    units = mutation.to_prune(scores, alive, 5, seeded())
    assert torch.equal(units, random_mutation().to_prune(None, alive, 5, seeded()))


def test_random_mutation_draws_every_set_of_units_alike() -> None:
    alive = torch.tensor([True, False, True, True, True, True])
    generator = seeded()
    counts: dict[frozenset[int], int] = {}
    for _ in range(4000):
        drawn = frozenset(random_mutation().to_prune(None, alive, 2, generator).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    assert len(counts) == 10
    # 400 expected of each; 5 standard deviations are 95.
    assert all(305 < count < 495 for count in counts.values())


def test_what_cannot_be_drawn_need_have_no_score() -> None:
    scores = torch.tensor([math.nan, 1.0, math.inf, 2.0])
    alive = torch.tensor([False, True, False, True])
    assert sorted(L1.as_mutation().to_prune(scores, alive, 2, seeded()).tolist()) == [1, 3]
    with pytest.raises(DegenerateScores, match="2 of 2 values are NaN or infinite"):
        L1.as_mutation().to_restore(scores, alive, 1, seeded())


def test_scores_of_another_shape_are_refused() -> None:
    alive = torch.ones(4, dtype=torch.bool)
    for scores in (None, torch.zeros(3)):
        with pytest.raises(DegenerateScores, match=r"where \(4,\) is needed"):
            L1.as_mutation().to_prune(scores, alive, 1, seeded())


@pytest.mark.parametrize("count", [-1, 3])
def test_more_than_there_are_cannot_be_drawn(count: int) -> None:
    alive = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="there are 2 to draw from"):
        random_mutation().to_prune(None, alive, count, seeded())


BAD = [("temperature", -0.1), ("temperature", math.nan), ("amount", 0.0), ("amount", 1.5)]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_options_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"the {name} of mutation 'l1'"):
        L1.as_mutation(**{name: value})


def test_a_mutation_says_what_it_is() -> None:
    guided = Metric.load("taylor_bn").as_mutation(0.2, 0.3)
    assert (guided.name, guided.granularity) == ("taylor_bn", "channel")
    assert "fisher" in guided.needs
    blind = random_mutation(0.3)
    assert (blind.name, blind.granularity, blind.needs) == ("random", None, frozenset())
    assert (guided.temperature, guided.amount, blind.amount) == (0.2, 0.3, 0.3)


def test_the_scores_of_the_metric_lead_the_mutation() -> None:
    layer = synthetic_layer()
    scores = L1.scores(layer)
    units = L1.as_mutation(0.0).to_prune(scores, torch.ones(4, dtype=torch.bool), 1, seeded())
    assert int(units) == int(scores.argmin())
