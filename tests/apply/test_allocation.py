"""``prune(allocation=...)`` divides the budget apart from what ranks the channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gp_prune.apply.prune import prune
from gp_prune.apply.scoring import score_layers
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import ChannelPlan

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def shares(pruned: Any) -> dict[str, float]:
    return {row.layer: row.channels_kept / row.channels for row in pruned.rows if row.channels}


def test_named_allocations_are_scopes(residual: nn.Module, images: torch.Tensor) -> None:
    for name, scope in (("global", "global"), ("uniform", "layer")):
        found = prune(residual, "l1", images, keep_macs=0.5, allocation=name)
        own = Metric.load("l1").conventions
        same = Conventions(scope, "mean" if name == "global" else own.normaliser, own.join)
        assert found.plan == prune(residual, "l1", images, keep_macs=0.5, conventions=same).plan
        assert (found.allocation, found.report()["allocation"]) == (name, name)
    assert prune(residual, "l1", images, keep_macs=0.5).allocation == "own"


def test_the_residual_stream_stays_whole(residual: nn.Module, images: torch.Tensor) -> None:
    found = prune(residual, "l1", images, keep_macs=0.8, allocation="residual-whole")
    assert shares(found)["first"] == shares(found)["second"] == 1
    assert shares(found)["third"] < 1
    assert found.met
    row = next(row for row in found.rows if row.layer == "first")
    assert "several layers make its channels" in row.fixed


@pytest.mark.parametrize("steps", [1, 3])
def test_shares_by_one_metric_channels_by_another(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, steps: int
) -> None:
    measured: dict[str, Any] = {"data": iter(batches), "loss": functional.cross_entropy}
    found = prune(
        residual, "l1", images, keep_macs=0.5, allocation="taylor_bn", steps=steps, **measured
    )
    assert found.met and found.allocation == "taylor_bn"
    if steps > 1:
        return
    taylor = Metric.load("taylor_bn")
    ranked = Conventions("global", "mean", taylor.conventions.join)
    measured["data"] = batches
    given = prune(residual, taylor, images, keep_macs=0.5, conventions=ranked, **measured)
    assert shares(found) == shares(given)
    assert isinstance(found.plan, ChannelPlan) and isinstance(given.plan, ChannelPlan)
    assert found.plan.removed != given.plan.removed


def test_a_pair_divides_by_its_own_shares(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    measured: dict[str, Any] = {"data": batches, "loss": functional.cross_entropy}
    pair = Metric.load("l1").with_shares("taylor_bn")
    found = pair.prune(residual, images, keep_macs=0.5, **measured)
    same = prune(residual, "l1", images, keep_macs=0.5, allocation="taylor_bn", **measured)
    assert found.plan == same.plan and found.allocation == "taylor_bn"
    # What is asked for goes first.
    for options in ({"allocation": "uniform"}, {"conventions": Conventions("layer")}):
        one, other = (
            prune(residual, metric, images, keep_macs=0.5, **measured, **options)
            for metric in (pair, pair.with_shares(None))
        )
        assert one.plan == other.plan
    with pytest.raises(UserError, match="'taylor_bn' needs"):
        pair.prune(residual, images, keep_macs=0.5)


def test_scores_can_be_divided_by_a_metric_without_data(
    residual: nn.Module, images: torch.Tensor
) -> None:
    scores = score_layers(residual, "l1", example_inputs=images)
    found = prune(residual, scores, images, keep_macs=0.5, allocation="l2")
    assert found.plan == prune(residual, "l1", images, keep_macs=0.5, allocation="l2").plan
    with pytest.raises(UserError, match="'apoz' measures on data, and scores come without any"):
        prune(residual, scores, images, keep_macs=0.5, allocation="apoz")


@pytest.mark.parametrize(
    ("metric", "options", "words"),
    [
        ("l1", {"allocation": "nowhere"}, "none of own, global, uniform, residual-whole, and no"),
        ("l1", {"allocation": "magnitude"}, "'magnitude' (--allocation) ranks weights"),
        ("magnitude", {"allocation": "l1"}, "allocation 'l1' (--allocation) divides channels"),
        ("magnitude", {"allocation": "residual-whole"}, "use own, global or uniform"),
        ("l1", {"allocation": "apoz"}, "metric 'apoz' needs"),
    ],
)
def test_what_cannot_divide_is_refused(
    residual: nn.Module, images: torch.Tensor, metric: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        prune(residual, metric, images, keep_params=0.5, **options)
    assert words in str(caught.value)
    with pytest.raises(UserError, match="leave out allocation"):
        prune(residual, "magnitude", images, pattern="2:4", allocation="uniform")


def test_weights_can_be_ranked_alone_or_together(residual: nn.Module, images: torch.Tensor) -> None:
    for name, scope in (("global", "global"), ("uniform", "layer")):
        used = Conventions(scope, "mean" if name == "global" else "none", "sum")
        found = prune(residual, "magnitude", images, keep_params=0.5, allocation=name)
        same = prune(residual, "magnitude", images, keep_params=0.5, conventions=used)
        assert found.plan == same.plan


def test_shares_by_a_formula_of_layers(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    wide = prune(residual, "l1", images, keep_macs=0.5, allocation="1 / channels")
    assert wide.met and wide.allocation == wide.report()["allocation"]
    pair = Metric.load("l1").with_shares("1 / channels")
    assert pair.prune(residual, images, keep_macs=0.5).plan == wide.plan
    one = Metric.parse("1")
    uniform = prune(residual, "l1", images, keep_macs=0.5, allocation="uniform")
    assert prune(residual, "l1", images, keep_macs=0.5, allocation=one).plan == uniform.plan
    measured = prune(
        residual, "bn_scale", images, data=batches, keep_macs=0.5,
        allocation="mean[o,n,s](abs(A)) * depth", steps=2,
    )  # fmt: skip
    assert measured.met


def test_a_formula_of_layers_ranks_nothing(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(UserError, match="gives the share of each layer and ranks nothing"):
        prune(residual, "depth", images, keep_macs=0.5)
    with pytest.raises(UserError, match="no layer has a value above 0"):
        prune(residual, "l1", images, keep_macs=0.5, allocation="0 - depth")
    with pytest.raises(UserError, match=r"ranks single weights.*divides channels"):
        prune(residual, "magnitude", images, keep_params=0.5, allocation="depth")
