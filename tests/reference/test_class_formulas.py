"""Metrics of how classes differ, beside loops over channels and classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


class One:
    """One channel and one class: means, variances and counts of P and Q, and the mean maps."""

    def __init__(self, t: Tensors, o: int, c: int) -> None:
        self.mean_p, self.mean_q = float(t["class_mean"][o, c]), float(t["rest_mean"][o, c])
        self.var_p, self.var_q = float(t["class_var"][o, c]), float(t["rest_var"][o, c])
        self.n_p, self.n_q = float(t["class_count"][c]), float(t["rest_count"][c])
        self.map_q, self.map_x = t["rest_map"][o, c], t["mean_map"][o]
        self.gap = self.mean_p - self.mean_q


def over(t: Tensors, formula: Callable[[One], float], average: bool) -> list[float]:
    """The formula summed or averaged over the classes, for every channel."""
    channels, classes = t["class_mean"].shape
    totals = [sum(formula(One(t, o, c)) for c in range(classes)) for o in range(channels)]
    return [total / classes if average else total for total in totals]


def symmetric_divergence(one: One) -> float:
    ratios = one.var_p / (one.var_q + 0.05) + one.var_q / (one.var_p + 0.05)
    return 0.5 * ratios + 0.5 * one.gap**2 / (one.var_p + one.var_q + 0.05) - 1


def t_statistic(one: One) -> float:
    return abs(one.gap) / float(np.sqrt(one.var_p / one.n_p + one.var_q / one.n_q + 1e-4))


def function_1(one: One) -> float:
    below = one.var_p + one.var_q + 0.05
    return float(sum(one.var_p + (one.var_q - x) ** 2 / below for x in one.map_x))


def function_2(one: One) -> float:
    ratios = one.var_p / (one.var_q + 0.05) + one.var_q / (one.var_p + 0.05)
    total = 0.0
    for x in one.map_x:
        above = np.std(one.map_x) * one.var_q * x + one.var_p - one.mean_q
        total += ratios + above**2 / (one.var_p + one.var_q + 0.05)
    return total


def function_3(one: One) -> float:
    below = np.sqrt(one.var_p / one.n_p + one.var_q / one.n_q + 1e-4)
    return float(sum((x - one.var_q) ** 2 / below for x in one.map_x))


def function_4(one: One) -> float:
    first = one.var_p / (one.var_q / one.n_q + 0.05) + abs(one.gap) + 0.05
    return float(sum(first + q for q in one.map_q))


def discriminant_information(t: Tensors) -> list[float]:
    """tr((S + 1e-4 I)^-1 sum_c n_c (m_c - m)(m_c - m)^T) of every channel."""
    scores = []
    for maps, classes, mean in zip(t["activation"], t["class_map"], t["mean_map"], strict=True):
        centred = maps - maps.mean(axis=0)
        scatter = centred.T @ centred + 1e-4 * np.eye(maps.shape[1])
        between = sum(
            count * np.outer(centroid - mean, centroid - mean)
            for count, centroid in zip(t["class_count"], classes, strict=True)
        )
        scores.append(float(np.trace(np.linalg.inv(scatter) @ between)))
    return scores


def mmd(t: Tensors) -> list[float]:
    kernels = (t["kernel_class"], t["kernel_rest"], t["kernel_between"])
    return [
        float(np.mean([p + q - 2 * pq for p, q, pq in zip(*rows, strict=True)]))
        for rows in zip(*kernels, strict=True)
    ]


FORMULAS: dict[str, Callable[[Tensors], Any]] = {
    "di": discriminant_information,
    "fdr": lambda t: over(t, lambda x: x.gap**2 / (x.var_p + x.var_q + 1e-4), True),
    "gecco_1": lambda t: over(t, function_1, False),
    "gecco_2": lambda t: over(t, function_2, False),
    "gecco_3": lambda t: over(t, function_3, False),
    "gecco_4": lambda t: over(t, function_4, False),
    "mmd": mmd,
    "snr": lambda t: over(
        t, lambda x: abs(x.gap) / (np.sqrt(x.var_p) + np.sqrt(x.var_q) + 1e-4), True
    ),
    "symmetric_divergence": lambda t: over(t, symmetric_divergence, True),
    "t_test": lambda t: over(t, t_statistic, True),
}


def test_every_metric_of_the_family_is_here(family: Callable[[str], set[str]]) -> None:
    assert set(FORMULAS) == family("classes")


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_equal_the_direct_implementation(name: str, check: Callable[..., None]) -> None:
    check(name, FORMULAS[name])
