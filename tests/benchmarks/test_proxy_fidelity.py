"""The statistics of benchmarks/proxy_fidelity.py, and its recorded result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from csv_lines import read
from proxy_fidelity import HELD_OUT, SMALL
from proxy_fidelity_head import HEAD
from proxy_fidelity_report import report
from proxy_fidelity_table import (
    AGGREGATES,
    DENSE,
    TRIVIAL,
    Cell,
    Line,
    Table,
    agree,
    difference,
    halves,
    resampled,
    spearman,
)
from scipy import stats

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
NAMES = ("l1", *(f"formula {i}" for i in range(11)))


def lines(errors: dict[Cell, np.ndarray], dense: float = 0.1, trivial: float = 0.9) -> list[Line]:
    """Return lines with the given errors of NAMES, and those of the references."""
    found = []
    for network in dict.fromkeys(cell.network for cell in errors):
        whole = Cell(network, "none", 1.0, 0)
        found += [Line(DENSE, *whole, *[dense] * 4), Line(TRIVIAL, *whole, *[trivial] * 4)]
    for cell, values in errors.items():
        found += [
            Line(name, *cell, *[float(value)] * 4)
            for name, value in zip(NAMES, values, strict=False)
        ]
    return found


def cells(*networks: str) -> list[Cell]:
    return [Cell(name, "macs", keep, 0) for name in networks for keep in (0.5, 0.3)]


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 6, (2, 30)).astype(float)  # with ties
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    found = agree(first, second)
    draws = np.random.default_rng(0).integers(0, 30, (200, 30))
    one_by_one = [stats.spearmanr(first[d], second[d]).statistic for d in draws]
    np.testing.assert_allclose(resampled(first, second), one_by_one)
    assert found.deviation == pytest.approx(np.std(one_by_one))
    assert found.tau == pytest.approx(stats.kendalltau(first, second).statistic)


def test_an_order_differs_from_itself_by_nothing_and_from_its_opposite_by_two() -> None:
    target = np.arange(20.0)
    assert difference(target, target, target) == (0, 0)
    assert difference(target, -target, target) == pytest.approx((2, 0))


def test_only_the_mean_is_decided_by_the_network_with_the_largest_errors() -> None:
    fine = np.linspace(0.1, 0.12, 12)  # ordered, all close to the dense network
    coarse = np.full(12, 0.9)
    coarse[0] = 0.5
    coarse[-1] = 0.7
    table = Table(lines({cells("a")[0]: fine, cells("b")[0]: coarse}))
    wanted = [cells("a")[0], cells("b")[0]]
    fine_order = table.order(wanted[:1], "mean")
    agreements = {name: agree(table.order(wanted, name), fine_order).rho for name in AGGREGATES}
    assert agreements["logarithm"] > agreements["mean"]
    matrix = table.matrix(wanted)
    assert matrix[1, table.formulas.index("l1")] == pytest.approx(0.5)  # half of the span


def test_what_was_not_tried_everywhere_is_left_out() -> None:
    one, other, torn = (*cells("a"), cells("b")[0])
    errors = {one: np.linspace(0.2, 0.6, 12), other: np.linspace(0.3, 0.7, 12)}
    errors[other][4] = np.inf  # ranks nothing
    table = Table(lines({**errors, torn: np.linspace(0.2, 0.4, 5)}))
    assert table.cells == {one, other}
    assert table.dropped == [torn]
    assert table.left_out == [NAMES[4]]
    assert table.select(["a"], "macs", (0.5, 0.3)) == [one, other]
    assert table.select(["a", "b"], "macs", (0.5,)) == []


def test_halves_of_equal_networks_agree_and_of_random_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    names = "abcd"
    equal = Table(lines({cell: np.linspace(0.2, 0.8, 12) for cell in cells(*names)}))
    assert halves(equal, [cells(name) for name in names]) == pytest.approx(1)
    random = Table(lines({cell: rng.random(12) for cell in cells(*names)}))
    assert abs(halves(random, [cells(name) for name in names])) < 0.5


@pytest.mark.slow
def test_the_page_follows_from_the_recorded_lines() -> None:
    found = read(RESULTS / "proxy_fidelity.csv", Line)
    page = report(found, SMALL, HELD_OUT, HEAD)
    assert page == (RESULTS / "proxy_fidelity.md").read_text(encoding="utf-8")
