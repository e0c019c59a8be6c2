"""Layers whose channels all have the same score."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import prune
from gp_prune.metric.file import Conventions
from gp_prune.pruning import ChannelPlan, DegenerateScores


class Block(nn.Module):
    """Two residual blocks: one with batch norms, one that has none in its last convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 5, 3, padding=1)
        self.conv4 = nn.Conv2d(5, 8, 3, padding=1)
        self.bottleneck, self.norm5 = nn.Conv2d(8, 7, 1), nn.BatchNorm2d(7)
        self.wide = nn.Conv2d(7, 9, 3)
        self.linear = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.norm0(self.stem(x)))
        x = functional.relu(self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))) + x)
        x = functional.relu(self.conv4(functional.relu(self.conv3(x))) + x)
        x = functional.relu(self.wide(self.norm5(self.bottleneck(x))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Block()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
        return model.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, 8, 8, generator=generator)
    return images, torch.arange(24) % 4


def test_bn_scale_keeps_what_has_no_batch_norm(model: Any, batch: tuple[Tensor, Tensor]) -> None:
    pruned = prune(model, "bn_scale", batch[0], keep_channels=0.5)
    layers = dict(pruned.model.named_modules())
    kept = {name: layers[name].out_channels for name in ("conv3", "wide", "conv1", "bottleneck")}
    assert (kept["conv3"], kept["wide"]) == (5, 9)
    assert kept["conv1"] + kept["bottleneck"] + layers["stem"].out_channels == (6 + 7 + 8) // 2
    (remark,) = [text for text in pruned.remarks if "stay whole" in text]
    assert "'conv3', 'wide'" in remark and "'bn_scale'" in remark and "--unranked" in remark
    reasons = {row.layer: row.fixed for row in pruned.rows}
    assert reasons["conv3"] == reasons["wide"] == "all scores are equal"
    assert reasons["conv4"] == reasons["bottleneck"] == ""


def test_layers_without_batch_norm_leave_the_group_to_the_others(
    model: Any, batch: tuple[Tensor, Tensor]
) -> None:
    """The last convolution of the second block has none, and its channels are those of the first.

    Half of each group goes, so that the ranking is seen.
    """
    per_layer = Conventions(scope="layer", normaliser="none", join="mean")
    pruned = prune(model, "bn_scale", batch[0], keep_channels=0.5, conventions=per_layer)
    assert isinstance(pruned.plan, ChannelPlan)
    scales = (model.norm0.weight.abs() + model.norm2.weight.abs()) / 2
    (group,) = [g for g in pruned.architecture.groups if "conv4" in g.producers]
    assert sorted(pruned.plan.removed[group.name]) == sorted(scales.argsort()[:4].tolist())


@pytest.mark.parametrize("metric", ["apoz", "hrank"])
def test_residual_blocks_are_ranked_by_their_activations(
    metric: str, model: Any, batch: tuple[Tensor, Tensor]
) -> None:
    """Only the bottleneck, which has no activation, cannot be ranked by what is zero."""
    pruned = prune(model, metric, batch[0], data=[batch], keep_channels=0.5)
    reasons = {row.layer: row.fixed for row in pruned.rows}
    free = {"stem", "conv1", "conv2", "conv3", "conv4", "wide"}
    assert {layer for layer in free if not reasons[layer]} >= free - {"wide"}
    if metric == "apoz":
        assert reasons["bottleneck"] == "all scores are equal"


def test_such_networks_are_refused_where_that_is_asked_for(
    model: Any, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(DegenerateScores, match=r"'conv3'.*'bn_scale' cannot rank it"):
        prune(model, "bn_scale", batch[0], keep_channels=0.5, unranked="refuse")
    with pytest.raises(DegenerateScores, match=r"'conv3'"):
        prune(model, "bn_scale", batch[0], keep_channels=0.5, keep_share={"conv3": 0.5})


def test_several_steps_keep_them_throughout(model: Any, batch: tuple[Tensor, Tensor]) -> None:
    pruned = prune(model, "bn_scale", batch[0], keep_macs=0.6, steps=3)
    assert pruned.model.get_submodule("wide").out_channels == 9
    assert "stay whole" in " ".join(pruned.remarks)
