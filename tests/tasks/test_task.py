from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from gp_prune.errors import UserError
from gp_prune.tasks import Split, Task
from gp_prune.tasks.models import Kind


def task(kind: Kind, train: Any, judged: Any = None) -> Task:
    judged = train if judged is None else judged
    return Task("mine", kind, nn.Linear(1, 1), train, judged, (), 0.0, 1.0, lambda: judged)


def error(kind: Kind, model: nn.Module, split: Split) -> float:
    return task(kind, split).error(model, split)


def trivial_error(kind: Kind, train: Split, judged: Split) -> float:
    return task(kind, train, judged).trivial_error_on(judged)


class Constant(nn.Module):
    """Gives the same output for every sample."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.expand(len(inputs), *self.output.shape)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def labelled(labels: list[int]) -> Split:
    target = torch.tensor(labels)
    return Split(images(len(labels)), target, target)


def test_the_error_of_a_classification_is_the_share_of_wrong_classes() -> None:
    labels = [0, 1, 1, 2] * 700  # 2800 samples: three evaluation batches, the last one smaller
    split = labelled(labels)
    model = Constant(torch.tensor([0.1, 0.7, 0.2]))
    assert error("classification", model, split) == 0.5


def test_the_error_of_a_reconstruction_is_the_mean_square_over_all_pixels() -> None:
    inputs = images(2300)
    split = Split(inputs, inputs, torch.zeros(2300, dtype=torch.long))
    model = Constant(torch.full((1, 4, 4), 0.25))
    expected = float((inputs.double() - 0.25).square().mean())
    assert error("reconstruction", model, split) == pytest.approx(expected, rel=1e-6)


def test_outputs_that_are_not_finite_make_an_error_that_is_not_finite() -> None:
    inputs = images(3)
    split = Split(inputs, inputs, torch.zeros(3, dtype=torch.long))
    broken = Constant(torch.full((1, 4, 4), math.nan))
    assert math.isnan(error("reconstruction", broken, split))


def test_the_model_comes_back_in_its_own_mode_and_was_judged_in_evaluation_mode() -> None:
    split = labelled([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2), nn.Dropout(0.9))
    model[2].eval()
    statistics = model.get_buffer("2.running_mean").clone()
    flags = [module.training for module in model.modules()]
    assert error("classification", model, split) == error("classification", model, split)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(model.get_buffer("2.running_mean"), statistics)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_losses_are_those_of_their_definition() -> None:
    output = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([1, 0])
    log_share = output.exp() / output.exp().sum(1, keepdim=True)
    expected = -(log_share[0, 1].log() + log_share[1, 0].log()) / 2
    torch.testing.assert_close(task("classification", labelled([0])).loss(output, target), expected)
    first, second = images(3), images(3, seed=1)
    torch.testing.assert_close(
        task("reconstruction", labelled([0])).loss(first, second),
        (first - second).pow(2).sum() / 48,
    )


def test_the_trivial_error_is_that_of_the_best_prediction_without_inputs() -> None:
    train, judged = labelled([2, 2, 1, 0]), labelled([2, 0, 1, 1, 1])
    assert trivial_error("classification", train, judged) == pytest.approx(4 / 5)
    labels = torch.zeros(20, dtype=torch.long)
    first, second = images(20), images(20, seed=1)
    expected = error("reconstruction", Constant(first.mean(0)), Split(second, second, labels))
    found = trivial_error(
        "reconstruction", Split(first, first, labels), Split(second, second, labels)
    )
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_task_takes_data_sets_and_loaders() -> None:
    inputs, labels = images(12), torch.arange(12) % 3
    data = TensorDataset(inputs, labels)
    for form in ((inputs, labels), data, DataLoader(data, 5), Subset(data, range(12))):
        targets: dict[Kind, Tensor] = {"classification": labels, "reconstruction": inputs}
        for kind, target in targets.items():
            mine = task(kind, form, data)
            assert torch.equal(mine.train.target, target)
            assert torch.equal(mine.validation.inputs, inputs)
            assert torch.equal(mine.train.labels, labels)
    model = Constant(torch.tensor([0.1, 0.7, 0.2]))
    for form in ((inputs, labels), data, DataLoader(data, 5)):
        judged = task("classification", labelled([0, 1])).error(model, form)
        assert judged == pytest.approx(2 / 3)
    for wrong in (inputs, labels.double()):
        with pytest.raises(UserError, match="give \\(images, labels\\)"):
            task("classification", (inputs, wrong))
