"""Small networks to prune, and torchvision once per process."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn

from gp_prune._compat import TorchvisionWarning, import_torchvision

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TorchvisionWarning)
    import_torchvision()


class Residual(nn.Module):
    """Two convolutions with batch norm and a shortcut, then a linear layer."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 12, 3)
        self.output = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(self.first(x)).relu()
        x = (x + self.norm2(self.second(x))).relu()
        output: torch.Tensor = self.output(self.third(x).relu().mean((2, 3)))
        return output


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a number of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
                if tensor.ndim > 1:
                    tensor.sub_(0.35)
    return model.eval()


@pytest.fixture
def residual() -> nn.Module:
    return fill(Residual())


@pytest.fixture
def perceptron() -> nn.Module:
    steps: list[tuple[str, nn.Module]] = [
        ("a", nn.Linear(6, 10)),
        ("relu", nn.ReLU()),
        ("b", nn.Linear(10, 8)),
        ("tanh", nn.Tanh()),
        ("c", nn.Linear(8, 4)),
    ]
    return fill(nn.Sequential(OrderedDict(steps)), seed=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches as a data loader yields them."""
    generator = torch.Generator().manual_seed(4)
    return [(torch.rand(6, 3, 10, 10, generator=generator), torch.arange(6) % 5) for _ in range(2)]


@pytest.fixture
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are timed in few turns: the times are not looked at."""
    monkeypatch.setattr("gp_prune.pruning.timing._TURN_SECONDS", 0.0)
