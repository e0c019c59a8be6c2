"""Evaluate trees on the measurements of a layer, whole or a few samples at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gp_prune.language.axes import Signature
from gp_prune.language.expression import Expression
from gp_prune.language.grouped import groups_of
from gp_prune.language.primitive import Operand, Operator, State
from gp_prune.language.record import CLASS_MAP_FIELDS, MAP_FIELDS, Coverage, LayerRecord
from gp_prune.language.streaming import cuts_by_channel, has_merge, known_subtrees, plan

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_BYTES = 1200
"""What remembering a value takes beside its numbers: tensor, tree and entry of the table. Measured;
the values of channels are so short that this is most of it."""

_AT_ONCE = 2**17
"""Entries of a map that are evaluated at a time: 1 MB in float64, which stays in the cache."""

_PART_BYTES = 64 * 2**20
"""Bytes of values that are remembered while a part of the samples is evaluated."""


class Interpreter:
    """An evaluator of trees on one layer that remembers the values of their subtrees.

    It is a stack machine, without recursion and without generated code; what many trees of a
    population share is computed once. Reductions over many samples are evaluated a few samples at a
    time, so that no value of the size of all maps is ever made for them.

    Args:
        layer: the measurements of the layer.
        memory: bytes that remembered values may take, :data:`ENTRY_BYTES` for each counted; the
            least recently used go first.
        in_parts: whether large maps are evaluated in parts.
    """

    def __init__(
        self, layer: LayerRecord, memory: int = 64 * 2**20, *, in_parts: bool = True
    ) -> None:
        self._layer = layer
        self._groups = groups_of(layer)
        self._limit = memory
        self._held = 0
        self._values: OrderedDict[Expression, Tensor] = OrderedDict()
        self._sampled = any(not seen.whole for seen in layer.coverage.values())
        self._cuts = in_parts and _entries(layer) > _AT_ONCE
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
            known = self._known(node)
            if known is not None:
                stack.append(known)
            elif not node.arguments:
                stack.append(self._leaf(node))
            elif (in_parts := self._in_parts(node)) is not None:
                stack.append(self._remember(node, in_parts))
            else:
                work.append((node, True))
                work.extend((argument, False) for argument in reversed(node.arguments))
        value = stack.pop()
        return value if self._groups is None else self._groups.unpack(value, expression.axes)

    def _known(self, node: Expression) -> Tensor | None:
        value = self._values.get(node)
        if value is not None:
            self._values.move_to_end(node)
            self.reused += 1
            return value
        return self._layer.values.get(node) if self._layer.values else None

    def _leaf(self, node: Expression) -> Tensor:
        if isinstance(node.head, Operand):
            value = node.head.read(self._layer).double()
            return value if self._groups is None else self._groups.pack(value, node.axes)
        return self._layer.weight.new_tensor(node.value)

    def _apply(self, node: Expression, values: list[Tensor]) -> Tensor:
        operator = node.head
        assert isinstance(operator, Operator)
        self.computed += 1
        types = [argument.axes for argument in node.arguments]
        if self._sampled and operator.growth and isinstance(operator.shape, Signature):
            grows = _unseen(node, "n", self._layer.coverage) ** operator.growth
            values = [values[0] * grows, *values[1:]]
        if self._groups is None:
            value = operator.apply(values, types, node.over)
        else:
            value = self._groups.apply(operator, values, types, node.over)
        return value * grown(node, self._layer.coverage) if self._sampled else value

    def _in_parts(self, node: Expression) -> Tensor | None:
        """Return the value of a node over large maps, evaluated part by part; None elsewhere.

        The maps are those of the samples, or the mean maps of the classes.
        """
        if not self._cuts or "n" in node.axes:
            return None
        letter = "n" if any("n" in argument.axes for argument in node.arguments) else "s"
        if letter in node.axes or not any(letter in part.axes for part in node.arguments):
            return None
        fields = _maps_of(node, self._layer.values, letter)
        if not fields or (letter == "s" and not fields <= CLASS_MAP_FIELDS):
            return None
        maps = {name: getattr(self._layer, name) for name in fields}
        if any(values is None for values in maps.values()):
            return None
        record = part_of(self._layer, maps)
        whole = letter == "n" and fields == _maps_of(node, {})
        if whole and has_merge(node) and plan([node]).targets[node].merged:
            return self._merged(node, record)
        channel = cuts_by_channel(node, fields, letter)
        return None if channel is None else self._by_channel(node, record, channel, letter)

    def _merged(self, node: Expression, record: LayerRecord) -> Tensor:
        self.computed += 1
        known = {part: self.evaluate(part) for part in known_subtrees(node.arguments[0])}
        total = Accumulator([node], (), known, self._layer.coverage)
        total.add(record)
        return total.result()[node]

    def _by_channel(
        self, node: Expression, record: LayerRecord, channel: str, letter: str
    ) -> Tensor:
        import torch

        self.computed += 1
        parts = [part for argument in node.arguments for part in known_subtrees(argument, letter)]
        known = {**self._layer.values, **{part: self.evaluate(part) for part in parts}}
        values = [
            Interpreter(part, _PART_BYTES, in_parts=False).evaluate(node)
            for part in _cut(record, 0, channel, known)
        ]
        return torch.cat(values, dim=node.axes.index(channel))

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


class Accumulator:
    """Evaluate reductions over all samples, and values of each sample, a part after the other.

    Args:
        merged: reductions with a merge over values of each sample.
        gathered: trees with the axis n, whose values are put side by side.
        known: values of the subtrees without the axis n that these have.
        coverage: how much of the data is seen in all.
    """

    def __init__(
        self,
        merged: Sequence[Expression],
        gathered: Sequence[Expression],
        known: Mapping[Expression, Tensor],
        coverage: Mapping[str, Coverage],
    ) -> None:
        self._merged = merged
        self._known = known
        self._coverage = coverage
        self._states: dict[Expression, State] = {}
        self._gathered: dict[Expression, list[Tensor]] = {node: [] for node in gathered}

    def add(self, record: LayerRecord) -> None:
        """Take in the next samples: a record of their maps alone, in any precision."""
        for part in _cut(record, 1, "n", {}):
            self._add(replace(part, values=self._known, coverage=self._coverage))

    def _add(self, part: LayerRecord) -> None:
        machine = Interpreter(part, _PART_BYTES, in_parts=False)
        for node in self._merged:
            operator, (argument,) = node.head, node.arguments
            assert isinstance(operator, Operator) and operator.merge is not None
            dims = tuple(argument.axes.index(letter) for letter in node.over)
            state = operator.merge.start(machine.evaluate(argument), dims)
            before = self._states.get(node)
            self._states[node] = state if before is None else operator.merge.join(before, state)
        for node, values in self._gathered.items():
            values.append(machine.evaluate(node))

    def result(self) -> dict[Expression, Tensor]:
        """Return the value of each tree, for all samples that were taken in."""
        import torch

        found = {}
        for node, state in self._states.items():
            operator = node.head
            assert isinstance(operator, Operator) and operator.merge is not None
            found[node] = operator.merge.finish(state) * grown(node, self._coverage)
        for node, values in self._gathered.items():
            found[node] = torch.cat(values, dim=node.axes.index("n"))
        return found


def part_of(layer: LayerRecord, maps: Mapping[str, Tensor]) -> LayerRecord:
    """Return a record that has nothing but some maps; its weights are empty."""
    nothing = layer.weight.new_zeros(0)
    return LayerRecord(
        layer.name, nothing, nothing, layer.has_batch_norm, nothing, nothing,
        coverage=layer.coverage, **maps,  # type: ignore[arg-type]
    )  # fmt: skip


def _cut(
    record: LayerRecord, dim: int, letter: str, known: Mapping[Expression, Tensor]
) -> Iterator[LayerRecord]:
    """Cut the maps of a record along one of their dimensions, and the known values with them."""
    whole = _maps(record)
    length = next(iter(whole.values())).shape[dim]
    each = max(value.numel() for value in whole.values()) // max(1, length)
    step = max(1, _AT_ONCE // max(1, each))
    for start in range(0, length, step):
        size = min(step, length - start)
        some: dict[str, Any] = {n: v.narrow(dim, start, size) for n, v in whole.items()}
        values = {
            tree: value.narrow(tree.axes.index(letter), start, size)
            if letter in tree.axes
            else value
            for tree, value in known.items()
        }
        yield replace(record, values=values, **some)


def _maps_of(
    node: Expression, known: Container[Expression], letter: str = "n"
) -> frozenset[str] | None:
    """Return the fields with an axis (n or s) that a node reads; None if that is unknown.

    What is read by subtrees whose value is known does not count.
    """
    found: set[str] = set()
    stack = [node]
    while stack:
        part = stack.pop()
        if part in known:
            continue
        if isinstance(part.head, Operand):
            if part.head.source is None:
                return None
            found.add(part.head.source)
        else:
            stack.extend(argument for argument in part.arguments if letter in argument.axes)
    return frozenset(found)


def grown(node: Expression, coverage: Mapping[str, Coverage]) -> float:
    """Return by what the value of a node grows from the entries that were seen to all of them."""
    head = node.head
    if not isinstance(head, Operator) or not head.growth:
        return 1.0
    factor = 1.0
    for letter in "ns":
        if letter in node.over:
            factor *= _unseen(node, letter, coverage)
    return float(factor**head.growth)


def _unseen(node: Expression, letter: str, coverage: Mapping[str, Coverage]) -> float:
    """Return all entries along an axis, as a multiple of those that were seen."""
    stack = list(node.arguments)
    while stack:
        part = stack.pop()
        if letter not in part.axes:  # below, it has been reduced: a field there tells nothing
            continue
        stack.extend(part.arguments)
        seen = None
        if isinstance(part.head, Operand) and part.head.source:
            seen = coverage.get(part.head.source)
        if seen is not None:
            if letter == "n":
                return seen.of_samples / seen.samples
            return seen.of_positions / seen.positions
    return 1.0


def _entries(layer: LayerRecord) -> int:
    """Return the size of the largest field with samples or positions."""
    return max((value.numel() for value in _maps(layer).values()), default=0)


def _maps(layer: LayerRecord) -> dict[str, Tensor]:
    """Return the fields with samples or positions that a record has."""
    found = {name: getattr(layer, name) for name in (*MAP_FIELDS, *CLASS_MAP_FIELDS)}
    return {name: value for name, value in found.items() if value is not None}


def _cost(value: Tensor) -> int:
    """Return the bytes that a remembered value keeps; a view keeps its whole storage."""
    return value.untyped_storage().nbytes() + ENTRY_BYTES


def evaluate(expression: Expression, layer: LayerRecord) -> Tensor:
    """Return the value of one tree on one layer, dimensions in the order of ``expression.axes``."""
    return Interpreter(layer).evaluate(expression)
