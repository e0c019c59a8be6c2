"""The place of a layer is what its channels free, counted on cut networks, and where it stands."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gp_prune.apply.scoring import score_layers
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Architecture, layer_places, predict, trace


class Net(nn.Module):
    """A residual sum, a strided, a depthwise and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.into = nn.Conv2d(6, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, stride=(2, 1), padding=1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.up = nn.ConvTranspose2d(10, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.out(self.into(x).relu())
        x = self.up(self.depthwise(self.down(x)).relu()).relu()
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Net().eval()


@pytest.fixture(scope="module")
def architecture(net: nn.Module) -> Architecture:
    return trace(net, torch.zeros(2, 3, 8, 8))


def test_freed_costs_are_those_of_networks_without_a_channel(architecture: Architecture) -> None:
    places = layer_places(architecture)
    dense = torch.tensor(predict(architecture, {}))
    freed, total, count = {}, torch.zeros(2), 0
    for group in architecture.free:
        freed[group.name] = dense - torch.tensor(
            predict(architecture, {group.name: group.size - 1})
        )
        total, count = total + group.size * freed[group.name], count + group.size
    for group in architecture.free:
        expected = (freed[group.name] / (total / count)).tolist()
        for layer in group.producers:
            found = places[layer]
            assert [found.macs_freed, found.params_freed] == pytest.approx(expected)
            assert found.channels == group.size


def test_depth_and_residual(architecture: Architecture) -> None:
    places = layer_places(architecture)
    order = ["stem", "into", "out", "down", "depthwise", "up", "head"]
    assert {n: p.depth for n, p in places.items()} == {
        name: (number + 0.5) / 7 for number, name in enumerate(order) if name in places
    }
    assert {name for name, place in places.items() if place.residual} == {"stem", "out"}


def test_formulas_read_them(net: nn.Module) -> None:
    x = torch.zeros(1, 3, 8, 8)
    values = score_layers(net, Metric.parse("stride"), example_inputs=x).scores
    assert {name: float(value) for name, value in values.items()} == {
        "stem": 1, "into": 1, "out": 1, "down": 2, "depthwise": 1, "up": 0.5,
    }  # fmt: skip
    values = score_layers(net, Metric.parse("sum[o](sum[i,k](abs(W))) / channels"), [x]).scores
    for name, value in values.items():
        weight = net.get_parameter(f"{name}.weight").detach()
        channels = weight.shape[1 if name == "up" else 0]
        assert float(value) == pytest.approx(float(weight.abs().sum()) / channels, rel=1e-5)
