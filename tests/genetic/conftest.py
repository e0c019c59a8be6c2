"""Small networks with one kind of difficulty each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.plan import GeneLayout, KeptShares
from gp_prune.metric.metric import Metric
from gp_prune.pruning import trace
from gp_prune.statistics import Batch
from gp_prune.tasks.models import MODELS

METRICS = ("l1", "taylor_weights", "magnitude", "wanda_weight")


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
        output: Tensor = self.output(torch.relu(self.hidden(x)))
        return output


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
                    assert module.running_mean is not None and module.running_var is not None
                    module.running_mean.uniform_(-1, 1)
                    module.running_var.uniform_(0.5, 2)
            inputs = torch.rand(5, 1, 8, 8)
        return model.eval(), inputs

    return make


@pytest.fixture(scope="session")
def dense(networks: Callable[[str], Network]) -> tuple[GeneLayout, Elite]:
    """The layout and the unpruned elite of a LeNet, scored by some metrics."""
    model, inputs = networks("lenet")
    layout = GeneLayout(model, trace(model, inputs[:1]), "auto")
    batches = [Batch(inputs, torch.arange(5), torch.arange(5))]

    def score(elite: Elite) -> MetricScores:
        scores = MetricScores(layout, [Metric.load(name) for name in METRICS])
        loss = torch.nn.functional.cross_entropy
        scores.measure(model, elite.plan, batches, loss, inputs[:1], 0)
        return scores

    masks, shares = layout.full(), KeptShares(1.0, 1.0)
    return layout, Elite(0, 0, masks, layout.plan(masks), shares, "dense", 0.02, score=score)
