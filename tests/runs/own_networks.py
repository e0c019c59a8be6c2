"""Networks of a user's own, as the tests of searches name them: FILE.py:FUNCTION."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import Task


def numbers(count: int = 120) -> tuple[Tensor, Tensor]:
    """Samples of a regression: (n, 6) inputs and (n, 1) numbers."""
    inputs = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
    return inputs, 2 * inputs[:, :1] - inputs[:, 1:2]


def trained() -> nn.Module:
    """A small network of :func:`numbers`, trained in no time."""
    inputs, target = numbers()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        steps = (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))
        model = nn.Sequential(*steps)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        functional.mse_loss(model(inputs), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model


def regression() -> Task:
    """A task of a user's own."""
    return Task(trained(), numbers(), kind="regression", name="numbers")


def convolutional() -> tuple[nn.Module, Tensor]:
    """An untrained network of grey images with two classes, and its example inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        steps = (nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
        return nn.Sequential(*steps, *head), torch.zeros(1, 1, 8, 8)


def number() -> int:
    """No network."""
    return 7
