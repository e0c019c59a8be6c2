"""What is left after a cut, against tracing the smaller network anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.pruning import Achieved, Architecture, Budget, ChannelPlan, compact, trace


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
