"""Networks and their data, ready for pruning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gp_prune.apply.data import TuningData, tuning_data
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import UserError
from gp_prune.genetic.source import PreparedModel
from gp_prune.statistics import Batch
from gp_prune.tasks import Task
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


@pytest.mark.parametrize("offset", [0.0, -9.0])
def test_a_task_with_an_error_of_its_own_is_judged_by_it(offset: float) -> None:
    def far_off(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().max() + offset

    inputs = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    task = Task(model, (inputs, inputs[:, :2]), kind="regression", error=far_off)
    loaded = LoadedModel("mine", model, task.example_inputs, task)
    prepared = PreparedModel(loaded, tuning_data(loaded))
    if offset:
        with pytest.raises(UserError, match=r"of task 'Sequential' is -8.* an error that is posit"):
            prepared.error(model)
        return
    assert prepared.trivial_error == task.trivial_error == pytest.approx(0.5, abs=0.2)
    assert prepared.error(model) == min(task.dense_error, 2 * task.trivial_error)
