"""What scoring costs, in numbers and in words."""

from __future__ import annotations

import pytest

from gp_prune.language.record import LOSS_NEEDS, NEEDS
from gp_prune.metric.metric import Metric
from gp_prune.report.catalogue import NEEDS_WITHOUT_DATA, operator_cost, passes
from gp_prune.statistics.recording import RECORDED_NEEDS


@pytest.mark.parametrize(
    ("name", "cost", "words"),
    [
        ("l1", 2, "no data"),
        ("fpgm", 51, "no data"),
        ("random", 0, "no data"),
        ("group_norm", 8, "no data"),
        ("synflow", 3, "no data, one pass over a sample of ones"),
        ("apoz", 2, "one pass, forward"),
        ("snr", 8, "one pass, forward"),
        ("taylor_gate", 4, "one pass, forward and backward"),
        ("grasp", 2, "two passes, forward and backward"),
    ],
)
def test_cost_and_passes(name: str, cost: float, words: str) -> None:
    metric = Metric.load(name)
    assert operator_cost(metric.expression) == cost
    assert passes(metric.needs) == words


def test_a_repeated_term_counts_once() -> None:
    once = Metric.parse("sum[p](pairwise_distance(W))")
    twice = Metric.parse("add(sum[p](pairwise_distance(W)), sum[p](pairwise_distance(W)))")
    assert operator_cost(twice.expression) == operator_cost(once.expression) + 1


def test_needs_without_data_are_those_that_no_pass_over_the_data_meets() -> None:
    assert set(NEEDS) - NEEDS_WITHOUT_DATA == RECORDED_NEEDS | LOSS_NEEDS
