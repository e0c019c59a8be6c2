"""Grouped convolutions lose whole groups or the same offsets in each; shuffled channels stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.metric.file import Conventions
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    compact,
    consumers,
    group_scores,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.plan.channels import Achieved


def slots(architecture: Architecture, name: str) -> dict[tuple[str, str], tuple[int, ...]]:
    group = architecture.by_name[name]
    return {(slot.module, slot.side): slot.channels for slot in group.slots}


def check_law(
    model: nn.Module, inputs: Tensor, plan: ChannelPlan, architecture: Architecture
) -> nn.Module:
    masked = copy.deepcopy(model)
    mask(masked, plan, architecture)
    smaller: Any = compact(model, plan, architecture)
    with torch.no_grad():
        torch.testing.assert_close(masked(inputs), smaller(inputs), rtol=1e-9, atol=1e-9)
    cost = measure(smaller, inputs)
    assert (cost.macs, cost.params) == predict(architecture, plan.kept(architecture))
    return smaller  # type: ignore[no-any-return]


def test_whole_groups_go_where_there_are_many(network: Callable[[str], Any]) -> None:
    architecture = network("grouped").architecture
    assert slots(architecture, "0") == {
        ("0", "out"): (0, 0, 1, 1, 2, 2, 3, 3),
        ("2", "in"): (0, 0, 1, 1, 2, 2, 3, 3),
        ("2", "out"): (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3),
        ("3", "norm"): (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3),
        ("5", "in"): (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3),
    }


def test_offsets_go_where_groups_are_wide(network: Callable[[str], Any]) -> None:
    architecture = network("grouped").architecture
    assert slots(architecture, "5") == {
        ("5", "out"): (0, 1, 2, 3) * 2, ("7", "in"): (0, 1, 2, 3) * 2,
    }  # fmt: skip
    assert slots(architecture, "7") == {
        ("7", "out"): (0, 1, 2, 3, 4, 5) * 2, ("9", "in"): (0, 1, 2, 3, 4, 5) * 2,
    }  # fmt: skip


def test_several_filters_per_channel_go_together(network: Callable[[str], Any]) -> None:
    found = slots(network("grouped").architecture, "9")
    assert found["9", "out"] == found["11", "in"] == (0, 1, 2, 3, 4, 5)
    assert found["11", "out"] == (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)


def test_attributes_follow(network: Callable[[str], Any]) -> None:
    model, _, architecture = network("grouped")
    removed = {"0": (1,), "5": (0, 2), "7": (5,)}
    plan = ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))
    smaller: Any = compact(model, plan, architecture)
    assert (smaller[2].groups, smaller[2].in_channels, smaller[2].out_channels) == (3, 6, 9)
    assert smaller[2].weight.shape == (9, 2, 3, 3)
    assert smaller[2].bias.shape == (9,)
    torch.testing.assert_close(smaller[2].weight, model[2].weight[[0, 1, 2, *range(6, 12)]])
    assert (smaller[7].groups, smaller[7].in_channels, smaller[7].out_channels) == (2, 4, 10)
    rows = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    torch.testing.assert_close(smaller[7].weight, model[7].weight[rows][:, [1, 3]])


def test_ties_reach_through_sums_and_concatenations(network: Callable[[str], Any]) -> None:
    architecture = network("grouped-residual").architecture
    assert {group.name: group.size for group in architecture.free} == {"stem": 2, "narrow": 1}
    assert slots(architecture, "stem")["joined", "out"] == (0, 0, 1, 1, -1, -1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    groups=st.integers(2, 5),
    reads=st.integers(1, 4),
    makes=st.integers(1, 4),
    transposed=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_law_for_any_grouped_convolution(
    groups: int, reads: int, makes: int, transposed: bool, bias: bool, seed: int
) -> None:
    """Also for those that sum several channels up, which stay whole on the reading side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = nn.ConvTranspose1d if transposed else nn.Conv1d
        model = nn.Sequential(
            nn.Conv1d(2, groups * reads, 1), nn.Sigmoid(),
            kind(groups * reads, groups * makes, 2, groups=groups, bias=bias), nn.Sigmoid(),
            nn.Conv1d(groups * makes, 2, 1),
        ).double().eval()  # fmt: skip
        inputs = torch.randn(2, 2, 4, dtype=torch.float64)
    architecture = trace(model, inputs)
    free = {group.name: group.size for group in architecture.free}
    if makes == 1 and reads > 1:
        assert free == {}
        return
    if groups >= min(reads, makes):
        assert free == {"0": groups}
    else:
        assert free == {"0": reads, "2": makes}
    chosen = torch.Generator().manual_seed(seed)
    removed = {}
    for name, size in free.items():
        count = int(torch.randint(0, size, (), generator=chosen))
        if count:
            gone = torch.randperm(size, generator=chosen)[:count]
            removed[name] = tuple(sorted(gone.tolist()))
    plan = ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))
    check_law(model, inputs, plan, architecture)


