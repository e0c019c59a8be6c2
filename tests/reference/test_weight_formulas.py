"""Metrics of weights alone, beside direct implementations that do not use the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def lamp_weight(W: Array) -> Array:
    """For each weight, its square over the sum of all squares that are not smaller."""
    squares = [float(w) ** 2 for w in W.flatten()]
    scores = [w / sum(v for v in squares if v >= w) if w else 0.0 for w in squares]
    return np.reshape(scores, W.shape)


def inside(t: Tensors) -> NDArray[np.bool_]:
    """(o, i, k): the weights that there are; a grouped layer has none between its groups."""
    outputs, inputs = np.indices(t["weight"].shape)[:2]
    groups, sizes = int(t["groups"]), t["weight"].shape
    return np.asarray(outputs * groups // sizes[0] == inputs * groups // sizes[1])


def filters(t: Tensors) -> Array:
    """(o, i / groups, k): the weights of each filter."""
    return np.stack([row[there] for row, there in zip(t["weight"], inside(t), strict=True)])


def fpgm(W: Array) -> list[float]:
    return [sum(float(np.linalg.norm(one - other)) for other in W) for one in W]


def geo_median(W: Array) -> list[float]:
    medoid = W[int(np.argmin(fpgm(W)))]
    return [float(np.linalg.norm(one - medoid)) for one in W]


def group_norm(t: Tensors) -> list[float]:
    parts = zip(t["weight"], t["outgoing"], t["gamma"], strict=True)
    return [
        float(np.linalg.norm(w) ** 2 + np.linalg.norm(v) ** 2 + float(gamma) ** 2) / 3
        for w, v, gamma in parts
    ]


def singular_values(matrix: Array) -> Array:
    """By the eigenvalues of the smaller product of the matrix with itself."""
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0)))


FORMULAS: dict[str, Callable[[Tensors], Any]] = {
    "bn_scale": lambda t: np.abs(t["gamma"]),
    "fpgm": lambda t: fpgm(filters(t)),
    "filter_nuclear_norm": lambda t: [float(singular_values(w).sum()) for w in t["weight"]],
    "geo_median": lambda t: geo_median(filters(t)),
    "group_norm": group_norm,
    "l1": lambda t: [float(np.linalg.norm(w.flatten(), 1)) for w in t["weight"]],
    "l2": lambda t: [float(np.linalg.norm(w.flatten(), 2)) for w in t["weight"]],
    "lamp": lambda t: [w.sum() for w in lamp_weight(t["weight"])],
    "lamp_weight": lambda t: lamp_weight(t["weight"]),
    "magnitude": lambda t: np.abs(t["weight"]),
    "nisp": lambda t: [float(np.abs(v).sum()) for v in t["outgoing"]],
    "random": lambda t: [float(u[0, 0]) for u in t["noise"]],
    "random_weight": lambda t: t["noise"] * inside(t),
}


def test_every_metric_of_the_family_is_here(family: Callable[[str], set[str]]) -> None:
    assert set(FORMULAS) == family("weights")


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_equal_the_direct_implementation(name: str, check: Callable[..., None]) -> None:
    check(name, FORMULAS[name])
