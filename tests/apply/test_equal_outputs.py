"""What is removed must do what the same channels at zero do, on the cut that is really made."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.apply.prune import prune
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, ChannelPlan, select_channels, trace
from gp_prune.pruning.graph.trace import find_violation
from gp_prune.statistics import collect_each


class LastIsSpecial(nn.Module):
    """Doubles whatever comes last, so that removing channels doubles another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        number = torch.arange(hidden.shape[1])
        output: torch.Tensor = self.last(torch.where(number == 15, 2 * hidden, hidden))
        return output


class Counting(nn.Module):
    """Writes to a parameter whenever it runs, as codebooks with a moving average do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.average = nn.Parameter(torch.zeros(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.average.data.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        self.first.weight.data.mul_(1.0001)
        output: torch.Tensor = self.last(self.first(x).relu())
        return output


def test_a_cut_that_changes_more_than_zeros_is_refused() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = LastIsSpecial(), torch.randn(8, 6)
    with torch.no_grad():
        model.first.weight[0], model.first.bias[0] = 0.001, 0.0
        model.first.weight[15] += 1
    try:
        pruned = prune(model, "l1", x, keep_channels=0.8)
    except UserError as error:
        assert "gives other outputs than with the channels at zero" in str(error)
    else:  # tracing has found it out, and keeps the channels whole
        assert isinstance(pruned.plan, ChannelPlan) and not pruned.plan.removed


class Fused(nn.Module):
    """Keeps the width of a layer in a number of its own, and mixes what another one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 12)
        self.third, self.last = nn.Linear(12, 8), nn.Linear(8, 3)
        self.width = 16
        self.register_buffer("order", torch.arange(12).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu().view(-1, self.width)
        mixed = self.second(hidden).relu()[:, self.order]
        output: torch.Tensor = self.last(self.third(mixed).relu())
        return output


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_trying_out_the_cut_itself_comes_to_the_plan_of_trying_out_first(scope: str) -> None:
    """Where the cut does not pass, the trial of all groups says which of them may go."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Fused(), torch.zeros(2, 6)
    metric, conventions = Metric.load("l1"), Conventions(scope)
    told: list[str] = []
    pruned = prune(model, metric, x, keep_params=0.5, conventions=conventions, progress=told.append)
    architecture = trace(model, x)
    assert architecture.by_name["second"].fixed and not architecture.by_name["first"].fixed
    assert pruned.architecture == architecture
    records = collect_each(model, architecture.scored_layers, (), norms=False)
    scores = {name: metric.scores(record) for name, record in records}
    assert pruned.plan == select_channels(architecture, scores, conventions, Budget("params", 0.5))
    assert sum("finding the channels" in line for line in told) == 2


@pytest.mark.parametrize("way", [{"mode": "mask"}, {"steps": 2}, {"keep_latency": 1.0}])
def test_other_ways_to_prune_try_out_first(way: dict[str, Any]) -> None:
    told: list[str] = []
    budget: dict[str, Any] = {} if "keep_latency" in way else {"keep_params": 0.5}
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    prune(model, "l1", torch.zeros(2, 6), progress=told.append, **way, **budget)
    assert sum("finding the channels" in line for line in told) == 1


def test_an_objection_names_what_differs() -> None:
    model, x = Fused(), torch.zeros(2, 6)
    architecture = trace(model, x, try_out=False)
    assert "does not run" in find_violation(model, x, architecture, {"first": (0, 5)})
    whole = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    assert find_violation(whole, x, trace(whole, x, try_out=False), {"0": (0, 5)}) == ""


def test_tracing_leaves_a_network_alone_that_writes_to_its_parameters() -> None:
    model, x = Counting().eval(), torch.randn(4, 6)

    def digest() -> str:
        content = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        return hashlib.sha256(content).hexdigest()

    before = digest()
    trace(model, x)
    assert digest() == before


class WantsTargets(nn.Module):
    """Has a layer for training alone, where it asks for more than its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.side = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        hidden = self.first(x).relu()
        if self.training and target is None:
            raise ValueError("targets should not be none when in training mode")
        output: Tensor = self.side(hidden) if self.training else self.last(hidden)
        return output


def test_layers_that_cannot_be_followed_are_named() -> None:
    with pytest.warns(UserWarning, match=r"\(side\) are not followed.*targets should not be none"):
        trace(WantsTargets().eval(), torch.randn(2, 6))
