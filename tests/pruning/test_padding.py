"""Residual streams whose shortcuts are padded with channels of zeros."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import load_pruned, prune, save_pruned
from gp_prune.errors import UserError
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    compact,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.padding import ShortPadding, shorten_padding
from gp_prune.pruning.plan.channels import Achieved

Shortcut = Callable[[Tensor, Tensor, int], Tensor]


def halves(x: Tensor, inner: Tensor, added: int) -> Tensor:
    """As in the CIFAR networks: half of the zeros before the channels, half after them."""
    before = added // 2
    return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, added - before))


def behind(x: Tensor, inner: Tensor, added: int) -> Tensor:
    return functional.pad(functional.avg_pool2d(x, 2), [0, 0, 0, 0, 0, added])


def two(x: Tensor, inner: Tensor, added: int) -> Tensor:
    """A padding of the sides alone, and two of channels."""
    x = functional.pad(x, (0, 1))[..., :-1]
    x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 0), "constant", 0)
    return functional.pad(x, (0, 0, 0, 0, 0, added - 1), value=0.0)


class Pad(nn.Module):
    """A padding in a module of its own, as the lambda layers of published code."""

    def forward(self, x: Tensor, inner: Tensor, added: int) -> Tensor:
        return halves(x, inner, added)


class Block(nn.Module):
    def __init__(self, before: int, after: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.added, self.shortcut = after - before, copy.deepcopy(shortcut)
        self.conv1 = nn.Conv2d(before, after, 3, 2 if self.added else 1, 1)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + (self.shortcut(x, inner, self.added) if self.added else x))


def network(shortcut: Shortcut = halves, widths: tuple[int, ...] = (4, 8, 8, 14)) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, padding=1),
            nn.ReLU(),
            *(Block(a, b, shortcut) for a, b in pairwise(widths)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], 5),
        )
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.bias, -1, 1)
    return model.double().eval()


def images(size: int = 8) -> Tensor:
    return torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def assert_exact(
    model: nn.Module, architecture: Architecture, removed: dict[str, list[int]]
) -> None:
    plan = ChannelPlan(
        {name: tuple(channels) for name, channels in removed.items() if channels},
        Budget("channels", 0.5),
        Achieved(0.5, 0.5, 0.5),
    )
    smaller, masked, x = compact(model, plan, architecture), copy.deepcopy(model), images()
    mask(masked, plan, architecture)
    torch.testing.assert_close(smaller(x), masked(x))
    kept = {g.name: g.size - len(plan.removed.get(g.name, ())) for g in architecture.groups}
    cost = measure(smaller, x)
    assert predict(architecture, kept) == (cost.macs, cost.params)


SHORTCUTS: dict[str, Shortcut] = {"halves": halves, "behind": behind, "two": two, "module": Pad()}
TRACED = {name: (network(s), trace(network(s), images())) for name, s in SHORTCUTS.items()}


@pytest.mark.parametrize("name", SHORTCUTS)
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_any_channels_of_the_stream_can_go(name: str, data: st.DataObject) -> None:
    model, architecture = TRACED[name]
    removed = {
        group.name: sorted(
            data.draw(st.sets(st.integers(0, group.size - 1), max_size=group.size - 1))
        )
        for group in architecture.free
    }
    assert_exact(model, architecture, removed)


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_channel_is_tied_to_where_the_shortcut_puts_it(name: str) -> None:
    _, architecture = TRACED[name]
    assert [group.name for group in architecture.groups if group.fixed] == ["7"]
    front = {"halves": 2, "module": 2, "behind": 0, "two": 1}[name]
    [slot] = [
        slot
        for slot in architecture.by_name["0"].slots
        if (slot.module, slot.side) == ("2.conv2", "out")
    ]
    assert slot.channels == (*[-1] * front, 0, 1, 2, 3, *[-1] * (4 - front))
    assert architecture.by_name["2.conv2"].size == 4
    assert Architecture.from_json(architecture.to_json()) == architecture


@pytest.mark.parametrize(
    "shortcut",
    [
        lambda x, inner, added: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), value=1.0),
        lambda x, inner, added: (
            functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 0)) * 0.5
            + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 4))
        ),
    ],
    ids=["ones", "two positions"],
)
def test_what_cannot_be_cut_is_kept_or_cut_right(shortcut: Shortcut) -> None:
    """Ones are no zeros, and channels that come twice are tied to both."""
    model = network(shortcut, (4, 8))
    architecture = trace(model, images())
    rest = {group.name: list(range(0, group.size - 1, 2)) for group in architecture.free}
    assert_exact(model, architecture, rest)


def test_a_cut_network_can_be_copied_stored_trained_cut_again_and_exported(tmp_path: Path) -> None:
    model, x = network().float(), images().float()
    first = prune(model, "l1", x, keep_macs=0.5)
    assert any(isinstance(module, ShortPadding) for module in first.model.modules())
    assert not any(isinstance(module, ShortPadding) for module in model.modules())
    expected = first.model(x)
    stored = io.BytesIO()
    torch.save(first.model, stored)
    stored.seek(0)
    save_pruned(first, tmp_path / "once")
    for same in (
        copy.deepcopy(first.model),
        torch.load(stored, weights_only=False),
        load_pruned(tmp_path / "once", network().float()),
        torch.export.export(first.model, (x,)).module(),
    ):
        assert torch.equal(same(x), expected)
    again = prune(first.model, "l1", x, keep_macs=0.5)
    assert torch.equal(first.model(x), expected)
    save_pruned(again, tmp_path / "twice")
    loaded = load_pruned(tmp_path / "twice", network().float())
    assert torch.equal(loaded(x), again.model(x))
    again.model.train()(x).sum().backward()


def test_copies_and_replicas_of_a_cut_module_use_their_own_weights() -> None:
    cut = prune(network().float(), "l1", images().float(), keep_macs=0.5).model
    block = next(module for module in cut.modules() if isinstance(module, ShortPadding))
    assert isinstance(block, Block)
    x = torch.randn(2, block.conv1.in_channels, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = block(x)
    for copied in (copy.copy(block), block._replicate_for_data_parallel()):
        copied._modules = {name: copy.deepcopy(module) for name, module in block._modules.items()}
        assert torch.equal(copied(x), expected)
        with torch.no_grad():
            copied.norm2.weight.zero_()
            copied.norm2.bias.zero_()
        assert not torch.equal(copied(x), expected)
        assert torch.equal(block(x), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's
def test_a_cut_network_can_be_compiled() -> None:
    x = images().float()
    cut = prune(network().float(), "l1", x, keep_macs=0.5).model
    compiled = torch.compile(cut, backend="eager")
    assert torch.equal(compiled(x), cut(x))
    cut.train()
    compiled(x).sum().backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_a_stream_can_lose_all_of_its_zeros_and_be_cut_again(tmp_path: Path) -> None:
    model, x = network(widths=(4, 8)).float(), images().float()
    architecture = trace(model, x)
    removed = {"2.conv2": (0, 1, 2), "0": (1,)}
    plan = ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))
    smaller = compact(model, plan, architecture)
    traced = trace(smaller, x)
    assert {(s.module, s.side, s.channels) for g in traced.groups for s in g.slots} == {
        (s.module, s.side, s.channels)
        for g in architecture.after_cut(removed).groups
        for s in g.slots
    }


@pytest.mark.parametrize("name", ["2", "2.x.front", "2.0.middle", "9.0.front", ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="give the network"):
        shorten_padding(network(), name, 1)
