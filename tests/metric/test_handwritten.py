"""The metrics written by hand: their files, and their use by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gp_prune
from gp_prune.metric.metric import Metric, MetricError, bundled_metrics

NAMES = [*bundled_metrics("handwritten")]


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(160, 4),
    ).eval()  # fmt: skip


def kept(metric: str, share: float = 0.5, **options: Any) -> dict[str, Any]:
    """The parameters of the small network after pruning."""
    model = small_network()
    inputs = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 4
    batches = [(inputs, labels)]
    pruned = gp_prune.prune(model, metric, inputs[:1], data=batches, keep_macs=share, **options)
    return {name: value.tolist() for name, value in pruned.model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_prunes_as_the_text_of_its_formula(name: str) -> None:
    found = kept(name)
    assert found == kept(str(Metric.load(name).expression))
    assert found != kept("l1")


def test_one_can_give_the_shares_of_the_layers() -> None:
    found = kept("l1", 0.3, allocation="square_energy")
    assert found == kept("l1", 0.3, allocation="mean[n,s](A^2) * sum[j](V^2)")
    assert found != kept("l1", 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_what_it_measures_and_that_it_is_not_published(name: str) -> None:
    metric = Metric.load(name)
    assert metric.name == name
    assert metric.description and metric.objectives and metric.provenance
    assert metric.source.startswith("written by hand by this project")
    assert metric.granularity == "channel"
    assert name not in bundled_metrics("reference")


def test_variance_energy_is_flap_ranked_over_the_whole_network() -> None:
    with pytest.raises(MetricError, match=r"'variance_energy'; .* give 'flap'.*'global'"):
        Metric.load("variance_energy")
    found = kept("var[n,s](A) * sum[j](V^2)")
    assert found == kept("flap", allocation="global")
    assert found != kept("flap")


def test_a_near_miss_is_told_the_name() -> None:
    with pytest.raises(MetricError, match="did you mean 'square_energy'"):
        Metric.load("square_energie")
