"""Metrics of gradients and curvature, beside direct implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_weight_formulas import inside

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def per_filter(scores: Array) -> list[float]:
    return [float(filter_.sum()) for filter_ in scores]


def pruner_zero(t: Tensors) -> Any:
    size = np.sqrt(t["sample_fisher"])
    low, high = size[inside(t)].min(), size[inside(t)].max()
    return t["weight"] * t["weight"] * (size - low) / (high - low)


def taylor_2017(t: Tensors) -> Array:
    change = t["pre_activation"] * t["output_grad"]
    scores = np.array([np.mean([abs(sample.mean()) for sample in maps]) for maps in change])
    return np.asarray(scores / np.sqrt((scores**2).sum()))


def group_hessian(t: Tensors) -> Any:
    before = np.einsum("oik,oik->o", t["weight"] ** 2, t["sample_fisher"])
    return before + np.einsum("oj,oj->o", t["outgoing"] ** 2, t["outgoing_sample_fisher"])


def group_taylor(t: Tensors) -> Array:
    own = np.einsum("oik,oik->o", t["weight"], t["weight_grad"])
    behind = np.einsum("oj,oj->o", t["outgoing"], t["outgoing_grad"])
    return np.asarray(abs(own) + abs(behind))


def taylor_bn(t: Tensors) -> Any:
    squares = t["gamma"] ** 2 * t["gamma_square"] + t["beta"] ** 2 * t["beta_square"]
    return squares + 2 * t["gamma"] * t["beta"] * t["gamma_beta_product"]


def snip(t: Tensors) -> Array:
    return np.asarray(np.abs(t["weight"] * t["weight_grad"]).sum(axis=(1, 2)))


FORMULAS: dict[str, Callable[[Tensors], Any]] = {
    "grasp": lambda t: np.einsum("oik,oik->o", t["weight"], t["hessian_grad"]),
    "grasp_weight": lambda t: t["weight"] * t["hessian_grad"],
    "group_hessian": group_hessian,
    "group_taylor": group_taylor,
    "obd": lambda t: np.einsum("oik,oik->o", t["weight"] ** 2, t["sample_fisher"]) / 2,
    "obd_weight": lambda t: t["weight"] ** 2 * t["sample_fisher"] / 2,
    "pruner_zero": lambda t: per_filter(pruner_zero(t)),
    "pruner_zero_weight": pruner_zero,
    "snip": snip,
    "snip_weight": lambda t: np.abs(t["weight_grad"]) * np.abs(t["weight"]),
    "synflow": lambda t: per_filter(np.abs(t["weight"] * t["synflow_grad"])),
    "synflow_weight": lambda t: np.abs(t["weight"] * t["synflow_grad"]),
    "taylor_2017": taylor_2017,
    "taylor_bn": taylor_bn,
    "taylor_gate": lambda t: [
        np.mean([float((z * dz).sum()) ** 2 for z, dz in zip(maps, slopes, strict=True)])
        for maps, slopes in zip(t["pre_activation"], t["output_grad"], strict=True)
    ],
    "taylor_sum": lambda t: t["filter_square"],
    "taylor_weight": lambda t: t["weight"] ** 2 * t["fisher"],
    "taylor_weights": lambda t: np.einsum("oik,oik->o", t["weight"] ** 2, t["fisher"]),
}


def test_every_metric_of_the_family_is_here(family: Callable[[str], set[str]]) -> None:
    assert set(FORMULAS) == family("gradients")


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_equal_the_direct_implementation(name: str, check: Callable[..., None]) -> None:
    check(name, FORMULAS[name])
