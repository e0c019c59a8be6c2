"""Test on a small network which changes of a network or its data leave a metric as it is.

The network has random weights: two convolutions, the first with batch norm, and two linear layers,
with ReLU between them. It is measured once more for each change, so that a formula of any operands
can be tested.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect

TESTS = {
    "permutation": "the scores move with the channels of a layer that is permuted",
    "scale": "every layer keeps its ranking when the output of one is multiplied by c > 0 and what "
    "reads it is divided by c",
    "input_scale": "every layer of a network without biases keeps its ranking when the input of "
    "the network is multiplied by c > 0",
    "batch_size": "the scores do not depend on how many samples a batch has",
}
"""What is tested, with the meaning."""

_SAMPLES = 40
_FACTORS = (2.0**-12, 2.0**12)
_WIDTHS = {"conv1": 6, "conv2": 5, "hidden": 7}
_READER = {"conv1": "conv2", "conv2": "hidden", "hidden": "out"}
_NORM = {"conv1": "norm"}
_TOLERANCE = 1e-9
"""Share of the largest score that rounding may change."""

_Scores = dict[str, Tensor]


def find_invariances(metric: Metric, seed: int = 0) -> dict[str, bool]:
    """Return for each of :data:`TESTS` whether it holds for a metric.

    Args:
        metric: a metric of channels or of single weights.
        seed: of the weights, the data and the permutations.
    """
    generator = torch.Generator().manual_seed(seed)
    model, images, labels = _network(generator), *_data(generator)

    def score(model: Any, images: Tensor = images, batch: int = _SAMPLES) -> _Scores:
        return _score(metric, model, images, labels, batch)

    plain = score(model)
    orders = {layer: torch.randperm(n, generator=generator) for layer, n in _WIDTHS.items()}
    unbiased = _without_biases(model)
    homogeneous = score(unbiased)
    return {
        "permutation": all(
            _moved(plain, score(_permuted(model, layer, order)), layer, order)
            for layer, order in orders.items()
        ),
        "scale": all(
            _same_rankings(plain, score(_rescaled(model, layer, factor)))
            for layer in _WIDTHS
            for factor in _FACTORS
        ),
        "input_scale": all(
            _same_rankings(homogeneous, score(unbiased, images * factor)) for factor in _FACTORS
        ),
        "batch_size": all(
            _equal(plain[layer], values, 1e-6)
            for size in (8, 13)
            for layer, values in score(model, batch=size).items()
        ),
    }


def _network(generator: torch.Generator) -> Any:
    with torch.random.fork_rng(devices=[]):  # what torch draws itself is drawn again below
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(2, 6, 3, padding=1)), ("norm", nn.BatchNorm2d(6)),
            ("relu1", nn.ReLU()), ("conv2", nn.Conv2d(6, 5, 3)), ("relu2", nn.ReLU()),
            ("flatten", nn.Flatten()), ("hidden", nn.Linear(45, 7)), ("relu3", nn.ReLU()),
            ("out", nn.Linear(7, 3)),
        ]  # fmt: skip
        model: Any = nn.Sequential(OrderedDict(layers)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        for values in (model.norm.weight, model.norm.running_var):
            values.uniform_(0.5, 1.5, generator=generator)
        model.norm.running_mean.normal_(0, 0.3, generator=generator)
    return model


def _data(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    images = torch.randn(_SAMPLES, 2, 5, 5, generator=generator, dtype=torch.float64)
    return images, torch.arange(_SAMPLES) % 3


def _score(metric: Metric, model: Any, images: Tensor, labels: Tensor, batch: int) -> _Scores:
    parts = zip(torch.split(images, batch), torch.split(labels, batch), strict=True)
    records: dict[str, LayerRecord] = collect(
        model,
        None,
        [Batch(x, y, y) for x, y in parts],
        expressions=[metric.expression],
        loss=functional.cross_entropy,
        outgoing=consumers(trace(model, images[:1])),
    )
    return {name: metric.scores(record).detach() for name, record in records.items()}


def _inputs(channels: Tensor, count: int) -> Tensor:
    """Return which of so many inputs carry the channels: each has a row of positions."""
    positions = count // len(channels)
    return (channels[:, None] * positions + torch.arange(positions)).flatten()


@torch.no_grad()
def _permuted(model: Any, layer: str, order: Tensor) -> Any:
    model = copy.deepcopy(model)
    for name in (layer, *([_NORM[layer]] if layer in _NORM else [])):
        for value in model.get_submodule(name).state_dict().values():
            if value.dim():
                value.copy_(value[order].clone())
    reader = model.get_submodule(_READER[layer])
    reader.weight.copy_(reader.weight[:, _inputs(order, reader.weight.shape[1])].clone())
    return model


@torch.no_grad()
def _rescaled(model: Any, layer: str, factor: float) -> Any:
    model = copy.deepcopy(model)
    module = model.get_submodule(_NORM.get(layer, layer))
    module.weight.mul_(factor)
    module.bias.mul_(factor)
    model.get_submodule(_READER[layer]).weight.div_(factor)
    return model


@torch.no_grad()
def _without_biases(model: Any) -> Any:
    model = copy.deepcopy(model)
    for module in model.children():
        for name in ("bias", "running_mean"):
            if isinstance(getattr(module, name, None), Tensor):
                getattr(module, name).zero_()
    return model


def _equal(one: Tensor, other: Tensor, relative: float) -> bool:
    largest = float(one.abs().max())
    return torch.allclose(one, other, rtol=relative, atol=1e-12 * largest)


def _moved(before: _Scores, after: _Scores, layer: str, order: Tensor) -> bool:
    """Return whether the scores of all layers are as before, but for the order."""
    for name, found in after.items():
        expected = before[name]
        if name == layer:
            expected = expected[order]
        if name == _READER[layer] and expected.dim() > 1:
            expected = expected[:, _inputs(order, expected.shape[1])]
        if not _equal(expected, found, 1e-9):
            return False
    return True


def _same_rankings(before: _Scores, after: _Scores) -> bool:
    return all(_same_ranking(values, after[name]) for name, values in before.items())


def _same_ranking(before: Tensor, after: Tensor) -> bool:
    """Return whether no two entries that differ by more than rounding have changed their order."""
    for one, other in ((before.flatten(), after.flatten()), (after.flatten(), before.flatten())):
        in_order = other[one.argsort(stable=True)]
        fallen = in_order.cummax(0).values - in_order
        if bool((fallen > _TOLERANCE * float(other.abs().max())).any()):
            return False
    return True
