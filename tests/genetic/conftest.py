"""Small networks with one kind of difficulty each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gp_prune.tasks.models import MODELS


class Residual(nn.Module):
    """Two branches whose channels are added up, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = nn.Conv2d(4, 6, 1)
        self.hidden = nn.Linear(6, 5)
        self.output = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.second(x))
        x = torch.relu(self.third(x)).mean((2, 3))
        return self.output(torch.relu(self.hidden(x)))


Network = tuple[nn.Module, Tensor]


@pytest.fixture(scope="session")
def networks() -> Callable[[str], Network]:
    """``networks("lenet")``: a network without zeros in its weights, and inputs for it."""

    def make(name: str) -> Network:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Residual() if name == "residual" else MODELS[name].build((1, 8, 8), 10)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.uniform_(-1, 1)
                    module.running_var.uniform_(0.5, 2)
            inputs = torch.rand(5, 1, 8, 8)
        return model.eval(), inputs

    return make
