"""Find out whether the values of a formula differ by rounding alone.

``sum[i,k](W) - 27 mean[i,k](W)`` is zero, but its values are of the order 1e-17 and all different,
so a ranking of them would be one of rounding errors. How small they are does not tell: products of
small gradients are as small and exact, and a normaliser makes large numbers of the errors. What
tells is what changes when every number that the formula reads changes in its last bits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from gp_prune.language.axes import Normaliser
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import Interpreter
from gp_prune.language.primitive import Operand, Operator
from gp_prune.language.record import LayerRecord

if TYPE_CHECKING:
    from torch import Tensor

_LAST_BITS = 2.0**-50
"""Relative change of what is read: four units in the last place of a float64."""

_MOST = 0.05
"""Share of the range of the values that rounding may make up."""

_LARGEST = 2**22
"""Entries of the largest tensor that is changed; a larger one would take as much memory again."""


def without_rounding(expression: Expression, layer: LayerRecord) -> Tensor:
    """Return the values of a tree on a layer; where they differ by rounding alone, their mean.

    Raises:
        MissingMeasurement: the layer lacks what an operand reads.
    """
    return RoundingCheck(layer).without_rounding(expression)


class RoundingCheck:
    """Finds out, for many formulas on one layer, whether values differ by rounding alone.

    Args:
        layer: the measurements.
        values: gives the values on the layer; by default a new interpreter.
        memory: bytes of the changed measurements that are kept for the next formula, and of values
            computed from them; more than that is made anew every time.
    """

    def __init__(
        self, layer: LayerRecord, values: Interpreter | None = None, memory: int = 0
    ) -> None:
        self._layer = layer
        self._values = Interpreter(layer) if values is None else values
        self._memory = memory
        self._kept: Interpreter | None = None

    def without_rounding(self, expression: Expression) -> Tensor:
        """Return the values of a tree; where they differ by rounding alone, their mean.

        Raises:
            MissingMeasurement: the layer lacks what an operand reads.
        """
        values = self._values.evaluate(expression)
        if values.numel() < 2 or values.is_complex() or not _may_cancel(expression):
            return values
        width = values.max() - values.min()
        if not bool(width > 0) or not bool(width.isfinite()):
            return values
        changed = self._changed(expression).evaluate(expression).to(values.dtype)
        if bool((changed - values).abs().max() <= _MOST * width):
            return values
        return values.mean().expand(values.shape).clone()

    def _changed(self, expression: Expression) -> Interpreter:
        """Return what evaluates a formula on the measurements with other last bits."""
        if self._kept is not None:
            return self._kept
        if _size(self._layer) > self._memory:
            read = _read_by(expression, self._layer.values)
            return Interpreter(_with_other_last_bits(self._layer, *read))
        everything = {field.name for field in fields(self._layer)}
        changed = _with_other_last_bits(self._layer, everything, self._layer.values)
        self._kept = Interpreter(changed, self._memory)
        return self._kept


def _size(layer: LayerRecord) -> int:
    """Return the bytes of the fields of a record, as float64."""
    read = (getattr(layer, field.name) for field in fields(layer))
    return sum(8 * value.numel() for value in read if hasattr(value, "is_floating_point"))


def _may_cancel(expression: Expression) -> bool:
    """Return whether a formula can be a constant in disguise, so that rounding is all that differs.

    What it reads must then meet itself, in a second place or in a normaliser; most published
    metrics read everything once, and are not evaluated twice for nothing.
    """
    heads = [node.head for node in expression.nodes()]
    read = [head.name for head in heads if isinstance(head, Operand)]
    relates = any(isinstance(x, Operator) and isinstance(x.shape, Normaliser) for x in heads)
    return relates or len(set(read)) < len(read)


def _read_by(
    expression: Expression, known: Mapping[Expression, Tensor]
) -> tuple[set[str], set[Expression]]:
    """Return the fields and the known values that an evaluation of a formula reads."""
    names, trees, stack = set[str](), set[Expression](), [expression]
    while stack:
        node = stack.pop()
        if node in known:
            trees.add(node)
        elif isinstance(node.head, Operand):
            # Without a source it may read any of them.
            source = node.head.source
            names.update([source] if source else (f.name for f in fields(LayerRecord)))
        stack.extend(node.arguments)
    return names, trees


def _with_other_last_bits(
    layer: LayerRecord, names: Collection[str], trees: Collection[Expression]
) -> LayerRecord:
    """Return a record in which numbers are larger or smaller in their last bits, in turns.

    Args:
        layer: the record.
        names: fields that change.
        trees: known values that change.
    """
    changed: dict[str, Any] = {}
    for name in names:
        value = getattr(layer, name)
        if hasattr(value, "is_floating_point"):
            changed[name] = _change(value)
    known = dict(layer.values)
    for turn, tree in enumerate(sorted(known, key=str)):
        if tree in trees:
            known[tree] = _change(known[tree], 1 - 2 * (turn % 2))  # all alike might cancel again
    return replace(layer, values=known, **changed)


def _change(values: Tensor, sign: int = 1) -> Tensor:
    """Change the last bits of numbers; whole numbers, such as counts, stay as they are.

    With a sign of -1, what would grow shrinks.
    """
    left = values.numel() > _LARGEST or not values.is_floating_point()
    if left or bool((values == values.round()).all()):
        return values
    exact = values.double().contiguous()
    changed = exact * (1 + sign * _LAST_BITS)
    # No sum over rows or columns sees as many that grow as that shrink.
    for start, step in ((1, 3), (3, 7)):
        changed.view(-1)[start::step] = exact.view(-1)[start::step] * (1 - sign * _LAST_BITS)
    return changed
