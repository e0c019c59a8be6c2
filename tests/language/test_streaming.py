"""Formulas evaluated a few samples at a time: what is planned, and the same values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gp_prune.language import interpreter
from gp_prune.language.axes import CHANNEL, Axes, Reduction
from gp_prune.language.declarations import PrimitiveError
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import Accumulator, Interpreter, evaluate, part_of
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Merge, Operator, builtin_primitives, operand, operator
from gp_prune.language.record import MAP_FIELDS, Coverage, LayerRecord, synthetic_layer
from gp_prune.language.streaming import known_subtrees, plan
from gp_prune.language.symbols import total

PRIMITIVES = builtin_primitives()
Trees = Callable[..., list[Expression]]


def tree(text: str) -> Expression:
    return parse(text, PRIMITIVES)


@pytest.mark.parametrize(
    ("text", "stages", "merged", "gathered", "stored"),
    [
        ("sum[i,k](abs(W))", 0, [], [], []),
        ("mul(gamma, muP)", 0, [], [], []),
        ("mean[n,s](abs(A))", 1, ["mean[n,s](abs(A))"], [], []),
        ("mean[n](square(sum[s](mul(dZ, Z))))", 1, ["mean[n](square(sum[s](mul(dZ, Z))))"], [], []),
        ("sum[s](std[n](A))", 1, ["std[n](A)"], [], []),
        (
            "mean[n,s](square(sub(A, mean[n,s](A))))",
            2,
            ["mean[n,s](A)", "mean[n,s](square(sub(A, mean[n,s](A))))"],
            [],
            [],
        ),
        ("mean[n,s](mul(A, mu))", 2, ["mean[n,s](mul(A, mu))"], [], []),
        ("mean[n,s](mul(A, gamma))", 1, ["mean[n,s](mul(A, gamma))"], [], []),
        ("sum[n](tail_sum[n](mean[s](A)))", 1, [], ["mean[s](A)"], []),
        ("sum[n](tail_sum[n](mul(mean[s](A), mu)))", 2, [], ["mul(mean[s](A), mu)"], []),
        ("mean[n](tail_sum[o,n](rk))", 1, [], ["rk"], []),
        ("sum[n,s](z_score[n](mul(A, Z)))", 1, [], [], ["activation", "pre_activation"]),
        ("sum[c](mul(nP, ridge_form(A, sub(mP, mA))))", 1, [], [], ["activation"]),
        ("mean[n](min_max[o](mean[s](A)))", 1, ["mean[n](min_max[o](mean[s](A)))"], [], []),
        ("mean[n,s](X)", 1, ["mean[n,s](X)"], [], []),
    ],
)
def test_plans(
    text: str, stages: int, merged: list[str], gathered: list[str], stored: list[str]
) -> None:
    found = plan([tree(text)])
    assert found.stages == stages
    assert [str(node) for node, target in found.targets.items() if target.merged] == merged
    assert [str(node) for node in found.gathered] == gathered
    assert sorted(found.stored) == stored


def test_what_is_not_streamed_keeps_its_needs() -> None:
    assert plan([tree("mean[n,s](mul(A, mu))")]).needs == {"outputs"}
    assert plan([tree("mean[n](square(sum[s](mul(dZ, Z))))")]).needs == set()
    found = plan([tree("sum[c](mul(nP, ridge_form(A, sub(mP, mA))))")])
    assert found.needs == {"labels", "centroids"}
    assert not found.opaque


def test_an_operand_that_reads_maps_in_its_own_way_gets_all_of_them() -> None:
    @operand("Zmax", axes="o", meaning="largest output", needs=["outputs"])
    def largest(layer: LayerRecord) -> Tensor:
        return layer.require("pre_activation").amax((1, 2))

    found = plan([Expression.of(largest)])
    assert found.opaque and found.stored == {"pre_activation", "activation"}
    assert [target.merged for target in found.targets.values()] == [False]


@pytest.mark.parametrize("axes", ["", "o", "on", "in", "oc", "oik"])
def test_parts_change_no_value(
    axes: str, random_trees: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = synthetic_layer()
    trees = random_trees(Axes(axes), 40, seed=61, most=8)
    expected = [evaluate(found, layer) for found in trees]
    monkeypatch.setattr(interpreter, "_AT_ONCE", 7)
    shared = Interpreter(layer)
    for found, value in zip(trees, expected, strict=True):
        torch.testing.assert_close(
            shared.evaluate(found), value, rtol=1e-9, atol=1e-9, equal_nan=True, msg=str(found)
        )


def test_large_maps_are_evaluated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spy(self: Operator, values: list[Tensor], *rest: Any) -> Tensor:
        sizes.append(max(value.numel() for value in values))
        return apply(self, values, *rest)

    apply = Operator.apply
    monkeypatch.setattr(Operator, "apply", spy)
    monkeypatch.setattr(interpreter, "_AT_ONCE", 12)  # one of 5 samples, or one of 4 channels
    layer = synthetic_layer()
    evaluate(tree("mean[n,s](square(sub(A, mean[n,s](abs(A)))))"), layer)
    assert max(sizes) == 12
    sizes.clear()
    evaluate(tree("sum[n,s](z_score[n](A))"), layer)
    assert max(sizes) == 15
    sizes.clear()
    evaluate(tree("mean[n,s](z_score[o,n](A))"), layer)  # over all channels
    assert max(sizes) == 60
    sizes.clear()
    evaluate(tree("sum[c,s](square(sub(mP, add(mA, varQ))))"), layer)
    assert max(sizes) == 9
    means, formula = tree("mean[s](Z)"), tree("sum[n,s](mul(z_score[n](mean[s](Z)), A))")
    expected = evaluate(formula, layer)
    known = {means: evaluate(means, layer)}
    sizes.clear()
    found = evaluate(formula, dataclasses.replace(layer, pre_activation=None, values=known))
    torch.testing.assert_close(found, expected)
    assert max(sizes) == 15


@pytest.mark.parametrize("cuts", [[5], [2, 3], [1, 1, 1, 1, 1], [4, 1]])
def test_an_accumulator_gives_what_all_samples_give(cuts: list[int], random_trees: Trees) -> None:
    layer = synthetic_layer()
    trees = random_trees(CHANNEL, 120, seed=62, most=8)
    found = plan(trees)
    targets = [target.node for target in found.targets.values() if target.merged]
    known = {
        part: evaluate(part, layer)
        for node in [*(t.arguments[0] for t in targets), *found.gathered]
        for part in known_subtrees(node)
    }
    total = Accumulator(targets, list(found.gathered), known, {})
    starts = torch.tensor([0, *cuts]).cumsum(0).tolist()
    for start, size in zip(starts, cuts, strict=False):
        maps = {name: getattr(layer, name).narrow(1, start, size) for name in MAP_FIELDS}
        total.add(part_of(layer, maps))
    values = total.result()
    assert len(values) == len(targets) + len(found.gathered) > 15
    for node, value in values.items():
        torch.testing.assert_close(
            value, evaluate(node, layer), rtol=1e-9, atol=1e-9, equal_nan=True, msg=str(node)
        )


def test_known_values_are_taken_as_they_are() -> None:
    layer = dataclasses.replace(
        synthetic_layer(), activation=None, values={tree("mean[n,s](A)"): torch.ones(4).double()}
    )
    assert evaluate(tree("mul(mean[n,s](A), 3)"), layer).tolist() == [3.0] * 4


PARTS = {"activation": Coverage(5, 10, 3, 9), "inputs": Coverage(5, 10, 3, 7)}


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("sum[n,s](A)", 6.0),
        ("mean[n,s](A)", 1.0),
        ("l1[s](mean[n](A))", 3.0),
        ("l2[n](mean[s](A))", 2**0.5),
        ("max[n,s](A)", 1.0),
        ("sum[n,s](by_sum[n,s](A))", 1.0),
        ("mean[n,s](tail_sum[n,s](A))", 6.0),
        ("sum[i,k](W)", 1.0),
        ("sum[n,s](mul(sum[i,k](mul(W, max[n,s](X))), A))", 6.0),
    ],
)
@pytest.mark.parametrize("at_once", [7, 1000])
def test_sums_over_a_sample_are_scaled_to_the_whole(
    text: str, factor: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = synthetic_layer()
    seen = dataclasses.replace(layer, coverage=PARTS)
    expected = evaluate(tree(text), layer) * factor
    monkeypatch.setattr(interpreter, "_AT_ONCE", at_once)
    torch.testing.assert_close(evaluate(tree(text), seen), expected)


def test_the_scatter_of_a_sample_is_scaled_to_the_whole() -> None:
    """So it fits the numbers of samples, which are scaled as well: maps come several times."""
    layer, formula = synthetic_layer(), tree("ridge_form(A, sub(mP, mA))")
    whole = dataclasses.replace(layer, activation=layer.require("activation").repeat(1, 4, 1))
    part = dataclasses.replace(layer, coverage={"activation": Coverage(5, 20, 3, 3)})
    torch.testing.assert_close(evaluate(formula, part), evaluate(formula, whole))


def test_a_merge_that_is_wrong_is_refused() -> None:
    wrong = Merge(lambda x, dims: (x.mean(dims),), lambda a, b: (a[0] + b[0],), lambda s: s[0])
    with pytest.raises(PrimitiveError, match=r"'total' on random numbers: what merge= puts tog"):
        operator(
            "total", shape=Reduction(), meaning="sum", merge=wrong,
            symbol=lambda call: total(call.body, *call.bound),
        )(lambda x, dims: x.sum(dims))  # fmt: skip


def test_a_reduction_of_the_users_is_merged_as_it_says() -> None:
    merge = Merge(lambda x, dims: (x.sum(dims),), lambda a, b: (a[0] + b[0],), lambda s: s[0])
    mine = operator(
        "total", shape=Reduction(), meaning="sum", merge=merge,
        symbol=lambda call: total(call.body, *call.bound),
    )(lambda x, dims: x.sum(dims))  # fmt: skip
    found = plan([Expression.apply(mine, tree("A"), over=Axes("ns"))])
    assert [target.merged for target in found.targets.values()] == [True]
