"""Measured latency as a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune.apply.prune import prune
from gp_prune.errors import UserError
from gp_prune.pruning import measure, timing


def clock(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[nn.Module, int], float]
) -> list[nn.Module]:
    """Passes take ``seconds(model, number of the pass)``; returns the models as they run."""
    passes: list[nn.Module] = []

    def timed_pass(model: nn.Module, inputs: Any, forward_fn: Any = None) -> float:
        passes.append(model)
        return seconds(model, len(passes))

    monkeypatch.setattr(timing, "timed_pass", timed_pass)
    return passes


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("keep", [0.9, 0.6, 0.4])
def test_budget_of_latency(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, keep: float, steps: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 9, 3)
        )
    # Time that does not fall to zero with the MACs, and wavers.
    full = measure(model, images).macs
    clock(
        monkeypatch,
        lambda net, n: (0.3 + 0.7 * measure(net, images).macs / full) * (1 + 0.02 * (n % 3)),
    )
    pruned = prune(model, "l1", images, keep_latency=keep, steps=steps)
    assert pruned.achieved.latency == pytest.approx(keep, abs=0.04)
    assert pruned.achieved_share == pruned.achieved.latency
    assert pruned.met
    report = pruned.report()
    assert report["asked"] == {"kind": "latency", "keep": keep}
    assert report["latency"]["share"]["median"] == pruned.achieved.latency
    assert pruned.plan.asked.kind == "macs"
    assert len(report["steps"]) == steps


def test_latency_that_cannot_be_reached(
    residual: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = measure(residual, images).macs
    clock(monkeypatch, lambda net, n: 0.8 + 0.2 * measure(net, images).macs / full)
    with pytest.raises(
        UserError, match=r"0\.500 of the latency cannot be reached.*still takes 0\.8"
    ):
        prune(residual, "l1", images, keep_latency=0.5)


def test_all_of_the_latency_can_be_kept_where_times_scatter(
    residual: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of a small network take most of its time, so that a cut may measure as slower."""
    full = measure(residual, images).macs
    clock(monkeypatch, lambda net, n: 1.0 if measure(net, images).macs == full else 1.08)
    pruned = prune(residual, "l1", images, keep_latency=1.0)
    assert measure(pruned.model, images).macs == full
    with pytest.raises(UserError, match=r"0\.900 of the latency cannot be reached.*takes 1\.08"):
        prune(residual, "l1", images, keep_latency=0.9)


def test_masks_and_weights_have_no_latency_budget(
    residual: nn.Module, images: torch.Tensor
) -> None:
    for metric, mode in (("l1", "mask"), ("magnitude", None)):
        with pytest.raises(UserError, match="no faster"):
            prune(residual, metric, images, keep_latency=0.5, mode=mode)


@pytest.mark.parametrize("keep", [0, -1, 1.5, float("nan")])
def test_shares_of_latency_out_of_range(
    residual: nn.Module, images: torch.Tensor, keep: float
) -> None:
    with pytest.raises(UserError, match=r"keep_latency \(--keep-latency\) is"):
        prune(residual, "l1", images, keep_latency=keep)


def test_time_it(residual: nn.Module, images: torch.Tensor) -> None:
    lines: list[str] = []
    pruned = prune(residual, "l1", images, keep_macs=0.5, time_it=True, progress=lines.append)
    assert pruned.times is not None and pruned.times.before.repeats >= timing.FINAL_TURNS
    assert set(pruned.report()["latency"]) == {"before", "after", "share"}
    assert pruned.report()["achieved"]["latency"] == pruned.times.share
    assert lines[-1].startswith("timing")
    assert pruned.report()["asked"]["kind"] == "macs"
    assert prune(residual, "l1", images, keep_macs=0.5).report()["latency"] is None
