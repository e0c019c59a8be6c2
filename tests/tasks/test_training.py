from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.tasks.training import optimise, recalibrate, schedule, shuffled


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


def train(model: nn.Module, steps: int = 20, seed: int = 0) -> None:
    inputs, target = samples()
    optimise(
        model,
        inputs,
        target,
        functional.cross_entropy,
        steps=steps,
        learning_rate=1e-2,
        batch_size=16,
        seed=seed,
        warm_up=0.2,
        weight_decay=0.01,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_training_lowers_the_loss() -> None:
    model, (inputs, target) = network(), samples()
    before = functional.cross_entropy(model.eval()(inputs), target)
    train(model, steps=100)
    assert functional.cross_entropy(model(inputs), target) < before / 2


def test_the_seed_decides_everything() -> None:
    first, second, other = (network(dropout=True) for _ in range(3))
    train(first)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        train(second)
    train(other, seed=1)
    assert same(first, second)
    assert not same(first, other)


def test_random_state_flags_and_gradients_come_back() -> None:
    model = network(dropout=True)
    model[1].eval()
    model[4].train()
    model[0].weight.grad = torch.full_like(model[0].weight, 3.0)
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    train(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 3.0))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "0.weight")


def test_they_come_back_also_after_an_exception() -> None:
    model = network(dropout=True).eval()
    state = torch.get_rng_state()
    inputs, target = samples()

    def broken(output: Tensor, target: Tensor) -> Tensor:
        torch.rand(1)
        raise RuntimeError("broken loss")

    with pytest.raises(RuntimeError, match="broken loss"):
        optimise(model, inputs, target, broken, steps=3, learning_rate=1e-2, batch_size=8, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_stay_frozen() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train(model)
    assert torch.equal(model[0].weight, before)
    assert not model[0].weight.requires_grad
    assert not same(model, network())


def test_no_steps_change_nothing_and_bad_numbers_are_refused() -> None:
    model = network()
    train(model, steps=0)
    assert same(model, network())
    with pytest.raises(ValueError, match="steps is -1"):
        train(model, steps=-1)


@given(warm_up=st.floats(0, 0.9), progress=st.floats(0, 1))
def test_the_learning_rate_rises_and_falls_between_zero_and_one(
    warm_up: float, progress: float
) -> None:
    value = schedule(progress, warm_up)
    assert -1e-9 <= value <= 1 + 1e-9
    assert schedule(warm_up, warm_up) == pytest.approx(1)
    assert schedule(1, warm_up) == pytest.approx(0)
    nearer = (progress + warm_up) / 2  # halfway to the peak
    assert schedule(nearer, warm_up) >= value - 1e-9


@given(count=st.integers(1, 60), size=st.integers(1, 80), seed=st.integers(0, 2**31))
def test_one_pass_of_mini_batches_takes_no_sample_twice(count: int, size: int, seed: int) -> None:
    batches = shuffled(count, size, seed)
    taken = [next(batches) for _ in range(count // min(size, count))]
    assert all(len(batch) == min(size, count) for batch in taken)
    together = torch.cat(taken).tolist()
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(count))


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
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)
    for name, value in model.named_parameters():
        assert torch.equal(value, before.get_parameter(name))


def test_recalibration_restores_momentum_and_flags_after_an_exception() -> None:
    model = network()
    with pytest.raises(RuntimeError):
        recalibrate(model, torch.zeros(4, 3, 6, 6))
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)
    assert all(module.training for module in model.modules())


def test_recalibration_without_batch_norm_does_not_run_the_model() -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model was run")

    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False))
    model.register_forward_pre_hook(fail)
    recalibrate(model, torch.rand(5, 3))
