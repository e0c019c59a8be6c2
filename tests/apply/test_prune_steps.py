"""Pruning in several steps, each of which scores what the step before left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gp_prune.apply.prune import prune
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.metric.ranking import Conventions
from gp_prune.pruning import ChannelPlan, WeightPlan

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def same_state(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("metric", ["l1", "fpgm", "taylor_bn", "mean_activation"])
@pytest.mark.parametrize(
    "budget", [{"keep_macs": 0.4}, {"keep_params": 0.3}, {"keep_channels": 0.5}]
)
def test_steps_are_the_same_as_pruning_again_and_again(
    residual: nn.Module,
    images: torch.Tensor,
    batches: Pairs,
    metric: str,
    budget: dict[str, float],
) -> None:
    (kind, keep), measured = *budget.items(), {"data": batches, "loss": functional.cross_entropy}
    ranking: dict[str, Any] = {"conventions": Conventions("global", "mean", "mean")}
    pruned = prune(residual, metric, images, **budget, steps=3, **measured, **ranking)
    model, left = residual, 1.0
    for number in (1, 2, 3):
        share = min(1.0, keep ** (number / 3) / left)
        once = prune(model, metric, images, **{kind: share}, **measured, **ranking)
        model, left = once.model, left * once.achieved_share
    assert same_state(pruned.model, model)
    assert pruned.achieved_share == pytest.approx(left)
    assert pruned.asked.keep == keep
    assert isinstance(pruned.plan, ChannelPlan) and f"keep_{pruned.plan.asked.kind}" == kind


@pytest.mark.parametrize("metric", ["l1", "magnitude"])
def test_saved_and_replayed(
    residual: nn.Module, images: torch.Tensor, tmp_path: Path, metric: str
) -> None:
    pruned = prune(residual, metric, images, keep_params=0.3, steps=4)
    save_pruned(pruned, tmp_path / "out")
    assert same_state(load_pruned(tmp_path / "out", residual), pruned.model)


@pytest.mark.parametrize("mode", ["compact", "mask"])
def test_the_steps_fall_geometrically(residual: nn.Module, images: torch.Tensor, mode: str) -> None:
    pruned = prune(residual, "l1", images, keep_macs=0.25, steps=2, mode=mode)
    assert [step.asked for step in pruned.steps] == [0.5, 0.25]
    assert pruned.steps[-1].macs == pytest.approx(pruned.achieved.macs, abs=1e-3)
    assert pruned.steps[0].macs == pytest.approx(0.5, abs=0.1)
    assert pruned.report()["steps"][0]["asked"] == 0.5


def test_channel_counts_are_those_of_one_step(residual: nn.Module, images: torch.Tensor) -> None:
    once = prune(residual, "l1", images, keep_channels=0.5)
    steps = prune(residual, "l1", images, keep_channels=0.5, steps=3)
    assert [row.channels_kept for row in once.rows] == [row.channels_kept for row in steps.rows]


@pytest.mark.parametrize("metric", ["magnitude", "smallest"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weights_that_are_gone_stay_gone(perceptron: nn.Module, metric: str, scope: str) -> None:
    inputs, used = torch.rand(2, 6), Conventions(scope, "max", "sum")
    # With "smallest" the weights that are gone would be the first to come back.
    ranks = metric if metric == "magnitude" else Metric.parse("neg(abs(W))", name=metric)
    kept = []
    for steps in (1, 2, 3):
        share = 0.2 ** (steps / 3)
        pruned = prune(perceptron, ranks, inputs, keep_params=share, steps=steps, conventions=used)
        assert isinstance(pruned.plan, WeightPlan)
        kept.append({name: mask.unpack() for name, mask in pruned.plan.kept.items()})
        assert pruned.achieved.weights == pytest.approx(share, abs=0.02)
    for before, after in itertools.pairwise(kept):
        assert all((~before[name] <= ~after[name]).all() for name in before)


def test_data_that_can_be_read_once_is_kept(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    def stream() -> Iterator[Any]:
        yield from batches

    one = prune(residual, "mean_activation", images, keep_macs=0.4, steps=3, data=stream())
    other = prune(residual, "mean_activation", images, keep_macs=0.4, steps=3, data=batches)
    assert one.plan == other.plan


def test_one_line_per_step(residual: nn.Module, images: torch.Tensor) -> None:
    lines: list[str] = []
    prune(residual, "l1", images, keep_macs=0.5, steps=3, progress=lines.append)
    told = [line for line in lines if line.startswith("step ")]
    assert [line[:11] for line in told] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert all("macs" in line and "kept" in line for line in told)


def test_more_steps_than_channels(perceptron: nn.Module) -> None:
    pruned = prune(perceptron, "l1", torch.rand(2, 6), keep_macs=0.9, steps=50)
    assert len(pruned.steps) == 50
    assert pruned.achieved.macs == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_a_number_of_steps_that_is_none(perceptron: nn.Module, steps: Any) -> None:
    with pytest.raises(UserError, match=r"steps \(--steps\) is"):
        prune(perceptron, "l1", torch.rand(2, 6), keep_macs=0.5, steps=steps)


def test_the_model_is_not_changed(residual: nn.Module, images: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in residual.state_dict().items()}
    residual.train()
    for metric in ("l1", "magnitude"):
        prune(residual, metric, images, keep_params=0.4, steps=3)
    assert all(torch.equal(value, before[name]) for name, value in residual.state_dict().items())
    assert all(module.training for module in residual.modules())
