"""Floor 4: LaTeX of formulas in the vocabulary of :mod:`gp_prune.symbols`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter

from gp_prune import symbols
from gp_prune.expression import Expression
from gp_prune.primitive import PrimitiveSet
from gp_prune.symbolic import to_sympy

_OVER = {
    symbols.MaxOver: r"\max",
    symbols.MinOver: r"\min",
    symbols.VarOver: r"\operatorname{var}",
    symbols.StdOver: r"\operatorname{std}",
    symbols.MedoidOver: r"\operatorname{medoid}",
}

DEFINITIONS = {
    symbols.Div: (
        r"\frac{a}{b}_{\!\epsilon} = \frac{a}{b} \text{ where } |b| > \epsilon, "
        r"\text{ else } 0 \quad (\epsilon = 10^{-12})"
    ),
    symbols.Log: r"\log_{\epsilon} x = \log(|x| + \epsilon) \quad (\epsilon = 10^{-12})",
    symbols.Exp: r"\exp_{50} x = \exp(\min(x, 50))",
    symbols.Indicator: r"[\,\cdot\,] = 1 \text{ where the statement holds, else } 0",
    symbols.VarOver: r"\operatorname{var}: \text{ population variance over the indices}",
    symbols.StdOver: r"\operatorname{std}: \text{ population standard deviation over the indices}",
    symbols.MedoidOver: (
        r"\operatorname{medoid}_{o}: \text{ the filter with the least summed } "
        r"\ell_2 \text{ distance to all filters}"
    ),
}
"""What each protected or named form means, as LaTeX; printed below a standalone formula."""


class _Printer(LatexPrinter):  # type: ignore[misc]
    """Sums without limits, magnitudes with plain bars, protected forms by name."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__({"mul_symbol": None})
        self.names = names

    def _print_Symbol(self, symbol: Any) -> str:
        if symbol.name.startswith("N_"):
            return f"N_{{{symbol.name[2:]}}}"
        return self.names.get(symbol.name, symbol.name)

    def _print_Indexed(self, expression: Any) -> str:
        base = self.names.get(str(expression.base.label), str(expression.base.label))
        return f"{base}_{{{self._list(expression.indices)}}}"

    def _list(self, indices: Any) -> str:
        return ",".join(self._print(symbol) for symbol in indices)

    def _print_Float(self, number: Any) -> str:
        text = repr(float(number))
        if "e" not in text:
            return text
        digits, exponent = text.split("e")
        return rf"{digits} \cdot 10^{{{int(exponent)}}}"

    def _print_Sum(self, expression: Any, exp: str | None = None) -> str:
        bound = self._list(limit[0] for limit in expression.limits)
        text = rf"\sum_{{{bound}}} {self._operand(expression.function)}"
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    def _operand(self, body: Any) -> str:
        """What stands after a sum or operator name; in brackets when it is a sum of terms."""
        text = self._print(body)
        minus = isinstance(body, sympy.Mul) and body.args[0].is_Number and body.args[0].is_negative
        return rf"\left({text}\right)" if isinstance(body, sympy.Add) or minus else text

    def _print_Pow(self, expression: Any) -> str:
        norm = self._norm(expression)
        if norm:
            return norm
        base = expression.base
        if expression.exp.is_Integer and expression.exp > 0:
            text = self._print(base)
            grouped = isinstance(base, symbols.OverAxes | symbols.Indicator | sympy.Sum)
            if grouped or (isinstance(base, sympy.Indexed) and "^" in text):
                return rf"\left({text}\right)^{{{self._print(expression.exp)}}}"
        return str(super()._print_Pow(expression))

    def _print_Mul(self, expression: Any) -> str:
        """Lengths of axes stand in front, so that a mean reads as 1/N times a sum."""
        lengths = [factor for factor in expression.args if _is_inverse_length(factor)]
        if not lengths:
            return str(super()._print_Mul(expression))
        rest = sympy.Mul(*(factor for factor in expression.args if factor not in lengths))
        below = self._print(1 / sympy.Mul(*lengths))
        if rest == 1:
            return rf"\frac{{1}}{{{below}}}"
        return rf"\frac{{1}}{{{below}}} {self._operand(rest)}"

    def _norm(self, expression: Any) -> str | None:
        r"""``\lVert W_{o,:,:} \rVert_2`` when the formula is the l2 norm of a slice."""
        total = expression.base
        if expression.exp != sympy.Rational(1, 2) or not isinstance(total, sympy.Sum):
            return None
        inner = total.function
        if not (isinstance(inner, sympy.Pow) and inner.exp == 2):
            return None
        bound = [limit[0] for limit in total.limits]
        terms = inner.base.args if isinstance(inner.base, sympy.Add) else (inner.base,)
        parts = [(term, 1) if isinstance(term, sympy.Indexed) else (-term, -1) for term in terms]
        if not all(
            isinstance(term, sympy.Indexed) and set(bound) <= set(term.indices) for term, _ in parts
        ):
            return None
        text = ""
        for term, sign in sorted(parts, key=lambda part: -part[1]):
            base = self.names.get(str(term.base.label), str(term.base.label))
            indices = ",".join(":" if s in bound else self._print(s) for s in term.indices)
            text += f"{' - ' if sign < 0 else ' + ' if text else ''}{base}_{{{indices}}}"
        return rf"\lVert {text.strip()} \rVert_2"

    def _print_OverAxes(self, expression: Any) -> str:
        name = _OVER[type(expression)]
        return rf"{name}_{{{self._list(expression.indices)}}} {self._operand(expression.body)}"

    def _print_Abs(self, expression: Any, exp: str | None = None) -> str:
        text = rf"\left|{self._print(expression.args[0])}\right|"
        return f"{text}^{{{exp}}}" if exp else text

    def _print_Div(self, expression: Any, exp: str | None = None) -> str:
        a, b = (self._print(part) for part in expression.args)
        text = rf"\frac{{{a}}}{{{b}}}_{{\!\epsilon}}"
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    def _call(self, name: str, expression: Any, exp: str | None) -> str:
        body = ", ".join(self._print(part) for part in expression.args)
        power = f"^{{{exp}}}" if exp else ""
        return rf"{name}{power}\left({body}\right)"

    def _print_Log(self, expression: Any, exp: str | None = None) -> str:
        return self._call(r"\log_{\epsilon}", expression, exp)

    def _print_Exp(self, expression: Any, exp: str | None = None) -> str:
        return self._call(r"\exp_{50}", expression, exp)

    def _print_Maximum(self, expression: Any, exp: str | None = None) -> str:
        return self._call(r"\max", expression, exp)

    def _print_Minimum(self, expression: Any, exp: str | None = None) -> str:
        return self._call(r"\min", expression, exp)

    def _print_Sqrt(self, expression: Any, exp: str | None = None) -> str:
        text = rf"\sqrt{{\left|{self._print(expression.args[0])}\right|}}"
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    def _bracket(self, relation: str, expression: Any) -> str:
        a, b = (self._print(part) for part in expression.args)
        return rf"\left[{a} {relation} {b}\right]"

    def _print_NotEqual(self, expression: Any, exp: str | None = None) -> str:
        return self._bracket(r"\neq", expression)

    def _print_AtLeast(self, expression: Any, exp: str | None = None) -> str:
        return self._bracket(r"\geq", expression)

    def _needs_mul_brackets(self, expression: Any, first: bool = False, last: bool = False) -> bool:
        if isinstance(expression, (symbols.OverAxes, sympy.Sum)):
            return not last
        return bool(super()._needs_mul_brackets(expression, first, last))

    def _needs_add_brackets(self, expression: Any) -> bool:
        if isinstance(expression, (symbols.OverAxes, sympy.Sum)):
            return False
        return bool(super()._needs_add_brackets(expression))


def _is_inverse_length(factor: Any) -> bool:
    """Whether a factor is 1 / N_o or the like (a power of it)."""
    return (
        isinstance(factor, sympy.Pow)
        and factor.exp.is_negative
        and factor.base.is_Symbol
        and factor.base.name.startswith("N_")
    )


def formula_latex(formula: Any, primitives: PrimitiveSet) -> str:
    """LaTeX of a sympy formula, operands by the symbols that they declare."""
    names = {operand.name: operand.latex for operand in primitives.operands.values()}
    return str(_Printer(names).doprint(formula))


def latex(expression: Expression, primitives: PrimitiveSet) -> str:
    """LaTeX of a tree (mathematics only, without dollar signs)."""
    return formula_latex(to_sympy(expression), primitives)


def definitions(formula: Any) -> list[str]:
    """LaTeX lines that define the protected and named forms that a formula uses."""
    used = {type(term) for term in sympy.preorder_traversal(formula)}
    return [
        line for form, line in DEFINITIONS.items() if any(issubclass(kind, form) for kind in used)
    ]
