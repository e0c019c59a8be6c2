"""Cutting and masking: a masked network computes what the smaller one computes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning import (
    Achieved,
    Architecture,
    Budget,
    ChannelPlan,
    compact,
    mask,
    measure,
    predict,
    trace,
    unmask,
)
from gp_prune.pruning.surgery import set_to_zero, side_width
from gp_prune.statistics.running import tensors_of

SMALL = [
    "lenet", "cnn-relu", "cnn-sigmoid", "cnn-tanh", "mlp-autoencoder", "conv-autoencoder",
    "conv-autoencoder-unflatten", "joined", "depthwise", "conv1d", "conv3d", "partly-grouped",
    "grouped", "grouped-residual",
]  # fmt: skip
LARGE = ["resnet18", "mobilenet_v2"]


def assert_same(one: object, other: object, tolerance: float = 1e-10) -> None:
    for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= tolerance * max(float(a.abs().max()), 1e-30)


def check_law(network: Any, plan: ChannelPlan) -> None:
    model, inputs, architecture = network
    masked = copy.deepcopy(model)
    mask(masked, plan, architecture)
    smaller: Any = compact(model, plan, architecture)
    with torch.no_grad():
        assert_same(masked(inputs), smaller(inputs))
    cost = measure(smaller, inputs)
    assert (cost.macs, cost.params) == predict(architecture, plan.kept(architecture))


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1))
def test_masked_equals_compact(
    name: str,
    seed: int,
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    found = network(name)
    assert found.architecture.free
    check_law(found, random_plan(found.architecture, seed))


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("seed", [0, 1])
def test_masked_equals_compact_torchvision(
    name: str,
    seed: int,
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    found = network(name)
    assert [group.fixed for group in found.architecture.groups if group.fixed] == ["network output"]
    check_law(found, random_plan(found.architecture, seed))


@pytest.mark.slow
def test_masked_equals_compact_vgg(
    network: Callable[[str], Any], random_plan: Callable[[Architecture, int], ChannelPlan]
) -> None:
    found = network("vgg16_bn")
    check_law(found, random_plan(found.architecture, 0))


def test_single_precision_too(
    fresh: Callable[..., Any], random_plan: Callable[[Architecture, int], ChannelPlan]
) -> None:
    model = fresh("cnn-sigmoid").eval()
    inputs = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    architecture = trace(model, inputs)
    plan = random_plan(architecture, 4)
    smaller: Any = compact(model, plan, architecture)
    mask(model, plan, architecture)
    with torch.no_grad():
        assert_same(model(inputs), smaller(inputs), 1e-5)


def test_every_free_group_can_go_down_to_one_channel(network: Callable[[str], Any]) -> None:
    for name in SMALL:
        found = network(name)
        removed = {g.name: tuple(range(1, g.size)) for g in found.architecture.free if g.size > 1}
        plan = ChannelPlan(removed, Budget("channels", 0.01), Achieved(0.0, 0.0, 0.0))
        check_law(found, plan)


def test_model_is_untouched_and_flags_are_kept(
    fresh: Callable[..., Any], random_plan: Callable[[Architecture, int], ChannelPlan]
) -> None:
    model = fresh("conv-autoencoder")
    model.train()
    model.encoder.eval()
    model.grow[0].weight.requires_grad_(False)
    model.grow[0].bias.requires_grad_(False)
    inputs = torch.zeros(2, 1, 8, 8)
    architecture = trace(model, inputs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    smaller: Any = compact(model, random_plan(architecture, 1), architecture)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    flags = {key: value.requires_grad for key, value in model.named_parameters()}
    assert {key: value.requires_grad for key, value in smaller.named_parameters()} == flags
    training = {key: module.training for key, module in model.named_modules()}
    assert {key: module.training for key, module in smaller.named_modules()} == training


def test_attributes_follow_the_weights(network: Callable[[str], Any]) -> None:
    model, _, architecture = network("conv-autoencoder-unflatten")
    removed = {"encoder.0": (1,), "encoder.2": (0, 3), "grow.0": (0, 1, 2), "decoder.0": (4,)}
    smaller: Any = compact(
        model, ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5)), architecture
    )
    assert (smaller.encoder[0].out_channels, smaller.encoder[2].in_channels) == (3, 3)
    assert smaller.encoder[3].num_features == 4
    assert smaller.encoder[3].running_mean.shape == (4,)
    assert smaller.latent.in_features == 4 * 4
    assert (smaller.grow[0].out_features, smaller.grow[1].num_features) == (12, 12)
    assert smaller.unflatten.unflattened_size == (3, 2, 2)
    assert smaller.decoder[0].weight.shape[:2] == (3, 4)


def test_a_compact_network_trains(
    network: Callable[[str], Any], random_plan: Callable[[Architecture, int], ChannelPlan]
) -> None:
    model, inputs, architecture = network("cnn-relu")
    smaller: Any = compact(model, random_plan(architecture, 2), architecture).train()
    smaller(inputs).square().sum().backward()
    for parameter in smaller.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape


def test_a_compact_network_can_be_pruned_again(
    network: Callable[[str], Any], random_plan: Callable[[Architecture, int], ChannelPlan]
) -> None:
    model, inputs, architecture = network("joined")
    smaller: Any = compact(model, random_plan(architecture, 3), architecture)
    again = trace(smaller, inputs)
    kept = random_plan(architecture, 3).kept(architecture)
    assert {group.name: group.size for group in again.groups} == kept
    found = type(network("joined"))(smaller, inputs, again)
    check_law(found, random_plan(again, 5))


@pytest.mark.parametrize("name", ["lenet", "cnn-relu", "conv-autoencoder-unflatten", "resnet18"])
def test_replay_from_json_is_bit_equal(
    name: str,
    network: Callable[[str], Any],
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    model, inputs, architecture = network(name)
    plan = random_plan(architecture, 7)
    smaller: Any = compact(model, plan, architecture)
    text, weights = json.dumps(plan.to_json()), smaller.state_dict()

    dense = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    replayed = compact(dense, ChannelPlan.from_json(json.loads(text)), trace(dense, inputs))
    replayed.load_state_dict(weights)
    with torch.no_grad():
        for a, b in zip(tensors_of(smaller(inputs)), tensors_of(replayed(inputs)), strict=True):
            assert torch.equal(a, b)


class TestMismatches:
    def plan(self, **removed: tuple[int, ...]) -> ChannelPlan:
        return ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))

    def test_masked_model(self, fresh: Callable[..., Any], network: Callable[[str], Any]) -> None:
        model = fresh("lenet")
        nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)  # type: ignore[no-untyped-call]
        with pytest.raises(UserError, match="unmask"):
            compact(model, self.plan(), network("lenet").architecture)

    def test_unknown_group(self, network: Callable[[str], Any]) -> None:
        model, _, architecture = network("lenet")
        with pytest.raises(UserError, match="'elsewhere'"):
            compact(model, self.plan(elsewhere=(0,)), architecture)

    def test_fixed_group(self, network: Callable[[str], Any]) -> None:
        model, _, architecture = network("lenet")
        with pytest.raises(UserError, match="network output"):
            compact(model, self.plan(**{"11": (0,)}), architecture)

    @pytest.mark.parametrize("channels", [(6,), (0, 1, 2, 3, 4, 5)])
    def test_too_much(self, channels: Any, network: Callable[[str], Any]) -> None:
        model, _, architecture = network("lenet")
        with pytest.raises(UserError, match="at least one must stay"):
            compact(model, self.plan(**{"0": channels}), architecture)

    def test_another_network(self, network: Callable[[str], Any]) -> None:
        architecture = network("lenet").architecture
        with pytest.raises(UserError, match="no layer '9'"):
            compact(nn.Sequential(nn.Linear(3, 3)), self.plan(**{"9": (0,)}), architecture)

    def test_pruned_twice(self, network: Callable[[str], Any]) -> None:
        model, _, architecture = network("lenet")
        once = compact(model, self.plan(**{"0": (0,)}), architecture)
        with pytest.raises(UserError, match="has 5 entries on side 'out'"):
            compact(once, self.plan(**{"0": (0,)}), architecture)


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


def test_a_side_that_a_module_does_not_have_has_no_width() -> None:
    assert side_width(nn.Linear(3, 5), "norm") == side_width(nn.Linear(3, 5), "unknown") == 0
