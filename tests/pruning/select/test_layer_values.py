"""A formula of type {} gives shares of layers: min(1, c v), with the c that meets a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gp_prune.errors import DegenerateScores
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Architecture, Budget, ChannelPlan, trace
from gp_prune.pruning.select.allocation import Allocation, group_weights, select_allocated

LAYERS = ("stem", "into", "out", "last")
BUDGETS = [Budget(kind, keep) for kind in ("macs", "params", "channels") for keep in (0.7, 0.4)]


class Blocks(nn.Module):
    """A residual stream of 16 channels, inner layers of 24, and a last layer of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.into = nn.Conv2d(16, 24, 3, padding=1)
        self.out = nn.Conv2d(24, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.out(self.into(x).relu())
        result: torch.Tensor = self.head(self.last(x).relu().mean((2, 3)))
        return result


ARCHITECTURE: Architecture = trace(Blocks(), torch.zeros(1, 3, 8, 8))
SCORES = {
    name: torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    for name, n in zip(LAYERS, (16, 24, 16, 32), strict=True)
}


def select(
    values: Mapping[str, Any], budget: Budget, scores: Mapping[str, Any] = SCORES, **options: Any
) -> ChannelPlan:
    allocation = Allocation("values", values=values)
    return select_allocated(ARCHITECTURE, scores, Conventions(), budget, allocation, **options)


def widths(plan: ChannelPlan) -> dict[str, tuple[int, int]]:
    """Group -> what it keeps, and what it has."""
    kept = plan.kept(ARCHITECTURE)
    return {group.name: (kept[group.name], group.size) for group in ARCHITECTURE.free}


some_values = st.lists(st.floats(0.05, 20), min_size=4, max_size=4).map(
    lambda numbers: {name: torch.tensor(x) for name, x in zip(LAYERS, numbers, strict=True)}
)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@given(values=some_values)
def test_one_factor_gives_the_shares_of_all_groups(
    budget: Budget, values: dict[str, torch.Tensor]
) -> None:
    plan = select(values, budget)
    assert abs(getattr(plan.achieved, budget.kind) - budget.keep) < 0.04, "about one channel"
    value = {
        g.name: float(np.mean([float(values[x]) for x in g.producers])) for g in ARCHITECTURE.free
    }
    low, high = 0.0, math.inf  # the factors with which each group has its width, rounded
    for name, (kept, size) in widths(plan).items():
        per_channel = 1 / (size * value[name])
        if kept < size:
            high = min(high, (kept + 0.5) * per_channel)
        if kept > 1:
            low = max(low, (kept - 0.5) * per_channel)
    assert low <= high * (1 + 1e-6)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@given(values=some_values, factor=st.floats(1e-30, 1e30))
def test_a_positive_factor_changes_nothing(
    budget: Budget, values: dict[str, torch.Tensor], factor: float
) -> None:
    scaled = {name: value.double() * factor for name, value in values.items()}
    assert select(scaled, budget).removed == select(values, budget).removed


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@given(value=st.floats(1e-300, 1e300))
def test_equal_values_are_uniform(budget: Budget, value: float) -> None:
    uniform = select_allocated(ARCHITECTURE, SCORES, Conventions(), budget, Allocation("uniform"))
    assert select(dict.fromkeys(LAYERS, value), budget) == uniform


@given(
    values=some_values,
    scale=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    shift=st.lists(st.floats(-10, 10), min_size=4, max_size=4),
)
def test_scale_and_shift_of_scores_change_no_selection(
    values: dict[str, torch.Tensor], scale: list[float], shift: list[float]
) -> None:
    # The layers of the stream are joined by their mean, so they are moved alike.
    scale[2], shift[2] = scale[0], shift[0]
    moved = {
        name: scores * a + b
        for (name, scores), a, b in zip(SCORES.items(), scale, shift, strict=True)
    }
    plans = [
        select_allocated(
            ARCHITECTURE, scores, Conventions("layer", "none"), BUDGETS[1],
            Allocation("values", values=values),
        )
        for scores in (SCORES, moved)
    ]  # fmt: skip
    assert plans[0].removed == plans[1].removed


def test_a_layer_of_value_0_keeps_one_channel() -> None:
    values = {"stem": 1.0, "into": 0.0, "out": 1.0, "last": -3.0}
    kept = widths(select(values, Budget("macs", 0.05)))
    assert kept["into"][0] == kept["last"][0] == 1 < kept["stem"][0]


def test_coupled_layers_have_the_value_of_their_join() -> None:
    values = {"stem": 1.0, "into": 2.0, "out": 3.0, "last": 4.0}
    assert ARCHITECTURE.by_name["stem"].producers == ("stem", "out")
    for join, of_stream in (("mean", 2), ("sum", 4), ("max", 3), ("first", 1)):
        found = group_weights(ARCHITECTURE, values, join)
        mean = (of_stream + 2 + 4) / 3
        expected = {"stem": of_stream / mean, "into": 2 / mean, "last": 4 / mean}
        assert found == pytest.approx(expected)


def test_other_options_hold() -> None:
    values = {"stem": 1.0, "into": 5.0, "out": 1.0, "last": 3.0}
    kept = widths(select(values, Budget("macs", 0.5), round_to=8))
    assert all(width % 8 == 0 for width, _ in kept.values())
    assert widths(select(values, Budget("macs", 0.2), least={"stem": 9}))["stem"][0] == 9
    assert widths(select(values, Budget("macs", 0.5), keep_shares={"into": 0.25}))["into"][0] == 6


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"last": math.nan}, "'last'.*non-finite"),
        ({"last": math.inf}, "'last'.*non-finite"),
        (dict.fromkeys(LAYERS, 0.0), "no layer has a value above 0"),
        (dict.fromkeys(LAYERS, -1.0), "no layer has a value above 0"),
        ({"last": torch.ones(3)}, r"'last'.*shape \(3,\)"),
    ],
)
def test_values_that_give_no_shares_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DegenerateScores, match=words):
        select({**dict.fromkeys(LAYERS, 1.0), **values}, BUDGETS[0])


def test_a_metric_says_what_its_scores_are() -> None:
    assert Allocation.by(Metric.parse("depth"), {"x": 1.0}).values == {"x": 1.0}
    assert Allocation.by(Metric.load("l1"), SCORES, "by l1").scores == SCORES
