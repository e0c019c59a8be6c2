from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.tasks.training import Descent, optimise


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
    descent = Descent(steps, 1e-2, batch_size=16, seed=seed, warm_up=0.2, weight_decay=0.01)
    optimise(model, inputs, target, functional.cross_entropy, descent)


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
        optimise(model, inputs, target, broken, Descent(3, 1e-2, batch_size=8, seed=0))
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
