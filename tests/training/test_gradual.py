"""Weights that are removed step by step while a network trains."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.training import FineTuning, GradualRemoval, History, fine_tune
from gp_prune.training.gradual import Remover

REMOVAL = GradualRemoval(40, ("0", "3"))
TUNING = FineTuning(epochs=3, optimiser="adamw", learning_rate=1e-2, batch_size=16)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 5),
            nn.ReLU(),
            nn.Linear(5, 3),
        )


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 1, 6, 6, generator=generator)
    return inputs, (inputs.mean((1, 2, 3)) > 0).long()


def train(model: nn.Module, removal: GradualRemoval | None, **options: Any) -> History:
    data = samples()
    return fine_tune(
        model, data, functional.cross_entropy, options.pop("settings", TUNING),
        validation=data, removal=removal, **options,
    )  # fmt: skip


def weight_of(model: nn.Module, layer: str) -> nn.Parameter:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, nn.Parameter)
    return weight


def nonzero(model: nn.Module) -> int:
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


@given(
    start=st.integers(1, 10**6), params=st.integers(1, 10**6),
    ends=st.tuples(st.floats(0, 0.4), st.floats(0.5, 1)),
    times=st.lists(st.floats(0, 1), min_size=2, max_size=6),
)  # fmt: skip
def test_the_schedule_falls_from_what_there_is_to_what_is_asked_for(
    start: int, params: int, ends: tuple[float, float], times: list[float]
) -> None:
    since, until = ends
    removal = GradualRemoval(params, ("0",), since=since, until=until)
    goals = [removal.goal(start, time) for time in sorted(times)]
    assert goals == sorted(goals, reverse=True)
    assert removal.goal(start, since) == max(start, params)
    assert removal.goal(start, until) == removal.goal(start, 1.0) == params
    assert removal.exchanged(since) == pytest.approx(removal.regrowth)
    assert removal.exchanged(until) == pytest.approx(0.0)


@pytest.mark.parametrize("regrowth", [0.0, 0.2])
def test_a_network_ends_with_as_many_parameters_as_are_asked_for(regrowth: float) -> None:
    model, before = network(), network()
    history = train(model, replace(REMOVAL, regrowth=regrowth))
    assert nonzero(model) == 40
    assert not weight_of(model, "0").all() and not weight_of(model, "3").all()
    assert weight_of(model, "5").all()
    assert not torch.equal(weight_of(model, "5"), weight_of(before, "5"))
    assert history.best >= 3  # states from before the last removal do not count


def test_the_same_seed_gives_the_same_network() -> None:
    one, two, other = network(), network(), network()
    train(one, REMOVAL)
    train(two, REMOVAL)
    train(other, REMOVAL, settings=replace(TUNING, seed=1))
    same = zip(one.parameters(), two.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(weight_of(one, "0"), weight_of(other, "0"))


def test_what_is_held_stays_zero_when_nothing_comes_back() -> None:
    model = network()
    keep = torch.rand(weight_of(model, "3").shape, generator=torch.Generator().manual_seed(2)) > 0.3
    with torch.no_grad():
        weight_of(model, "3").mul_(keep)
    train(model, replace(REMOVAL, regrowth=0.0), held={("3", "weight"): keep})
    assert not weight_of(model, "3")[~keep].any()


def stepped(model: nn.Module) -> torch.optim.AdamW:
    """An optimiser that has moments of three steps; the weights are as they were."""
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters())
    inputs, labels = samples()
    for part in range(3):
        optimiser.zero_grad()
        chosen = slice(part * 20, part * 20 + 20)
        functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    model.load_state_dict(before)
    return optimiser


def test_the_weights_with_the_least_squared_weight_times_squared_gradient_go() -> None:
    model = network()
    optimiser = stepped(model)
    start = nonzero(model)
    saliency = {
        name: weight_of(model, name).detach() ** 2
        * optimiser.state[weight_of(model, name)]["exp_avg_sq"]
        for name in REMOVAL.layers
    }
    remover = Remover(GradualRemoval(start - 50, ("0", "3"), regrowth=0.0), model, optimiser, [])
    remover.step(1.0)
    assert remover.done and nonzero(model) == start - 50
    limit = torch.cat([s.flatten() for s in saliency.values()]).sort().values[49]
    for name, values in saliency.items():
        assert torch.equal(weight_of(model, name) == 0, values <= limit)
    assert [int(zero.sum()) for _, zero in remover.zeros] == [
        int((saliency[name] <= limit).sum()) for name in REMOVAL.layers
    ]


def test_the_zeros_with_the_largest_mean_gradient_come_back() -> None:
    model = network()
    optimiser = stepped(model)
    weight = weight_of(model, "3")
    zero = torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    with torch.no_grad():
        weight.masked_fill_(zero, 0.0)
    left = nonzero(model)
    removal = GradualRemoval(left, ("3",), since=0.0, until=1.0, removals=10, regrowth=0.1)
    remover = Remover(removal, model, optimiser, [(weight, zero)])
    remover.step(0.1)
    ((_, now),) = remover.zeros
    gradient = optimiser.state[weight]["exp_avg"].abs()
    free = now | ~zero  # what was alive, or stays zero
    back = zero & ~now
    assert back.any() and not remover.done
    assert gradient[back].min() >= gradient[zero & now].max()
    assert int(now.sum()) == int(zero.sum()) and not bool((free & back).any())


@pytest.mark.parametrize(
    ("removal", "options", "words"),
    [
        (REMOVAL, {"settings": replace(TUNING, optimiser="sgd")}, "use the optimiser 'adamw'"),
        (REMOVAL, {"checkpoint": "folder"}, "cannot be resumed"),
        (replace(REMOVAL, layers=("0", "1")), {}, "layer '1' has no weight that is trained"),
    ],
)
def test_what_cannot_work_is_refused(
    removal: GradualRemoval, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(network(), removal, **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": 0}, "params of a gradual removal is 0"),
        ({"layers": ()}, "has no layers"),
        ({"since": 0.5, "until": 0.5}, "let it end later than it begins"),
        ({"removals": 0}, "removals of a gradual removal is 0"),
        ({"regrowth": 1.0}, "regrowth of a gradual removal is 1.0"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(REMOVAL, **changes)
