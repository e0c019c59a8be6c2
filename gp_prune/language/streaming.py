"""Plan how formulas are evaluated while the data streams by, a few samples at a time.

Of every tree it is decided which subtrees have a value for each sample that does not depend on the
other samples, which reductions over the samples can be merged from parts, and what needs all
samples at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from gp_prune.language.axes import Elementwise, Reduction, Signature
from gp_prune.language.expression import Expression
from gp_prune.language.primitive import Operand, Operator
from gp_prune.language.record import CLASS_MAP_FIELDS, MAP_FIELDS, MAP_NEEDS, map_fields

_WITHOUT_DATA = frozenset({"noise", "outgoing", "network"})
"""Needs of operands that are known before the data is read."""


class _Kind(Enum):
    FIXED = "it has no value for each sample"
    SAMPLE = "the value of a sample does not depend on the others"
    FULL = "it needs all samples at once"


class _Node(NamedTuple):
    """What is known of a subtree.

    Attributes:
        kind: how its value is found.
        stage: the pass over the data in which its samples are read or, where it has no value for
            each sample, after which it is known; 0 for what needs no data.
        sources: fields of the record with a value for each sample that it reads.
    """

    kind: _Kind
    stage: int
    sources: frozenset[str]


@dataclass(frozen=True)
class Target:
    """A subtree without the axis n that is made of values with it.

    Attributes:
        node: the subtree.
        stage: the pass over the data in which its samples are read; the first is 1.
        sources: fields with a value for each sample that it reads.
        merged: whether it is a reduction that is merged from parts of the samples; otherwise it
            needs all of them at once.
    """

    node: Expression
    stage: int
    sources: frozenset[str]
    merged: bool


@dataclass
class Plan:
    """How some formulas are evaluated together.

    Attributes:
        targets: what is found from values with the axis n, in an order in which it can be.
        gathered: subtrees of type {o,n} or {i,n} that something needs for all samples at once, with
            the pass over the data in which they are computed.
        stored: fields with a value for each sample that something needs for all samples at once.
        needs: needs of all other operands.
        opaque: whether an operand of the user's reads such fields in a way that is not known.
    """

    targets: dict[Expression, Target] = field(default_factory=dict)
    gathered: dict[Expression, int] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    opaque: bool = False
    _nodes: dict[Expression, _Node] = field(default_factory=dict, repr=False)

    @property
    def stages(self) -> int:
        """Return how many passes over the data the targets take; 0 without any."""
        stages = [target.stage for target in self.targets.values()]
        return max([*stages, *self.gathered.values(), int(bool(self.stored))])

    @property
    def by_channel(self) -> bool:
        """Return whether what needs all samples at once can be found channel by channel."""
        full = [target for target in self.targets.values() if not target.merged]
        return all(cuts_by_channel(target.node, target.sources) is not None for target in full)

    @property
    def placed(self) -> frozenset[str]:
        """Return the fields whose samples meet position by position, so that they must be alike."""
        placed = (t.sources for t in self.targets.values() if "s" in t.node.axes)
        return frozenset().union(*placed)

    def streamed(self, stage: int) -> tuple[list[Expression], list[Expression]]:
        """Return the merged and the gathered subtrees of one pass over the data."""
        merged = [t.node for t in self.targets.values() if t.merged and t.stage == stage]
        return merged, [node for node, when in self.gathered.items() if when == stage]

    def read_by(self, node: Expression) -> frozenset[str]:
        """Return the fields with a value for each sample that a target or gathered node reads."""
        target = self.targets.get(node)
        return self._nodes[node].sources if target is None else target.sources

    def sources(self, stage: int) -> frozenset[str]:
        """Return the fields with a value for each sample that are read in one pass."""
        merged, gathered = self.streamed(stage)
        return frozenset().union(*map(self.read_by, [*merged, *gathered]))

    def _add(self, node: Expression) -> None:
        parts = [self._nodes[argument] for argument in node.arguments]
        kind = _classify(node, parts)
        if isinstance(node.head, Operand):
            self._nodes[node] = self._of_operand(node, node.head, kind)
            return
        known = max((part.stage for part in parts if part.kind is _Kind.FIXED), default=0)
        if kind is _Kind.FIXED:
            self._nodes[node] = _Node(kind, known, frozenset())
            return
        sampled = [part for part in parts if part.kind is not _Kind.FIXED]
        sources = frozenset().union(*(part.sources for part in sampled))
        stage = max(known + (kind is _Kind.SAMPLE), *(part.stage for part in sampled))
        merged = has_merge(node) and parts[0].kind is _Kind.SAMPLE
        if kind is _Kind.FULL and not merged:
            self._hold(node)
        self._nodes[node] = _Node(kind, stage, sources)
        if "n" not in node.axes:
            self.targets[node] = Target(node, stage, sources, merged)
            self._nodes[node] = _Node(_Kind.FIXED, stage, frozenset())

    def _of_operand(self, node: Expression, operand: Operand, kind: _Kind) -> _Node:
        if kind is _Kind.SAMPLE:
            assert operand.source is not None
            return _Node(kind, 1, frozenset({operand.source}))
        self.needs |= operand.needs
        if kind is _Kind.FIXED:
            return _Node(kind, int(not operand.needs <= _WITHOUT_DATA), frozenset())
        self.opaque = True
        read = map_fields(operand.needs)
        self.stored |= read
        if "n" not in node.axes:
            self.targets[node] = Target(node, 1, read, merged=False)
            return _Node(_Kind.FIXED, 1, frozenset())
        return _Node(kind, 1, read)

    def _hold(self, node: Expression) -> None:
        """Keep what a node needs for all samples at once: small values, or else the maps."""
        for argument in node.arguments:
            part = self._nodes[argument]
            if part.kind is not _Kind.SAMPLE:
                continue
            if "s" in argument.axes:
                self.stored |= part.sources
            else:
                self.gathered[argument] = part.stage


def _classify(node: Expression, parts: Sequence[_Node]) -> _Kind:
    """Return how the value of a node is found, given what its arguments are."""
    head = node.head
    if isinstance(head, Operand):
        if head.source in MAP_FIELDS:
            return _Kind.SAMPLE
        reads_maps = head.source is None and not head.needs.isdisjoint(MAP_NEEDS)
        return _Kind.FULL if reads_maps else _Kind.FIXED
    kinds = {part.kind for part in parts}
    if not isinstance(head, Operator) or kinds <= {_Kind.FIXED}:
        return _Kind.FIXED
    apart = isinstance(head.shape, Elementwise) or (head.shape.bracketed and "n" not in node.over)
    return _Kind.SAMPLE if apart and _Kind.FULL not in kinds else _Kind.FULL


def has_merge(node: Expression) -> bool:
    """Return whether a node is a reduction over the samples that can be merged from parts."""
    head = node.head
    return (
        isinstance(head, Operator)
        and isinstance(head.shape, Reduction)
        and head.merge is not None
        and "n" in node.over
    )


def plan(expressions: Iterable[Expression]) -> Plan:
    """Plan how some formulas are evaluated together; what they share is found once."""
    found = Plan()
    for expression in expressions:
        for node in reversed(list(expression.nodes())):
            if node not in found._nodes:
                found._add(node)
    return found


def known_subtrees(tree: Expression, letter: str = "n") -> list[Expression]:
    """Return the largest subtrees without an axis, constants aside: the same for all samples."""
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        if letter in node.axes:
            stack.extend(node.arguments)
        elif node.value is None:
            found.append(node)
    return found


def cuts_by_channel(tree: Expression, sources: AbstractSet[str], letter: str = "n") -> str | None:
    """Return the axis of the channels if each depends on the same channel of its maps alone.

    Args:
        tree: a tree; what is below :func:`known_subtrees` is not looked at.
        sources: the fields with this axis that it reads.
        letter: the axis of the samples, or that of the positions.

    Returns:
        ``"o"`` or ``"i"``; None where the tree needs several channels at once.
    """
    channel = "i" if sources == {"inputs"} else "o"
    return channel if channel in tree.axes and _is_by_channel(tree, channel, letter) else None


def _is_by_channel(tree: Expression, channel: str, letter: str) -> bool:
    stack = [tree]
    while stack:
        node = stack.pop()
        head = node.head
        if isinstance(head, Operand):
            known = head.source in MAP_FIELDS or head.source in CLASS_MAP_FIELDS
            if letter in node.axes and not (known and channel in node.axes):
                return False
            continue
        if not isinstance(head, Operator):
            continue
        if channel in node.over or (isinstance(head.shape, Signature) and not head.by_channel):
            return False
        stack.extend(part for part in node.arguments if letter in part.axes)
    return True
