"""Networks and their data, ready for pruning."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from gp_prune.apply.data import TuningData
from gp_prune.apply.models import LoadedModel
from gp_prune.genetic.source import PreparedModel
from gp_prune.statistics import Batch
from gp_prune.training import Samples


class Reading(Dataset[Batch]):
    """Samples that remember how many of them were wanted at a time."""

    def __init__(self, samples: Samples) -> None:
        self.samples, self.most = samples, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> Batch:
        self.most = max(self.most, len(indices))
        return self.samples.__getitems__(indices)


def test_images_are_not_all_read_into_memory() -> None:
    images = Samples(torch.rand(700, 1, 2, 2), torch.arange(700) % 3)
    reading = Reading(images)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(16, 3))
    loss = nn.functional.cross_entropy
    data = TuningData("images", images, reading, lambda: reading, "validation", "error", loss)
    prepared = PreparedModel(LoadedModel("own", model, torch.zeros(1, 1, 2, 2)), data)
    assert prepared.trivial_error == pytest.approx(1 - 234 / 700)
    assert 0 < prepared.error(model) < 1
    assert reading.most <= 250
