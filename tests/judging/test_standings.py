"""Ranks, areas and tests of metrics in the same cells."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gp_prune.judging.records import Measurement
from gp_prune.judging.standings import Table, find_standings, holm, wilcoxon
from gp_prune.metric.metric import Metric

METRICS = [Metric.load(name) for name in ("random", "l1", "l2", "fpgm")]
NAMES = [metric.name for metric in METRICS]


def draw(seed: int, repeats: int = 1) -> list[Measurement]:
    """Measurements of four metrics in 12 cells; l2 is better than l1 everywhere."""
    rng = np.random.default_rng(seed)
    shift = {"random": 0.3, "l1": 0.1, "l2": 0.0, "fpgm": 0.1}
    entries = []
    for task, kind, keep in itertools.product(("a", "b"), ("macs", "params"), (0.75, 0.5, 0.3)):
        level = rng.random()
        for name in NAMES:
            for repeat in range(repeats if name == "random" else 1):
                error = level + shift[name] + 0.01 * rng.random()
                entries.append(
                    Measurement(name, "own", task, kind, keep, repeat, keep, keep, error, error)
                )
    return entries


def test_ranks_are_means_within_cells() -> None:
    entries = draw(0)
    standings = {s.name: s for s in find_standings(entries, METRICS, "l1")}
    table = Table(entries, NAMES)
    expected = np.mean([stats.rankdata(row) for row in table.errors], axis=0)
    assert [standings[name].rank for name in NAMES] == pytest.approx(expected.tolist())
    assert [s.rank for s in find_standings(entries, METRICS, "l1")] == sorted(expected)
    assert standings["l2"].rank == 1
    assert standings["random"].size == METRICS[0].expression.size


def test_equal_errors_share_a_rank() -> None:
    entries = [
        Measurement(name, "own", "a", "macs", 0.5, 0, 0.5, 0.5, error)
        for name, error in zip(NAMES, (0.2, 0.1, 0.1, 0.3), strict=True)
    ]
    assert Table(entries, NAMES).ranks.tolist() == [[3, 1.5, 1.5, 4]]


def test_the_area_is_the_mean_height_of_the_curve() -> None:
    entries = [
        Measurement("l1", "own", "a", "macs", keep, 0, keep, keep, 2 * keep)
        for keep in (0.2, 0.5, 0.6)
    ]
    assert Table(entries, ["l1"]).area("l1") == pytest.approx(0.8)  # of a line: its middle
    assert Table(entries[:1], ["l1"]).area("l1") == 0.4


def test_the_spread_is_over_the_repeats() -> None:
    entries = draw(1, repeats=3)
    standings = {s.name: s for s in find_standings(entries, METRICS, "l1")}
    assert standings["l1"].spread is None
    means = [
        np.mean([e.error for e in entries if e.metric == "random" and e.repeat == repeat])
        for repeat in range(3)
    ]
    assert standings["random"].spread == pytest.approx(np.std(means, ddof=1))


def test_tests_are_those_of_scipy_with_the_correction_of_holm() -> None:
    entries = draw(2)
    table = Table(entries, NAMES)
    standings = {s.name: s for s in find_standings(entries, METRICS, "l1")}
    raw = {
        name: stats.wilcoxon(table.column(name), table.column("l1")).pvalue
        for name in NAMES
        if name != "l1"
    }
    order = sorted(raw, key=lambda name: raw[name])
    for place, name in enumerate(order):
        least = max((3 - n) * raw[order[n]] for n in range(place + 1))
        assert standings[name].p == pytest.approx(min(1.0, least))
    assert standings["l1"].p is None
    assert standings["l2"].better and not standings["random"].better
    found = table.friedman()
    assert found is not None
    expected = stats.friedmanchisquare(*table.errors.T)
    assert (found.statistic, found.p) == pytest.approx(tuple(expected))
    # Demšar (2006), table 5: q is 2.569 for four classifiers at 0.05.
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 12)), abs=1e-3)
    p = table.nemenyi()
    means = table.ranks.mean(axis=0)
    apart = np.abs(means[:, None] - means[None]) >= found.critical_difference
    assert ((p < 0.05) == apart).all()


def test_corrected_values_are_known_ones() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_equal_metrics_do_not_differ() -> None:
    values = np.array([0.1, 0.2, 0.3])
    assert wilcoxon(values, values.copy()) == 1.0
    entries = [
        Measurement(name, "own", "a", "macs", keep, 0, keep, keep, 0.5)
        for name in NAMES
        for keep in (0.3, 0.5)
    ]
    found = Table(entries, NAMES).friedman()
    assert found is not None and found.p == 1
    assert Table(entries[:2], NAMES[:1]).friedman() is None


@pytest.mark.parametrize("count", [3, 6, 9])
def test_few_pairs_are_tested_over_all_signs(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(5):
        one, other = rng.integers(0, 6, (2, count)) / 5  # with ties and equal pairs
        if (one == other).all():
            continue
        every = stats.PermutationMethod(n_resamples=np.inf)
        expected = stats.wilcoxon(one, other, zero_method="pratt", method=every).pvalue
        assert wilcoxon(one, other) == pytest.approx(expected, abs=1e-12)
