"""Build immutable, typed expression trees.

An :class:`Expression` is valid by construction: building a node checks arity and axes. Trees are
compared by structure and hash in constant time, so they serve as dictionary keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from gp_prune.errors import UserError
from gp_prune.language.axes import SCALAR, Axes
from gp_prune.language.primitive import Operand, Operator

MAX_NODES = 2000
"""Trees larger than this are refused, so that a hostile file cannot exhaust memory."""

MAX_HEIGHT = 100
"""Trees higher than this are refused, so that no recursion over a tree can overflow."""


class ExpressionError(UserError):
    """A tree that is not valid: wrong arity, wrong axes, a constant that is not finite."""


class Expression:
    """A typed expression tree; immutable.

    Build leaves and inner nodes with :meth:`constant`, :meth:`of` and :meth:`apply`.

    Attributes:
        head: the operand or operator, or None for a constant.
        over: the axes in brackets, empty for primitives without brackets.
        arguments: the subtrees.
        value: the number of a constant, else None.
        axes: the type of the tree's value.
        size: number of nodes.
        height: number of edges on the longest way to a leaf.
    """

    __slots__ = ("_hash", "arguments", "axes", "head", "height", "over", "size", "value")
    head: Operand | Operator | None
    over: Axes
    arguments: tuple[Expression, ...]
    value: float | None
    axes: Axes
    size: int
    height: int
    _hash: int

    def __init__(
        self,
        head: Operand | Operator | None,
        over: Axes = SCALAR,
        arguments: Sequence[Expression] = (),
        value: float | None = None,
    ) -> None:
        arguments = tuple(arguments)
        put = object.__setattr__
        put(self, "head", head)
        put(self, "over", over)
        put(self, "arguments", arguments)
        put(self, "value", None if value is None else value + 0.0)  # -0.0 becomes 0.0
        put(self, "axes", _type_of(head, over, arguments, value))
        put(self, "size", 1 + sum(argument.size for argument in arguments))
        put(self, "height", 1 + max((a.height for a in arguments), default=-1))
        put(self, "_hash", hash((self.name, over.letters, arguments, self.value)))
        if self.size > MAX_NODES or self.height > MAX_HEIGHT:
            raise ExpressionError(
                f"the expression has {self.size} nodes and height {self.height}; "
                f"at most {MAX_NODES} and {MAX_HEIGHT} are allowed"
            )

    @classmethod
    def constant(cls, value: float) -> Expression:
        """Return a constant of type {}; ExpressionError when it is not finite."""
        return cls(None, value=float(value))

    def __copy__(self) -> Expression:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Expression:
        return self

    @classmethod
    def of(cls, operand: Operand) -> Expression:
        """Return a leaf that reads an operand."""
        return cls(operand)

    @classmethod
    def apply(cls, operator: Operator, *arguments: Expression, over: Axes = SCALAR) -> Expression:
        """Apply an operator to subtrees.

        Raises:
            ExpressionError: wrong number of arguments, or axes that the operator refuses.
        """
        return cls(operator, over, arguments)

    @property
    def name(self) -> str:
        """Return the name of the operand or operator; ``"constant"`` for constants."""
        return "constant" if self.head is None else self.head.name

    @property
    def needs(self) -> frozenset[str]:
        """Return what the operands need, keys of :data:`gp_prune.language.record.NEEDS`."""
        return frozenset().union(
            *(node.head.needs for node in self.nodes() if isinstance(node.head, Operand))
        )

    def nodes(self) -> Iterator[Expression]:
        """Yield all nodes, a parent before its arguments, arguments from left to right."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.arguments))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Expression is immutable")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Expression) or self._hash != other._hash:
            return False
        return (
            self.name == other.name
            and self.over is other.over
            and self.value == other.value
            and self.arguments == other.arguments
        )

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        """Return the text form, which :func:`gp_prune.language.parser.parse` reads back."""
        if self.value is not None:
            return format_constant(self.value)
        brackets = f"[{','.join(self.over)}]" if self.over else ""
        if not self.arguments:
            return self.name
        return f"{self.name}{brackets}({', '.join(map(str, self.arguments))})"

    def __repr__(self) -> str:
        return f"Expression({str(self)!r})"

    def to_json(self) -> dict[str, Any]:
        """Return the tree as nested JSON, for :func:`~gp_prune.language.parser.from_json`."""
        if self.value is not None:
            return {"constant": self.value}
        if isinstance(self.head, Operand):
            return {"operand": self.name}
        data: dict[str, Any] = {"operator": self.name}
        if self.over:
            data["over"] = ",".join(self.over)
        data["arguments"] = [argument.to_json() for argument in self.arguments]
        return data


