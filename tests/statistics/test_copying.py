"""Copies of networks are those of copy.deepcopy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gp_prune.statistics.copying import copy_modules
from gp_prune.tasks.models import MODELS


class Unusual(nn.Module):
    """Attributes of many kinds, and tensors that share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        whole = torch.arange(6.0)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[:3])
        self.register_buffer("turned", torch.rand(2, 3).t())
        self.register_buffer("hidden", torch.rand(3), persistent=False)
        self.plain = torch.rand(3)
        self.listed = [self.plain, self.first.weight, {"a": 1}]
        self.shape, self.kind = (3, 3), torch.float32
        self.first.register_forward_hook(_double)

    def forward(self, x: Tensor) -> Tensor:
        whole, part = self.get_buffer("whole"), self.get_buffer("part")
        output: Tensor = self.tied(self.first(x)) + part * whole[3:] + self.plain
        return output


def _double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


class Own(nn.Linear):
    """Copied in a way of its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return Own(self.in_features, self.out_features)


def masked() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.ReLU())


@pytest.mark.parametrize(
    "build",
    [
        Unusual,
        masked,
        lambda: MODELS["resnet"].build((1, 8, 8), 10),
        lambda: nn.TransformerEncoderLayer(4, 2, 8),
        lambda: nn.LSTM(3, 3),
    ],
)
def test_is_a_deep_copy(build: Callable[[], nn.Module]) -> None:
    model = build()
    copied, expected = copy_modules(model, {}), copy.deepcopy(model)
    assert type(copied) is type(expected)
    pairs = zip(model.named_modules(), copied.named_modules(), strict=True)
    for ((name, module), (other, twin)), (_, wanted) in zip(
        pairs, expected.named_modules(), strict=True
    ):
        assert name == other and module is not twin and type(module) is type(twin)
        assert vars(twin).keys() == vars(wanted).keys()
    state = model.state_dict()
    assert copied.state_dict().keys() == state.keys()
    for key, value in copied.state_dict().items():
        assert torch.equal(value, state[key]) and value.stride() == state[key].stride()
        assert value.data_ptr() != state[key].data_ptr()
    wanted = [(name, p.requires_grad) for name, p in model.named_parameters()]
    assert [(name, p.requires_grad) for name, p in copied.named_parameters()] == wanted


def test_what_shares_memory_still_does_and_only_among_itself() -> None:
    model = Unusual()
    copied = copy_modules(model, {})
    assert copied.tied.weight is copied.first.weight is copied.listed[1]
    assert copied.plain is copied.listed[0]
    copied.whole.fill_(7.0)
    assert torch.equal(copied.part, torch.full((3,), 7.0))
    assert torch.equal(model.get_buffer("part"), torch.arange(3.0))
    copied.listed[2]["a"] = 2
    assert model.listed[2] == {"a": 1}
    x = torch.rand(2, 3)
    twin = copy_modules(model, {})
    assert torch.equal(twin(x), model(x))  # with the hook


def test_a_class_decides_how_it_is_copied() -> None:
    model = nn.Sequential(Own(2, 2), nn.Linear(2, 2))
    copied = copy_modules(model, {})
    before = model.state_dict()
    assert not torch.equal(copied[0].weight, before["0.weight"])
    assert torch.equal(copied[1].weight, before["1.weight"])


def test_what_the_memo_holds_is_not_copied() -> None:
    model = nn.Linear(2, 2)
    copied = copy_modules(model, {id(model.weight): model.weight})
    assert copied.weight is model.weight
    assert copied.bias is not model.bias
