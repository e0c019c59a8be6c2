"""Values that differ by rounding alone are told from small ones that mean something."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from gp_prune import Metric
from gp_prune.language import rounding
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import synthetic_layer
from gp_prune.language.rounding import RoundingCheck, without_rounding
from gp_prune.language.streaming import plan
from gp_prune.metric.file import bundled_metrics

ZERO = "sub(sum[i,k](W), mul(mean[i,k](W), 12))"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "text",
    [
        ZERO,
        f"mul({ZERO}, 1e16)",
        f"z_score[o]({ZERO})",
        f"min_max[o]({ZERO})",
        f"tanh(mul(1e17, {ZERO}))",
        "sub(var[i,k](W), sub(mean[i,k](square(W)), square(mean[i,k](W))))",
        "sub(sum[i,k](mul(mul(W, G), W)), sum[i,k](mul(W, mul(W, G))))",
        "sub(add(W, mul(3, G)), add(add(G, W), mul(2, G)))",
        "sub(mul(add(b, 0.1), 3), add(mul(b, 3), 0.3))",
    ],
)
def test_rounding_ranks_nothing(text: str, seed: int) -> None:
    layer = synthetic_layer(seed)
    expression = parse(text, builtin_primitives())
    before = evaluate(expression, layer)
    after = without_rounding(expression, layer)
    assert after.shape == before.shape
    assert bool((after == after.flatten()[0]).all()), (before, after)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", bundled_metrics())
def test_published_metrics_are_what_they_are(name: str, seed: int) -> None:
    expression, layer = Metric.load(name).expression, synthetic_layer(seed)
    assert torch.equal(without_rounding(expression, layer), evaluate(expression, layer))


@pytest.mark.parametrize(
    "text",
    [
        "mul(1e-30, sum[i,k](W))",
        "sum[i,k](square(square(mul(0.001, G))))",
        "exp(sub(sum[i,k](abs(W)), 60))",
        "sum[i,k](at_least(W, 0))",
        "sum[n](nonzero(sub(R, 1)))",
        "at_least(b, 0)",
        "sub(sum[i,k](W), mul(mean[i,k](W), 11.999))",
        "b",
        "0.5",
    ],
)
def test_small_and_discrete_values_stay(text: str) -> None:
    layer = synthetic_layer()
    known = builtin_primitives()
    if "R" in text:
        text = text.replace(
            "R", next(n for n, x in known.operands.items() if x.needs == {"map_ranks"})
        )
    expression = parse(text, known)
    assert torch.equal(without_rounding(expression, layer), evaluate(expression, layer))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "text",
    [
        "sub(var[n,s](A), sub(mean[n,s](square(A)), square(mean[n,s](A))))",
        "sub(sum[n,s](A), mul(mean[n,s](A), 15))",
        "z_score[o](sub(sum[n,s](A), mul(mean[n,s](A), 15)))",
    ],
)
def test_rounding_is_recognised_in_values_that_are_known(text: str, seed: int) -> None:
    expression, layer = parse(text, builtin_primitives()), synthetic_layer(seed)
    nodes = [node for node in plan([expression]).targets if "n" not in node.axes]
    known = {node: evaluate(node, layer) for node in nodes}
    layer = replace(layer, activation=None, values=known)
    after = without_rounding(expression, layer)
    assert bool((after == after.flatten()[0]).all()), evaluate(expression, layer)


def test_one_check_serves_many_formulas() -> None:
    layer, known = synthetic_layer(), builtin_primitives()
    texts = [
        ZERO,
        f"z_score[o]({ZERO})",
        "sub(sum[i,k](W), mul(mean[i,k](W), 11.999))",
        "std[i,k](W)",
    ]
    for memory in (0, 2**30):
        check = RoundingCheck(layer, memory=memory)
        for text in [*texts, *texts]:
            expression = parse(text, known)
            assert torch.equal(
                check.without_rounding(expression), without_rounding(expression, layer)
            )


def test_only_what_a_formula_reads_is_copied() -> None:
    """The maps of a layer take most of its memory; a formula of the weights leaves them alone."""
    layer, known = synthetic_layer(), builtin_primitives()
    tree = parse("mul(square(W), mean[o](W))", known)
    subtree = parse("mean[o](W)", known)
    values = {node: evaluate(node, layer) for node in (subtree, parse("mean[n,s](A)", known))}
    changed = rounding._with_other_last_bits(
        replace(layer, values=values), *rounding._read_by(tree, values)
    )
    names = [field.name for field in fields(layer)]
    copied = {name for name in names if getattr(changed, name) is not getattr(layer, name)}
    assert copied == {"weight", "values"}
    assert [changed.values[node] is values[node] for node in values] == [False, True]
