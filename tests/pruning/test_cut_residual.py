"""Cuts across layer and group normalisations, only when asked for, and said so."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    compact,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.plan.channels import Achieved


def plan_of(**removed: tuple[int, ...]) -> ChannelPlan:
    return ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))


class Stream(nn.Module):
    """A residual stream of tokens with free parameters, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.embed = nn.Conv1d(3, 8, 1)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 6, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8)
        self.inner = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).reshape(x.shape[0], self.width, 5).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.place
        tokens = tokens + self.scale * self.inner(self.norm(tokens))
        return self.head(self.last(tokens)[:, 0])  # type: ignore[no-any-return]


def convolutional(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GroupNorm(groups, 6), nn.Sigmoid(), nn.Conv2d(6, 2, 1)
    )


TOKENS = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def stream() -> tuple[nn.Module, Architecture]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Stream().double()
    return model, trace(model, TOKENS, cut_residual=True)


def test_only_on_demand(stream: Any) -> None:
    model, _ = stream
    fixed = {group.name: group.fixed for group in trace(model, TOKENS).groups if group.fixed}
    assert set(fixed) == {"embed", "head"}
    assert not any(group.crosses_normalisation for group in trace(model, TOKENS).groups)


def test_every_part_of_the_stream_is_found(stream: Any) -> None:
    _, architecture = stream
    group = architecture.by_name["embed"]
    assert group.crosses_normalisation
    assert not group.fixed
    assert {(slot.module, slot.side) for slot in group.slots} == {
        ("embed", "out"), ("norm", "norm"), ("inner.0", "in"), ("inner.2", "out"),
        ("last", "norm"), ("head", "in"), ("token", "parameter"), ("place", "parameter"),
        ("scale", "parameter"), ("width", "size"),
    }  # fmt: skip
    assert not architecture.by_name["inner.0"].crosses_normalisation


def test_cut_by_hand(stream: Any) -> None:
    """The compact network is the one that the kept values make by hand."""
    model, architecture = stream
    keep = [0, 2, 3, 6]
    smaller: Any = compact(model, plan_of(embed=(1, 4, 5, 7)), architecture)
    by_hand = copy.deepcopy(smaller)
    with torch.no_grad():
        for name, value in model.named_parameters():
            own = by_hand.get_parameter(name)
            for dim, (whole, left) in enumerate(zip(value.shape, own.shape, strict=True)):
                if whole != left:
                    assert (whole, left) == (8, 4)
                    value = value.index_select(dim, torch.tensor(keep))
            own.copy_(value)
    assert (smaller.width, smaller.norm.normalized_shape) == (4, (4,))
    torch.testing.assert_close(smaller(TOKENS), by_hand(TOKENS), rtol=0, atol=0)


@settings(max_examples=20)
@given(data=st.data())
def test_cost_and_training(stream: Any, data: Any) -> None:
    model, architecture = stream
    gone = data.draw(st.sets(st.integers(0, 7), min_size=1, max_size=7))
    inner = data.draw(st.sets(st.integers(0, 9), min_size=1, max_size=9))
    plan = plan_of(**{"embed": tuple(sorted(gone)), "inner.0": tuple(sorted(inner))})
    smaller: Any = compact(model, plan, architecture).train()
    cost = measure(smaller, TOKENS)
    assert (cost.macs, cost.params) == predict(architecture, plan.kept(architecture))
    smaller(TOKENS).square().sum().backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())


def test_masks_refuse(stream: Any) -> None:
    model, architecture = stream
    with pytest.raises(UserError, match=r"'embed' across a normalisation .* mode 'compact'"):
        mask(copy.deepcopy(model), plan_of(embed=(1,)), architecture)
    mask(copy.deepcopy(model), plan_of(**{"inner.0": (1,)}), architecture)


def test_json(stream: Any) -> None:
    _, architecture = stream
    data = json.loads(json.dumps(architecture.to_json()))
    assert Architecture.from_json(data) == architecture
    for group in data["groups"]:
        del group["crosses_normalisation"]  # as files of older versions
    older = Architecture.from_json(data)
    assert not any(group.crosses_normalisation for group in older.groups)


def test_frozen_parameters_stay_frozen(stream: Any) -> None:
    model, architecture = stream
    frozen = copy.deepcopy(model).requires_grad_(False)
    frozen.scale.requires_grad_(True)
    smaller: Any = compact(frozen, plan_of(embed=(1,)), architecture)
    assert [name for name, p in smaller.named_parameters() if p.requires_grad] == ["scale"]


@pytest.mark.parametrize(("groups", "size"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_group_norm_loses_the_same_offsets_in_every_group(groups: int, size: int) -> None:
    model: Any = convolutional(groups).double()
    assert trace(model, IMAGES).by_name["0"].fixed == "a group normalisation spans its channels"
    architecture = trace(model, IMAGES, cut_residual=True)
    group = architecture.by_name["0"]
    assert (group.size, group.fixed, group.crosses_normalisation) == (size, "", True)
    if size > 1:
        smaller: Any = compact(model, plan_of(**{"0": (0,)}), architecture)
        assert (smaller[1].num_groups, smaller[1].num_channels) == (groups, 6 - groups)
        assert predict(architecture, {"0": size - 1}) == measure(smaller, IMAGES)[:2]
        kept = [c for c in range(6) if c % size]
        hidden = model[0](IMAGES)[:, kept]
        normed = torch.nn.functional.group_norm(
            hidden,
            groups,
            model[1].weight[kept],
            model[1].bias[kept],
        )
        expected = torch.nn.functional.conv2d(
            normed.sigmoid(),
            model[3].weight[:, kept],
            model[3].bias,
        )
        torch.testing.assert_close(smaller(IMAGES), expected)


def test_what_cannot_be_cut_even_so() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 4, 4]), nn.Conv2d(4, 2, 1)
    ).double()
    architecture = trace(model, IMAGES, cut_residual=True)
    assert architecture.by_name["0"].fixed == "a layer normalisation spans its channels"


def test_channels_last_normalisations_over_the_second_dimension() -> None:
    class Norm2d(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model: Any = nn.Sequential(
        nn.Conv2d(3, 5, 1), Norm2d(5), nn.GELU(), nn.Conv2d(5, 2, 1)
    ).double()
    architecture = trace(model, IMAGES, cut_residual=True)
    assert [group.name for group in architecture.free] == ["0"]


def test_a_free_parameter_without_a_normalisation_can_be_masked() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.shift = nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.sigmoid(self.first(x) + self.shift))  # type: ignore[no-any-return]

    model = Scaled().double()
    architecture = trace(model, IMAGES, cut_residual=True)
    assert not architecture.by_name["first"].crosses_normalisation
    plan, masked = plan_of(first=(0, 3)), copy.deepcopy(model)
    mask(masked, plan, architecture)
    smaller: Any = compact(model, plan, architecture)
    assert smaller.shift.shape == (2, 1, 1)
    torch.testing.assert_close(masked(IMAGES), smaller(IMAGES))
