"""Which layers read a channel: by hand on small networks, and by what reaches the output."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.pruning import consumers, trace
from gp_prune.pruning.graph.architecture import Member
from gp_prune.statistics import Consumer, collect, prunable_layers
from gp_prune.statistics.running import call_model, tensors_of

NAMES = [
    "lenet", "cnn-sigmoid", "mlp-autoencoder", "conv-autoencoder", "conv-autoencoder-unflatten",
    "joined", "depthwise", "conv1d", "conv3d", "resnet18", "mobilenet_v2",
]  # fmt: skip


def each(width: int) -> tuple[tuple[int, ...], ...]:
    return tuple((entry,) for entry in range(width))


def test_convolutions_and_a_flattened_map() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.ConvTranspose2d(2, 3, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(3 * 4, 5),
    )  # fmt: skip
    found = consumers(trace(model, torch.randn(1, 1, 3, 3)))
    assert found["0"] == (Consumer("3", each(2)),)
    assert found["3"] == (Consumer("6", ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))),)
    assert found["6"] == ()
    record: Any = collect(model, ["6"], (), needs={"outgoing"}, outgoing=found)["6"]
    assert record.outgoing.tolist() == [[0.0]] * 5


def test_a_depthwise_layer_reads_but_not_itself() -> None:
    model: Any = nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 2, groups=3), nn.ReLU(), nn.Conv2d(3, 2, 1)
    )
    found = consumers(trace(model, torch.randn(1, 1, 3, 3)))
    assert found["0"] == (Consumer("2", each(3)), Consumer("4", each(3)))
    assert found["2"] == (Consumer("4", each(3)),)
    record: Any = collect(model, ["0"], (), needs={"outgoing"}, outgoing=found)["0"]
    own, behind = model[2].weight.detach(), model[4].weight.detach()
    expected = torch.stack(
        [torch.cat([own[q].flatten(), behind[:, q].flatten()]) for q in range(3)]
    )
    torch.testing.assert_close(record.outgoing, expected.double())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1)
        self.head, self.side = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(self.stem(x))
        x = x + torch.tanh(self.block(x))
        return self.head(x), self.side(x)


def test_coupled_channels_have_all_readers_of_the_group() -> None:
    found = consumers(trace(Residual(), torch.randn(1, 1, 2, 2)))
    every = tuple(Consumer(name, each(3)) for name in ("block", "head", "side"))
    assert {name: set(value) for name, value in found.items()} == {
        "stem": set(every), "block": set(every), "head": set(), "side": set(),
    }  # fmt: skip


def test_concatenated_maps_are_read_at_their_places() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1)
            self.head = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(x), self.b(x)], 1).relu())  # type: ignore[no-any-return]

    found = consumers(trace(Joined(), torch.randn(1, 1, 2, 2)))
    assert found["a"] == (Consumer("head", ((0,), (1,))),)
    assert found["b"] == (Consumer("head", ((2,), (3,), (4,))),)


def test_a_linear_layer_that_makes_maps() -> None:
    model: Any = nn.Sequential(
        nn.Linear(2, 8), nn.ReLU(), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 3, 2)
    )
    found = consumers(trace(model, torch.randn(1, 2)))
    assert found["0"] == (Consumer("3", ((0,),) * 4 + ((1,),) * 4),)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_reads_a_channel(name: str, network: Callable[[str], Any]) -> None:
    """Without the weights that read it, a channel has no way to the output."""
    model, inputs, architecture = network(name)
    found = consumers(architecture)
    dense = [tensor.detach() for tensor in tensors_of(call_model(model, inputs))]
    moved = 0
    for group in architecture.free:
        cut, channel = copy.deepcopy(model), group.size // 2
        with torch.no_grad():
            for member in group.members:
                for output in entries_of(member, channel):
                    for reader in found[member.layer]:
                        silence(cut.get_submodule(reader.module), reader.entries[output])
            silent = tensors_of(call_model(cut, inputs))
            for member in group.members:
                disturb(cut.get_submodule(member.layer), entries_of(member, channel))
            disturbed = tensors_of(call_model(cut, inputs))
        for before, after in zip(silent, disturbed, strict=True):
            torch.testing.assert_close(before, after)
        moved += any(not torch.equal(a, b) for a, b in zip(dense, silent, strict=True))
    # A channel may be dead behind its ReLU, but most are not.
    assert 2 * moved > len(architecture.free) > 0


def entries_of(member: Member, channel: int) -> list[int]:
    """The output entries of the producer that belong to the channel."""
    entries = range(member.width) if member.entries is None else member.entries.tolist()
    return [e for e, c in zip(entries, member.channels.tolist(), strict=True) if c == channel]


def silence(module: Any, entries: tuple[int, ...]) -> None:
    """Set to zero every weight that reads these input entries."""
    by_row = getattr(module, "transposed", False) or getattr(module, "groups", 1) > 1
    for entry in entries:
        if by_row:
            module.weight[entry] = 0
        else:
            module.weight[:, entry] = 0


def disturb(module: nn.Module, entries: list[int]) -> None:
    """Change the output entries of a layer."""
    by_column = getattr(module, "transposed", False) and module.groups == 1
    (module.weight.transpose(0, 1) if by_column else module.weight)[entries] += 0.1  # type: ignore[index, operator]


@pytest.mark.parametrize("name", [*NAMES, "partly-grouped"])
def test_every_layer_has_outgoing_weights(name: str, network: Callable[[str], Any]) -> None:
    model, inputs, architecture = network(name)
    found = consumers(architecture)
    records = collect(model, None, (), needs={"outgoing"}, example_inputs=inputs, outgoing=found)
    assert records.keys() == prunable_layers(model).keys()
    for layer, record in records.items():
        assert record.outgoing.shape[0] == record.weight.shape[0]  # type: ignore[union-attr]
        assert bool(record.outgoing.any(1).all()) == bool(found.get(layer))  # type: ignore[union-attr]
