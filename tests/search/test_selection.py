"""Selection equals DEAP's where all weights are alike; a weight stretches its objective."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from deap import tools
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.search.grammar import Individual
from gp_prune.search.objectives import Objectives
from gp_prune.search.selection import assign_crowding, select

AXIS = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=20, max_size=20, unique=True)
POINTS = st.tuples(AXIS, AXIS, AXIS, st.integers(1, 20)).map(
    lambda drawn: list(zip(*drawn[:3], strict=True))[: drawn[3]]
)


def individuals(points: Sequence[Objectives]) -> list[Individual]:
    made = []
    for point in points:
        individual = Individual([])
        individual.fitness.values = point
        made.append(individual)
    return made


@given(POINTS, st.integers(0, 20))
def test_selection_equals_that_of_deap(points: list[Objectives], count: int) -> None:
    """Where no two are alike in any objective: DEAP breaks ties by the order in which they come."""
    ours = select(individuals(points), count, (1.0, 1.0, 1.0))
    theirs = tools.selNSGA2(individuals(points), count) if count else []
    assert {i.fitness.values for i in ours[:count]} == {i.fitness.values for i in theirs}


def test_a_weight_decides_which_gaps_count() -> None:
    line = [(0.0, 1.0), (0.1, 0.5), (0.6, 0.4), (1.0, 0.0)]
    for weights, wide in (((10.0, 1.0), 2), ((1.0, 10.0), 1)):
        front = individuals(line)
        assign_crowding(front, weights)
        distances = [i.fitness.crowding_dist for i in front]
        assert max(distances[1:3]) == distances[wide]
        expected = [
            sum(w * abs(line[n + 1][a] - line[n - 1][a]) for a, w in enumerate(weights))
            for n in (1, 2)
        ]
        assert distances[1:3] == pytest.approx(expected)


def test_what_is_the_same_for_all_gives_no_distance() -> None:
    front = individuals([(0.0, 0.5), (0.5, 0.5), (1.0, 0.5)])
    assign_crowding(front, (1.0, 1.0))
    assert [i.fitness.crowding_dist for i in front] == [float("inf"), 1.0, float("inf")]
