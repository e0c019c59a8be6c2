"""A formula sees all samples and positions: scores of trained networks beside plain computations.

The networks are those of ``real_networks.py``, measured by ``whole_layers.py``; the metrics are
written out in the ``FORMULAS`` of the tests beside this one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import pytest
import test_class_formulas
import test_gradient_formulas
import test_map_formulas
import test_weight_formulas
import torch
from numpy.typing import NDArray
from real_networks import CLASSES, NETWORKS, Network, trained
from test_weight_formulas import filters
from torch import Tensor
from torch.nn import functional
from whole_layers import MINI_BATCH, measure

from gp_prune import score_layers
from gp_prune.language.expression import Expression
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.coverage import CoverageWarning

Array = NDArray[np.float64]
Fields = dict[str, Array]
Scores = dict[str, dict[str, Array]]
"""Metric -> layer -> scores."""

BATCH = 24
"""Samples in a batch; mini-batches, whose gradients are squared, run across batches."""


def _spread(magnitudes: Array) -> Array:
    """(o,): standard deviation of what a filter has; a group lacks the others, which are 0."""
    count = np.count_nonzero(magnitudes, (1, 2)).max()
    mean, square = (np.power(magnitudes, n).sum((1, 2)) / count for n in (1, 2))
    return np.asarray(np.sqrt(square - np.square(mean)))


def _among_connected(weights: Array, scores: Array) -> Array:
    """(o, i, k): scores of weights; those between the groups of a layer do not exist and are 0."""
    return np.where(weights == 0, 0.0, scores)


FORMULAS: dict[str, Callable[[Fields], Any]] = {
    **test_class_formulas.FORMULAS,
    **test_gradient_formulas.FORMULAS,
    **test_map_formulas.FORMULAS,
    **test_weight_formulas.FORMULAS,
    "class_map_energy": lambda t: np.square(t["class_map"]).sum((1, 2)),
    "mean_activation_energy": lambda t: t["rest_mean"].mean(1) * t["rest_map"].sum((1, 2)),
    "deviation_reads": lambda t: t["activation"].std((1, 2)) * np.abs(t["outgoing"]).sum(1),
    "class_mean_energy": lambda t: t["class_mean"].var(1) * np.square(t["outgoing"]).sum(1),
    "class_map_spread_energy": lambda t: (
        t["class_map"].var(1).sum(1) * np.square(t["outgoing"]).sum(1)
    ),
    "square_energy": lambda t: (
        np.square(t["activation"]).mean((1, 2)) * np.square(t["outgoing"]).sum(1)
    ),
    "variance_in_energy": lambda t: (
        t["activation"].var((1, 2)) * np.square(t["weight"]).sum((1, 2))
    ),
    "gradient_variance_energy": lambda t: (
        np.square(t["outgoing"]).sum(1) * t["var"] * t["output_grad"].var((1, 2))
    ),
    "log_fisher_weight": lambda t: _among_connected(
        t["weight"], np.log(np.maximum(t["sample_fisher"] * np.square(t["weight"]), 1e-12))
    ),
    "square_variance_energy": lambda t: (
        np.square(t["activation"]).sum((1, 2))
        * t["activation"].var((1, 2))
        * np.square(t["outgoing"]).sum(1)
    ),
    "reader_spread_energy": lambda t: (
        np.square(t["activation"]).sum((1, 2)) * np.square(t["outgoing"]).std(1)
    ),
    "spread_product_energy": lambda t: (
        _spread(np.abs(t["weight"])) * np.square(t["outgoing"]).sum(1) * t["activation"].std((1, 2))
    ),
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
    "nm": ("sum[n](nm)", lambda t: t["map_nuclear"].sum(1)),
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
    # The weights of a grouped layer alone, without the zeros between its groups.
    "mean[i,k](abs(W))": lambda t: np.abs(filters(t)).mean(1),
    "sub(std[i,k](W), min[i,k](W))": lambda t: filters(t).std(1) - filters(t).min(1),
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


@dataclass(frozen=True)
class Case:
    """A trained network with what was measured on it by plain code."""

    network: Network
    plain: dict[str, Fields]

    @cached_property
    def scores(self) -> Scores:
        """The engine's scores by the bundled metrics."""
        return score(self.network, bundled())

    @property
    def large(self) -> bool:
        """Whether there is time for more."""
        return len(self.network.labels) > 100


