"""What a metric declares about its scores holds, and what it does not declare is really broken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.metric.file import INVARIANCES
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect

Records = dict[str, LayerRecord]
METRICS = list(bundled_metrics())
HIDDEN = ("conv1", "conv2", "hidden")
READER = {"conv1": "conv2", "conv2": "hidden", "hidden": "out"}
NORM = {"conv1": "norm"}
FACTORS = (2.0**-12, 2.0**-4, 2.0**4, 2.0**12)


def network() -> Any:
    """ReLU after every hidden layer; the first convolution has a batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model: Any = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(2, 6, 3, padding=1),
                norm=nn.BatchNorm2d(6),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(6, 5, 3),
                relu2=nn.ReLU(),
                flatten=nn.Flatten(),
                hidden=nn.Linear(45, 7),
                relu3=nn.ReLU(),
                out=nn.Linear(7, 3),
            )
        ).double()
        model.train()
        model(torch.randn(40, 2, 5, 5).double())
        for parameter in model.norm.parameters():
            nn.init.normal_(parameter, mean=0.5)
    return model.eval()


def measured(model: nn.Sequential) -> Records:
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(30, 2, 5, 5, generator=generator).double()
    y = torch.randint(0, 3, (30,), generator=generator)
    return collect(
        model, None, [Batch(x, y, y)], needs=frozenset(NEEDS) - {"network"},
        loss=functional.cross_entropy,
        outgoing=consumers(trace(model, x)),
    )  # fmt: skip


def reads(model: Any, layer: str, channels: Tensor) -> Any:
    """The inputs of the reader of a layer that carry the given channels, in this order."""
    positions = model.get_submodule(READER[layer]).weight.shape[1] // len(channels)
    return (channels[:, None] * positions + torch.arange(positions)).flatten()


@torch.no_grad()
def permuted(layer: str, order: Tensor) -> Any:
    """The same function, with the channels of a layer in another order."""
    model = network()
    for name in (layer, *([NORM[layer]] if layer in NORM else [])):
        for value in model.get_submodule(name).state_dict().values():
            if value.dim():
                value.copy_(value[order].clone())
    reader: Any = model.get_submodule(READER[layer])
    reader.weight.copy_(reader.weight[:, reads(model, layer, order)].clone())
    return model


@torch.no_grad()
def rescaled(layer: str, factor: float) -> Any:
    """The same function, with the output of a layer multiplied by a factor."""
    model: Any = network()
    module: Any = model.get_submodule(NORM.get(layer, layer))
    module.weight.mul_(factor)
    module.bias.mul_(factor)
    model.get_submodule(READER[layer]).weight.div_(factor)
    return model


@pytest.fixture(scope="module")
def original() -> Records:
    return measured(network())


@pytest.fixture(scope="module")
def permutations() -> list[tuple[str, Tensor, Records]]:
    orders = {name: torch.randperm(width, generator=torch.Generator().manual_seed(width))
              for name, width in (("conv1", 6), ("conv2", 5), ("hidden", 7))}  # fmt: skip
    return [(name, order, measured(permuted(name, order))) for name, order in orders.items()]


@pytest.fixture(scope="module")
def scalings() -> list[Records]:
    return [measured(rescaled(layer, factor)) for layer in HIDDEN for factor in FACTORS]


def test_the_changed_networks_are_the_same_function() -> None:
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    expected = network()(x)
    for layer, width in (("conv1", 6), ("conv2", 5), ("hidden", 7)):
        order = torch.arange(width).roll(2)
        torch.testing.assert_close(permuted(layer, order)(x), expected)
        torch.testing.assert_close(rescaled(layer, 2.0**6)(x), expected, rtol=0, atol=0)


def permutes(
    metric: Metric, before: Records, after: list[tuple[str, Tensor, Records]]
) -> Iterator[bool]:
    """For each network and layer: whether its scores have moved with the channels."""
    for layer, order, records in after:
        for name, record in records.items():
            expected, found = metric.scores(before[name]), metric.scores(record)
            if name == layer:
                expected = expected[order]
            if name == READER[layer] and metric.granularity == "weight":
                expected = expected[:, reads(network(), layer, order)]
            yield torch.allclose(
                found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max())
            )


def same_ranking(before: Tensor, after: Tensor) -> bool:
    """Whether no two entries that differ by more than rounding have changed their order."""
    first, second = before.flatten(), after.flatten()
    for one, other in ((first, second), (second, first)):
        sorted_ = other[one.argsort(stable=True)]
        fallen = sorted_.cummax(0).values - sorted_
        if (fallen > 1e-9 * float(other.abs().max())).any():
            return False
    return True


@pytest.mark.parametrize("name", METRICS)
def test_permutation(
    name: str, original: Records, permutations: list[tuple[str, Tensor, Records]]
) -> None:
    metric = Metric.load(name)
    moved = list(permutes(metric, original, permutations))
    assert all(moved) == ("permutation" in metric.invariances), moved


@pytest.mark.parametrize("name", METRICS)
def test_scale(name: str, original: Records, scalings: list[Records]) -> None:
    metric = Metric.load(name)
    kept = [
        same_ranking(metric.scores(original[layer]), metric.scores(record))
        for records in scalings
        for layer, record in records.items()
    ]
    assert all(kept) == ("scale" in metric.invariances), kept


def test_every_invariance_is_declared_by_some_and_not_by_others() -> None:
    for invariance in INVARIANCES:
        assert (
            0 < sum(invariance in Metric.load(name).invariances for name in METRICS) < len(METRICS)
        )


def test_the_check_of_rankings_sees_a_swap() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert same_ranking(scores, scores * 7)
    assert same_ranking(scores, torch.tensor([1.0, 2.0, 2.0 + 1e-12, 3.0]))
    assert not same_ranking(scores, torch.tensor([1.0, 2.0, 3.0, 2.0]))
    assert not same_ranking(scores, torch.tensor([1.0, 2.0, 2.0, 1.5]))
