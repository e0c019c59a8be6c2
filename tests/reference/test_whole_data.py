"""A formula sees all samples and positions: scores of trained networks beside plain computations.

The networks are those of ``real_networks.py``, measured by ``whole_layers.py``; the metrics are
written out in the ``FORMULAS`` of the tests beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import test_class_formulas
import test_gradient_formulas
import test_map_formulas
import test_weight_formulas
import torch
from numpy.typing import NDArray
from real_networks import CLASSES, NETWORKS, Network, trained
from torch import Tensor
from torch.nn import functional
from whole_layers import MINI_BATCH, measure

from gp_prune.language.expression import Expression
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect

Array = NDArray[np.float64]
Fields = dict[str, Array]
Scores = dict[str, dict[str, Array]]
"""Metric -> layer -> scores."""

BATCH = 24
"""Samples in a batch; mini-batches, whose gradients are squared, run across batches."""

FORMULAS: dict[str, Callable[[Fields], Any]] = {
    **test_class_formulas.FORMULAS,
    **test_gradient_formulas.FORMULAS,
    **test_map_formulas.FORMULAS,
    **test_weight_formulas.FORMULAS,
    "class_map_energy": lambda t: np.square(t["class_map"]).sum((1, 2)),
    "mean_activation_energy": lambda t: t["rest_mean"].mean(1) * t["rest_map"].sum((1, 2)),
}

OPERANDS: dict[str, tuple[str, Callable[[Fields], Any]]] = {
    # operand: a formula that reads it, and the same of the fields
    "W": ("l2[i,k](W)", lambda t: _norm(t["weight"])),
    "b": ("b", lambda t: t["bias"]),
    "gamma": ("gamma", lambda t: t["gamma"]),
    "beta": ("beta", lambda t: t["beta"]),
    "mu": ("mu", lambda t: t["mu"]),
    "var": ("var", lambda t: t["var"]),
    "G": ("l2[i,k](G)", lambda t: _norm(t["weight_grad"])),
    "Ggamma": ("Ggamma", lambda t: t["gamma_grad"]),
    "Gbeta": ("Gbeta", lambda t: t["beta_grad"]),
    "X": ("mul(W, l2[n,s](X))", lambda t: t["weight"] * _norm(t["inputs"])[None, :, None]),
    "Xn": ("mul(W, Xn)", lambda t: t["weight"] * t["input_norm"]),
    "Z": ("l2[n,s](Z)", lambda t: _norm(t["pre_activation"])),
    "A": ("l2[n,s](A)", lambda t: _norm(t["activation"])),
    "muP": ("l2[c](muP)", lambda t: _norm(t["class_mean"])),
    "varP": ("l2[c](varP)", lambda t: _norm(t["class_var"])),
    "nP": ("sum[c](mul(nP, muP))", lambda t: (t["class_count"] * t["class_mean"]).sum(1)),
    "muQ": ("l2[c](muQ)", lambda t: _norm(t["rest_mean"])),
    "varQ": ("l2[c](varQ)", lambda t: _norm(t["rest_var"])),
    "nQ": ("sum[c](mul(nQ, muP))", lambda t: (t["rest_count"] * t["class_mean"]).sum(1)),
    "mP": ("l2[c,s](mP)", lambda t: _norm(t["class_map"])),
    "mQ": ("l2[c,s](mQ)", lambda t: _norm(t["rest_map"])),
    "mA": ("l2[s](mA)", lambda t: _norm(t["mean_map"])),
    "kPP": ("sum[c](kPP)", lambda t: t["kernel_class"].sum(1)),
    "kQQ": ("sum[c](kQQ)", lambda t: t["kernel_rest"].sum(1)),
    "kPQ": ("sum[c](kPQ)", lambda t: t["kernel_between"].sum(1)),
    "G2": ("sum[i,k](G2)", lambda t: t["fisher"].sum((1, 2))),
    "Gn2": ("sum[i,k](Gn2)", lambda t: t["sample_fisher"].sum((1, 2))),
    "GVn2": ("sum[j](GVn2)", lambda t: t["outgoing_sample_fisher"].sum(1)),
    "WG2": ("WG2", lambda t: t["filter_square"]),
    "Ggamma2": ("Ggamma2", lambda t: t["gamma_square"]),
    "Gbeta2": ("Gbeta2", lambda t: t["beta_square"]),
    "Ggammabeta": ("Ggammabeta", lambda t: t["gamma_beta_product"]),
    "Hg": ("l2[i,k](Hg)", lambda t: _norm(t["hessian_grad"])),
    "R": ("sum[i,k](R)", lambda t: t["synflow_grad"].sum((1, 2))),
    "dZ": ("l2[n,s](dZ)", lambda t: _norm(t["output_grad"])),
    "rk": ("sum[n](rk)", lambda t: t["map_rank"].sum(1)),
    "nl": ("sum[n](nl)", lambda t: t["nuclear_loss"].sum(1)),
    "Hd": ("mul(W, Hd)", lambda t: t["weight"] * t["inverse_factor"]),
    "V": ("l2[j](V)", lambda t: _norm(t["outgoing"])),
    "GV": ("l2[j](GV)", lambda t: _norm(t["outgoing_grad"])),
    "GV2": ("sum[j](GV2)", lambda t: t["outgoing_fisher"].sum(1)),
}

TREES: dict[str, Callable[[Fields], Any]] = {
    # Reductions over samples, alone and inside others.
    "sum[n,s](A)": lambda t: t["activation"].sum((1, 2)),
    "mean[n,s](Z)": lambda t: t["pre_activation"].mean((1, 2)),
    "max[n,s](Z)": lambda t: t["pre_activation"].max((1, 2)),
    "min[n,s](Z)": lambda t: t["pre_activation"].min((1, 2)),
    "std[n,s](Z)": lambda t: t["pre_activation"].std((1, 2)),
    "var[n,s](add(Z, 1000))": lambda t: t["pre_activation"].var((1, 2)),
    "l1[n,s](dZ)": lambda t: np.abs(t["output_grad"]).sum((1, 2)),
    "max[s](std[n](A))": lambda t: t["activation"].std(1).max(1),
    "std[s](max[n](A))": lambda t: t["activation"].max(1).std(1),
    "l2[s](mean[n](mul(Z, dZ)))": lambda t: _norm((t["pre_activation"] * t["output_grad"]).mean(1)),
    "std[n](max[s](A))": lambda t: t["activation"].max(2).std(1),
    "div(max[n](sum[s](A)), add(mean[n,s](A), 1))": lambda t: (
        t["activation"].sum(2).max(1) / (t["activation"].mean((1, 2)) + 1)
    ),
    # What is known only when the data has been seen.
    "sum[n,s](square(sub(A, mA)))": lambda t: np.square(
        t["activation"] - t["mean_map"][:, None]
    ).sum((1, 2)),
    "mean[n,s](abs(sub(Z, mean[n,s](Z))))": lambda t: np.abs(
        t["pre_activation"] - t["pre_activation"].mean((1, 2), keepdims=True)
    ).mean((1, 2)),
    "sum[n](square(sub(mean[s](A), max[o](mean[n,s](A)))))": lambda t: np.square(
        t["activation"].mean(2) - t["activation"].mean((1, 2)).max()
    ).sum(1),
    "mul(l2[i,k](G), sum[n,s](mul(A, mA)))": lambda t: (
        _norm(t["weight_grad"]) * (t["activation"] * t["mean_map"][:, None]).sum((1, 2))
    ),
    # Other channels of the same sample, and all samples at once.
    "mean[n](by_max[o](max[s](A)))": lambda t: _by_max(t["activation"].max(2)).mean(1),
    "max[n](z_score[n](mean[s](Z)))": lambda t: _z_score(t["pre_activation"].mean(2)).max(1),
    "sum[n,s](by_sum[n,s](square(dZ)))": lambda t: [float(d.any()) for d in t["output_grad"]],
    "mean[n](tail_sum[n](mean[s](A)))": lambda t: [
        np.mean([values[values >= v].sum() for v in values]) for values in t["activation"].mean(2)
    ],
}


def _norm(values: Array) -> Array:
    return np.asarray(np.sqrt(np.square(values).sum(tuple(range(1, values.ndim)))))


def _by_max(values: Array) -> Array:
    largest = np.abs(values).max(0)
    return np.asarray(values / np.where(largest > 0, largest, 1))


def _z_score(values: Array) -> Array:
    spread = values.std(1, keepdims=True)
    return np.asarray((values - values.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1))


class Case(NamedTuple):
    """A trained network with what was measured on it by plain code."""

    network: Network
    plain: dict[str, Fields]


@cache
def _case(kind: str, images: int, size: int) -> Case:
    network = trained(kind, images, size)
    return Case(network, measure(network, BATCH))


def _sizes(images: int, size: int) -> list[Any]:
    return [pytest.param((kind, images, size), id=f"{kind}-{images}-{size}") for kind in NETWORKS]


@pytest.fixture(
    params=[
        *_sizes(64, 8),
    ]
)
def case(request: pytest.FixtureRequest) -> Case:
    return _case(*request.param)


def records(
    network: Network,
    expressions: Sequence[Expression],
    batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    **options: Any,
) -> dict[str, LayerRecord]:
    """The layers of a network, measured for these formulas."""
    parts = network.batches(BATCH) if batches is None else batches
    return collect(
        network.model,
        None,
        [Batch(images, labels, labels) for images, labels in parts],
        expressions=expressions,
        loss=functional.cross_entropy,
        outgoing=consumers(trace(network.model, network.images[:1])),
        **options,
    )


def score(network: Network, metrics: Iterable[Metric], **options: Any) -> Scores:
    metrics = list(metrics)
    found = records(network, [metric.expression for metric in metrics], **options)
    return {
        _name(metric): {name: metric.scores(record).numpy() for name, record in found.items()}
        for metric in metrics
    }


def _name(metric: Metric) -> str:
    return str(metric.expression) if metric.name == "unnamed" else metric.name


def check_formulas(case: Case, formulas: dict[str, Callable[[Fields], Any]]) -> None:
    """The engine's values of these formulas are those of the functions."""
    metrics = [Metric.parse(text) for text in formulas]
    expected = {
        _name(metric): expect(case.plain, formula)
        for metric, formula in zip(metrics, formulas.values(), strict=True)
    }
    assert not differences(score(case.network, metrics), expected, 1e-4, 1e-6)


