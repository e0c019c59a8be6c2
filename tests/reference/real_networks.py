"""Three small networks that are trained on scikit-learn's digits in seconds.

Every activation is a module of its own, so that a hook sees what goes in and what comes out. What
each layer is followed and read by is written down by hand, next to the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


@dataclass(frozen=True)
class Network:
    """A trained network, its data, and what is around each of its layers.

    Attributes:
        model: in evaluation mode.
        images: (n, 1, size, size), float32, or float64 as the model.
        labels: (n,).
        norms: layer -> the batch norm after it.
        activations: layer -> the activation after it, its batch norm or its residual sum.
        readers: layer -> the layers that read its channels, with the part of the reader's dense
            weight (o, i, k) that reads channel q.
    """

    model: Any
    images: Tensor
    labels: Tensor
    norms: dict[str, str]
    activations: dict[str, str]
    readers: dict[str, dict[str, Callable[[Tensor, int], Tensor]]]

    def batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Images and labels, ``size`` at a time; the last batch is smaller."""
        parts = zip(self.images.split(size), self.labels.split(size), strict=True)  # type: ignore[no-untyped-call]
        return list(parts)

    def double(self) -> Network:
        """The same network and data in float64."""
        return replace(self, model=copy.deepcopy(self.model).double(), images=self.images.double())

    def layers(self) -> dict[str, Any]:
        """All convolutions and linear layers."""
        kinds = (nn.Conv2d, nn.Linear)
        return {name: m for name, m in self.model.named_modules() if isinstance(m, kinds)}


def _channel(weight: Tensor, q: int) -> Tensor:
    return weight[:, q]


def _own_filter(weight: Tensor, q: int) -> Tensor:
    return weight[q, q]


def _of_group(weight: Tensor, q: int) -> Tensor:
    """The filters of the half of a convolution in two groups that reads channel q."""
    half = len(weight) // 2
    first = 0 if q < weight.shape[1] // 2 else half
    return weight[first : first + half, q]


def digits(count: int, size: int) -> tuple[Tensor, Tensor]:
    """The first images, enlarged, from 0 to 1, and their labels."""
    found = load_digits()
    images = torch.tensor(found.data[:count] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    if size != 8:
        images = functional.interpolate(images, (size, size), mode="bilinear")
    return images, torch.tensor(found.target[:count])


class _Plain(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.linear1, self.relu3 = nn.Linear(8 * ((size // 2 - 2) // 2) ** 2, 12), nn.ReLU()
        self.linear2 = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.pool(self.relu2(self.conv2(x))).flatten(1)
        return self.linear2(self.relu3(self.linear1(x)))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0, self.relu0 = _conv(1, 6), nn.BatchNorm2d(6), nn.ReLU()
        self.conv1, self.norm1, self.relu1 = _conv(6, 5), nn.BatchNorm2d(5), nn.ReLU()
        self.conv2, self.norm2, self.relu2 = _conv(5, 6), nn.BatchNorm2d(6), nn.ReLU()
        self.conv3, self.norm3, self.relu3 = _conv(6, 7, 2), nn.BatchNorm2d(7), nn.ReLU()
        self.conv4, self.norm4, self.relu4 = _conv(7, 8), nn.BatchNorm2d(8), nn.ReLU()
        self.down, self.norm5 = nn.Conv2d(6, 8, 1, 2, bias=False), nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.relu0(self.norm0(self.stem(x)))
        inside = self.relu1(self.norm1(self.conv1(x)))
        x = self.relu2(self.norm2(self.conv2(inside)) + x)
        inside = self.relu3(self.norm3(self.conv3(x)))
        x = self.relu4(self.norm4(self.conv4(inside)) + self.norm5(self.down(x)))
        return self.linear(x.mean((2, 3)))


class _Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0, self.relu0 = _conv(1, 6), nn.BatchNorm2d(6), nn.ReLU6()
        self.deep1, self.norm1, self.relu1 = _conv(6, 6, 2, 6), nn.BatchNorm2d(6), nn.ReLU6()
        self.point1, self.norm2 = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.deep2, self.norm3, self.relu3 = _conv(8, 8, 1, 8), nn.BatchNorm2d(8), nn.ReLU()
        self.grouped, self.relu4 = nn.Conv2d(8, 10, 3, padding=1, groups=2), nn.Hardswish()
        self.linear = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.relu0(self.norm0(self.stem(x)))
        x = self.norm2(self.point1(self.relu1(self.norm1(self.deep1(x)))))
        x = self.relu4(self.grouped(self.relu3(self.norm3(self.deep2(x)))))
        return self.linear(x.mean((2, 3)))


def _conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)


def _flattened(weight: Tensor, q: int) -> Tensor:
    each = weight.shape[1] // 8
    return weight[:, each * q : each * (q + 1)]


_OF_BLOCK1 = {"conv1": _channel, "conv3": _channel, "down": _channel}
"""What reads the channels that the first residual sum ties together."""

_SURROUNDINGS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, Any]]] = {
    "plain": (
        {},
        {"conv1": "relu1", "conv2": "relu2", "linear1": "relu3"},
        {
            "conv1": {"conv2": _channel},
            "conv2": {"linear1": _flattened},
            "linear1": {"linear2": _channel},
            "linear2": {},
        },
    ),
    "residual": (
        {
            "stem": "norm0", "conv1": "norm1", "conv2": "norm2",
            "conv3": "norm3", "conv4": "norm4", "down": "norm5",
        },
        {
            "stem": "relu0", "conv1": "relu1", "conv2": "relu2",
            "conv3": "relu3", "conv4": "relu4", "down": "relu4",
        },
        {
            "stem": _OF_BLOCK1,
            "conv1": {"conv2": _channel},
            "conv2": _OF_BLOCK1,
            "conv3": {"conv4": _channel},
            "conv4": {"linear": _channel},
            "down": {"linear": _channel},
            "linear": {},
        },
    ),
    "depthwise": (
        {"stem": "norm0", "deep1": "norm1", "point1": "norm2", "deep2": "norm3"},
        {"stem": "relu0", "deep1": "relu1", "deep2": "relu3", "grouped": "relu4"},
        {
            "stem": {"deep1": _own_filter, "point1": _channel},
            "deep1": {"point1": _channel},
            "point1": {"deep2": _own_filter, "grouped": _of_group},
            "deep2": {"grouped": _of_group},
            "grouped": {"linear": _channel},
            "linear": {},
        },
    ),
}  # fmt: skip

NETWORKS = tuple(_SURROUNDINGS)


def trained(kind: str, images: int, size: int, steps: int) -> Network:
    """A network after ``steps`` steps of Adam on the very images that it is measured on."""
    x, y = digits(images, size)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        kinds: Any = {
            "plain": lambda: _Plain(size), "residual": _Residual, "depthwise": _Depthwise
        }  # fmt: skip
        model = kinds[kind]()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(steps):
            chosen = torch.randperm(len(x))[:64]
            optimizer.zero_grad()
            functional.cross_entropy(model(x[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return Network(model.eval().requires_grad_(False), x, y, *_SURROUNDINGS[kind])
