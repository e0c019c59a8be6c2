"""Ranks, areas and tests of metrics that were measured in the same cells.

A cell is a task with a budget and an allocation. The tests take cells as independent, which those
of one network are not, so their p-values are rather too small than too large.
"""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, stats

from gp_prune.judging.records import Measurement
from gp_prune.metric.metric import Metric

Cell = tuple[str, str, str, float]

_EXACT = 13
"""Pairs that differ up to which all signs are tried; with more the normal approximation serves."""

ALPHA = 0.05
"""Level of the critical difference."""


@dataclass(frozen=True)
class Standing:
    """How a metric stands among the others.

    Attributes:
        name: of the metric.
        size: nodes of its formula.
        rank: mean rank over the cells; 1 is the best, equal errors share their ranks.
        error: mean error over the cells.
        spread: standard deviation of that mean over the repeats; None where there is one alone.
        area: mean height of the curve of error against budget, by the trapezoidal rule.
        p: Wilcoxon's signed-rank test against the baseline over the cells, two-sided, after Holm's
            correction for the number of metrics; None for the baseline.
        better: whether the mean rank is less than that of the baseline.
        failures: cells in which it cannot be used; there it has the worst error.
    """

    name: str
    size: int
    rank: float
    error: float
    spread: float | None
    area: float
    p: float | None
    better: bool
    failures: int

    def to_json(self) -> dict[str, Any]:
        """Return the standing as a JSON object."""
        return asdict(self)


class Friedman(NamedTuple):
    """The test whether the metrics differ at all.

    Attributes:
        statistic: chi-squared.
        p: its p-value.
        critical_difference: difference of two mean ranks from which on Nemenyi's test, at
            :data:`ALPHA`, tells the metrics apart.
        cells: number of cells.
        metrics: number of metrics.
    """

    statistic: float
    p: float
    critical_difference: float
    cells: int
    metrics: int


class Table:
    """The errors of metrics in cells, as means over the repeats.

    Args:
        measurements: of any part of a comparison.
        metrics: names of the metrics, in order.

    Attributes:
        cells: in order.
        errors: (cells, metrics).
    """

    def __init__(self, measurements: Sequence[Measurement], metrics: Sequence[str]) -> None:
        self.metrics = list(metrics)
        self.cells: list[Cell] = list(dict.fromkeys(entry.cell for entry in measurements))
        self._entries: dict[tuple[Cell, str], list[Measurement]] = {}
        for entry in measurements:
            self._entries.setdefault((entry.cell, entry.metric), []).append(entry)
        self.errors: NDArray[np.float64] = np.array(
            [
                [
                    statistics.fmean(entry.error for entry in self._entries[cell, name])
                    for name in self.metrics
                ]
                for cell in self.cells
            ]
        )

    @property
    def ranks(self) -> NDArray[np.float64]:
        """Return the ranks (cells, metrics) of the metrics within each cell."""
        ranks: NDArray[np.float64] = stats.rankdata(self.errors, axis=1)
        return ranks

    def column(self, name: str) -> NDArray[np.float64]:
        """Return the errors of a metric (cells,)."""
        return self.errors[:, self.metrics.index(name)]

    def failures(self, name: str) -> int:
        """Return the number of cells in which a metric cannot be used."""
        return sum(any(e.failure for e in self._entries[cell, name]) for cell in self.cells)

    def repeats(self, name: str) -> list[float]:
        """Return the mean error over the cells for each repeat of a metric.

        A cell with fewer repeats than others counts with each of its own in turn.
        """
        rows = [self._entries[cell, name] for cell in self.cells]
        count = max(map(len, rows))
        return [
            statistics.fmean(row[number % len(row)].error for row in rows)
            for number in range(count)
        ]

    def area(self, name: str) -> float:
        """Return the mean height of the curves of error against budget."""
        curves: dict[tuple[str, str, str], dict[float, float]] = {}
        for (allocation, task, kind, keep), error in zip(
            self.cells, self.column(name).tolist(), strict=True
        ):
            curves.setdefault((allocation, task, kind), {})[keep] = error
        return statistics.fmean(map(_height, curves.values()))

    def friedman(self) -> Friedman | None:
        """Return the test over all cells; None for fewer than three metrics or two cells."""
        count, metrics = self.errors.shape
        if metrics < 3 or count < 2:
            return None
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of few cells, and of cells that are all equal
            statistic, p = stats.friedmanchisquare(*self.errors.T)
        quantile = float(stats.studentized_range.ppf(1 - ALPHA, metrics, math.inf)) / math.sqrt(2)
        difference = quantile * math.sqrt(metrics * (metrics + 1) / (6 * count))
        if math.isnan(statistic):
            statistic, p = 0.0, 1.0
        return Friedman(float(statistic), float(p), difference, count, metrics)

    def nemenyi(self) -> NDArray[np.float64]:
        """Return the p-values (metrics, metrics) of Nemenyi's test of the mean ranks."""
        count, metrics = self.errors.shape
        means = self.ranks.mean(axis=0)
        error = math.sqrt(metrics * (metrics + 1) / (6 * count))
        distance = np.abs(means[:, None] - means[None]) / error * math.sqrt(2)
        p: NDArray[np.float64] = stats.studentized_range.sf(distance, metrics, math.inf)
        return p


