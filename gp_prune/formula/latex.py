"""LaTeX of formulas in the vocabulary of :mod:`gp_prune.language.symbols`."""

from __future__ import annotations

import math
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter

from gp_prune.formula.to_sympy import to_sympy
from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING
from gp_prune.language.expression import Expression, format_constant
from gp_prune.language.primitive import PrimitiveSet

_OVER = {
    symbols.MaxOver: r"\max",
    symbols.MinOver: r"\min",
    symbols.VarOver: r"\operatorname{var}",
    symbols.StdOver: r"\operatorname{std}",
    symbols.MedoidOver: r"\operatorname{medoid}",
    symbols.SumShare: r"\operatorname{bysum}",
    symbols.MaxShare: r"\operatorname{bymax}",
    symbols.MinMax: r"\operatorname{minmax}",
    symbols.ZScore: r"\operatorname{zscore}",
    symbols.TailSum: r"\operatorname{tailsum}",
}

_HALF = sympy.Rational(1, 2)
_AXIS_ORDER = {letter: position for position, letter in enumerate(AXIS_MEANING)}

DEFINITIONS = {
    symbols.Div: (
        r"\frac{a}{b}_{\!\epsilon} = \frac{a}{b} \text{ where } |b| > \epsilon, "
        r"\text{ else } 0 \quad (\epsilon = 10^{-12})"
    ),
    symbols.Log: r"\log_{\epsilon} x = \log(|x| + \epsilon) \quad (\epsilon = 10^{-12})",
    symbols.Exp: r"\exp_{50} x = \exp(\min(x, 50))",
    symbols.Indicator: r"[\,\cdot\,] = 1 \text{ where the statement holds, else } 0",
    symbols.VarOver: r"\operatorname{var}\colon \text{population variance over the indices}",
    symbols.StdOver: (
        r"\operatorname{std}\colon \text{population standard deviation over the indices}"
    ),
    symbols.MedoidOver: (
        r"\operatorname{medoid}_{o}\colon \text{the filter with the least summed } "
        r"\ell_2 \text{ distance to all filters}"
    ),
    symbols.RidgeForm: (
        r"\left\lVert d \right\rVert^{2}_{M^{-1}} = d^{\top} M^{-1} d, \quad "
        r"\operatorname{scatter}_{n}\left(x_{n,\cdot}\right) = \sum_{n} "
        r"(x_{n,\cdot} - \bar{x}) (x_{n,\cdot} - \bar{x})^{\top}, \quad "
        r"\bar{x} = \frac{1}{N_{n}} \sum_{n} x_{n,\cdot}"
    ),
    symbols.SumShare: (
        r"\operatorname{bysum}_{i}(x_{i}) = \frac{x_{i}}{\sum_{i'} |x_{i'}|}_{\!\epsilon}"
    ),
    symbols.MaxShare: (
        r"\operatorname{bymax}_{i}(x_{i}) = \frac{x_{i}}{\max_{i'} |x_{i'}|}_{\!\epsilon}"
    ),
    symbols.MinMax: (
        r"\operatorname{minmax}_{i}(x_{i}) = "
        r"\frac{x_{i} - \min_{i'} x_{i'}}{\max_{i'} x_{i'} - \min_{i'} x_{i'}}_{\!\epsilon}"
    ),
    symbols.ZScore: (
        r"\operatorname{zscore}_{i}(x_{i}) = \frac{x_{i} - \frac{1}{N_{i}} \sum_{i'} x_{i'}}"
        r"{\operatorname{std}_{i'} x_{i'}}_{\!\epsilon}"
    ),
    symbols.TailSum: (
        r"\operatorname{tailsum}_{i}(x_{i}) = \sum_{i'} \left[x_{i'} \geq x_{i}\right] x_{i'}"
    ),
}
"""What each protected or named form means, as LaTeX; printed below a standalone formula."""


