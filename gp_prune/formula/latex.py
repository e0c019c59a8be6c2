"""Write trees as exact sympy formulas, and print those as LaTeX.

A formula uses the indexed symbols and the functions of :mod:`gp_prune.language.symbols`; it
computes exactly what its tree computes, protected operators included.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter

from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING, Signature
from gp_prune.language.expression import Expression, ExpressionError, format_constant
from gp_prune.language.primitive import Operand, Operator, PrimitiveSet
from gp_prune.language.symbols import Scope

_HALF = sympy.Rational(1, 2)
_AXIS_ORDER = {letter: position for position, letter in enumerate(AXIS_MEANING)}

MAX_TERMS = 10_000
"""Formulas that grow larger are refused; what a search may build is far smaller."""


def to_sympy(expression: Expression) -> Any:
    """Return the tree as a sympy formula; the axes of the root are written ``o``, ``i``, ``k``.

    Raises:
        ExpressionError: nested distances make the formula too large to write.
    """
    return _Writer().write(expression, Scope.of(expression.axes))


class _Writer:
    """A writer of trees; what is asked for twice in the same scope is written once."""

    def __init__(self) -> None:
        self._written: dict[Hashable, Any] = {}

    def write(self, node: Expression, scope: Scope) -> Any:
        scope = Scope({letter: scope.current[letter] for letter in node.axes}, scope.taken)
        key = node, tuple(scope.current.items()), scope.taken
        if key not in self._written:
            self._written[key] = self._formula(node, scope)
        return self._written[key]

    def _formula(self, node: Expression, scope: Scope) -> Any:
        if node.value is not None:
            return _number(node.value)
        if isinstance(node.head, Operand):
            return symbols.indexed(node.name, scope.indices(node.axes))
        assert isinstance(node.head, Operator)
        arguments: list[Callable[[Scope], Any]] = [
            partial(self.write, child) for child in node.arguments
        ]
        formula = node.head.write(arguments, scope, node.over)
        if isinstance(node.head.shape, Signature) and symbols.is_long(formula, MAX_TERMS):
            raise ExpressionError(
                f"the formula of {node.head.name!r} has more than {MAX_TERMS} terms because its "
                "argument is written more than once at each level; nest it less deeply"
            )
        return formula


def _number(value: float) -> Any:
    """Return a constant, exact where it is a whole number that a person would write out."""
    whole = value.is_integer() and abs(value) < 1e15
    return sympy.Integer(int(value)) if whole else sympy.Float(value)


class _Printer(LatexPrinter):  # type: ignore[misc]
    """Sums without limits, magnitudes with plain bars, protected forms by name."""

    def __init__(self, primitives: PrimitiveSet) -> None:
        super().__init__({"mul_symbol": None})
        operands = primitives.operands.values()
        self.names = {operand.name: operand.latex for operand in operands}
        self.nonnegative = {operand.name for operand in operands if operand.nonnegative}
        self.operators = {each.symbol: each for each in primitives.operators.values()}
        self.dotted: set[Any] = set()

    def _print_Symbol(self, symbol: Any) -> str:
        if symbol in self.dotted:
            return r"\cdot"
        if symbol.name.startswith("N_"):
            return f"N_{{{symbol.name[2:]}}}"
        return str(self.names.get(symbol.name, symbol.name))

    def _print_Indexed(self, expression: Any) -> str:
        return self._with_indices(expression, self._list(expression.indices))

    def _with_indices(self, expression: Any, indices: str) -> str:
        """Print an operand with its indices, in braces where its symbol has a subscript."""
        base = self.names.get(str(expression.base.label), str(expression.base.label))
        return f"{{{base}}}_{{{indices}}}" if "_" in base else f"{base}_{{{indices}}}"

    def _list(self, indices: Any) -> str:
        return ",".join(self._print(symbol) for symbol in indices)

    def _bound(self, indices: Any) -> str:
        """Print the indices below a sum or operator name, in the order of the axes."""
        key = lambda symbol: (_AXIS_ORDER[symbols.axis_of(symbol)], symbol.name)  # noqa: E731
        return self._list(sorted(indices, key=key))

    def _print_Float(self, number: Any) -> str:
        value = float(number)
        beyond = not math.isfinite(value) or (value == 0.0 and not number.is_zero)
        text = str(number) if beyond else format_constant(value)
        if "e" not in text:
            return text
        digits, exponent = text.split("e")
        power = rf"10^{{{int(exponent)}}}"
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        short = {"1": power, "-1": f"-{power}"}
        return short.get(digits, rf"{digits} \cdot {power}")

    def _print_Sum(self, expression: Any) -> str:
        bound = self._bound(limit[0] for limit in expression.limits)
        return rf"\sum_{{{bound}}} {self._operand(expression.function)}"

    def _operand(self, body: Any) -> str:
        """Print what follows a sum or operator name, in brackets when it is a sum of terms."""
        text = self._print(body)
        bare = not isinstance(body, sympy.Add) and not text.startswith("-")
        return text if bare else rf"\left({text}\right)"

    def _print_Add(self, expression: Any, order: str | None = None) -> str:
        """Print a sum: a term without minus first, numbers last, and a common divisor once."""
        terms = sorted(self._as_ordered_terms(expression, order=order), key=lambda t: t.is_Number)
        texts: list[str] = []
        for divisor, parts in _by_divisor(terms).items():
            whole = [divisor * part for part in parts]
            if divisor == 1 or len(parts) == 1:
                texts += [self._print(part) for part in parts]
            else:
                inside = self._print(sympy.Add(*whole))
                texts.append(rf"\frac{{1}}{{{divisor}}} \left({inside}\right)")
        lead = next((n for n, text in enumerate(texts) if not text.startswith("-")), 0)
        texts.insert(0, texts.pop(lead))
        return texts[0] + "".join(
            f" - {text[1:].lstrip()}" if text.startswith("-") else f" + {text}"
            for text in texts[1:]
        )

    def _print_Pow(self, expression: Any) -> str:
        norm = self._norm(expression)
        if norm:
            return norm
        base, exponent = expression.base, expression.exp
        root = exponent.is_Rational and exponent.p == 1 and exponent.q > 1
        if exponent.is_positive and not root:
            text = self._print(base)
            raised = isinstance(base, sympy.Indexed | sympy.Symbol) and "^" in text
            if raised or isinstance(base, symbols.OverAxes | symbols.BoundArguments | sympy.Sum):
                return rf"\left({text}\right)^{{{self._print(exponent)}}}"
        return str(super()._print_Pow(expression))

    def _print_Mul(self, expression: Any) -> str:
        """Print lengths of axes first, so that a mean reads as 1/N times a sum."""
        coefficient, product = expression.as_coeff_Mul()
        factors = sympy.Mul.make_args(product)
        lengths = [factor for factor in factors if _is_inverse_length(factor)]
        if not lengths:
            if coefficient.is_Rational and coefficient.q != 1 and not all(map(_is_short, factors)):
                above, sign = abs(coefficient.p), "- " if coefficient.is_negative else ""
                return rf"{sign}\frac{{{above}}}{{{coefficient.q}}} {self._operand(product)}"
            return str(super()._print_Mul(expression))
        rest = [factor for factor in factors if factor not in lengths]
        roots = [f for f in rest if f.is_Pow and f.exp == _HALF and not self._norm(f)]
        halves = [length for length in lengths if length.exp == -_HALF]
        if roots and halves:  # the root of a mean
            inside = sympy.Mul(*(factor**2 for factor in roots + halves))
            rest = [factor for factor in rest if factor not in roots]
            lengths = [length for length in lengths if length not in halves]
            front = [rf"\sqrt{{{self._print(inside)}}}"]
        else:
            front = []
        magnitude = abs(coefficient)
        if lengths:
            front.insert(0, self._over_lengths(magnitude, lengths))
        elif magnitude != 1:
            front.insert(0, self._print(magnitude))
        factors = [self._operand(sympy.Mul(*rest))] if rest else []
        return ("- " if coefficient.is_negative else "") + " ".join(front + factors)

    def _over_lengths(self, coefficient: Any, lengths: list[Any]) -> str:
        r"""Print ``\frac{2}{3 N_{i} N_{k}}`` for a number and inverse lengths of axes."""
        above = coefficient.p if coefficient.is_Rational else coefficient
        below = [] if not coefficient.is_Rational or coefficient.q == 1 else [coefficient.q]
        halves = [length for length in lengths if length.exp == -_HALF]
        whole = sympy.Mul(*(1 / length for length in lengths if length not in halves))
        texts = [str(number) for number in below]
        if whole != 1:
            texts.append(self._print(whole))
        if halves:
            texts.append(rf"\sqrt{{{self._print(sympy.Mul(*(h.base for h in halves)))}}}")
        return rf"\frac{{{self._print(above)}}}{{{' '.join(texts)}}}"

    def _norm(self, expression: Any) -> str | None:
        r"""Print the l2 norm of a slice, ``\lVert W_{o,\cdot,\cdot} \rVert_2``; None for others."""
        total = expression.base
        if expression.exp != sympy.Rational(1, 2) or not isinstance(total, sympy.Sum):
            return None
        inner = total.function
        if not (isinstance(inner, sympy.Pow) and inner.exp == 2):
            return None
        bound = [limit[0] for limit in total.limits]
        terms = inner.base.args if isinstance(inner.base, sympy.Add) else (inner.base,)
        if self.dotted & inner.free_symbols:
            return None
        parts = [(term, 1) if isinstance(term, sympy.Indexed) else (-term, -1) for term in terms]
        if not all(
            isinstance(term, sympy.Indexed) and set(bound) <= set(term.indices) for term, _ in parts
        ):
            return None
        text = ""
        for term, sign in sorted(parts, key=lambda part: -part[1]):
            indices = ",".join(r"\cdot" if s in bound else self._print(s) for s in term.indices)
            text += " - " if sign < 0 else " + " if text else ""
            text += self._with_indices(term, indices)
        if r"\rVert" in text:
            return None
        return rf"\lVert {text.strip()} \rVert_2"

    def print_dotted(self, term: Any, *indices: Any) -> str:
        """Return the LaTeX of a term, with a dot for each of these indices."""
        outside, self.dotted = self.dotted, self.dotted | set(indices)
        text = str(self._print(term))
        self.dotted = outside
        return text

    def _print_OverAxes(self, expression: Any) -> str:
        name, bound = self._name(type(expression)), self._bound(expression.indices)
        if "#" in name:
            return _filled(name, [self._print(expression.body), bound])
        if isinstance(expression, symbols.AlongAxes):
            return rf"{name}_{{{bound}}}\left({self._print(expression.body)}\right)"
        return f"{name}_{{{bound}}} {self._operand(expression.body)}"

    def _print_Function(self, expression: Any, exp: str | None = None) -> str:
        name = self._name(type(expression))
        arguments = [self._print(part) for part in expression.args]
        if "#" not in name:
            power = f"^{{{exp}}}" if exp else ""
            return rf"{name}{power}\left({', '.join(arguments)}\right)"
        text = _filled(name, arguments)
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    def _print_BoundArguments(self, expression: Any) -> str:
        arguments = [self.print_dotted(part, *bound) for part, bound in expression.bound]
        name = self._name(type(expression))
        if "#" in name:
            return _filled(name, arguments)
        return rf"{name}\left({', '.join(arguments)}\right)"

    def _name(self, kind: type) -> str:
        return _name(kind, self.operators.get(kind)) or str(self._hprint_Function(kind.__name__))

    def _print_Abs(self, expression: Any, exp: str | None = None) -> str:
        text = rf"\left|{self._print(expression.args[0])}\right|"
        return f"{text}^{{{exp}}}" if exp else text

    def _needs_mul_brackets(self, expression: Any, first: bool = False, last: bool = False) -> bool:
        """Return whether a factor needs brackets: sums and reductions before another one."""
        if isinstance(expression, sympy.Sum | symbols.OverAxes):
            return not last and not isinstance(expression, symbols.AlongAxes)
        if isinstance(
            expression, sympy.Pow | sympy.Function | sympy.Indexed | symbols.BoundArguments
        ):
            return False
        return bool(super()._needs_mul_brackets(expression, first, last))


def _by_divisor(terms: list[Any]) -> dict[int, list[Any]]:
    """Group the terms of a sum by the denominator of their exact number, in their order."""
    groups: dict[int, list[Any]] = {}
    for term in terms:
        coefficient = term.as_coeff_Mul()[0]
        exact = coefficient.is_Rational and not term.is_Number
        groups.setdefault(coefficient.q if exact else 1, []).append(term)
    return groups


def _is_short(factor: Any) -> bool:
    """Return whether a factor is an operand or a power of one."""
    base = factor.base if isinstance(factor, sympy.Pow) else factor
    return isinstance(base, sympy.Indexed | sympy.Symbol)


def _is_inverse_length(factor: Any) -> bool:
    """Return whether a factor is a negative power of a length such as N_o."""
    return (
        isinstance(factor, sympy.Pow)
        and factor.exp.is_negative
        and factor.base.is_Symbol
        and factor.base.name.startswith("N_")
    )


def formula_latex(formula: Any, primitives: PrimitiveSet) -> str:
    """Return the LaTeX of a sympy formula, operands by the symbols that they declare."""
    return str(_Printer(primitives).doprint(formula))


def latex(expression: Expression, primitives: PrimitiveSet) -> str:
    """Return the LaTeX of a tree (mathematics only, without dollar signs)."""
    return formula_latex(to_sympy(expression), primitives)


def definitions(formula: Any, primitives: PrimitiveSet) -> list[str]:
    """Return LaTeX lines that define the functions of a formula that are not common knowledge.

    First come functions of single entries, then those over bound indices, then normalisers; in
    each group those of cheap operators first.
    """
    used: dict[Any, None] = dict.fromkeys(map(type, sympy.preorder_traversal(formula)))
    operators = {operator.symbol: operator for operator in primitives.operators.values()}
    bases = (symbols.RealFunction, symbols.OverAxes, symbols.BoundArguments, symbols.AlongAxes)
    groups = {kind: group for group, base in enumerate(bases) for kind in _derived(base)}

    def rank(kind: type) -> tuple[int, float]:
        return groups[kind], operators[kind].cost if kind in operators else 1.0

    kinds: list[Any] = [kind for kind in used if kind not in groups]
    kinds += sorted((kind for kind in groups if kind in used), key=rank)
    lines = [_definition(kind, operators.get(kind)) for kind in kinds]
    return list(dict.fromkeys(line for line in lines if line))


def _derived(base: type) -> Iterator[type]:
    """Yield the classes derived from a base in the order of their declaration."""
    kind: type
    for kind in base.__subclasses__():
        yield kind
        yield from _derived(kind)


def _definition(kind: type, operator: Operator | None) -> str | None:
    """Return the stated definition of a function, or what its operator means."""
    stated = getattr(kind, "definition", None)
    if operator is None or stated is not None:
        return stated
    if operator.definition is not None:
        return operator.definition
    name = _name(kind, operator) or rf"\operatorname{{{kind.__name__}}}"
    return rf"{_filled(name, 'abcd')}\colon \text{{{escape(operator.meaning)}}}"


def _name(kind: type, operator: Operator | None) -> str:
    """Return the LaTeX name of a function, or its template."""
    stated = getattr(kind, "latex", "") or (operator.latex if operator else "")
    if stated or operator is None or not issubclass(kind, symbols.Notation):
        return stated
    return rf"\operatorname{{{escape(operator.name)}}}"


def _filled(template: str, arguments: Sequence[str]) -> str:
    """Return a template with the arguments at ``#1``, ``#2`` and so on."""
    return re.sub("#([1-9])", lambda match: arguments[int(match[1]) - 1], template)


_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Return plain text as LaTeX."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)
