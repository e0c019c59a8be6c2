"""Tell whether a primitive is still declared as it was when a metric was saved.

The digest is of the code, without comments, docstrings and what is only said to people, so that
nothing has to be computed (and torch loaded) to compare.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from gp_prune.language.axes import Axes, Signature
from gp_prune.language.primitive import Operand, Operator

_SAID = frozenset(
    {
        "meaning",
        "latex",
        "definition",
        "light",
        "cost",
        "searchable",
        "phrase",
        "note",
        "unit",
        "rescales",
    }
)
"""Arguments of a declaration that change no score."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@cache
def digest_declaration(primitive: Operand | Operator) -> str:
    """Return 16 hexadecimal digits that change with what a primitive computes.

    They cover types, laws, the function and its form in sympy, and the functions, classes and
    constants of its file that these use. Empty where Python does not know the source.
    """
    parts = [type(primitive).__name__, primitive.name]
    if isinstance(primitive, Operand):
        parts += [_letters(primitive.axes), *sorted(primitive.needs)]
        roots = [primitive.read]
    else:
        shape = primitive.shape
        parts += [type(shape).__name__, str(shape.arity), *sorted(primitive.laws)]
        if isinstance(shape, Signature):
            parts += [*map(_letters, shape.arguments), _letters(shape.to)]
        roots = [primitive.compute, primitive.symbol]
    try:
        for root in roots:
            parts += _describe(root, set())
    except (OSError, TypeError, SyntaxError):
        return ""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _letters(axes: Axes) -> str:
    return "".join(sorted(axes))


def _describe(value: Any, seen: set[str]) -> Iterator[str]:
    """Yield the code of a function or class, and of what it uses of its own file."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if module is None or module.partition(".")[0] in ("sympy", "torch", "builtins"):
        yield f"{module}.{name}"
        return
    if f"{module}.{name}" in seen and "<lambda>" not in name:
        return
    seen.add(f"{module}.{name}")
    tree = _parse(textwrap.dedent(inspect.getsource(value)))
    yield ast.unparse(_Code().visit(tree))
    yield from _closure(value, seen)
    home = vars(sys.modules[module]) if module in sys.modules else {}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for other in sorted(used & set(home)):
        part = home[other]
        if isinstance(part, _PLAIN) or (
            isinstance(part, tuple) and all(isinstance(item, _PLAIN) for item in part)
        ):
            yield f"{other} = {part!r}"
        elif getattr(part, "__module__", None) == module and callable(part):
            yield from _describe(part, seen)


def _parse(source: str) -> ast.Module:
    """Parse the source of a function; that of a lambda may be some arguments of a call."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(f"f({source.strip().rstrip(',')})")


def _closure(value: Callable[..., Any], seen: set[str]) -> Iterator[str]:
    """Yield what a function made by another one holds on to."""
    names = getattr(getattr(value, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(value, "__closure__", None) or (), strict=True):
        if isinstance(cell.cell_contents, _PLAIN):
            yield f"{name} = {cell.cell_contents!r}"
        elif callable(cell.cell_contents) and hasattr(cell.cell_contents, "__qualname__"):
            yield from _describe(cell.cell_contents, seen)


class _Code(ast.NodeTransformer):
    """Takes docstrings and what is only said to people out of code."""

    def visit(self, node: ast.AST) -> Any:
        """Visit a node, its parts first."""
        self.generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = node.body[0]
            told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            node.body = (node.body[1:] if told else node.body) or [ast.Pass()]
        if isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if not _is_said(n)] or [ast.Pass()]
        if isinstance(node, ast.Call):
            node.keywords = [word for word in node.keywords if word.arg not in _SAID]
        return node


def _is_said(node: ast.stmt) -> bool:
    """Return whether a statement of a class sets a text that is only printed."""
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id in _SAID for target in node.targets
    )