class _Printer(LatexPrinter):  # type: ignore[misc]
    """Sums without limits, magnitudes with plain bars, protected forms by name."""

    def __init__(self, primitives: PrimitiveSet) -> None:
        super().__init__({"mul_symbol": None})
        operands = primitives.operands.values()
        self.names = {operand.name: operand.latex for operand in operands}
        self.nonnegative = {operand.name for operand in operands if operand.nonnegative}
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
        """The symbol of an operand and its indices; in braces where it has a subscript itself."""
        base = self.names.get(str(expression.base.label), str(expression.base.label))
        return f"{{{base}}}_{{{indices}}}" if "_" in base else f"{base}_{{{indices}}}"

    def _list(self, indices: Any) -> str:
        return ",".join(self._print(symbol) for symbol in indices)

    def _bound(self, indices: Any) -> str:
        """Indices below a sum or operator name, in the order of the axes."""
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
        """What stands after a sum or operator name; in brackets when it is a sum of terms."""
        text = self._print(body)
        bare = not isinstance(body, sympy.Add) and not text.startswith("-")
        return text if bare else rf"\left({text}\right)"

    def _print_Add(self, expression: Any, order: str | None = None) -> str:
        """A term without a minus sign leads, numbers close; halves of many terms stand once."""
        terms = sorted(self._as_ordered_terms(expression, order=order), key=lambda t: t.is_Number)
        texts: list[str] = []
        for divisor, parts in _by_divisor(terms).items():
            whole = [divisor * part for part in parts]
            if divisor == 1 or len(parts) == 1:
                texts += [self._print(part) for part in parts]
            else:
                inside = self._print(sympy.Add(*whole))
                texts.append(rf"\frac{{1}}{{{divisor}}} \left({inside}\right)")
        lead = next((place for place, text in enumerate(texts) if not text.startswith("-")), 0)
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
            if raised or isinstance(base, symbols.OverAxes | symbols.RidgeForm | sympy.Sum):
                return rf"\left({text}\right)^{{{self._print(exponent)}}}"
        return str(super()._print_Pow(expression))

    def _print_Mul(self, expression: Any) -> str:
        """Lengths of axes stand in front, so that a mean reads as 1/N times a sum."""
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
        behind = [self._operand(sympy.Mul(*rest))] if rest else []
        return ("- " if coefficient.is_negative else "") + " ".join(front + behind)

    def _over_lengths(self, coefficient: Any, lengths: list[Any]) -> str:
        r"""``\frac{2}{3 N_{i} N_{k}}`` for a number and inverse lengths of axes."""
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
        r"""``\lVert W_{o,\cdot,\cdot} \rVert_2`` when the formula is the l2 norm of a slice."""
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

    def _print_OverAxes(self, expression: Any) -> str:
        name = f"{_OVER[type(expression)]}_{{{self._bound(expression.indices)}}}"
        if isinstance(expression, symbols.Along):
            return rf"{name}\left({self._print(expression.body)}\right)"
        return f"{name} {self._operand(expression.body)}"

    def _print_RidgeForm(self, expression: Any) -> str:
        samples, vector, n, s = expression.args
        outside, self.dotted = self.dotted, self.dotted | {s}
        d, x = self._print(vector), self._print(samples)
        self.dotted = outside
        scatter = rf"\operatorname{{scatter}}_{{{self._print(n)}}}\left({x}\right)"
        matrix = rf"\left({scatter} + {self._print(sympy.Float(symbols.RIDGE))} I\right)^{{-1}}"
        return rf"\left\lVert {d} \right\rVert^{{2}}_{{{matrix}}}"

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
        text = self._print(expression.args[0])
        if not symbols.nonnegative(expression.args[0], self.nonnegative):
            text = rf"\left|{text}\right|"
        text = rf"\sqrt{{{text}}}"
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    def _bracket(self, relation: str, expression: Any) -> str:
        a, b = (self._print(part) for part in expression.args)
        return rf"\left[{a} {relation} {b}\right]"

    def _print_NotEqual(self, expression: Any) -> str:
        return self._bracket(r"\neq", expression)

    def _print_AtLeast(self, expression: Any) -> str:
        return self._bracket(r"\geq", expression)

    def _print_tanh(self, expression: Any, exp: str | None = None) -> str:
        return self._call(r"\tanh", expression, exp)

    def _needs_mul_brackets(self, expression: Any, first: bool = False, last: bool = False) -> bool:
        """Only what has no end of its own needs brackets, and only before another factor."""
        if isinstance(expression, sympy.Sum | symbols.OverAxes):
            return not last and not isinstance(expression, symbols.Along)
        if isinstance(expression, sympy.Pow | sympy.Function | sympy.Indexed | symbols.RidgeForm):
            return False
        return bool(super()._needs_mul_brackets(expression, first, last))


def _by_divisor(terms: list[Any]) -> dict[int, list[Any]]:
    """The terms of a sum by the denominator of their exact number, in their order."""
    groups: dict[int, list[Any]] = {}
    for term in terms:
        coefficient = term.as_coeff_Mul()[0]
        exact = coefficient.is_Rational and not term.is_Number
        groups.setdefault(coefficient.q if exact else 1, []).append(term)
    return groups


def _is_short(factor: Any) -> bool:
    """Whether a factor is an operand or a power of one."""
    base = factor.base if isinstance(factor, sympy.Pow) else factor
    return isinstance(base, sympy.Indexed | sympy.Symbol)


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
    return str(_Printer(primitives).doprint(formula))


def latex(expression: Expression, primitives: PrimitiveSet) -> str:
    """LaTeX of a tree (mathematics only, without dollar signs)."""
    return formula_latex(to_sympy(expression), primitives)


def definitions(formula: Any) -> list[str]:
    """LaTeX lines that define the protected and named forms that a formula uses."""
    used = {type(term) for term in sympy.preorder_traversal(formula)}
    return [
        line for form, line in DEFINITIONS.items() if any(issubclass(kind, form) for kind in used)
    ]
