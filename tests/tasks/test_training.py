from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning import Budget, ChannelPlan, compact, trace
from gp_prune.pruning.plan.channels import Achieved
from gp_prune.tasks import Task, load_task
from gp_prune.tasks.training import Descent, optimise, optimise_stacked, random_batches


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


def numbers(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def same(first: nn.Module, second: nn.Module) -> bool:
    other = numbers(second)
    return all(torch.equal(tensor, other[name]) for name, tensor in numbers(first).items())


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
    weight = model.get_parameter("0.weight")
    weight.grad = torch.full_like(weight, 3.0)
    flags = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    train(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert weight.grad is not None and torch.equal(weight.grad, torch.full_like(weight, 3.0))
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
    before = model.get_parameter("0.weight").clone()
    train(model)
    assert torch.equal(model.get_parameter("0.weight"), before)
    assert not model.get_parameter("0.weight").requires_grad
    assert not same(model, network())


def test_no_steps_change_nothing_and_bad_numbers_are_refused() -> None:
    model = network()
    train(model, steps=0)
    assert same(model, network())
    with pytest.raises(ValueError, match="steps is -1"):
        train(model, steps=-1)


TASKS = ("lenet-digits", "cnn-digits", "autoencoder-digits")
DESCENT = Descent(steps=12, learning_rate=5e-3, batch_size=32, seed=3, weight_decay=0.01)
KEPT = (0.6, 0.3, 0.9)


@pytest.fixture(
    scope="module", params=[*TASKS, pytest.param("resnet-digits", marks=pytest.mark.slow)]
)
def task(request: pytest.FixtureRequest, task_cache: Path) -> Task:
    return load_task(request.param, cache_dir=task_cache)


def narrow(task: Task, keep: float, seed: int) -> nn.Module:
    """A copy in double precision without some channels, of every group another share."""
    architecture = trace(task.model, task.example_inputs, interface=task.keep)
    rng = np.random.default_rng(seed)
    removed = {}
    for group in architecture.free:
        cut = rng.permutation(group.size)[: int((1 - keep) * rng.uniform(0.5, 1.2) * group.size)]
        if cut.size:
            removed[group.name] = tuple(np.sort(cut).tolist())
    plan = ChannelPlan(removed, Budget("channels", keep), Achieved(keep, keep, keep))
    return compact(task.model, plan, architecture).double()


def sparse(task: Task, keep: float, seed: int) -> nn.Module:
    """A copy in double precision with masked weights."""
    model = copy.deepcopy(task.model).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                stays = torch.rand(module.weight.shape, generator=generator) < keep
                prune.custom_from_mask(module, "weight", stays)  # type: ignore[no-untyped-call]
    return model


def stacked(task: Task, models: list[nn.Module], descent: Descent = DESCENT) -> list[nn.Module]:
    optimise_stacked(models, *task_samples(task), task.loss, descent)
    return models


def task_samples(task: Task) -> tuple[Tensor, Tensor]:
    inputs, target = task.train.inputs[:200], task.train.target[:200]
    return inputs.double(), target if task.kind == "classification" else target.double()


@pytest.mark.parametrize("make", [narrow, sparse])
def test_each_becomes_what_it_becomes_alone(task: Task, make: type[nn.Module]) -> None:
    alone = [make(task, keep, seed) for seed, keep in enumerate(KEPT)]
    for model in alone:
        optimise(model, *task_samples(task), task.loss, DESCENT)
    together = stacked(task, [make(task, keep, seed) for seed, keep in enumerate(KEPT)])
    assert len({tuple(p.shape for p in model.parameters()) for model in together}) == (
        3 if make is narrow else 1
    )
    for one, other in zip(alone, together, strict=True):
        expected = numbers(one)
        for name, tensor in numbers(other).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-7, atol=1e-9)
        inputs = task_samples(task)[0]
        torch.testing.assert_close(one.eval()(inputs), other.eval()(inputs))


@pytest.mark.slow
def test_depthwise_networks_are_trained_one_after_the_other(task_cache: Path) -> None:
    task = load_task("mobilenet-digits", cache_dir=task_cache)
    alone, together = ([narrow(task, keep, 0).float() for keep in KEPT] for _ in range(2))
    for model in alone:
        task.fine_tune(model, steps=5)
    task.fine_tune_stacked(together, steps=5)
    assert all(map(same, alone, together))


def test_masked_weights_are_renewed_as_plain_tensors(task: Task) -> None:
    """So the networks can be copied, and compute with the weights that were trained."""
    for model in stacked(task, [sparse(task, keep, 0) for keep in KEPT]):
        again = copy.deepcopy(model)
        for name, module in model.named_modules():
            if hasattr(module, "weight_orig"):
                assert type(module.weight) is Tensor
                assert torch.equal(module.weight, module.weight_orig * module.weight_mask)
                assert torch.equal(module.weight, vars(again.get_submodule(name))["weight"])


def test_the_others_of_a_stack_change_nothing(task: Task) -> None:
    """Not one bit, as long as their widths are the same; even if they blow up."""
    first, other = narrow(task, 0.5, 0), narrow(task, 0.5, 1)
    strange = copy.deepcopy(other)
    with torch.no_grad():
        for parameter in strange.parameters():
            parameter.fill_(torch.nan)
    with_other = stacked(task, [copy.deepcopy(first), other])[0]
    with_strange = stacked(task, [copy.deepcopy(first), strange])[0]
    assert same(with_other, with_strange)
    assert not same(with_other, first)


def test_it_gives_the_same_bits_again(task: Task) -> None:
    first, again = (stacked(task, [narrow(task, keep, 0) for keep in KEPT]) for _ in range(2))
    assert all(map(same, first, again))


def test_flags_gradients_and_random_state_come_back(task: Task) -> None:
    models = [narrow(task, keep, 0).eval() for keep in KEPT]
    kept = next(models[1].parameters())
    kept.grad = torch.ones_like(kept)
    state = torch.get_rng_state()
    stacked(task, models)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for model in models for module in model.modules())
    assert [p.grad is None for m in models for p in m.parameters()].count(False) == 1
    assert all(p.requires_grad and p.is_leaf for m in models for p in m.parameters())


