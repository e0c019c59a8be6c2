"""Operators whose offspring succeed are used more often, the others never less than the floor."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.runs.evolution import (
    FLOOR,
    AdaptiveOperatorRates,
    hypervolume,
    volume_gains,
)

WEIGHTS = {"a": 3.0, "b": 2.0, "c": 5.0, "never": 0.0}
POINTS = st.lists(st.tuples(*[st.sampled_from([0.1, 0.4, 0.7, 1.2])] * 2), max_size=8)


@given(st.integers(0, 2**32 - 1))
def test_rates_are_a_distribution_above_the_floor(seed: int) -> None:
    rng = random.Random(seed)  # Hypothesis once never ended on lists of lists of pairs
    rates = AdaptiveOperatorRates(WEIGHTS)
    for _ in range(rng.randrange(7)):
        gains = [rng.choice((0.0, 1.0, rng.random())) for _ in range(rng.randrange(41))]
        rates.learn([(rng.choice("abc"), gain) for gain in gains])
    found = rates.rates()
    assert set(found) == {"a", "b", "c"}
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= FLOOR


def test_success_raises_a_rate_and_failure_lowers_it() -> None:
    rates = AdaptiveOperatorRates(WEIGHTS)
    before = rates.rates()
    assert before == pytest.approx({"a": 0.3, "b": 0.2, "c": 0.5})
    for _ in range(20):
        rates.learn([("a", True)] * 5 + [("b", False)] * 5 + [("c", True), ("c", False)] * 3)
    after = rates.rates()
    assert after["a"] > before["a"] and after["b"] < before["b"]


def test_nothing_is_learnt_where_all_succeed_or_all_fail_alike() -> None:
    for outcome in (True, False):
        rates = AdaptiveOperatorRates({"a": 1.0, "b": 1.0})
        rates.learn([("a", outcome), ("b", outcome)] * 10)
        assert rates.rates() == pytest.approx({"a": 0.5, "b": 0.5})


def test_fixed_rates_stay() -> None:
    rates = AdaptiveOperatorRates(WEIGHTS, adaptive=False)
    rates.learn([("a", True)] * 50)
    assert rates.rates() == AdaptiveOperatorRates(WEIGHTS).rates()


def test_draws_follow_the_rates() -> None:
    rates = AdaptiveOperatorRates(WEIGHTS)
    rng = random.Random(0)
    drawn = Counter(rates.draw(rng) for _ in range(4000))
    assert drawn["a"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert drawn["never"] == 0


@given(POINTS, POINTS)
def test_gains_are_what_each_offspring_adds_to_the_volume(
    offspring: list[tuple[float, float]], parents: list[tuple[float, float]]
) -> None:
    reference = (1.0, 1.0)
    gains = volume_gains(offspring, parents, reference)
    before = hypervolume(parents, reference)
    added = [hypervolume([*parents, point], reference) - before for point in offspring]
    most = max(added, default=0.0)
    assert gains == pytest.approx([gain / most if most > 1e-9 else 0.0 for gain in added])
    for point, gain in zip(offspring, gains, strict=True):
        covered = any(all(a <= b for a, b in zip(p, point, strict=True)) for p in parents)
        if covered or not all(value < 1.0 for value in point):
            assert gain == 0.0


def test_the_operator_that_adds_most_is_drawn_more_often_though_all_survive() -> None:
    rates = AdaptiveOperatorRates({"a": 1.0, "b": 1.0})
    parents = [(0.9, 0.9)]
    names, born = "ab" * 10, [(0.2, 0.2), (0.85, 0.85)] * 10
    for _ in range(3):
        rates.learn(zip(names, volume_gains(born, parents, (1.0, 1.0)), strict=True))
    assert rates.rates()["a"] > 0.7
