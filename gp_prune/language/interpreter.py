"""Evaluate expression trees on the tensors of a layer.

A stack machine, without recursion and without generated code. Values of subtrees are remembered,
so that what many trees of a population share is computed once.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from gp_prune.language.expression import Expression
from gp_prune.language.primitive import Operand, Operator
from gp_prune.language.record import LayerRecord

ENTRY_BYTES = 1200
"""What remembering a value takes beside its numbers: tensor, tree and entry of the table. Measured;
the values of channels are so short that this is most of it."""


class Interpreter:
    """An evaluator of trees on one layer that remembers the values of their subtrees.

    Args:
        layer: the measurements of the layer.
        memory: bytes that remembered values may take, :data:`ENTRY_BYTES` for each counted; the
            least recently used go first.
    """

    def __init__(self, layer: LayerRecord, memory: int = 64 * 2**20) -> None:
        self._layer = layer
        self._limit = memory
        self._held = 0
        self._values: OrderedDict[Expression, Tensor] = OrderedDict()
        self.computed = 0
        self.reused = 0

    def evaluate(self, expression: Expression) -> Tensor:
        """Return the value of a tree: a float64 tensor with the dimensions of ``expression.axes``.

        Raises:
            MissingMeasurement: the layer lacks what an operand reads.
        """
        stack: list[Tensor] = []
        work: list[tuple[Expression, bool]] = [(expression, False)]
        while work:
            node, ready = work.pop()
            if ready:
                count = len(node.arguments)
                stack[-count:] = [self._remember(node, self._apply(node, stack[-count:]))]
                continue
            known = self._values.get(node)
            if known is not None:
                self._values.move_to_end(node)
                self.reused += 1
                stack.append(known)
            elif node.arguments:
                work.append((node, True))
                work.extend((argument, False) for argument in reversed(node.arguments))
            else:
                stack.append(self._leaf(node))
        return stack.pop()

    def _leaf(self, node: Expression) -> Tensor:
        if isinstance(node.head, Operand):
            return node.head.read(self._layer)
        weight = self._layer.weight
        return torch.tensor(node.value, dtype=weight.dtype, device=weight.device)

    def _apply(self, node: Expression, values: list[Tensor]) -> Tensor:
        operator = node.head
        assert isinstance(operator, Operator)
        self.computed += 1
        types = [argument.axes for argument in node.arguments]
        return operator.apply(values, types, node.over)

    def _remember(self, node: Expression, value: Tensor) -> Tensor:
        cost = _cost(value)
        if cost > self._limit:
            return value
        self._values[node] = value
        self._held += cost
        while self._held > self._limit:
            _, oldest = self._values.popitem(last=False)
            self._held -= _cost(oldest)
        return value


def _cost(value: Tensor) -> int:
    """Return the bytes that a remembered value keeps; a view keeps its whole storage."""
    return value.untyped_storage().nbytes() + ENTRY_BYTES


def evaluate(expression: Expression, layer: LayerRecord) -> Tensor:
    """Return the value of one tree on one layer, dimensions in the order of ``expression.axes``."""
    return Interpreter(layer).evaluate(expression)