def test_no_steps_and_nothing_to_train_change_nothing(task: Task) -> None:
    before = [narrow(task, keep, 0) for keep in KEPT]
    after = stacked(task, [copy.deepcopy(m) for m in before], Descent(0, 1e-3, 32, 0))
    assert all(map(same, before, after))
    frozen = [model.requires_grad_(False) for model in copy.deepcopy(before)]
    assert all(map(same, before, stacked(task, frozen)))


def refused(*models: nn.Module) -> str:
    inputs, target = torch.zeros(8, 4, 6, 6), torch.zeros(8, dtype=torch.long)
    with pytest.raises(UserError) as raised:
        optimise_stacked(models, inputs, target, functional.cross_entropy, DESCENT)
    return str(raised.value)


def test_what_cannot_be_padded_is_refused() -> None:
    def tail() -> list[nn.Module]:
        return [nn.Flatten(), nn.Linear(4 * 36, 2)]

    dropout = [nn.Sequential(nn.Dropout(), *tail()) for _ in range(2)]
    assert "Dropout" in refused(*dropout)
    grouped = [nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), *tail()) for _ in range(2)]
    assert "groups=2" in refused(*grouped)
    deeper = nn.Sequential(nn.ReLU(), *tail())
    assert "cannot be stacked" in refused(nn.Sequential(*tail()), deeper)
    longer = nn.Sequential(*tail(), nn.ReLU())
    assert "depth" in refused(nn.Sequential(*tail()), longer)
    kernels = [nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), *tail()) for k in (1, 3)]
    assert "layer '0'" in refused(*kernels)
    modes = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode), *tail())
             for mode in ("zeros", "reflect")]  # fmt: skip
    assert "layer '0'" in refused(*modes)
    with_bias, without = (
        nn.Sequential(nn.Flatten(), nn.Linear(144, 2, bias=b)) for b in (True, False)
    )
    assert "layer '1'" in refused(with_bias, without)
    frozen = nn.Sequential(*tail())
    frozen[1].weight.requires_grad_(False)
    assert "layer '1'" in refused(nn.Sequential(*tail()), frozen)
    assert "layer '1'" in refused(nn.Sequential(*tail()), nn.Sequential(*tail()).double())


def test_what_is_frozen_in_all_stays(task: Task) -> None:
    models = [narrow(task, keep, 0) for keep in KEPT]
    kept = [next(model.parameters()).requires_grad_(False).clone() for model in models]
    for model, before in zip(stacked(task, models), kept, strict=True):
        first, *others = model.parameters()
        assert torch.equal(first, before)
        assert not first.requires_grad
        assert all(p.requires_grad for p in others)


@given(count=st.integers(1, 60), size=st.integers(1, 80), seed=st.integers(0, 2**31))
def test_one_pass_of_mini_batches_takes_no_sample_twice(count: int, size: int, seed: int) -> None:
    batches = random_batches(count, size, seed)
    taken = [next(batches) for _ in range(count // min(size, count))]
    assert all(len(batch) == min(size, count) for batch in taken)
    together = torch.cat(taken).tolist()
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(count))
