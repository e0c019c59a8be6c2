"""Masks: compatible with torch.nn.utils.prune, all of them, and never half of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning import Achieved, Architecture, Budget, ChannelPlan, mask, unmask
from gp_prune.pruning.surgery import set_to_zero


def plan(**removed: tuple[int, ...]) -> ChannelPlan:
    return ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))


def test_everything_that_carries_the_channel_is_zero(network: Callable[[str], Any]) -> None:
    model, _, architecture = network("conv-autoencoder-unflatten")
    model = copy.deepcopy(model)
    mask(model, plan(**{"encoder.2": (0, 3), "decoder.0": (4,)}), architecture)
    conv, norm, latent, grow = model.encoder[2], model.encoder[3], model.latent, model.decoder
    for tensor in (conv.weight, conv.bias, norm.weight, norm.bias):
        assert not tensor[[0, 3]].any()
        assert tensor[[1, 2, 4, 5]].any()
    columns = latent.weight.unflatten(1, (6, 4))
    assert not columns[:, [0, 3]].any()
    assert columns[:, [1, 2, 4, 5]].all()
    assert not grow[0].weight[:, 4].any()  # (in, out, kh, kw)
    assert not grow[0].bias[4].any()
    assert not grow[3].weight[4].any()
    assert grow[3].weight[:4].all()


def test_masks_are_those_of_torch(
    fresh: Callable[..., Any],
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    model = fresh("cnn-relu")
    architecture = network("cnn-relu").architecture
    original = {key: value.clone() for key, value in model.state_dict().items()}
    mask(model, random_plan(architecture, 0), architecture)
    assert prune.is_pruned(model)
    for key, value in original.items():
        state = model.state_dict()
        assert torch.equal(state.get(f"{key}_orig", state.get(key)), value)


def test_unmask_keeps_the_zeros_and_the_keys(
    fresh: Callable[..., Any],
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    model = fresh("cnn-relu")
    model[0].weight.requires_grad_(False)
    keys = list(model.state_dict())
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    inputs = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    architecture = network("cnn-relu").architecture
    mask(model.eval(), random_plan(architecture, 0), architecture)
    masked = model(inputs)
    unmask(model)
    assert torch.equal(model(inputs), masked)
    assert sorted(model.state_dict()) == sorted(keys)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert not prune.is_pruned(model)
    unmask(model)  # nothing left to do


def test_a_masked_model_can_be_copied_and_trained(
    fresh: Callable[..., Any],
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    model = fresh("lenet")
    architecture = network("lenet").architecture
    mask(model, random_plan(architecture, 2), architecture)
    twin = copy.deepcopy(model)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.5, momentum=0.9)
    zero = {name: m == 0 for name, m in twin.named_buffers() if name.endswith("_mask")}
    for _ in range(2):
        optimiser.zero_grad()
        twin(torch.ones(2, 1, 28, 28)).square().sum().backward()
        optimiser.step()
    twin(torch.ones(2, 1, 28, 28))
    unmask(twin)
    state = twin.state_dict()
    for name, gone in zero.items():
        assert not state[name.removesuffix("_mask")][gone].any()


def test_channel_plan_needs_the_architecture(fresh: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="needs the architecture"):
        mask(fresh("lenet"), plan(**{"0": (1,)}))


def test_refused_plans_leave_no_mask_behind(
    fresh: Callable[..., Any], network: Callable[[str], Any]
) -> None:
    model = nn.Sequential(*list(fresh("lenet"))[:4])
    with pytest.raises(UserError, match="no layer '7'"):
        mask(model, plan(**{"0": (1,), "3": (0,)}), network("lenet").architecture)
    assert not prune.is_pruned(model)


@pytest.mark.parametrize("name", ["cnn-relu", "conv-autoencoder", "grouped", "depthwise"])
def test_zeros_set_for_good_are_those_of_the_masks(
    name: str,
    fresh: Callable[..., Any],
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    architecture = network(name).architecture
    removed = random_plan(architecture, 0)
    masked, zeroed = fresh(name), fresh(name)
    mask(masked, removed, architecture)
    unmask(masked)
    set_to_zero(zeroed, architecture.entries(removed.removed))
    expected = masked.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in zeroed.state_dict().items())
