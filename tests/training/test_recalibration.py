from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.training import recalibrate


def network(seed: int = 0, dropout: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5 if dropout else 0.0),
            nn.Conv2d(4, 3, 3),
            nn.BatchNorm2d(3, momentum=0.3),
            nn.Flatten(),
            nn.Linear(12, 2),
        )


def samples(count: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 1, 6, 6, generator=generator) + 2
    return inputs, (inputs.mean((1, 2, 3)) > 2).long()


def test_recalibration_gives_the_first_norm_the_statistics_of_the_whole_data() -> None:
    model, (inputs, _) = network(), samples()
    recalibrate(model, inputs)
    seen = model[0](inputs).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, seen.mean(1))
    torch.testing.assert_close(model[1].running_var, seen.var(1))
    # A later norm sees what the earlier one makes of the statistics of this batch.
    train_copy = copy.deepcopy(model).train()
    torch.testing.assert_close(
        model[5].running_mean, train_copy[:5](inputs).transpose(0, 1).flatten(1).mean(1)
    )


def test_recalibration_in_batches_averages_their_means() -> None:
    model, (inputs, _) = network(), samples(48)
    recalibrate(model, inputs, batch_size=20)  # 48 samples in three batches of 16
    seen = model[0](inputs).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, seen.mean(1))
    parts = torch.stack([part.var(1) for part in seen.chunk(3, dim=1)])
    torch.testing.assert_close(model[1].running_var, parts.mean(0))
    assert model[1].num_batches_tracked == 3


def test_recalibration_changes_nothing_but_the_statistics() -> None:
    model, (inputs, _) = network(dropout=True), samples()
    model[3].train()
    model[1].eval()
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    recalibrate(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)  # dropout was not active
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [model[i].momentum for i in (1, 5)] == [0.1, 0.3]
    for name, value in model.named_parameters():
        assert torch.equal(value, before.get_parameter(name))


def test_recalibration_restores_momentum_and_flags_after_an_exception() -> None:
    model = network()
    with pytest.raises(RuntimeError):
        recalibrate(model, torch.zeros(4, 3, 6, 6))
    assert [model[i].momentum for i in (1, 5)] == [0.1, 0.3]
    assert all(module.training for module in model.modules())


def test_recalibration_without_batch_norm_does_not_run_the_model() -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model was run")

    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))
    model.register_forward_pre_hook(fail)
    recalibrate(model, torch.rand(5, 3))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_given_batches_count_by_their_samples(sizes: list[int]) -> None:
    model, (inputs, target) = network(), samples(sum(sizes))
    parts = zip(torch.split(inputs, sizes), torch.split(target, sizes), strict=True)
    recalibrate(model, [Batch(images, labels) for images, labels in parts])
    means = [model[0](part).mean((0, 2, 3)) * len(part) for part in torch.split(inputs, sizes)]
    torch.testing.assert_close(model[1].running_mean, torch.stack(means).sum(0) / sum(sizes))
    assert [model[i].momentum for i in (1, 5)] == [0.1, 0.3]


@given(count=st.integers(1, 40), parts=st.integers(1, 5))
def test_equal_batches_give_the_same_in_both_forms(count: int, parts: int) -> None:
    inputs = samples(count * parts)[0]
    whole, cut = network(), network()
    recalibrate(whole, inputs, batch_size=count)
    recalibrate(cut, list(torch.split(inputs, count)))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), cut.buffers(), strict=True))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x - y)
        return normalised


def test_every_way_to_call_a_network() -> None:
    x, y = torch.rand(2, 8, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for batches in ([Batch({"y": y, "x": x})], [Batch((x, y))]):
        model = TwoInputs()
        recalibrate(model, batches)
        found.append(model.norm.running_mean)
    model = TwoInputs()
    recalibrate(model, x, forward_fn=lambda network, inputs: network(inputs, y))
    for mean in (*found, model.norm.running_mean):
        torch.testing.assert_close(mean, (x - y).mean(0))


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(UserError, match="yields int"):
        recalibrate(network(), [3])


def test_data_sets_loaders_and_batches_measure_the_same() -> None:
    inputs, labels = samples(40)
    models = [network() for _ in range(5)]
    data = TensorDataset(inputs, labels)
    forms: tuple[Any, ...] = (
        [(inputs, labels)],
        data,
        (inputs, labels),
        DataLoader(data, 40),
        [Batch(inputs)],
    )
    for model, form in zip(models, forms, strict=True):
        recalibrate(model, form)
    for other in models[1:]:
        assert all(
            torch.equal(a, b) for a, b in zip(models[0].buffers(), other.buffers(), strict=True)
        )


def test_no_sample_is_refused_and_changes_nothing() -> None:
    for nothing in ([], [torch.zeros(0, 1, 6, 6)], torch.zeros(0, 1, 6, 6)):
        model = network()
        recalibrate(model, samples()[0])
        before = copy.deepcopy(model)
        with pytest.raises(UserError, match="no sample"):
            recalibrate(model, nothing)
        assert all(
            torch.equal(a, b) for a, b in zip(model.buffers(), before.buffers(), strict=True)
        )