def spread_over_repeats(measurements: Sequence[Measurement]) -> float | None:
    """Return the standard deviation of the mean error over the repeats; None for one alone."""
    repeats = sorted({entry.repeat for entry in measurements})
    means = [
        statistics.fmean(entry.error for entry in measurements if entry.repeat == repeat)
        for repeat in repeats
    ]
    return statistics.stdev(means) if len(means) > 1 else None


def _height(curve: Mapping[float, float]) -> float:
    """Return the area under a curve, divided by its width."""
    points = sorted(curve.items())
    if len(points) == 1:
        return points[0][1]
    shares, errors = zip(*points, strict=True)
    area = float(integrate.trapezoid(errors, shares))
    return area / float(shares[-1] - shares[0])


def wilcoxon(errors: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the signed-rank test of paired errors (cells,).

    Pairs that are equal are ranked, too, and dropped afterwards (Pratt 1959).
    """
    differences = errors - others
    count = int(np.count_nonzero(differences))
    if not count:
        return 1.0
    if count <= _EXACT:
        return _exact_wilcoxon(differences)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few cells, for which the p-value is large
        p = float(stats.wilcoxon(errors, others, zero_method="pratt").pvalue)
    return 1.0 if math.isnan(p) else p


def _exact_wilcoxon(differences: NDArray[np.float64]) -> float:
    """Return the p-value over all signs that few differences can have.

    It is what SciPy's permutation test of the statistic gives, which takes half a second.
    """
    ranks = stats.rankdata(np.abs(differences))[differences != 0]
    found = abs(float(ranks @ np.sign(differences[differences != 0])))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(ranks))))
    return float((np.abs(signs @ ranks) >= found - 1e-9).mean())


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's (1979) correction for their number."""
    adjusted = [1.0] * len(values)
    largest = 0.0
    for place, number in enumerate(sorted(range(len(values)), key=lambda n: values[n])):
        largest = max(largest, min(1.0, (len(values) - place) * values[number]))
        adjusted[number] = largest
    return adjusted


def find_standings(
    measurements: Sequence[Measurement], metrics: Sequence[Metric], baseline: str
) -> list[Standing]:
    """Return the standings of metrics, those of the least mean rank first.

    Args:
        measurements: of the cells that count.
        metrics: the metrics.
        baseline: the name of the metric that all others are tested against.
    """
    names = [metric.name for metric in metrics]
    table = Table(measurements, names)
    ranks = dict(zip(names, table.ranks.mean(axis=0).tolist(), strict=True))
    others = [name for name in names if name != baseline]
    base = table.column(baseline)
    tested = holm([wilcoxon(table.column(name), base) for name in others])
    p_values = dict(zip(others, tested, strict=True))
    standings = []
    for metric in metrics:
        name, repeats = metric.name, table.repeats(metric.name)
        standings.append(
            Standing(
                name, metric.size, ranks[name], statistics.fmean(table.column(name)),
                statistics.stdev(repeats) if len(repeats) > 1 else None, table.area(name),
                p_values.get(name), ranks[name] < ranks[baseline], table.failures(name),
            )
        )  # fmt: skip
    return sorted(standings, key=lambda s: (s.rank, s.area, s.size, s.name))
