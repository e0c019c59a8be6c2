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

from gp_prune.apply.options import needs_data
from gp_prune.apply.prune import prune
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import ChannelPlan, WeightPlan
from gp_prune.statistics import Batch

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
    budget: dict[str, Any],
) -> None:
    (kind, keep), *_ = budget.items()
    measured: dict[str, Any] = {"data": batches, "loss": functional.cross_entropy}
    ranking: dict[str, Any] = {"conventions": Conventions("global", "mean", "mean")}
    pruned = prune(residual, metric, images, **budget, steps=3, **measured, **ranking)
    model, left = residual, 1.0
    for number in (1, 2, 3):
        share = min(1.0, keep ** (number / 3) / left)
        once = prune(model, metric, images, **dict[str, Any]({kind: share}), **measured, **ranking)
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


def small_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(6 * 4, 3),
        )  # fmt: skip


def samples() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(12, 1, 4, 4, generator=generator), torch.arange(12) % 3
    return [Batch(images[:8], labels[:8], labels[:8]), Batch(images[8:], labels[8:], labels[8:])]


EXAMPLE = torch.zeros(1, 1, 4, 4)


@pytest.mark.parametrize("text", ["sum[j](abs(V))", "sum[i,k](abs(mul(W, R)))"])
def test_no_data_for_what_the_network_alone_tells(text: str) -> None:
    metric = Metric.parse(text)
    assert not needs_data(metric)
    assert prune(small_network(), metric, EXAMPLE, keep_channels=0.5).after.params > 0


def test_channels_whose_readers_are_small_go_first() -> None:
    model = small_network()
    with torch.no_grad():
        model.get_parameter("2.weight")[:, 2] *= 1e-3
        model.get_parameter("5.weight")[:, 20:] *= 1e-3  # channel 5, at its four positions
    pruned = prune(model, Metric.parse("sum[j](abs(V))"), EXAMPLE, keep_channels=0.8)
    assert isinstance(pruned.plan, ChannelPlan)
    assert pruned.plan.removed == {"0": (2,), "2": (5,)}


@pytest.mark.parametrize(
    "text",
    [
        "sum[j](abs(mul(V, GV)))", "sum[i,k](mul(square(W), G2))", "sum[i,k](mul(W, Hg))",
        "mean[n](square(sum[s](mul(Z, dZ))))", "sum[i,k](div(square(W), square(Hd)))",
        "mean[c](sum[s](square(sub(mP, mQ))))", "sum[s](square(mA))", "mean[n](rk)", "mean[n](nl)",
        "mean[c](sub(add(kPP, kQQ), add(kPQ, kPQ)))",
    ],
)  # fmt: skip
def test_metrics_that_measure(text: str) -> None:
    metric = Metric.parse(text)
    assert needs_data(metric)
    loss = functional.cross_entropy
    pruned = prune(small_network(), metric, EXAMPLE, keep_channels=0.5, data=samples(), loss=loss)
    assert isinstance(pruned.plan, ChannelPlan)
    assert set(pruned.plan.removed) == {"0", "2"}
    with pytest.raises(UserError, match="give calibration data"):
        prune(small_network(), metric, EXAMPLE, keep_channels=0.5)
