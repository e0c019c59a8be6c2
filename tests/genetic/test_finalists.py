"""Which networks of a run are retrained to the end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gp_prune.genetic.elite import Elite
from gp_prune.genetic.finalists import choose_between, thinning_goal
from gp_prune.genetic.plan import GeneticPlan, KeptShares
from gp_prune.genetic.selection import Fitness
from gp_prune.genetic.settings import GeneticSettings


def fitness() -> Fitness:
    settings = GeneticSettings(lambdas=(1.0, 0.0, 100.0), tolerance=0.05, limit=0.01)
    return Fitness(settings, dense_error=0.01, trivial_error=0.9, unit=1.0)


def elite(number: int, params: float, error: float) -> Elite:
    return Elite(number, 1, (), GeneticPlan(), KeptShares(0.5, params), "w", error)


def archive() -> list[Elite]:
    """Thinner and thinner; the last one is worse than is tolerated."""
    kept = (0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007, 0.003)
    return [elite(n, share, 0.02 + 0.005 * n) for n, share in enumerate(kept, 1)] + [
        elite(9, 0.05, 0.5)
    ]


@pytest.mark.parametrize("count", [3, 4, 6, 20])
def test_what_follows_lies_between_the_last_that_holds_and_the_first_that_fails(count: int) -> None:
    everything = archive()
    first = [everything[0], everything[2], everything[6]]
    done = [elite(10, 0.5, 0.01), elite(11, 0.12, 0.015), elite(12, 0.007, 0.03)]
    chosen = choose_between(fitness(), everything, first, done, count)
    assert {e.number for e in chosen} <= {4, 5, 6}
    assert len(chosen) == min(3, count - len(first))


def test_nothing_follows_where_the_thinnest_holds() -> None:
    everything = archive()
    first = [everything[0], everything[7]]
    done = [elite(10, 0.5, 0.01), elite(11, 0.003, 0.015)]
    assert choose_between(fitness(), everything, first, done, 6) == []


def test_where_none_holds_those_that_keep_more_follow() -> None:
    everything = archive()
    first = [everything[3], everything[7]]
    done = [elite(10, 0.06, 0.04), elite(11, 0.003, 0.05)]
    chosen = choose_between(fitness(), everything, first, done, 5)
    assert {e.number for e in chosen} == {1, 2, 3}


def test_a_network_whose_last_retraining_failed_is_not_taken_again() -> None:
    everything = archive()
    first = [everything[0], everything[4]]
    chosen = choose_between(fitness(), everything, first, [elite(10, 0.5, 0.01), first[1]], 20)
    assert first[1] not in chosen
    assert {e.number for e in chosen} == {2, 3, 4}


@pytest.mark.parametrize(
    ("start", "final"), [(0.5, 0.004), (0.02, 0.01), (0.003, 0.01), (1.0, 1e-6)]
)
def test_what_is_left_falls_by_smaller_and_smaller_factors(start: float, final: float) -> None:
    goals = [thinning_goal(final, start, step / 8) for step in range(9)]
    assert goals[0] == pytest.approx(max(start, final)) and goals[-1] == pytest.approx(final)
    factors = [after / before for before, after in pairwise(goals)]
    assert factors == pytest.approx(sorted(factors)) and max(factors) <= 1
