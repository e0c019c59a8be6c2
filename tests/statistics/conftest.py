"""A small network with every kind of layer, and data for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.statistics import Batch

CLASSES = 3


class Mixture(nn.Module):
    """Plain, depthwise, grouped and transposed convolution, linear on tokens and on features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.grouped = nn.Conv2d(4, 6, (1, 2), groups=2, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1, groups=3)
        self.line = nn.Conv1d(3, 5, 3, dilation=2)
        self.tokens = nn.Linear(5, 4)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = nn.functional.relu(self.norm(self.conv(x)), inplace=True)
        x = torch.tanh(self.depthwise(x))
        x = nn.functional.silu(self.grouped(x))
        x = self.up(x)
        x = self.line(x.flatten(2)).relu_()
        x = nn.functional.softplus(self.tokens(x.transpose(1, 2)))
        return self.out(x.mean(1))


@pytest.fixture
def mixture() -> Mixture:
    """A :class:`Mixture` in float64 and evaluation mode, its batch norm with numbers of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Mixture().double()
        model.train()
        model(torch.randn(8, 2, 6, 6).double() + 0.5)
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
    return model.eval()


@pytest.fixture
def whole() -> Batch:
    """Ten labelled samples in one batch."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(10, 2, 6, 6, generator=generator).double()
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1, 0])
    return Batch(images, labels, labels)


@pytest.fixture
def parts(whole: Batch) -> list[Batch]:
    """The samples of ``whole`` in three batches of different sizes."""
    cuts = [3, 4]
    assert isinstance(whole.inputs, Tensor) and whole.labels is not None
    images, labels = whole.inputs.tensor_split(cuts), whole.labels.tensor_split(cuts)
    return [Batch(x, y, y) for x, y in zip(images, labels, strict=True)]
