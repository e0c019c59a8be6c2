"""A budget is divided among the layers by a rule apart from what ranks the channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from gp_prune.metric.file import Conventions
from gp_prune.pruning import Architecture, Budget, ChannelPlan, select_channels, trace
from gp_prune.pruning.graph.places import is_stream
from gp_prune.pruning.select.allocation import (
    STREAM,
    Allocation,
    keep_streams,
    select_allocated,
    shares_of,
)

OWN = Conventions("global", "none", "sum")


class Blocks(nn.Module):
    """A residual stream of 16 channels, inner layers of 24, and a last layer of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.into = nn.Conv2d(16, 24, 3, padding=1)
        self.out = nn.Conv2d(24, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.out(self.into(x).relu())
        result: torch.Tensor = self.head(self.last(self.depthwise(x)).relu().mean((2, 3)))
        return result


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return trace(Blocks(), torch.zeros(1, 3, 8, 8))


def draw(architecture: Architecture, seed: int) -> dict[str, torch.Tensor]:
    """Scores of every layer, each on a scale of its own."""
    generator = torch.Generator().manual_seed(seed)
    widths = {m.layer: m.width for group in architecture.free for m in group.members}
    return {
        name: torch.rand(width, generator=generator, dtype=torch.float64) * 10.0**number
        for number, (name, width) in enumerate(widths.items())
    }


@pytest.fixture(scope="module")
def scores(architecture: Architecture) -> Mapping[str, torch.Tensor]:
    return draw(architecture, 0)


@pytest.fixture(scope="module")
def others(architecture: Architecture) -> Mapping[str, torch.Tensor]:
    return {name: 1.0 + values for name, values in draw(architecture, 1).items()}


def test_only_what_several_layers_add_up_is_a_stream(architecture: Architecture) -> None:
    assert [group.name for group in architecture.groups if is_stream(group)] == ["stem"]
    whole = keep_streams(architecture)
    assert whole.by_name["stem"].fixed == STREAM
    assert [group.name for group in whole.free] == ["into", "last"]
    assert keep_streams(whole) == whole


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("name", ["own", "global", "uniform", "residual-whole", "by others"])
def test_every_allocation_meets_the_budget(
    architecture: Architecture,
    scores: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
    kind: str,
    name: str,
) -> None:
    given = others if name == "by others" else None
    allocation = Allocation(name, given)
    plan = select_allocated(architecture, scores, OWN, Budget(kind, 0.6), allocation)
    assert plan.asked == Budget(kind, 0.6)
    assert plan.met(0.02)


def test_own_is_what_the_metric_says(
    architecture: Architecture, scores: Mapping[str, torch.Tensor]
) -> None:
    budget = Budget("macs", 0.5)
    own = select_allocated(architecture, scores, OWN, budget)
    assert own == select_channels(architecture, scores, OWN, budget)
    normalised = select_allocated(architecture, scores, OWN, budget, Allocation("global"))
    conventions = Conventions("global", "mean", "sum")
    assert normalised == select_channels(architecture, scores, conventions, budget)
    assert normalised.removed != own.removed


def test_uniform_takes_the_same_share_of_every_group(
    architecture: Architecture, scores: Mapping[str, torch.Tensor]
) -> None:
    plan = select_allocated(architecture, scores, OWN, Budget("macs", 0.5), Allocation("uniform"))
    shares = shares_of(plan, architecture)
    assert max(shares.values()) - min(shares.values()) < 1 / 16
    whole = select_allocated(
        architecture, scores, OWN, Budget("macs", 0.6), Allocation("residual-whole")
    )
    kept = shares_of(whole, architecture)
    assert kept["stem"] == 1
    assert kept["into"] == pytest.approx(kept["last"], abs=1 / 24)


def test_a_metric_gives_the_shares_and_another_the_channels(
    architecture: Architecture,
    scores: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
) -> None:
    budget = Budget("macs", 0.5)
    allocation = Allocation("others", others, OWN)
    plan = select_allocated(architecture, scores, OWN, budget, allocation)
    conventions = Conventions("global", "mean", "sum")
    shared = select_channels(architecture, others, conventions, budget)
    assert shares_of(plan, architecture) == shares_of(shared, architecture)
    assert plan.achieved == shared.achieved
    for group in architecture.free:
        gone = plan.removed.get(group.name, ())
        joined = sum(scores[member.layer].numpy() for member in group.members)
        assert set(gone) == set(np.argsort(joined, kind="stable")[: len(gone)])


def test_widths_stay_multiples(
    architecture: Architecture,
    scores: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
) -> None:
    allocation = Allocation("others", others)
    plan: ChannelPlan = select_allocated(
        architecture, scores, OWN, Budget("macs", 0.5), allocation, round_to=8
    )
    assert {kept % 8 for kept in plan.kept(architecture).values()} <= {0, 5}
