"""N:M patterns: every block of m weights along the input keeps exactly its n best."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.metric.file import SCOPES, Conventions
from gp_prune.pruning import Budget, Pattern, WeightPlan, mask, select_weights
from gp_prune.pruning.select.weights import select_existing
from gp_prune.pruning.torch_methods import MetricPattern

TWO_OF_FOUR = Pattern(2, 4)
LAYER = Conventions(scope="layer", normaliser="none")

MAKE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 5),
    "conv": lambda: nn.Conv2d(8, 6, (2, 3)),
    "conv1d": lambda: nn.Conv1d(4, 3, 5),
    "grouped": lambda: nn.Conv2d(16, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 2),
    "grouped transposed": lambda: nn.ConvTranspose2d(16, 6, 2, groups=2),
}


def model_of(kind: str, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(MAKE[kind]())


def dense(values: Tensor, layer: Any) -> Tensor:
    """A tensor in the layout of a layer's weight as (o, i / groups, k), written out in loops."""
    groups = getattr(layer, "groups", 1)
    flat = values.reshape(*values.shape[:2], -1)
    if not getattr(layer, "transposed", False):
        return flat
    rows = []
    inputs, outputs = flat.shape[0] // groups, flat.shape[1]
    for group in range(groups):
        block = flat[group * inputs : (group + 1) * inputs]
        rows += [block[:, o] for o in range(outputs)]
    return torch.stack(rows)


def scores_of(layer: Any, seed: int = 0, levels: int = 0) -> Tensor:
    """Random scores (o, i, k) with all groups spelled out; whole numbers where ``levels``."""
    generator = torch.Generator().manual_seed(seed)
    out, inputs = (
        (layer.out_features, layer.in_features)
        if isinstance(layer, nn.Linear)
        else (layer.out_channels, layer.in_channels)
    )
    taps = 1 if isinstance(layer, nn.Linear) else int(np.prod(layer.kernel_size))
    if levels:
        return torch.randint(0, levels, (out, inputs, taps), generator=generator).double()
    return torch.randn(out, inputs, taps, generator=generator, dtype=torch.float64)


