"""Say a formula in words, by rule from its tree.

Each primitive declares a phrase with a slot for each argument. An argument that is more than a name
stands in brackets, except at the end of a phrase, where nothing can follow it; what would be nested
more than two brackets deep, or occurs more than once, gets a name of its own and a line of its own.
So the words have one meaning, that of the tree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from gp_prune.formula.intervals import Intervals
from gp_prune.formula.latex import to_sympy
from gp_prune.language.axes import AXIS_WORDS, Axes
from gp_prune.language.expression import Expression, ExpressionError, format_constant
from gp_prune.language.primitive import FAMILIES, Operand, Operator, PrimitiveSet
from gp_prune.language.symbols import EPSILON

_DEEPEST = 2
"""Brackets inside brackets that a reader can follow."""

_SHORT = 3
"""Nodes of a term that may stand in brackets of any depth."""

_TOGETHER = {
    ("square", "square"): "the fourth power of {a}",
    ("square", "l2"): "the sum of squares over {axes} of {a}",
}
"""What two built-in operators, one applied to the other, are called together."""

_REPEATED = 3
"""Nodes of a term that is worth a name where it occurs more than once."""


@dataclass(frozen=True)
class Words:
    """A formula in words.

    Attributes:
        sentence: the whole formula; it may name parts.
        parts: name of a part -> what it is, in an order in which a part names earlier ones alone.
        operands: name of an operand -> its meaning, with its axes.
        notes: sentences that belong to the terms that are used.
    """

    sentence: str
    parts: dict[str, str]
    operands: dict[str, str]
    notes: tuple[str, ...]


class _Phrase(NamedTuple):
    """Words of a subtree; ``kind`` says where they can stand without brackets.

    ``"name"``: anywhere; ``"prefix"``: at the end of a phrase; ``"infix"``: nowhere.
    """

    text: str
    kind: str


def in_words(expression: Expression) -> Words:
    """Return a formula in words, with what is needed to compute it."""
    speaker = _Speaker(expression)
    root = speaker.phrase(expression, 0, at_root=True).text
    return Words(
        _introduced(expression.axes, root),
        speaker.parts,
        {operand.name: _explained(operand) for operand in speaker.operands},
        tuple(speaker.notes),
    )


def _introduced(axes: Axes, text: str) -> str:
    """Say for what a value is, and what it is."""
    if not axes:
        return f"For the layer: {text}."
    if axes.letters == "oik":
        return f"For every weight (channel, input channel and tap): {text}."
    return f"For every {_joined([AXIS_WORDS[letter][0] for letter in axes])}: {text}."


def _explained(operand: Operand) -> str:
    one = [AXIS_WORDS[letter][0] for letter in operand.axes]
    if "o" in operand.axes and "i" in operand.axes:  # in a grouped layer, not all
        one[operand.axes.index("i")] += " that it reads"
    return f"{operand.meaning}, for every {_joined(one)}" if one else operand.meaning


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


class _Speaker:
    """Puts phrases into one another; parts, operands and notes are collected on the way."""

    def __init__(self, expression: Expression) -> None:
        self.parts: dict[str, str] = {}
        self.operands: dict[Operand, None] = {}
        self.notes: dict[str, None] = {}
        self._named: dict[Expression, str] = {}
        # Of terms in different terms, not of all that occur inside a term that is repeated.
        uses = Counter(part for node in set(expression.nodes()) for part in node.arguments)
        self._repeated = {
            node for node, count in uses.items() if count > 1 and node.size >= _REPEATED
        }

    def phrase(self, node: Expression, depth: int, *, at_root: bool = False) -> _Phrase:
        """Return the words of a subtree that stands inside so many brackets."""
        head = node.head
        if head is None:
            assert node.value is not None
            return _Phrase(format_constant(node.value), "name")
        if isinstance(head, Operand):
            self.operands.setdefault(head)
            return _Phrase(f"{head.phrase or 'the value'} {head.name}", "name")
        if node in self._named or (node in self._repeated and not at_root):
            return _Phrase(self._name(node), "name")
        return self._applied(node, head, depth, at_root)

    def _applied(
        self, node: Expression, head: Operator, depth: int, at_root: bool, *, followed: bool = False
    ) -> _Phrase:
        """Return the words of an operator and its arguments; in a chain, more may follow them."""
        inner = node.arguments[0]
        together = ""
        if _is_builtin(head) and _is_builtin(inner.head) and inner not in self._repeated:
            together = _TOGETHER.get((head.name, inner.name), "")
            node = inner if together else node
        template = together or head.phrase or _default(head)
        own = not head.phrase or not (head.compute.__module__ or "").startswith(FAMILIES)
        explains = own and head.meaning != head.name
        note = head.note or (f"{head.name}: {head.meaning}" if explains else "")
        infix = template.startswith("{a}")
        loose = at_root and infix  # commas part what nothing else stands beside
        filled = {}
        for slot, argument in zip("abcdef", node.arguments, strict=False):
            last = template.endswith(f"{{{slot}}}") and not followed
            same = infix and slot == "a" and argument.head is head and "commutative" in head.laws
            filled[slot] = self._argument(argument, depth, last=last, same=same, loose=loose)
        if note and _applies(head, node):
            self.notes.setdefault(note if note.endswith(".") else f"{note}.")
        if node.over:
            filled["axes"] = _joined([AXIS_WORDS[letter][1] for letter in node.over])
        if loose:
            template = template.replace("{a} ", "{a}, ", 1)
        return _Phrase(template.format(**filled), "infix" if infix else "prefix")

    def _argument(
        self, node: Expression, depth: int, *, last: bool, same: bool, loose: bool
    ) -> str:
        if not node.arguments or node in self._repeated:
            return self.phrase(node, depth).text
        assert isinstance(node.head, Operator)
        template = node.head.phrase or _default(node.head)
        prefix = template.startswith("the ")
        if same or (prefix and (last or loose)):
            inside = same and not loose
            return self._applied(node, node.head, depth, same and loose, followed=inside).text
        if depth >= _DEEPEST and node.size > _SHORT:
            return self._name(node)
        return f"({self.phrase(node, depth + 1).text})"

    def _name(self, node: Expression) -> str:
        """Return the name of a part, which is put into words where it is first used."""
        if node not in self._named:
            assert isinstance(node.head, Operator)
            text = self._applied(node, node.head, 0, at_root=True).text
            name = f"x{len(self._named) + 1}"
            self._named[node] = name
            self.parts[name] = _introduced(node.axes, text)
        return self._named[node]


def _is_builtin(head: Operator | Operand | None) -> bool:
    return isinstance(head, Operator) and (head.compute.__module__ or "").startswith(FAMILIES)


def _applies(head: Operator, node: Expression) -> bool:
    """Return whether the note of an operator says anything: not where its argument is safe."""
    place = {"div": 1, "sqrt": 0}.get(head.name) if _is_builtin(head) else None
    if place is None or node.head is not head:
        return True
    argument = node.arguments[place]
    primitives = PrimitiveSet({n.head for n in argument.nodes() if n.head is not None})
    try:
        values = Intervals(primitives).of(to_sympy(argument))
    except ExpressionError:  # too large to write
        return True
    if head.name == "sqrt":
        return values.low < 0
    return values.low < 2 * EPSILON and values.high > -2 * EPSILON


def _default(head: Operator) -> str:
    """Return the phrase of an operator of a user who wrote none: its name."""
    if head.shape.bracketed:
        return f"the {head.name} over {{axes}} of {{a}}"
    if head.shape.arity == 1:
        return f"the {head.name} of {{a}}"
    slots = [f"{{{slot}}}" for slot in "abcdef"[: head.shape.arity]]
    return f"the {head.name} of {_joined(slots)}"
