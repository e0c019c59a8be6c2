"""Metrics of what goes into a layer and what comes out, beside direct implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def ria(t: Tensors) -> Array:
    size = np.abs(t["weight"])
    scores = np.zeros_like(size)
    for o, i, k in np.ndindex(size.shape):
        row, column = size[o].sum(), size[:, i, k].sum()
        if size[o, i, k]:
            share = size[o, i, k] / column + size[o, i, k] / row
            scores[o, i, k] = share * np.sqrt(t["input_norm"][i, k])
    return scores


def conjunctive(t: Tensors) -> Any:
    """Share of the samples in which a node is not among the candidates for pruning."""
    node = t["activation"].mean(axis=2)  # (o, n)
    kept = np.zeros(len(node))
    for sample in node.T:
        spread = sample.max() - sample.min()
        kept += (sample - sample.min()) / spread >= 0.1 if spread else 0.0
    return kept / node.shape[1]


def wanda(t: Tensors) -> Array:
    return np.abs(t["weight"]) * t["input_norm"][None]


def sparsegpt(t: Tensors) -> Array:
    return t["weight"] ** 2 / t["inverse_factor"][None] ** 2


def entropy(t: Tensors) -> list[float]:
    """Of the mean of a channel's map, over the samples."""
    found = []
    for maps in t["activation"]:  # (n, s)
        counts, _ = np.histogram(maps.mean(axis=1), bins=31)
        shares = counts[counts > 0] / counts.sum()
        found.append(-float(np.sum(shares * np.log(shares))))
    return found


def flap(t: Tensors) -> Array:
    """The fluctuation of each channel, times what its readers make of it."""
    fluctuation = ((t["activation"] - t["activation"].mean((1, 2), keepdims=True)) ** 2).mean(
        (1, 2)
    )
    return np.asarray(fluctuation * np.linalg.norm(t["outgoing"], axis=1) ** 2)


def flap_weight(t: Tensors) -> Array:
    scores = np.square(t["weight"])
    for i, maps in enumerate(t["inputs"]):
        scores[:, i] *= np.mean((maps - maps.mean()) ** 2)
    return scores


FORMULAS: dict[str, Callable[[Tensors], Any]] = {
    "activation_variance": lambda t: [
        sum(float(np.std(values)) for values in maps.T) for maps in t["activation"]
    ],
    "apoz": lambda t: [1 - float(np.mean(a == 0)) for a in t["activation"]],
    "chip": lambda t: [float(np.mean(losses)) for losses in t["nuclear_loss"]],
    "conjunctive_activation": conjunctive,
    "entropy": entropy,
    "flap": flap,
    "flap_weight": flap_weight,
    "hrank": lambda t: [float(np.mean(ranks)) for ranks in t["map_rank"]],
    "map_nuclear_norm": lambda t: [float(np.mean(norms)) for norms in t["map_nuclear"]],
    "mean_activation": lambda t: [float(np.mean(np.abs(a))) for a in t["activation"]],
    "ria": lambda t: [scores.sum() for scores in ria(t)],
    "ria_weight": ria,
    "sparsegpt": lambda t: [scores.sum() for scores in sparsegpt(t)],
    "sparsegpt_weight": sparsegpt,
    "wanda": lambda t: [scores.sum() for scores in wanda(t)],
    "wanda_weight": wanda,
}


def test_every_metric_of_the_family_is_here(family: Callable[[str], set[str]]) -> None:
    assert set(FORMULAS) == family("maps")


@pytest.mark.parametrize("name", FORMULAS)
def test_scores_equal_the_direct_implementation(name: str, check: Callable[..., None]) -> None:
    check(name, FORMULAS[name])
