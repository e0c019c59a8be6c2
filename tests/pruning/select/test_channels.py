"""Exact counts, declared order, and every way in which raw Torch-Pruning goes wrong silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelGroup,
    ChannelPlan,
    DegenerateScores,
    LayerCost,
    Side,
    Slot,
    compact,
    mask,
    predict,
    select_channels,
    trace,
)
from gp_prune.pruning.select.channels import (
    count_removed,
    find_nearest_step,
    least_width,
    measure_ties,
)

GLOBAL = Conventions(scope="global", normaliser="none")
LOCAL = Conventions(scope="layer", normaliser="none")
HALF = Budget("channels", 0.5)
Lenet5 = tuple[nn.Module, Architecture]
INPUT = torch.zeros(2, 1, 28, 28)


def bare(*widths: int) -> Architecture:
    """Groups a, b, ... of the given sizes, with one producer each and no costs."""
    groups = []
    for name, width in zip("abcdefgh", widths, strict=False):
        groups.append(ChannelGroup(name, width, (Slot(name, "out", tuple(range(width))),)))
    return Architecture(tuple(groups), ())


def kept(plan: ChannelPlan, architecture: Architecture) -> list[int]:
    widths = plan.kept(architecture)
    return [widths[group.name] for group in architecture.free]


@pytest.fixture(scope="module")
def lenet5() -> Lenet5:
    """LeNet-5 with widths 6-16-120-84 and its architecture."""
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84),
        nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip
    return model, trace(model, INPUT)


def everywhere(architecture: Architecture, function: Callable[..., Any]) -> dict[str, Tensor]:
    return {g.name: function(torch.arange(g.size, dtype=torch.float64)) for g in architecture.free}


class TestSilentFailuresOfTorchPruning:
    """Each case makes raw Torch-Pruning 1.6 prune nothing or something else without a word."""

    @pytest.mark.parametrize("conventions", [GLOBAL, LOCAL])
    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (torch.ones_like, "constant"),
            (torch.zeros_like, "constant"),
            (lambda x: torch.full_like(x, torch.nan), "non-finite"),
            (lambda x: torch.full_like(x, torch.inf), "non-finite"),
            (lambda x: torch.where(x % 2 == 0, x, torch.nan), "non-finite"),
            (lambda x: torch.where(x == 0, -torch.inf, x), "non-finite"),
            (lambda x: x[:-1], "wrong-shape"),
            (lambda x: torch.cat([x, x[:1]]), "wrong-shape"),
            (lambda x: x[None], "wrong-shape"),
            (lambda x: x.sum(), "wrong-shape"),
            (lambda x: ["a"] * len(x), "wrong-shape"),
            (lambda x: None, "wrong-shape"),
        ],
    )
    def test_scores_that_rank_nothing(
        self, conventions: Conventions, function: Callable[..., Any], reason: str, lenet5: Lenet5
    ) -> None:
        _, architecture = lenet5
        with pytest.raises(DegenerateScores) as caught:
            select_channels(architecture, everywhere(architecture, function), conventions, HALF)
        assert (caught.value.reason, caught.value.layer) == (reason, "0")
        assert isinstance(caught.value, UserError)

    def test_one_bad_layer_is_named(self, lenet5: Lenet5) -> None:
        _, architecture = lenet5
        scores = everywhere(architecture, torch.clone)
        for function, reason in ((torch.ones_like, "constant"), (torch.log, "non-finite")):
            bad = {**scores, "7": function(scores["7"])}
            with pytest.raises(DegenerateScores, match=f"layer '7' are degenerate .{reason}"):
                select_channels(architecture, bad, GLOBAL, HALF)

    @pytest.mark.parametrize("conventions", [GLOBAL, LOCAL])
    def test_many_ties(self, conventions: Conventions, lenet5: Lenet5) -> None:
        _, architecture = lenet5
        plan = select_channels(
            architecture, everywhere(architecture, lambda x: x % 2), conventions, HALF
        )
        assert sum(kept(plan, architecture)) == 113
        assert plan.ties == 1.0
        assert plan.met()

    def test_not_normalised_across_layers(self, lenet5: Lenet5) -> None:
        _, architecture = lenet5
        plan = select_channels(architecture, everywhere(architecture, torch.clone), GLOBAL, HALF)
        widths = kept(plan, architecture)
        assert sum(widths) == 113
        assert widths[:2] == [1, 1]
        assert plan.removed["0"] == (0, 1, 2, 3, 4)

    @pytest.mark.parametrize(
        ("ratio", "widths"), [(0.9, [1, 2, 12, 8]), (0.99, [1, 1, 1, 1]), (0.5, [3, 8, 60, 42])]
    )
    def test_high_local_ratios(self, ratio: float, widths: Any, lenet5: Lenet5) -> None:
        _, architecture = lenet5
        scores = everywhere(architecture, torch.clone)
        plan = select_channels(architecture, scores, LOCAL, Budget("channels", 1 - ratio))
        assert kept(plan, architecture) == widths

    @pytest.mark.parametrize(("ratio", "total"), [(0.9, 23), (0.99, 4), (0.999, 4)])
    def test_high_global_ratios(self, ratio: float, total: int, lenet5: Lenet5) -> None:
        _, architecture = lenet5
        scores = everywhere(architecture, torch.clone)
        plan = select_channels(architecture, scores, GLOBAL, Budget("channels", 1 - ratio))
        assert sum(kept(plan, architecture)) == total
        assert min(kept(plan, architecture)) == 1

    @pytest.mark.parametrize("keep", [0.0, -0.1, 1.01, float("nan"), "0.5", True])
    def test_ratio_one_and_nonsense(self, keep: float) -> None:
        with pytest.raises(UserError, match="greater than 0 and at most 1"):
            Budget("channels", keep)

    def test_lists_and_arrays_are_scores_too(self, lenet5: Lenet5) -> None:
        _, architecture = lenet5
        tensors = everywhere(architecture, torch.sin)
        plan = select_channels(architecture, tensors, GLOBAL, HALF)
        for kind in (torch.Tensor.tolist, torch.Tensor.numpy):
            scores = {name: kind(values) for name, values in tensors.items()}
            assert select_channels(architecture, scores, GLOBAL, HALF) == plan

    def test_classifier_is_kept_without_being_named(self, lenet5: Lenet5) -> None:
        model, architecture = lenet5
        scores = everywhere(architecture, torch.clone)
        plan = select_channels(architecture, scores, GLOBAL, Budget("channels", 0.02))
        assert compact(model, plan, architecture)(INPUT).shape == (2, 10)

    def test_frozen_parameters_and_no_grad(self, lenet5: Lenet5) -> None:
        model, architecture = lenet5
        plan = select_channels(architecture, everywhere(architecture, torch.sin), GLOBAL, HALF)
        flags = [p.requires_grad for p in model.parameters()]
        model.requires_grad_(False)
        with torch.no_grad():
            frozen = trace(model, INPUT)
            scores = everywhere(frozen, torch.sin)
            assert select_channels(frozen, scores, GLOBAL, HALF) == plan
            smaller = compact(model, plan, frozen)
        assert not any(p.requires_grad for p in smaller.parameters())
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)

    def test_masked_model(self, fresh: Callable[..., Any], network: Callable[[str], Any]) -> None:
        model = fresh("lenet")
        architecture = network("lenet").architecture
        plan = select_channels(architecture, everywhere(architecture, torch.sin), GLOBAL, HALF)
        mask(model, plan, architecture)
        for attempt in (trace, compact):
            arguments = (INPUT,) if attempt is trace else (plan, architecture)
            with pytest.raises(UserError, match="unmask"):
                attempt(model, *arguments)


widths = st.lists(st.integers(1, 7), min_size=1, max_size=4)
shares = st.floats(0.001, 1.0)


@given(widths=widths, keep=shares, seed=st.integers(0, 999))
def test_global_selection_equals_brute_force(widths: Any, keep: float, seed: int) -> None:
    architecture = bare(*widths)
    scores = integer_scores(architecture, seed)
    try:
        plan = select_channels(architecture, scores, GLOBAL, Budget("channels", keep))
    except DegenerateScores:
        assert any(len(set(v.tolist())) == 1 and len(v) > 1 for v in scores.values())
        return
    ranked = sorted(
        (score, position, channel)
        for position, group in enumerate(architecture.free)
        for channel, score in enumerate(scores[group.name].tolist())
    )
    wanted = min(count_removed(sum(widths), keep), sum(widths) - len(widths))
    left = list(widths)
    removed: dict[str, list[int]] = {group.name: [] for group in architecture.free}
    for _, position, channel in ranked:
        if wanted and left[position] > 1:
            left[position] -= 1
            wanted -= 1
            removed[architecture.free[position].name].append(channel)
    assert plan.removed == {name: tuple(sorted(gone)) for name, gone in removed.items() if gone}
    assert plan.achieved.channels == pytest.approx(sum(left) / sum(widths))
    values = [score for score, _, _ in ranked]
    assert plan.ties == pytest.approx(np.mean([values.count(v) > 1 for v in values]))


@given(widths=widths, keep=shares, seed=st.integers(0, 999))
def test_layer_selection_equals_brute_force(widths: Any, keep: float, seed: int) -> None:
    architecture = bare(*widths)
    scores = {
        name: v + torch.rand(len(v)) / 2 for name, v in integer_scores(architecture, seed).items()
    }
    plan = select_channels(architecture, scores, LOCAL, Budget("channels", keep))
    for group in architecture.free:
        order = sorted(range(group.size), key=lambda c: (scores[group.name][c].item(), c))
        expected = tuple(sorted(order[: count_removed(group.size, keep)]))
        assert plan.removed.get(group.name, ()) == expected


def integer_scores(architecture: Architecture, seed: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {
        group.name: torch.from_numpy(rng.integers(0, 4, group.size).astype(float))
        for group in architecture.free
    }


def test_removed_count() -> None:
    assert [count_removed(10, k) for k in (1.0, 0.96, 0.95, 0.9, 0.7, 0.05, 0.04, 0.001)] == [
        0, 0, 1, 1, 3, 9, 9, 9,
    ]  # fmt: skip
    assert count_removed(5, 0.7) == 2  # 1.5 in real numbers, 1.4999999999999998 in binary ones
    assert count_removed(1, 0.1) == 0


@given(
    costs=st.lists(st.integers(0, 50), min_size=1, max_size=20).map(lambda c: sorted(c)[::-1]),
    target=st.floats(-5, 60),
)
def test_nearest_step(costs: list[int], target: float) -> None:
    found = find_nearest_step(lambda n: costs[n], len(costs) - 1, target)
    assert abs(costs[found] - target) == min(abs(cost - target) for cost in costs)


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_tie_share(values: list[int]) -> None:
    expected = sum(values.count(v) > 1 for v in values) / len(values)
    assert measure_ties(np.array(values, dtype=float)) == pytest.approx(expected)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("keep", [1.0, 0.7, 0.3, 0.05])
def test_cost_budgets_are_met_as_nearly_as_possible(
    scope: str,
    kind: str,
    keep: float,
    network: Callable[[str], Any],
    channel_scores: Callable[..., dict[str, Tensor]],
) -> None:
    architecture = network("cnn-relu").architecture
    scores = channel_scores(architecture, 3)
    conventions = Conventions(scope=scope)
    plan = select_channels(architecture, scores, conventions, Budget(kind, keep))
    cost = predict(architecture, plan.kept(architecture))
    dense = architecture.dense_costs
    assert plan.achieved.macs == cost[0] / dense[0]
    assert plan.achieved.params == cost[1] / dense[1]
    # No number of channels, cut in the same order, comes nearer to the budget.
    total = int(architecture.sizes.sum())
    which = ("macs", "params").index(kind)
    if scope == "global":
        for count in range(total):
            other = select_channels(
                architecture, scores, conventions, Budget("channels", 1 - count / total)
            )
            found = predict(architecture, other.kept(architecture))[which] / dense[which]
            assert abs(found - keep) >= plan.shortfall - 1e-12
    else:
        part = [len(plan.removed.get(g.name, ())) / g.size for g in architecture.free]
        width = 1 / min(g.size for g in architecture.free)
        assert max(part) - min(part) <= width


def test_a_budget_that_cannot_be_met_is_reported(
    network: Callable[[str], Any], channel_scores: Callable[..., dict[str, Tensor]]
) -> None:
    architecture = network("partly-grouped").architecture
    plan = select_channels(architecture, channel_scores(architecture), GLOBAL, Budget("macs", 0.01))
    assert kept(plan, architecture) == [1, 1, 1]
    assert not plan.met()
    assert plan.shortfall == pytest.approx(plan.achieved.macs - 0.01)
    assert plan.shortfall > 0.05


def test_missing_scores_are_named(
    network: Callable[[str], Any], channel_scores: Callable[..., dict[str, Tensor]]
) -> None:
    architecture = network("joined").architecture
    scores = channel_scores(architecture)
    assert set(scores) == set(architecture.scored_layers) == {"stem", "left", "right", "twice"}
    del scores["left"]
    with pytest.raises(UserError, match="'left' has no scores"):
        select_channels(architecture, scores, GLOBAL, HALF)
    del scores["twice"]
    plan = select_channels(architecture, scores, Conventions(join="first"), HALF)
    assert plan.removed


def test_nothing_to_cut() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"no channels that may be cut .*network output"):
        select_channels(trace(model, torch.zeros(2, 3)), {}, GLOBAL, HALF)


class TestBounds:
    """What groups keep whatever their scores."""

    @given(
        widths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
        keep=st.floats(0.05, 1),
        floor=st.floats(0, 1),
        round_to=st.sampled_from([1, 1, 4]),
        scope=st.sampled_from(["layer", "global", "isomorphic"]),
        data=st.data(),
    )
    def test_every_bound_holds_and_the_rest_meets_the_budget(
        self,
        widths: list[int],
        keep: float,
        floor: float,
        round_to: int,
        scope: str,
        data: st.DataObject,
    ) -> None:
        architecture = bare(*widths)
        scores = {g.name: np.random.default_rng(g.size).random(g.size) for g in architecture.free}
        given_to = data.draw(st.sampled_from([None, *[g.name for g in architecture.free]]))
        shares = {} if given_to is None else {given_to: data.draw(st.floats(0.1, 1))}
        least = {g.name: least_width(g.size, floor) for g in architecture.free}
        conventions = Conventions(scope, "none")
        budget = Budget("channels", keep)
        plan = select_channels(
            architecture, scores, conventions, budget,
            round_to=round_to, least=least, keep_shares=shares,
        )  # fmt: skip
        after = plan.kept(architecture)
        for group in architecture.free:
            width = after[group.name]
            assert width == group.size or width % round_to == 0
            if group.name in shares:
                assert abs(width - shares[group.name] * group.size) <= max(1, round_to)
            else:
                assert width >= least[group.name] >= floor * group.size - 1e-6
        free = [g for g in architecture.free if g.name not in shares]
        slack = [g for g in free if least[g.name] < after[g.name] < g.size]
        if scope != "layer" and round_to == 1 and slack:
            wanted = sum(widths) - count_removed(sum(widths), keep)
            assert sum(after.values()) == wanted

    def test_isomorphic_groups_give_the_same_share_by_their_scores(self) -> None:
        convolution = LayerCost("", "dense", 1, 9, 1, True, Side(1), Side(1), "Conv2d")
        linear = replace(convolution, type="Linear")
        plain = bare(10, 10, 20)
        named = zip([convolution] * 2 + [linear], "abc", strict=True)
        architecture = replace(plain, layers=tuple(replace(c, name=n) for c, n in named))
        scores = {
            "a": torch.arange(10.0), "b": torch.arange(10.0) + 5.5, "c": torch.arange(20.0) * 1e6,
        }  # fmt: skip
        plan = select_channels(architecture, scores, Conventions("isomorphic", "none"), HALF)
        # Of a and b together the ten lowest go: 0 to 7 of a, and 5.5 and 6.5 of b.
        assert kept(plan, architecture) == [2, 8, 10]
        assert len(set(architecture.structures)) == 2
        assert kept(select_channels(architecture, scores, GLOBAL, HALF), architecture) == [1, 1, 18]


@pytest.mark.parametrize("name", ["resnet", "inverted"])
def test_isomorphic_widths_are_those_of_torch_pruning(name: str) -> None:
    """Torch-Pruning joins the groups of one structure by itself; the scores are the same."""

    def block(width: int, *, depthwise: bool) -> nn.Module:
        groups = width if depthwise else 1
        return nn.Sequential(
            nn.Conv2d(12, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 12, 1), nn.BatchNorm2d(12),
        )  # fmt: skip

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 3, padding=1)
            self.blocks = nn.ModuleList(
                block(width, depthwise=name == "inverted") for width in (16, 24, 40)
            )
            self.head = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            for part in self.blocks:
                h = h + part(h)
            output: Tensor = self.head(h.mean((2, 3)))
            return output

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, x = Residual().eval(), torch.randn(1, 3, 8, 8)
    metric = replace(Metric.load("l1"), conventions=Conventions("isomorphic", "mean", "mean"))
    ours = metric.prune(model, x, pruning_ratio=0.5, min_share=0).model
    importance = metric.as_importance(model, x)
    tp.pruner.BasePruner(
        model, x, importance, global_pruning=True, isomorphic=True, pruning_ratio=0.5,
        ignored_layers=[model.head],
    ).step()  # fmt: skip
    widths = [
        [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
        for network in (ours, model)
    ]
    assert widths[0] == widths[1] and widths[0][1:] != [8, 8, 6, 12, 12, 6, 20, 20, 6]