@cache
def _case(kind: str, images: int, size: int) -> Case:
    network = trained(kind, images, size, steps=40 if size < 32 else 100)
    return Case(network, measure(network, BATCH))


def _sizes(images: int, size: int, *kinds: str, slow: bool = False) -> list[Any]:
    return [
        pytest.param(
            (kind, images, size),
            id=f"{kind}-{images}-{size}",
            marks=[pytest.mark.slow] if slow else [],
        )
        for kind in kinds or NETWORKS
    ]


LARGE = [*_sizes(512, 8, slow=True), *_sizes(512, 32, slow=True)]


@pytest.fixture(params=[*_sizes(96, 12), *LARGE])
def case(request: pytest.FixtureRequest) -> Case:
    return _case(*request.param)


def as_batches(parts: Iterable[tuple[Tensor, Tensor]]) -> list[Batch]:
    return [Batch(images, labels, labels) for images, labels in parts]


def records(
    network: Network,
    expressions: Sequence[Expression],
    batches: Iterable[Batch] | None = None,
    **options: Any,
) -> dict[str, LayerRecord]:
    """The layers of a network, measured for these formulas."""
    return collect(
        network.model,
        None,
        as_batches(network.batches(BATCH)) if batches is None else batches,
        expressions=expressions,
        loss=functional.cross_entropy,
        outgoing=consumers(trace(network.model, network.images[:1])),
        **options,
    )


def score(
    network: Network,
    metrics: Sequence[Metric],
    batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    **options: Any,
) -> Scores:
    """The engine's scores; those that read second derivatives are of the network in float64.

    An input of a ReLU within rounding of 0 is on another side of it in float32 or on another
    processor, which changes a second derivative by what a whole sample adds.
    """
    parts = network.batches(BATCH) if batches is None else list(batches)
    second = [metric for metric in metrics if "hessian" in metric.needs]
    rest = [metric for metric in metrics if "hessian" not in metric.needs]
    exact = [(images.double(), labels) for images, labels in parts]
    found: Scores = {}
    for some, net, data in ((rest, network, parts), (second, network.double(), exact)):
        if some:
            seen = records(net, [m.expression for m in some], as_batches(data), **options)
            found |= scores_of(some, seen)
    return found


def scores_of(metrics: Iterable[Metric], found: dict[str, LayerRecord]) -> Scores:
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
    """Random numbers and the places of layers, which come from no data, have tests elsewhere."""
    operands = builtin_primitives().operands
    measured = {name for name, x in operands.items() if not x.needs & {"noise", "network"}}
    assert measured == set(OPERANDS)


def test_bundled_metrics_score_the_whole_data(case: Case) -> None:
    expected = {metric.name: expect(case.plain, FORMULAS[metric.name]) for metric in bundled()}
    assert not differences(case.scores, expected, 1e-4, 1e-6)


def test_second_derivatives_are_exact_in_float64(case: Case) -> None:
    names = [metric.name for metric in bundled() if "hessian" in metric.needs]
    expected = {name: expect(case.plain, FORMULAS[name]) for name in names}
    assert not differences(case.scores, expected, 0, 1e-9)


def test_operands_measure_the_whole_data(case: Case) -> None:
    check_formulas(case, dict(OPERANDS.values()))


def test_trees_of_every_kind_see_the_whole_data(case: Case) -> None:
    check_formulas(case, TREES)


def test_discriminant_information_is_below_the_number_of_classes(case: Case) -> None:
    assert all(values.max() <= CLASSES - 1 for values in case.scores["di"].values())


PER_BATCH = frozenset({"fisher"})
"""Needs that are defined by the mini-batches; their order does not matter."""


def test_the_order_of_the_samples_does_not_matter(case: Case) -> None:
    measured = [metric for metric in bundled() if metric.needs]
    images, labels = case.network.images, case.network.labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    shuffled = zip(images[order].split(BATCH), labels[order].split(BATCH), strict=True)
    reverse = case.network.batches(MINI_BATCH)[::-1]
    for by_batch, batches in ((False, shuffled), (True, reverse)):
        metrics = [m for m in measured if bool(m.needs & PER_BATCH) is by_batch]
        found = score(case.network, metrics, batches)
        assert not differences(found, {name: case.scores[name] for name in found}, 0, 1e-5)


