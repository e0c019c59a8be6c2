"""The stack machine: right values, each shared subtree computed once, memory bound kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gp_prune.language.axes import CHANNEL, WEIGHT, Axes
from gp_prune.language.checks import SIZES
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import ENTRY_BYTES, Interpreter, evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import Operand, Operator, builtin_primitives
from gp_prune.language.record import LayerRecord, MissingMeasurement, synthetic_layer
from gp_prune.runs.processes import resident_memory

Trees = Callable[..., list[Expression]]
PRIMITIVES = builtin_primitives()


def tree(text: str) -> Expression:
    return parse(text, PRIMITIVES)


def naive(node: Expression, layer: LayerRecord) -> Tensor:
    """The value by plain recursion, nothing remembered."""
    if node.value is not None:
        return torch.tensor(node.value, dtype=torch.float64)
    if isinstance(node.head, Operand):
        return node.head.read(layer)
    assert isinstance(node.head, Operator)
    values = [naive(argument, layer) for argument in node.arguments]
    return node.head.apply(values, [argument.axes for argument in node.arguments], node.over)


@pytest.mark.many(15, 60)
def test_equals_a_naive_evaluator(
    random_trees: Trees, tree_types: tuple[Axes, ...], many: int
) -> None:
    layer = synthetic_layer()
    shared = Interpreter(layer)
    for axes in tree_types:
        for found in random_trees(axes, many, seed=51, most=9):
            expected = naive(found, layer)
            assert tuple(expected.shape) == tuple(SIZES[letter] for letter in axes)
            for value in (shared.evaluate(found), evaluate(found, layer)):
                assert value.dtype == torch.float64
                assert torch.equal(value.isnan(), expected.isnan())
                assert torch.equal(value.nan_to_num(), expected.nan_to_num())


def test_evaluation_changes_no_measurement(random_trees: Trees) -> None:
    layer, untouched = synthetic_layer(), synthetic_layer()
    for axes in (CHANNEL, WEIGHT):
        for found in random_trees(axes, 100, seed=52):
            evaluate(found, layer)
    for field in dataclasses.fields(LayerRecord):
        value = getattr(layer, field.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, getattr(untouched, field.name)), field.name


def test_shared_subtrees_are_computed_once() -> None:
    machine = Interpreter(synthetic_layer())
    machine.evaluate(tree("add(sum[i,k](abs(W)), mul(sum[i,k](abs(W)), sum[i,k](abs(W))))"))
    assert (machine.computed, machine.reused) == (4, 2)  # abs, sum, mul, add
    machine.evaluate(tree("neg(sum[i,k](abs(W)))"))
    assert (machine.computed, machine.reused) == (5, 3)
    machine.evaluate(tree("neg(sum[i,k](abs(W)))"))
    assert (machine.computed, machine.reused) == (5, 4)


def test_a_tree_of_shared_halves_is_linear() -> None:
    doubled = tree("abs(W)")
    for _ in range(9):
        doubled = Expression.apply(PRIMITIVES.operators["add"], doubled, doubled)
    machine = Interpreter(synthetic_layer())
    value = machine.evaluate(doubled)
    assert machine.computed == 10
    assert torch.allclose(value, synthetic_layer().weight.abs() * 2**9)


@pytest.mark.parametrize("memory", [0, 1500, 10_000, 50_000])
def test_memory_bound_is_kept(memory: int, random_trees: Trees) -> None:
    layer = synthetic_layer()
    machine = Interpreter(layer, memory)
    for found in random_trees(WEIGHT, 60, seed=53, most=8):
        value = machine.evaluate(found)
        assert torch.equal(value.nan_to_num(), naive(found, layer).nan_to_num())
        kept = [value.untyped_storage().nbytes() for value in machine._values.values()]
        assert sum(kept) + ENTRY_BYTES * len(kept) == machine._held <= memory


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc here")
def test_values_of_a_few_numbers_keep_within_the_memory_too() -> None:
    """Of so short values nearly all memory is taken by what stands around them."""
    machine = Interpreter(synthetic_layer(), memory=4 * 2**20)
    multiply, leaf = PRIMITIVES.operators["mul"], tree("b")
    before = resident_memory(os.getpid())
    for number in range(30_000):
        machine.evaluate(Expression.apply(multiply, leaf, Expression.constant(number)))
    assert 2000 < len(machine._values) < 4000
    assert resident_memory(os.getpid()) - before < 16 * 2**20


def test_the_least_recently_used_value_goes_first() -> None:
    first, second, third = (tree(f"{name}(b)") for name in ("abs", "neg", "square"))
    machine = Interpreter(synthetic_layer(), memory=2 * (4 * 8 + ENTRY_BYTES))
    for found in (first, second, first, third, first):
        machine.evaluate(found)
    assert (machine.computed, machine.reused) == (3, 2)
    machine.evaluate(second)
    assert machine.computed == 4


NEEDING = [operand for operand in PRIMITIVES.operands.values() if operand.needs]


@pytest.mark.parametrize("operand", NEEDING, ids=lambda operand: operand.name)
def test_missing_measurement(operand: Operand) -> None:
    full = synthetic_layer()
    bare = LayerRecord("conv1", full.weight, full.bias, False, full.gamma, full.beta)
    with pytest.raises(MissingMeasurement, match=r"layer 'conv1' has no measurement '\w+'; coll"):
        evaluate(Expression.of(operand), bare)


def test_what_needs_nothing_works_on_a_bare_layer(random_trees: Trees) -> None:
    full = synthetic_layer()
    bare = LayerRecord("conv1", full.weight, full.bias, False, full.gamma, full.beta)
    for found in random_trees(CHANNEL, 300, seed=54):
        if not found.needs:
            assert torch.equal(
                evaluate(found, bare).nan_to_num(), evaluate(found, full).nan_to_num()
            )


OF_CHANNELS = (
    "weight bias gamma beta mu var weight_grad gamma_grad beta_grad pre_activation activation "
    "class_mean class_var rest_mean rest_var noise outgoing outgoing_grad synflow_grad fisher "
    "hessian_grad output_grad class_map rest_map mean_map kernel_class kernel_rest kernel_between "
    "map_rank map_nuclear nuclear_loss outgoing_fisher filter_square gamma_square beta_square "
    "gamma_beta_product sample_fisher outgoing_sample_fisher"
)


def permuted(layer: LayerRecord, order: Tensor) -> LayerRecord:
    """The layer with its channels in another order."""
    changes: dict[str, Any] = {name: getattr(layer, name)[order] for name in OF_CHANNELS.split()}
    return dataclasses.replace(layer, **changes)


def test_every_tensor_of_channels_is_permuted() -> None:
    others = {"inputs", "input_norm", "inverse_factor", "class_count", "rest_count"}
    others |= {"macs_freed", "params_freed", "channels", "depth", "stride", "residual"}
    layer = synthetic_layer()
    tensors = {
        f.name for f in dataclasses.fields(layer) if isinstance(getattr(layer, f.name), Tensor)
    }
    assert tensors == set(OF_CHANNELS.split()) | others


@pytest.mark.parametrize("axes", [CHANNEL, WEIGHT], ids=str)
def test_permuting_channels_permutes_scores(
    axes: Axes,
    random_trees: Trees,
    differ: Callable[[Any, Any, float], bool],
    hangs_on_rounding: Callable[[Expression], bool],
) -> None:
    order = torch.tensor([2, 0, 3, 1])
    machine = Interpreter(synthetic_layer())
    other = Interpreter(permuted(synthetic_layer(), order))
    # A medoid is left out: of points on a line, several have the least summed distance.
    trees = [tree for tree in random_trees(axes, 400, 55, 1, 8) if "medoid" not in str(tree)]
    apart = [
        tree for tree in trees if differ(machine.evaluate(tree)[order], other.evaluate(tree), 1e-6)
    ]
    assert [str(tree) for tree in apart if not hangs_on_rounding(tree)] == []
    assert len(apart) < 0.05 * len(trees)