def bundled() -> list[Metric]:
    """All that read the data or the weights; random numbers are no measurement."""
    return [metric for metric in map(Metric.load, bundled_metrics()) if "noise" not in metric.needs]


def differences(found: Scores, expected: Scores, relative: float, share: float) -> list[str]:
    """Metrics and layers that differ by more than so much of a score and of the largest."""
    wrong = []
    for metric, layers in expected.items():
        for layer, values in layers.items():
            largest = float(np.abs(values).max())
            allowed = relative * np.abs(values) + share * largest
            apart = np.abs(found[metric][layer] - values)
            if not bool((apart <= allowed).all()):
                wrong.append(
                    f"{metric} at {layer}: {apart.max() / (largest or 1):.1e} of the largest"
                )
    return wrong


def expect(plain: dict[str, Fields], formula: Callable[[Fields], Any]) -> dict[str, Array]:
    return {layer: np.asarray(formula(fields)) for layer, fields in plain.items()}


def test_every_bundled_metric_is_written_out() -> None:
    assert {metric.name for metric in bundled()} == set(FORMULAS) - {"random", "random_weight"}


def test_every_operand_is_written_out() -> None:
    assert set(builtin_primitives().operands) - {"U", "UW"} == set(OPERANDS)


def test_bundled_metrics_score_the_whole_data(case: Case) -> None:
    metrics = bundled()
    expected = {metric.name: expect(case.plain, FORMULAS[metric.name]) for metric in metrics}
    assert not differences(score(case.network, metrics), expected, 1e-4, 1e-6)