def own_blocks(scores: Tensor, layer: Any) -> Tensor:
    """The scores of the weights that exist, (o, i / groups, k)."""
    groups = getattr(layer, "groups", 1)
    out, inputs, _ = scores.shape
    rows = []
    for o in range(out):
        group = o // (out // groups)
        rows.append(scores[o, group * (inputs // groups) : (group + 1) * (inputs // groups)])
    return torch.stack(rows)


@given(
    kind=st.sampled_from(sorted(MAKE)),
    pattern=st.sampled_from([Pattern(2, 4), Pattern(1, 4), Pattern(3, 4), Pattern(1, 2)]),
    seed=st.integers(0, 9),
    levels=st.sampled_from([0, 3]),
    scope=st.sampled_from(SCOPES),
)
def test_every_block_keeps_its_best(
    kind: str, pattern: Pattern, seed: int, levels: int, scope: str
) -> None:
    model = model_of(kind)
    layer = model[0]
    scores = scores_of(layer, seed, levels)
    conventions = Conventions(scope=scope)
    plan = select_weights(model, ["0"], {"0": scores}, conventions, pattern=pattern)
    kept = dense(torch.from_numpy(plan.kept["0"].unpack()), layer)
    values = own_blocks(scores, layer)
    for o, k in np.ndindex(values.shape[0], values.shape[2]):
        for start in range(0, values.shape[1], pattern.m):
            block = values[o, start : start + pattern.m, k].tolist()
            worst = [q for _, q in sorted((value, q) for q, value in enumerate(block))]
            stays = sorted(worst[pattern.m - pattern.n :])
            found = kept[o, start : start + pattern.m, k].nonzero().flatten().tolist()
            assert found == stays
    assert plan.achieved.params == pytest.approx(pattern.n / pattern.m)
    assert plan.asked == pattern.budget


@given(seed=st.integers(0, 20))
def test_permuted_outputs_and_blocks_permute_the_plan(seed: int) -> None:
    model = model_of("conv")
    scores = scores_of(model[0], seed)
    rows = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    columns = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    moved = scores[rows][:, columns]
    first, second = (
        select_weights(model, ["0"], {"0": s}, LAYER, pattern=TWO_OF_FOUR).kept["0"].unpack()
        for s in (scores, moved)
    )
    assert np.array_equal(first[rows.numpy()][:, columns.numpy()], second)


@given(seed=st.integers(0, 20))
def test_greater_scores_of_kept_weights_change_nothing(seed: int) -> None:
    model = model_of("grouped")
    scores = scores_of(model[0], seed)
    plan = select_weights(model, ["0"], {"0": scores}, LAYER, pattern=TWO_OF_FOUR)
    kept = torch.from_numpy(plan.kept["0"].unpack()).flatten(2)
    raised = scores.clone()
    for o in range(6):
        part = slice(8 * (o // 3), 8 * (o // 3) + 8)
        raised[o, part][kept[o]] += 1
    again = select_weights(model, ["0"], {"0": raised}, LAYER, pattern=TWO_OF_FOUR)
    assert again.digest() == plan.digest()


class Mixed(nn.Module):
    """A layer that can have 2:4, one of 3 inputs, one of 6, and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.wide = nn.Conv2d(8, 6, 1)
        self.last = nn.Linear(6, 2)


NAMES = ["first", "depthwise", "wide", "last"]


def test_layers_without_blocks_stay_whole_and_say_why() -> None:
    model = Mixed()
    scores = {"wide": scores_of(model.wide)}
    plan = select_weights(model, NAMES, scores, LAYER, pattern=TWO_OF_FOUR)
    assert plan.whole == {
        "first": "its input width is 3, less than a block of 4",
        "depthwise": "the input width of its groups is 1, less than a block of 4",
        "last": "its input width is 6, not a multiple of 4",
    }
    assert list(plan.kept) == ["wide"]
    total = 3 * 8 * 9 + 8 * 9 + 48 + 12
    assert plan.achieved.params == (total - 24) / total
    mask(model, plan)
    assert not prune.is_pruned(model.first)
    assert int((model.wide.weight == 0).sum()) == 24


def test_no_layer_can_have_the_pattern() -> None:
    with pytest.raises(UserError, match=r"no layer can have the pattern 5:7 \(layer 'first'"):
        select_weights(Mixed(), NAMES, {}, LAYER, pattern=Pattern(5, 7))


def test_round_trip_and_replay() -> None:
    model = Mixed()
    scores = {"wide": scores_of(model.wide), "last": scores_of(model.last)}
    plan = select_weights(model, NAMES, scores, LAYER, pattern=Pattern(1, 2))
    again = WeightPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.pattern == Pattern(1, 2)
    twin = Mixed()
    twin.load_state_dict(model.state_dict())
    mask(model, plan)
    mask(twin, again)
    for (key, value), other in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": {"n": 1, "m": 4}}, "pattern 1:4 asks for 0.5 of the params"),
        ({"pattern": {"n": 2}}, "has no field 'm'"),
        ({"pattern": {"n": 2.5, "m": 4}}, "whole number"),
        ({"pattern": "2:4"}, "pattern must be an object"),
        ({"whole": {"wide": "reason"}}, "both whole and masked"),
        ({"whole": {"last": 1}}, "must be a text"),
        ({"schema_version": 1}, "schema_version 1"),
    ],
)
def test_damaged_plans(change: Any, message: str) -> None:
    model = Mixed()
    plan = select_weights(model, NAMES, {"wide": scores_of(model.wide)}, LAYER, pattern=TWO_OF_FOUR)
    with pytest.raises(UserError, match=message):
        WeightPlan.from_json(plan.to_json() | change)


def test_a_pattern_is_a_budget() -> None:
    model = model_of("linear")
    scores = {"0": scores_of(model[0])}
    plan = select_weights(model, ["0"], scores, LAYER, pattern=TWO_OF_FOUR)
    same = select_weights(model, ["0"], scores, LAYER, Budget("params", 0.5), pattern=TWO_OF_FOUR)
    assert same == plan
    with pytest.raises(UserError, match="pattern 2:4 says by itself"):
        select_weights(model, ["0"], scores, LAYER, Budget("params", 0.4), pattern=TWO_OF_FOUR)
    with pytest.raises(UserError, match="give a budget"):
        select_weights(model, ["0"], scores, LAYER)


def test_ties_are_those_within_a_block() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    scores = {"0": torch.tensor([[1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])[:, :, None]}
    plan = select_weights(model, ["0"], scores, LAYER, pattern=TWO_OF_FOUR)
    assert plan.ties == 2 / 8
    assert plan.kept["0"].unpack().tolist() == [[False, False, True, True]] * 2


@given(st.integers(1, 99), st.integers(1, 99))
def test_text_of_a_pattern(n: int, more: int) -> None:
    pattern = Pattern(n, n + more)
    assert Pattern.parse(str(pattern)) == pattern
    assert Pattern.parse(f" {n} : {n + more} ") == pattern
    assert Pattern.from_json(pattern.to_json()) == pattern


@pytest.mark.parametrize(
    "text", ["", "2", "2:", ":4", "2-4", "a:b", "2:4:8", "-2:4", "2.0:4", "²:4"]
)
def test_wrong_texts(text: str) -> None:
    with pytest.raises(UserError, match="is not valid; write how many of how many"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["0:4", "4:4", "5:4"])
def test_patterns_that_keep_nothing_or_everything(text: str) -> None:
    with pytest.raises(UserError, match="keep at least one and remove at least one"):
        Pattern.parse(text)


class TestMethod:
    """The same by a method of torch.nn.utils.prune."""

    @pytest.mark.parametrize("kind", sorted(MAKE))
    def test_equals_the_plan(self, kind: str) -> None:
        model = model_of(kind)
        layer, scores = model[0], scores_of(model[0], levels=5)
        plan = select_weights(model, ["0"], {"0": scores}, LAYER, pattern=TWO_OF_FOUR)
        own = torch.from_numpy(select_existing(scores.numpy(), layer)).reshape(layer.weight.shape)
        MetricPattern.apply(layer, "weight", TWO_OF_FOUR, importance_scores=own)
        assert torch.equal(layer.weight_mask != 0, torch.from_numpy(plan.kept["0"].unpack()))
        zero = layer.weight == 0
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
        assert torch.equal(layer.weight == 0, zero)

    @given(earlier=st.lists(st.booleans(), min_size=16, max_size=16), seed=st.integers(0, 20))
    def test_pruned_weights_stay_pruned_and_count(self, earlier: list[bool], seed: int) -> None:
        layer: Any = nn.Linear(8, 2)
        before = torch.tensor(earlier).reshape(2, 8)
        if not before.sum() > 1:
            return
        prune.custom_from_mask(layer, "weight", before)  # type: ignore[no-untyped-call]
        scores = torch.randn(2, 8, generator=torch.Generator().manual_seed(seed))
        MetricPattern.apply(layer, "weight", TWO_OF_FOUR, importance_scores=scores)
        for row in range(2):
            for start in (0, 4):
                block = [q for q in range(start, start + 4) if before[row, q]]
                best = [q for _, q in sorted((float(scores[row, q]), q) for q in block)][-2:]
                kept = layer.weight_mask[row, start : start + 4].nonzero().flatten() + start
                assert kept.tolist() == sorted(best)

    def test_refused(self) -> None:
        layer: Any = nn.Linear(6, 2)
        with pytest.raises(UserError, match=r"Linear cannot have the pattern 2:4 .*multiple of 4"):
            MetricPattern.apply(layer, "weight", TWO_OF_FOUR, importance_scores=torch.rand(2, 6))
        with pytest.raises(UserError, match="'bias' has no input"):
            MetricPattern.apply(layer, "bias", TWO_OF_FOUR, importance_scores=torch.rand(2))
        layer: Any = nn.Linear(8, 2)  # type: ignore[no-redef]
        for scores, message in (
            (torch.full((2, 8), torch.nan), "NaN or infinite"),
            (torch.ones(2, 8), "rank nothing"),
            (torch.rand(8, 2), "one score per weight"),
        ):
            with pytest.raises(UserError, match=message):
                MetricPattern.apply(layer, "weight", TWO_OF_FOUR, importance_scores=scores)
        assert not prune.is_pruned(layer)
