"""What an architecture says: which layers read a channel, and what is left after a cut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.pruning import Achieved, Architecture, Budget, ChannelPlan, compact, consumers, trace
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


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "mobilenet_v2" else n for n in NAMES]
)
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


class Winding(nn.Module):
    """A shortcut, a concatenation, a depthwise and a grouped convolution, and a flattened map."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.back = nn.Conv2d(6, 6, 1)
        self.side = nn.Conv2d(6, 4, 1)
        self.parts = nn.Conv2d(10, 8, 1, groups=groups)
        self.output = nn.Linear(8 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = (x + self.back(self.deep(x))).relu()
        x = torch.cat([x, self.side(x).relu()], 1)
        return self.output(self.parts(x).relu().flatten(1))  # type: ignore[no-any-return]


def inputs() -> Tensor:
    return torch.rand(2, 2, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=[1, 2])
def winding(request: pytest.FixtureRequest) -> tuple[nn.Module, Architecture]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Winding(request.param).eval()
    return model, trace(model, inputs())


def plan(removed: dict[str, tuple[int, ...]]) -> ChannelPlan:
    return ChannelPlan(removed, Budget("channels", 1.0), Achieved(1.0, 1.0, 1.0))


def some(data: st.DataObject, architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Any channels of the free groups, of which at least two stay."""
    removed = {}
    for group in architecture.free:
        channels = st.lists(st.integers(0, group.size - 1), unique=True, max_size=group.size - 2)
        gone = tuple(sorted(data.draw(channels))) if group.size > 2 else ()
        if gone:
            removed[group.name] = gone
    return removed


@given(data=st.data())
def test_after_cut_is_the_trace_of_the_compact_network(
    winding: tuple[nn.Module, Architecture], data: st.DataObject
) -> None:
    model: Any = winding[0]
    whole = winding[1]
    removed = some(data, whole)
    left = whole.after_cut(removed)
    smaller = compact(model, plan(removed), whole)
    again = trace(smaller, inputs())
    if model.parts.groups == 1:  # fewer channels of a grouped convolution may be tied otherwise
        assert {g.name: (g.size, g.slots) for g in left.groups} == {
            g.name: (g.size, g.slots) for g in again.groups
        }
    assert left.dense_costs == again.dense_costs


@given(data=st.data())
def test_two_cuts_are_one(winding: tuple[nn.Module, Architecture], data: st.DataObject) -> None:
    model, whole = winding
    first = some(data, whole)
    left = whole.after_cut(first)
    then = some(data, left)
    twice = compact(compact(model, plan(first), whole), plan(then), left)
    once = compact(model, plan(whole.join_cuts(first, then)), whole)
    assert list(once.state_dict()) == list(twice.state_dict())
    for name, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name])


def test_nothing_removed_is_the_same(winding: tuple[nn.Module, Architecture]) -> None:
    assert winding[1].after_cut({}) == winding[1]
    assert winding[1].join_cuts({}, {}) == {}