def test_operands_measure_the_whole_data(case: Case) -> None:
    check_formulas(case, dict(OPERANDS.values()))


def test_trees_of_every_kind_see_the_whole_data(case: Case) -> None:
    check_formulas(case, TREES)


def test_discriminant_information_is_below_the_number_of_classes(case: Case) -> None:
    for values in score(case.network, [Metric.load("di")])["di"].values():
        assert values.max() <= CLASSES - 1


PER_BATCH = frozenset({"fisher"})
"""Needs that are defined by the mini-batches; their order does not matter."""


def test_the_order_of_the_samples_does_not_matter(case: Case) -> None:
    by_batch = [metric for metric in bundled() if metric.needs & PER_BATCH]
    others = [metric for metric in bundled() if not metric.needs & PER_BATCH]
    images, labels = case.network.images, case.network.labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    shuffled = list(zip(images[order].split(BATCH), labels[order].split(BATCH), strict=True))
    again = case.network.batches(MINI_BATCH)[::-1]
    for metrics, batches in ((others, shuffled), (by_batch, again)):
        before = score(case.network, metrics)
        after = score(case.network, metrics, batches=batches)
        assert not differences(after, before, 0, 1e-5)


def test_the_seed_does_not_matter(case: Case) -> None:
    metrics = bundled()
    first, second = (score(case.network, metrics, seed=seed) for seed in (0, 7))
    assert not differences(second, first, 0, 1e-12)
