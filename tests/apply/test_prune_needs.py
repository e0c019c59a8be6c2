"""Metrics prune with what their operands need, and with nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from gp_prune.apply.options import needs_data
from gp_prune.apply.prune import prune
from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.statistics import Batch


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
        model[2].weight[:, 2] *= 1e-3
        model[5].weight[:, 20:] *= 1e-3  # channel 5, at its four positions
    pruned = prune(model, Metric.parse("sum[j](abs(V))"), EXAMPLE, keep_channels=0.8)
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
    assert set(pruned.plan.removed) == {"0", "2"}
    with pytest.raises(UserError, match="give calibration data"):
        prune(small_network(), metric, EXAMPLE, keep_channels=0.5)
