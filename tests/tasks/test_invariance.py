"""Tested invariances: those that the bundled metrics declare, and those of known formulas."""

from __future__ import annotations

import pytest

from gp_prune.metric.file import INVARIANCES
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.tasks.invariance import TESTS, find_invariances

KNOWN = {
    "flap": (True, True, True, True),
    "fdr": (True, False, False, True),
    "snip_weight": (True, True, False, True),
}
MORE = {
    "l1": (True, True, True, True),
    "random": (False, True, True, True),
    "tail_sum[o](sum[n,s](square(A)))": (True, True, True, True),
    "add(mean[n,s](A), l1[i,k](W))": (True, False, False, True),
}


@pytest.mark.parametrize(
    "text", [*KNOWN, *(pytest.param(text, marks=pytest.mark.slow) for text in MORE)]
)
def test_known_invariances(text: str) -> None:
    assert tuple(find_invariances(Metric.load(text)).values()) == (KNOWN | MORE)[text]


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_metrics())
def test_bundled_metrics_keep_what_they_declare(name: str) -> None:
    metric = Metric.load(name)
    found = find_invariances(metric)
    assert list(found) == list(TESTS)
    assert set(INVARIANCES) < set(TESTS)
    assert found["batch_size"]
    assert all(found[invariance] for invariance in metric.invariances)
