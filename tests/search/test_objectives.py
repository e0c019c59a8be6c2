"""Aggregates are means on comparable scales; the value of one candidate depends on no other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.search.objectives import (
    AGGREGATES,
    MEANINGS,
    NOISE,
    WORST_ERROR,
    Objective,
    aggregate,
    mean_cost,
    parse_objectives,
)

ERRORS = st.lists(st.floats(-WORST_ERROR, WORST_ERROR), min_size=1, max_size=8)


@given(ERRORS, st.sampled_from(sorted(AGGREGATES)))
def test_an_aggregate_lies_between_the_errors(errors: list[float], name: str) -> None:
    value = aggregate(name, errors)
    least, most = (max(x, 0.0) if name == "log" else x for x in (min(errors), max(errors)))
    assert least - 1e-9 <= value <= most + 1e-9


@given(ERRORS, st.data(), st.floats(0.01, 1.0), st.sampled_from(sorted(AGGREGATES)))
def test_a_smaller_error_never_makes_a_greater_aggregate(
    errors: list[float], data: st.DataObject, less: float, name: str
) -> None:
    number = data.draw(st.integers(0, len(errors) - 1))
    better = [e - less * (n == number) for n, e in enumerate(errors)]
    assert aggregate(name, better) <= aggregate(name, errors) + 1e-12


def test_halving_an_error_counts_alike_on_every_task_by_logarithms() -> None:
    """The one with the greater errors decides a mean, and no more than the other a logarithm."""
    easy, hard = 0.09, 0.99
    halved = [((easy + NOISE) / 2 - NOISE, hard), (easy, (hard + NOISE) / 2 - NOISE)]
    first, second = (aggregate("log", pair) for pair in halved)
    assert first == pytest.approx(second)
    assert aggregate("mean", halved[0]) > aggregate("mean", halved[1]) + 0.1
    whole = aggregate("log", (easy, hard))
    assert whole == pytest.approx(math.sqrt((easy + NOISE) * (hard + NOISE)) - NOISE)


@given(st.permutations(sorted(MEANINGS)), st.sets(st.sampled_from(sorted(MEANINGS))))
def test_objectives_are_read_in_one_order(names: list[str], left: set[str]) -> None:
    chosen = [name for name in names if name not in left or name == "error"]
    parsed = parse_objectives(f"{name}:{n + 1}.5" for n, name in enumerate(chosen))
    assert [objective.name for objective in parsed] == [n for n in MEANINGS if n in chosen]
    assert {o.name: o.weight for o in parsed} == {n: i + 1.5 for i, n in enumerate(chosen)}
    assert [Objective.parse(str(objective)) for objective in parsed] == list(parsed)


def test_a_cost_counts_where_its_budget_leaves_it_free() -> None:
    assert mean_cost("macs", [("macs", 0.5), ("params", 0.2), ("params", 0.4)]) == pytest.approx(
        0.3
    )
    assert mean_cost("macs", [("macs", 0.5), ("macs", 0.3)]) == pytest.approx(0.4)
