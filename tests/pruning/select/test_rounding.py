"""Widths that are multiples: never skipped silently, as near to the budget as steps allow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning import Architecture, Budget, ChannelPlan, compact, select_channels, trace

GLOBAL = Conventions(scope="global", normaliser="none")
LOCAL = Conventions(scope="layer", normaliser="none")
KINDS = ["channels", "macs", "params"]


def chain(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([2, *widths, 3]):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)


def traced(*widths: int) -> Architecture:
    return trace(chain(*widths), torch.zeros(1, 2))


def scores_of(
    architecture: Architecture, seed: int, levels: int = 10**6
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for group in architecture.free:
        for member in group.members:
            drawn = torch.randint(levels, (member.width,), generator=generator).double()
            drawn[0] = levels  # not constant
            found[member.layer] = drawn
    return found


def allowed(size: int, multiple: int) -> set[int]:
    return {*range(multiple, size + 1, multiple), size}


@given(
    widths=st.lists(st.integers(2, 20), min_size=1, max_size=3),
    keep=st.floats(0.01, 1),
    kind=st.sampled_from(KINDS),
    conventions=st.sampled_from([GLOBAL, LOCAL]),
    round_to=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_every_width_is_a_multiple_or_whole_with_a_reason(
    widths: Any, keep: float, kind: str, conventions: Conventions, round_to: Any, seed: int
) -> None:
    architecture = traced(*widths)
    plan = select_channels(
        architecture, scores_of(architecture, seed), conventions, Budget(kind, keep),
        round_to=round_to,
    )  # fmt: skip
    kept = plan.kept(architecture)
    for group in architecture.free:
        width = kept[group.name]
        assert width in allowed(group.size, round_to)
        if width % round_to:
            assert str(group.size) in plan.whole[group.name]
        if group.name in plan.whole:
            assert width == group.size
            assert group.size <= round_to or width % round_to
    assert ChannelPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@given(
    widths=st.lists(st.integers(2, 12), min_size=1, max_size=3),
    keep=st.floats(0.01, 1),
    kind=st.sampled_from(KINDS),
    round_to=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_no_single_step_comes_nearer_to_the_budget(
    widths: Any, keep: float, kind: str, round_to: Any, seed: int
) -> None:
    """The budget is met as nearly as one step more or less of any one group allows."""
    architecture = traced(*widths)
    plan = select_channels(
        architecture, scores_of(architecture, seed), GLOBAL, Budget(kind, keep), round_to=round_to
    )
    kept = np.array([plan.kept(architecture)[group.name] for group in architecture.free])

    def share(widths: np.ndarray) -> float:
        macs, params = architecture.costs(widths)
        dense_macs, dense_params = architecture.dense_costs
        shares = {
            "channels": widths.sum() / architecture.sizes.sum(),
            "macs": macs / dense_macs, "params": params / dense_params,
        }  # fmt: skip
        return float(shares[kind])

    if max(architecture.sizes) <= round_to:
        return
    assert plan.shortfall == pytest.approx(abs(share(kept) - keep))
    for index, group in enumerate(architecture.free):
        widths_here = sorted(allowed(group.size, round_to))
        position = widths_here.index(int(kept[index]))
        for other in widths_here[max(position - 1, 0) : position + 2]:
            changed = kept.copy()
            changed[index] = other
            assert abs(share(changed) - keep) >= plan.shortfall - 1e-12


@given(
    widths=st.lists(st.integers(2, 12), min_size=1, max_size=3),
    keep=st.floats(0.01, 1),
    kind=st.sampled_from(KINDS),
    conventions=st.sampled_from([GLOBAL, LOCAL]),
    levels=st.sampled_from([2, 10**6]),
    seed=st.integers(0, 99),
)
def test_rounding_to_one_changes_nothing(
    widths: Any, keep: float, kind: str, conventions: Conventions, levels: int, seed: int
) -> None:
    architecture = traced(*widths)
    arguments = (
        architecture, scores_of(architecture, seed, levels), conventions, Budget(kind, keep),
    )  # fmt: skip
    plan = select_channels(*arguments, round_to=1)
    assert plan == select_channels(*arguments)
    assert plan.whole == {}


@given(seed=st.integers(0, 99), round_to=st.integers(1, 8), keep=st.floats(0.1, 1))
def test_the_worst_channels_go_whatever_the_width(seed: int, round_to: Any, keep: float) -> None:
    architecture = traced(16, 11)
    scores = scores_of(architecture, seed)
    plan = select_channels(
        architecture, scores, GLOBAL, Budget("channels", keep), round_to=round_to
    )
    for name, removed in plan.removed.items():
        order = np.argsort(scores[name].numpy(), kind="stable")
        assert set(removed) == set(order[: len(removed)].tolist())


@pytest.mark.parametrize("keep", [0.55, 0.65])
def test_of_two_widths_the_nearer_share_is_taken(keep: float) -> None:
    architecture = traced(10, 20, 30)  # 60 channels, of which an odd number is asked
    middle = round(60 * keep)
    nearer = min(middle - 1, middle + 1, key=lambda width: abs(width / 60 - keep))
    plan = select_channels(
        architecture, scores_of(architecture, 0), GLOBAL, Budget("channels", keep), round_to=2
    )
    assert sum(plan.kept(architecture)[group.name] for group in architecture.free) == nearer


def test_the_same_share_of_every_group() -> None:
    architecture = traced(32, 24, 9, 4, 8)
    plan = select_channels(
        architecture, scores_of(architecture, 0), LOCAL, Budget("channels", 0.5), round_to=8
    )
    assert plan.kept(architecture) == {"0": 16, "2": 8, "4": 8, "6": 4, "8": 8, "10": 3}
    assert plan.whole == {
        "6": "it has 4 channels, and 8 are the least that rounding to 8 keeps",
        "8": "it has 8 channels, and 8 are the least that rounding to 8 keeps",
    }


def test_a_group_that_need_not_be_cut_says_so() -> None:
    architecture = traced(12)
    plan = select_channels(
        architecture, scores_of(architecture, 0), LOCAL, Budget("params", 0.95), round_to=8
    )
    assert plan.removed == {}
    assert "no multiple of 8" in plan.whole["0"]


def test_what_is_rounded_is_the_width_of_the_layers(network: Callable[[str], Any]) -> None:
    """A channel of a grouped convolution has several entries in every layer around it."""
    model, _, architecture = network("grouped")
    scores = scores_of(architecture, 3)
    plan = select_channels(architecture, scores, LOCAL, Budget("channels", 0.6), round_to=4)
    assert plan.kept(architecture)["5"] in (2, 4)
    smaller = compact(model, plan, architecture)
    widths = {
        name: module.out_channels
        for name, module in smaller.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and name not in plan.whole
    }
    assert widths["5"] % 4 == 0
    assert widths["7"] % 4 == 0
    for name in plan.whole:
        assert widths.get(name, 0) == 0


@pytest.mark.parametrize("round_to", [0, -8, 2.0, True, "8"])
def test_no_whole_number(round_to: Any) -> None:
    architecture = traced(8)
    with pytest.raises(UserError, match=r"round_to is .* whole number of at least 1"):
        select_channels(
            architecture, scores_of(architecture, 0), GLOBAL, Budget("macs", 0.5),
            round_to=round_to,
        )  # fmt: skip
