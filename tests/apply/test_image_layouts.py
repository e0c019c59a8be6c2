"""Images that were permuted to (n, c, h, w): torch's gradients corrupt memory on their strides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.apply.data import own_data
from gp_prune.apply.export import export_torch
from gp_prune.apply.prune import prune
from gp_prune.apply.tuning import tune_pruned
from gp_prune.statistics import Batch
from gp_prune.training import FineTuning, recalibrate


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Check that each input of a convolution is contiguous."""
    seen: list[bool] = []
    plain = nn.Conv2d.forward

    def forward(self: nn.Conv2d, x: Tensor) -> Tensor:
        seen.append(x.is_contiguous())
        return plain(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    yield seen
    assert seen and all(seen)


def images(samples: int = 12) -> Tensor:
    numbers = torch.Generator().manual_seed(0)
    return torch.rand(samples, 8, 8, 3, generator=numbers).permute(0, 3, 1, 2)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.BatchNorm2d(10), nn.ReLU(),
        nn.Conv2d(10, 6, 1, stride=2), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


def loss(output: Any, target: Any) -> Tensor:
    return nn.functional.cross_entropy(output, target)


def test_a_cut_with_gradients_and_its_fine_tuning(watched: list[bool]) -> None:
    model, x, y = network(), images(100), torch.arange(100) % 4
    pruned = prune(model, "taylor_bn", x, data=[Batch(x, y, y)], loss=loss, keep_channels=0.5)
    tuned, _ = tune_pruned(
        pruned, model, own_data((x, y), loss=loss, seed=0), FineTuning(epochs=1, batch_size=20)
    )
    recalibrate(tuned.model, x)
    recalibrate(tuned.model, [x])


def test_an_exported_network(tmp_path: Path, watched: list[bool]) -> None:
    export_torch(network().eval(), tmp_path / "net.ts", images(2))


def test_a_network_in_another_layout_is_cut_to_a_plain_one() -> None:
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.requires_grad_(False)
    pruned = prune(model, "l1", images(), keep_channels=0.5, ignore=["0"]).model
    assert all(parameter.is_contiguous() for parameter in pruned.parameters())
