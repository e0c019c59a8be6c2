"""Well-known networks with random weights: half of the MACs go, and everything still holds."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gp_prune
from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.apply.saving import save_pruned
from gp_prune.pruning import mask
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.statistics.running import tensors_of

# Small inputs, so that all of them together take about two minutes on one core.
SIZES = {
    "alexnet": 64, "vgg11_bn": 32, "vgg16_bn": 32, "resnet18": 64, "resnet50": 64,
    "resnext50_32x4d": 64, "wide_resnet50_2": 64, "densenet121": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "efficientnet_b0": 64, "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64, "googlenet": 64, "mnasnet1_0": 64, "regnet_y_400mf": 64,
    "convnext_tiny": 64, "vit_b_16": 64, "swin_t": 64,
}  # fmt: skip
OPTIONS = {"googlenet": {"init_weights": False}, "vit_b_16": {"image_size": 64}}
FIXED = {"network output", "a layer normalisation spans its channels"}
"""Why groups are kept whole, where nothing else is said below."""
MORE_FIXED = {
    "shufflenet_v2_x1_0": {
        "a channel shuffle mixes its channels",
        "the inputs of depthwise convolution 'stage3.0.branch1.0' stay",
        "the inputs of depthwise convolution 'stage4.0.branch1.0' stay",
    },
    "googlenet": {
        f"layer 'aux{number}.{layer}' runs in training mode only"
        for number in (1, 2)
        for layer in ("conv.conv", "fc1")
    },
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode, and inputs for it."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchvisionWarning)
        torch.manual_seed(0)
        models = import_torchvision().models
        model = models.get_model(name, weights=None, **OPTIONS.get(name, {}))  # type: ignore[arg-type]
        inputs = torch.randn(2, 3, SIZES[name], SIZES[name])
    return model.eval(), inputs


def assert_alike(one: object, other: object) -> None:
    for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(a.abs().max())


def check(
    model: nn.Module, inputs: Tensor, folder: Path, *, cut_residual: bool = False
) -> set[str]:
    """Prune to half of the MACs; everything that must hold does. Why groups are whole."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    opened = open_attention(model)
    pruned = gp_prune.prune(opened, "l1", inputs, keep_macs=0.5, cut_residual=cut_residual)
    assert abs(pruned.plan.achieved.macs - 0.5) <= 0.03  # type: ignore[operator]
    assert pruned.after.macs / pruned.before.macs == pytest.approx(pruned.plan.achieved.macs)
    with torch.no_grad():
        output = pruned.model(inputs)
        if not cut_residual:
            masked = copy.deepcopy(opened)
            mask(masked, pruned.plan, pruned.architecture)
            assert_alike(output, masked(inputs))
    save_pruned(pruned, folder)
    loaded = gp_prune.load_pruned(folder, model)
    with torch.no_grad():
        for a, b in zip(tensors_of(output), tensors_of(loaded(inputs)), strict=True):
            assert torch.equal(a, b)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    check_training(pruned.model, inputs)
    return {group.fixed for group in pruned.architecture.groups if group.fixed}


def check_training(model: nn.Module, inputs: Tensor) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = tensors_of(model.train()(inputs))
    torch.stack([output.square().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_half_of_the_macs(name: str, tmp_path: Path) -> None:
    model, inputs = build(name)
    fixed = check(model, inputs, tmp_path / "out")
    assert fixed <= FIXED | MORE_FIXED.get(name, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16"])
def test_the_residual_stream_too(name: str, tmp_path: Path) -> None:
    model, inputs = build(name)
    assert check(model, inputs, tmp_path / "out", cut_residual=True) == {"network output"}


@pytest.mark.parametrize("name", ["mlp-autoencoder", "conv-autoencoder-unflatten"])
def test_autoencoders(
    name: str, fresh: Callable[..., Any], network: Callable[[str], Any], tmp_path: Path
) -> None:
    model = fresh(name).eval()
    check(model, network(name).inputs.float(), tmp_path / "out")
