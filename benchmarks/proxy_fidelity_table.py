"""Statistics of benchmarks/proxy_fidelity.py: orders of formulas, and how far two of them agree.

The order of formulas on a set of networks comes from cells: one for each network and budget. An
error counts relative to its network, 0 as the dense one and 1 as the best guess that looks at no
input, and the cells of a formula become one number by an aggregate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

Floats = NDArray[np.float64]

DENSE, TRIVIAL = "dense", "trivial"
NOISE = 0.01
"""Relative error that is added before logarithms and quotients, as the search does."""
BOOTSTRAPS = 200
L1 = "l1"


class Cell(NamedTuple):
    """A network under a budget.

    Attributes:
        network: its name.
        kind: what the budget counts.
        keep: the share to keep.
        steps: mini-batches of fine-tuning.
    """

    network: str
    kind: str
    keep: float
    steps: int


@dataclass(frozen=True)
class Line:
    """One formula on one network under one budget.

    Attributes:
        formula: its name or text; "dense" for the network as it is, "trivial" for the best guess
            that looks at no input.
        network: name of the network.
        kind: what the budget counts.
        keep: the share to keep.
        steps: mini-batches of fine-tuning.
        error180: mean error of the first 180 validation samples; infinite, like those that
            follow, where the formula ranks nothing.
        error360: that of the first 360.
        error: that of all.
        loss: mean loss of all.
    """

    formula: str
    network: str
    kind: str
    keep: float
    steps: int
    error180: float
    error360: float
    error: float
    loss: float

    @property
    def cell(self) -> Cell:
        """Return the network and the budget."""
        return Cell(self.network, self.kind, self.keep, self.steps)

    @property
    def key(self) -> tuple[str, Cell]:
        """Return what tells it from other lines."""
        return self.formula, self.cell


class Table:
    """The lines as arrays over formulas.

    Attributes:
        cells: those in which every formula was tried.
        dropped: those in which only a part was.
        formulas: those that rank something in every cell.
        left_out: those that rank nothing in some cell.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        """Sort the lines of the CSV file."""
        self._lines = {line.key: line for line in lines}
        found: dict[Cell, set[str]] = {}
        ranking: dict[Cell, set[str]] = {}
        for formula, cell in self._lines:
            if formula not in (DENSE, TRIVIAL):
                found.setdefault(cell, set()).add(formula)
                if math.isfinite(self._lines[formula, cell].error):
                    ranking.setdefault(cell, set()).add(formula)
        tried = set().union(*found.values())
        self.cells = {cell for cell, names in found.items() if names == tried}
        self.dropped = sorted(set(found) - self.cells)
        names = set.intersection(*(ranking.get(cell, set()) for cell in self.cells), tried)
        self.formulas = sorted(names)
        self.left_out = sorted(tried - names)

    def select(
        self, networks: Sequence[str], kind: str, keeps: Sequence[float], steps: int = 0
    ) -> list[Cell]:
        """Return the cells of networks; none where one of them is missing."""
        wanted = [Cell(name, kind, keep, steps) for name in networks for keep in keeps]
        return wanted if self.cells.issuperset(wanted) else []

    def matrix(self, cells: Sequence[Cell], field: str = "error") -> Floats:
        """Return the errors of all formulas relative to the network (cells, formulas)."""
        return np.array([self._relative(cell, field) for cell in cells])

    def order(self, cells: Sequence[Cell], aggregate: str, field: str = "error") -> Floats:
        """Return one number for each formula, by which they are ordered (formulas,)."""
        values = AGGREGATES[aggregate](self.matrix(cells, field), self.formulas.index(L1))
        return values.round(10)  # what is equal but for the order of a sum is equal

    def _relative(self, cell: Cell, field: str) -> Floats:
        whole = Cell(cell.network, "none", 1.0, 0)
        keys = [(DENSE, whole), (TRIVIAL, whole), *((name, cell) for name in self.formulas)]
        dense, trivial, *errors = (float(getattr(self._lines[key], field)) for key in keys)
        relative: Floats = (np.array(errors) - dense) / (trivial - dense)
        return relative


def _mean(cells: Floats, l1: int) -> Floats:
    return np.asarray(cells.clip(0, 2).mean(0))


def _log(cells: Floats, l1: int) -> Floats:
    return np.asarray(np.log(cells.clip(0, 2) + NOISE).mean(0))


def _rank(cells: Floats, l1: int) -> Floats:
    return np.asarray(rankdata(cells, axis=1).mean(0))


def _by_l1(cells: Floats, l1: int) -> Floats:
    shifted = cells.clip(0, 2) + NOISE
    return np.asarray((shifted / shifted[:, l1, None]).mean(0))


AGGREGATES: dict[str, Callable[[Floats, int], Floats]] = {
    "mean": _mean, "logarithm": _log, "rank": _rank, "relative to L1": _by_l1,
}  # fmt: skip
"""Mean error, mean logarithm of the error, mean rank, mean quotient of the error and that of L1:
each from relative errors (cells, formulas) and the place of L1 to a number for each formula."""


def spearman(first: Floats, second: Floats) -> Floats:
    """Return Spearman's rank correlation along the last axis; not a number where all are equal."""
    a, b = (rankdata(values, axis=-1) for values in (first, second))
    a, b = (ranks - ranks.mean(-1, keepdims=True) for ranks in (a, b))
    with np.errstate(invalid="ignore"):
        quotient = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.asarray(quotient)


def resampled(order: Floats, target: Floats) -> Floats:
    """Return the correlation on samples of the formulas with replacement (samples,).

    The samples are the same for every pair of orders of one length, so that two orders can be
    compared sample by sample.
    """
    count = len(order)
    draws = np.random.default_rng(0).integers(0, count, (BOOTSTRAPS, count))
    return spearman(order[draws], target[draws])


class Agreement(NamedTuple):
    """How far an order agrees with another.

    Attributes:
        rho: Spearman's rank correlation.
        deviation: its standard deviation over samples of the formulas.
        tau: Kendall's rank correlation.
    """

    rho: float
    deviation: float
    tau: float

    def __str__(self) -> str:
        """Return it for a table."""
        return f"{self.rho:.2f} ± {self.deviation:.2f} ({self.tau:.2f})"


def agree(order: Floats, target: Floats) -> Agreement:
    """Return how far two orders of the same formulas agree."""
    return Agreement(
        float(spearman(order, target)),
        float(np.nanstd(resampled(order, target))),
        float(kendalltau(order, target).statistic),
    )


def difference(order: Floats, other: Floats, target: Floats) -> tuple[float, float]:
    """Return by how much more ``order`` agrees with the target than ``other``, and its deviation.

    The deviation is that over samples of the formulas, the same ones for both.
    """
    gain = float(spearman(order, target) - spearman(other, target))
    return gain, float(np.nanstd(resampled(order, target) - resampled(other, target)))


def halves(table: Table, parts: Sequence[Sequence[Cell]]) -> float:
    """Return how far two halves of the networks agree, on average over all ways to halve them.

    Args:
        table: the errors.
        parts: the cells of each network, of two networks at least.
    """
    every = range(len(parts))
    values = []
    for chosen in combinations(every, len(parts) // 2):
        one = [cell for i in chosen for cell in parts[i]]
        rest = [cell for i in every if i not in chosen for cell in parts[i]]
        values.append(float(spearman(table.order(one, "rank"), table.order(rest, "rank"))))
    return float(np.mean(values))