def test_scores_of_a_group_are_those_of_all_its_entries(network: Callable[[str], Any]) -> None:
    architecture = network("grouped").architecture
    scores = {
        layer: torch.arange(member.width, dtype=torch.float64)
        for group in architecture.free
        for member in group.members
        for layer in [member.layer]
    }
    mean = group_scores(architecture, scores, Conventions(normaliser="none", join="mean"))
    # The first convolution's mean over pairs and the second's over triples, then over both.
    assert mean["0"].tolist() == [(0.5 + 3 * c + 1 + 2 * c) / 2 for c in range(4)]
    assert mean["5"].tolist() == [2.0 + c for c in range(4)]


def test_a_grouped_convolution_reads_no_outputs_of_its_own(network: Callable[[str], Any]) -> None:
    found = consumers(network("grouped").architecture)
    assert [reader.module for reader in found["0"]] == ["2"]
    assert [reader.module for reader in found["2"]] == ["5"]


class Mixing(nn.Module):
    """A branch beside a shuffle of channels, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 4, 1))
        self.head = nn.Sequential(nn.Conv2d(8, 5, 1), nn.Tanh(), nn.Conv2d(5, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        one, other = shuffled(self.stem(x)).chunk(2, dim=1)
        return self.head(shuffled(torch.cat([one, self.branch(other)], 1)))  # type: ignore[no-any-return]


def shuffled(maps: Tensor) -> Tensor:
    n, c, h, w = maps.shape
    return maps.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def test_what_is_inside_the_branches_of_a_shuffle_may_go() -> None:
    model, inputs = Mixing().double(), torch.randn(2, 3, 3, 3, dtype=torch.float64)
    architecture = trace(model, inputs)
    assert {group.name: group.size for group in architecture.free} == {"branch.0": 6, "head.0": 5}
    reasons = {group.name: group.fixed for group in architecture.groups if group.fixed}
    assert reasons.pop("head.2") == "network output"
    assert set(reasons) == {"stem", "branch.2"}
    assert set(reasons.values()) == {"a channel shuffle mixes its channels"}
    removed = {"branch.0": (0, 3), "head.0": (1,)}
    plan = ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))
    check_law(model, inputs, plan, architecture)


def test_shufflenet(
    network: Callable[[str], Any], random_plan: Callable[[Architecture, int], ChannelPlan]
) -> None:
    model, inputs, architecture = network("shufflenet_v2_x0_5")
    assert len(architecture.free) >= 16
    check_law(model, inputs, random_plan(architecture, 0), architecture)


@pytest.mark.parametrize("name", ["grouped", "grouped-residual"])
def test_a_cut_network_trains(
    name: str,
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    model, inputs, architecture = network(name)
    smaller: Any = compact(model, random_plan(architecture, 1), architecture).train()
    smaller(inputs).square().sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())
