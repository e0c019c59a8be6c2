"""The seeds and winners of the GECCO 2022 search on a trained LeNet, as that search computed them.

Its trees see one class and one channel at a time: P and Q are the flattened maps of the class and
of all others, X those of all samples, WI the filter; a channel's score is the sum
over the classes. Here the same is written as loops in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric
from gp_prune.statistics import collect
from gp_prune.tasks import load_task

Array = NDArray[np.float64]
LAYERS = {"conv1": "relu1", "conv2": "relu2", "linear1": "relu3"}
SAMPLES = 300


class Arguments(NamedTuple):
    """What a tree of the search is called with."""

    P: Array  # (n of the class, positions)
    Q: Array  # (n of the others, positions)
    map_x: Array  # (positions,)
    map_q: Array  # (positions,)
    WI: Array  # one filter
    geo_median: Array  # the filter with the least summed distance to all


def abs_snr(a: Arguments) -> float:
    return float(abs(np.mean(a.P) - np.mean(a.Q)) / (np.std(a.P) + np.std(a.Q) + 1e-4))


def fdr(a: Arguments) -> float:
    return float((np.mean(a.P) - np.mean(a.Q)) ** 2 / (np.var(a.P) + np.var(a.Q) + 1e-4))


def sym_div(a: Arguments) -> float:
    p, q = np.var(a.P), np.var(a.Q)
    mean = (np.mean(a.P) - np.mean(a.Q)) ** 2
    return float(p / (q + 0.05) + q / (p + 0.05) + mean / (p + q + 0.05))


def t_stats(a: Arguments) -> Any:
    spread = np.var(a.P) / len(a.P) + np.var(a.Q) / len(a.Q)
    return abs(np.mean(a.P) - np.mean(a.Q)) / np.sqrt(spread + 1e-4)


def function_1(a: Arguments) -> Any:
    p, q = np.var(a.P), np.var(a.Q)
    return sum(p + (q - x) ** 2 / (p + q + 0.05) for x in a.map_x)


def function_2(a: Arguments) -> Any:
    p, q = np.var(a.P), np.var(a.Q)
    return sum(
        p / (q + 0.05)
        + q / (p + 0.05)
        + (np.std(a.map_x) * q * x + p - np.mean(a.Q)) ** 2 / (p + q + 0.05)
        for x in a.map_x
    )


def function_3(a: Arguments) -> Any:
    p, q = np.var(a.P), np.var(a.Q)
    return sum((x - q) ** 2 / np.sqrt(p / len(a.P) + q / len(a.Q) + 1e-4) for x in a.map_x)


def function_4(a: Arguments) -> Any:
    p, q = np.var(a.P), np.var(a.Q)
    gap = abs(np.mean(a.P) - np.mean(a.Q))
    return sum(p / (q / len(a.Q) + 0.05) + gap + 0.05 + x for x in a.map_q)


TREES: dict[str, Callable[[Arguments], float]] = {
    "snr": abs_snr,
    "fdr": fdr,
    "symmetric_divergence": sym_div,
    "t_test": t_stats,
    "l1": lambda a: float(np.sum(np.abs(a.WI))),
    "l2": lambda a: float(np.sqrt(np.sum(a.WI**2))),
    "geo_median": lambda a: float(np.sqrt(np.sum((a.WI - a.geo_median) ** 2))),
    "gecco_1": function_1,
    "gecco_2": function_2,
    "gecco_3": function_3,
    "gecco_4": function_4,
}


class Trained(NamedTuple):
    records: dict[str, LayerRecord]
    maps: dict[str, Array]  # (n, o, positions)
    weights: dict[str, Array]
    labels: NDArray[np.int64]


@pytest.fixture(scope="module")
def lenet(task_cache: Path) -> Trained:
    task = load_task("lenet-digits", cache_dir=task_cache)
    train = task.train
    split = train.select(slice(SAMPLES))
    needs = {need for name in TREES for need in Metric.load(name).needs}
    records = collect(task.model, list(LAYERS), task.batches(split, 128), needs=needs)
    maps, weights, x = {}, {}, split.inputs
    after = {step: layer for layer, step in LAYERS.items()}
    with torch.no_grad():
        name: str
        module: Any
        for name, module in task.model.named_children():
            x = module(x)
            if name in after:
                maps[after[name]] = x.double().reshape(*x.shape[:2], -1).numpy()
            if name in LAYERS:
                weights[name] = module.weight.double().numpy()
    return Trained(records, maps, weights, split.target.numpy())


def score(tree: Callable[[Arguments], float], lenet: Trained, layer: str) -> Array:
    maps, filters = lenet.maps[layer], lenet.weights[layer]
    apart = [sum(np.sqrt(((one - other) ** 2).sum()) for other in filters) for one in filters]
    medoid = filters[int(np.argmin(apart))]
    scores = np.zeros(len(filters))
    for channel, filter_ in enumerate(filters):
        X = maps[:, channel]
        for label in range(10):
            P, Q = X[lenet.labels == label], X[lenet.labels != label]
            a = Arguments(P, Q, X.mean(axis=0), Q.mean(axis=0), filter_, medoid)
            scores[channel] += tree(a)
    return scores


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", TREES)
def test_the_ranking_is_that_of_the_loops(name: str, layer: str, lenet: Trained) -> None:
    expected = score(TREES[name], lenet, layer)
    found = Metric.load(name).scores(lenet.records[layer]).numpy()
    assert len(set(found.tolist())) > 1
    ties = np.round(expected / np.abs(expected).max(), 11)
    assert kendalltau(ties, np.round(found / np.abs(found).max(), 11)).statistic == pytest.approx(
        1, abs=1e-12
    )