def nearest_double(number: Any) -> float:
    """Return a whole number or a number of sympy as a double; infinite where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return -math.inf if number < 0 else math.inf


def format_constant(value: float) -> str:
    """Return the shortest text of a number, whole numbers without a point."""
    return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _type_of(
    head: Operand | Operator | None,
    over: Axes,
    arguments: tuple[Expression, ...],
    value: float | None,
) -> Axes:
    """Return the type of a node; ExpressionError when it is not valid."""
    if head is None:
        if value is None or not math.isfinite(value):
            raise ExpressionError(f"constant {value} is not a finite number")
        return SCALAR
    if isinstance(head, Operand):
        if arguments or over:
            raise ExpressionError(f"operand {head.name!r} takes no arguments")
        return head.axes
    if len(arguments) != head.shape.arity:
        raise ExpressionError(
            f"operator {head.name!r} takes {head.shape.arity} "
            f"{'argument' if head.shape.arity == 1 else 'arguments'}, not {len(arguments)}"
        )
    if over and not head.shape.bracketed:
        raise ExpressionError(f"operator {head.name!r} takes no axes in brackets")
    if not over and head.shape.bracketed:
        raise ExpressionError(
            f"operator {head.name!r} needs axes in brackets, as in {head.name}[o](...)"
        )
    result = head.shape.result(over, [argument.axes for argument in arguments])
    if result is None:
        types = ", ".join(str(argument.axes) for argument in arguments)
        brackets = f"[{','.join(over)}]" if over else ""
        raise ExpressionError(f"operator '{head.name}{brackets}' does not accept axes {types}")
    return result


def canonical(expression: Expression) -> Expression:
    """Return an equal tree, the same for trees that are trivially equal.

    Only rewrites that leave every floating-point result unchanged, from the laws that operators
    declare: arguments of commutative operators in the order of their text, no double negation,
    no repeated idempotent operator, no sign change or magnitude under an even operator, no
    magnitude of what is never negative.
    """
    done: dict[Expression, Expression] = {}
    for node in reversed(list(expression.nodes())):
        if node not in done:
            arguments = tuple(done[argument] for argument in node.arguments)
            done[node] = _rewritten(node, arguments)
    return done[expression]


def _laws(node: Expression) -> frozenset[str]:
    return node.head.laws if isinstance(node.head, Operator) else frozenset()


def _rewritten(node: Expression, arguments: tuple[Expression, ...]) -> Expression:
    laws = _laws(node)
    if "commutative" in laws:
        arguments = tuple(sorted(arguments, key=str))
    elif laws and len(arguments) == 1:
        (inner,) = arguments
        if "even" in laws:
            while _laws(inner) & {"negation", "magnitude"}:
                (inner,) = inner.arguments
        inner_laws = _laws(inner)
        if "magnitude" in laws and "nonnegative" in inner_laws:
            return inner
        if inner.head is node.head and "idempotent" in laws:
            return inner
        if inner.head is node.head and "involution" in laws:
            return inner.arguments[0]
        arguments = (inner,)
    if arguments == node.arguments:
        return node
    return Expression(node.head, node.over, arguments, node.value)