def test_the_seed_does_not_matter(case: Case) -> None:
    found = score(case.network, [metric for metric in bundled() if metric.needs], seed=7)
    assert not differences(found, {name: case.scores[name] for name in found}, 0, 1e-12)


class Passes:
    """Batches that count how often they are read."""

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.count = as_batches(batches), 0

    def __iter__(self) -> Iterator[Batch]:
        self.count += 1
        return iter(self.batches)


def in_part(
    case: Case, metrics: Iterable[Metric], limit: int, batches: Iterable[Batch] | None = None
) -> dict[str, LayerRecord]:
    """Layers measured under a limit of memory, whether it is met or not."""
    expressions = [metric.expression for metric in metrics]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)
        return records(case.network, expressions, batches, max_memory=limit)


def whole(found: dict[str, LayerRecord]) -> bool:
    return all(seen.whole for record in found.values() for seen in record.coverage.values())


ALL_AT_ONCE = (
    "mean[n](tail_sum[n](mean[s](A)))",
    "mean[n,s](tail_sum[n,s](abs(Z)))",
    "max[n,s](z_score[n,s](Z))",
    "sum[c](mul(nP, ridge_form(A, sub(mP, mA))))",
    "sum[c](kPP)",
)
"""What needs the maps of all samples of a layer at the same time, or one small value of each."""


@pytest.mark.parametrize("case", [*_sizes(96, 12, "residual"), *LARGE], indirect=True)
def test_a_small_limit_of_memory_changes_no_score(case: Case) -> None:
    """Layers are measured in groups, with a pass over the data for each, as long as they fit."""
    some = map(Metric.load, ("di", "mmd", "taylor_gate"))
    metrics = [*(bundled() if case.large else some), *map(Metric.parse, ALL_AT_ONCE)]
    plenty, least = Passes(case.network.batches(BATCH)), Passes(case.network.batches(BATCH))
    expected = scores_of(metrics, in_part(case, metrics, 2**31, plenty))
    too_little, enough = 2.0**14, 2.0 ** (31 if case.large else 22)
    while enough > 1.5 * too_little:
        limit = (too_little * enough) ** 0.5
        least.count = 0
        found = in_part(case, metrics, int(limit), least)
        if not whole(found):
            too_little = limit
            continue
        enough, passes = limit, least.count
        assert not differences(scores_of(metrics, found), expected, 0, 1e-9)
    assert passes > plenty.count


def test_sums_over_a_part_of_the_data_are_those_of_the_whole(case: Case) -> None:
    """The squares of z-scores add up to the number of entries, and shares of a sum to one."""
    squares = "sum[n,s](square(z_score[n,s](Z)))"
    texts = (squares, "l2[n,s](z_score[n,s](Z))", "sum[n,s](by_sum[n,s](abs(Z)))")
    metrics = [Metric.parse(text) for text in texts]
    found = in_part(case, metrics, 20_000)
    assert not whole(found)
    for name, record in found.items():
        z = case.plain[name]["pre_activation"]
        entries = np.where(z.std((1, 2)) > 0, z[0].size, 0)
        expected = (entries, np.sqrt(entries), np.ones(len(z)))
        for metric, values in zip(metrics, expected, strict=True):
            np.testing.assert_allclose(metric.scores(record).numpy(), values, rtol=1e-9)


def test_one_set_of_samples_under_a_limit_of_memory(case: Case) -> None:
    """The class means and counts beside a scatter are those of the samples that it comes from."""
    metric = Metric.load("di")
    for limit in (20_000, 2_000):
        found = in_part(case, [metric], limit)
        assert not whole(found)
        for record in found.values():
            assert metric.scores(record).max() <= CLASSES - 1


def test_a_limit_that_is_met_is_said(case: Case) -> None:
    data = as_batches(case.network.batches(BATCH))
    with pytest.warns(CoverageWarning, match="does not fit 20 ?kB of memory"):
        scores = score_layers(case.network.model, "mmd", data, max_memory=20_000)
    assert any(not s.whole for layer in scores.coverage.values() for s in layer.values())
