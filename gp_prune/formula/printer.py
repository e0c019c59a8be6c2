"""Print sympy formulas as LaTeX, operands by the symbols that they declare."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy
from sympy.printing.latex import LatexPrinter

from gp_prune.formula.intervals import Interval, Intervals
from gp_prune.formula.line_breaking import Fraction, parse_latex
from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING
from gp_prune.language.expression import format_constant
from gp_prune.language.primitive import Operator, PrimitiveSet, with_indices
from gp_prune.language.symbols import EPSILON

ROUNDED = "Constants are rounded to {} digits."
"""The sentence below a formula in which constants are rounded."""

_HALF = sympy.Rational(1, 2)
_AXIS_ORDER = {letter: position for position, letter in enumerate(AXIS_MEANING)}


class Printer(LatexPrinter):  # type: ignore[misc]
    """Print formulas: sums without limits, magnitudes with plain bars, protected forms by name.

    Args:
        primitives: the operands and operators of the formulas.
        formulas: the formulas, which are printed with the same signs.
        named: the intervals of terms that have a name, by the name.
        digits: significant digits of constants that are not whole; None for all.
    """

    def __init__(
        self,
        primitives: PrimitiveSet,
        formulas: Sequence[Any],
        named: Mapping[str, Interval] | None = None,
        digits: int | None = None,
    ) -> None:
        super().__init__({"mul_symbol": None})
        self.names = {operand.name: operand.latex for operand in primitives.operands.values()}
        self.operators = {each.symbol: each for each in primitives.operators.values()}
        self.dotted: set[Any] = set()
        self.notes: dict[str, None] = {}
        """The sentences that must stand below what was printed, each once."""
        self.intervals = Intervals(primitives, named)
        self.nonnegative = {name for name, x in self.intervals.named.items() if x.low >= 0}
        self._digits = digits
        names = {symbol.name for formula in formulas for symbol in formula.atoms(sympy.Symbol)}
        free = {symbol.name for formula in formulas for symbol in formula.free_symbols}
        self._paired = len(formulas) == 1 and "o'" not in names and "p" not in free
        """Whether the second index over channels can be written ``o'``."""
        self._quotients: dict[str, set[Any]] = {}
        self._plain = set().union(*map(self._plain_roles, formulas))

    def _plain_roles(self, formula: Any) -> set[str]:
        """Return the roles of protected functions that a formula has in plain form too."""
        roles = {"logarithm": sympy.log, "exponential": sympy.exp}
        plain = {role for role, function in roles.items() if formula.has(function)}
        powers = formula.atoms(sympy.Pow)
        if any(p.exp.is_negative and self.intervals.of(p.base).low <= EPSILON for p in powers):
            plain.add("divide")
        return plain

    def light(self, term: Any) -> symbols.Light | None:
        """Return the lighter sign of a function that its arguments allow; None for its own."""
        kind = type(term)
        if not issubclass(kind, symbols.Notation) or kind.role in self._plain:
            return None
        for light in kind.light:
            interval = self.intervals.of(term.args[light.argument - 1])
            if light.low <= interval.low and interval.high <= light.high:
                return light
        return None

    def _print_Symbol(self, symbol: Any) -> str:
        if symbol in self.dotted:
            return r"\cdot"
        if symbol.name.startswith("N_"):
            return f"N_{{{symbol.name[2:]}}}"
        if symbol.name == "p" and self._paired:
            return "o'"
        return str(self.names.get(symbol.name, symbol.name))

    def _print_Indexed(self, expression: Any) -> str:
        return self._with_indices(expression, map(self._print, expression.indices))

    def _with_indices(self, expression: Any, indices: Iterable[str]) -> str:
        """Print an operand with its indices."""
        label = str(expression.base.label)
        return with_indices(self.names.get(label, label), indices)

    def _list(self, indices: Any) -> str:
        return ",".join(self._print(symbol) for symbol in indices)

    def _bound(self, indices: Any) -> str:
        """Print the indices below a sum or operator name, in the order of the axes."""
        key = lambda symbol: (_AXIS_ORDER[symbols.axis_of(symbol)], symbol.name)  # noqa: E731
        return self._list(sorted(indices, key=key))

    def _print_Float(self, number: Any) -> str:
        value = float(number)
        if self._digits is not None and value and math.isfinite(value):
            rounded = float(f"{value:.{self._digits}g}")
            if rounded != value and not value.is_integer():
                self.notes[ROUNDED.format(self._digits)] = None
                value = rounded
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

    def _argument(self, body: Any) -> str:
        """Print what follows the name of a reduction, in brackets unless it is a single sign."""
        text = self._print(body)
        bare = isinstance(body, sympy.Indexed | sympy.Symbol | sympy.Abs)
        if isinstance(body, sympy.Pow):
            bare = isinstance(body.base, sympy.Indexed | sympy.Symbol) and body.exp.is_positive
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
            raised = isinstance(base, sympy.Indexed | sympy.Symbol) and not _is_one_sign(text)
            if raised or isinstance(base, symbols.OverAxes | symbols.BoundArguments | sympy.Sum):
                return rf"\left({text}\right)^{{{self._print(exponent)}}}"
        return str(super()._print_Pow(expression))

    def _print_Mul(self, expression: Any) -> str:
        """Print lengths of axes first, so that a mean reads as 1/N times a sum."""
        return _spaced(self._product(expression))

    def _product(self, expression: Any) -> str:
        coefficient, product = expression.as_coeff_Mul()
        factors = sympy.Mul.make_args(product)
        lengths = [factor for factor in factors if _is_inverse_length(factor)]
        if not lengths:
            divided = any(factor.is_Pow and factor.exp.is_negative for factor in factors)
            short = all(map(_is_short, factors)) and (len(factors) == 1 or divided)
            if coefficient.is_Rational and coefficient.q != 1 and not short:
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
            indices = [r"\cdot" if s in bound else self._print(s) for s in term.indices]
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

    def _add_note(self, said: Any) -> None:
        if getattr(said, "note", ""):
            self.notes[said.note] = None

    def said(self) -> tuple[str, ...]:
        """Return the sentences below the formula; of several quotients they say "each"."""
        several = {note for note, terms in self._quotients.items() if len(terms) > 1}
        return tuple(
            note.replace("A quotient", "Each quotient", 1) if note in several else note
            for note in self.notes
        )

    def _print(self, expression: Any, **settings: Any) -> str:
        root = self._root_sign(expression)
        if root is None:
            return str(super()._print(expression, **settings))
        return rf"{root}^{{{settings['exp']}}}" if settings.get("exp") else root

    def _root_sign(self, expression: Any) -> str | None:
        r"""Print the root of a square sign as that sign: ``\sigma_{o}``; None for others."""
        if getattr(expression, "role", "") != "root" or not expression.args[0].is_Indexed:
            return None
        (inside,) = expression.args
        label = str(inside.base.label)
        square = re.fullmatch(r"(\\[A-Za-z]+)\^\{2\}(.*)", self.names.get(label, label))
        if square is None or self.intervals.of(inside).low < 0:
            return None
        return with_indices(square[1] + square[2], map(self._print, inside.indices))

    def _print_OverAxes(self, expression: Any) -> str:
        self._add_note(expression)
        name, bound = self._name(type(expression)), self._bound(expression.indices)
        if "#" in name:
            return fill(name, [self._print(expression.body), bound])
        if isinstance(expression, symbols.AlongAxes):
            return rf"{name}_{{{bound}}}\left({self._print(expression.body)}\right)"
        return f"{name}_{{{bound}}} {self._argument(expression.body)}"

    def _print_Function(self, expression: Any, exp: str | None = None) -> str:
        light = self.light(expression)
        name = light.latex if light else self._name(type(expression))
        self._add_note(light or type(expression))
        if light and light.note:
            self._quotients.setdefault(light.note, set()).add(expression)
        parts = values_of_extreme(expression) if is_extreme(expression) else expression.args
        arguments = [self._print(part) for part in parts]
        if "#" not in name:
            power = f"^{{{exp}}}" if exp else ""
            return rf"{name}{power}\left({', '.join(arguments)}\right)"
        return self._powered(fill(name, arguments), exp)

    @staticmethod
    def _powered(text: str, exp: str | None) -> str:
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    def _print_BoundArguments(self, expression: Any) -> str:
        self._add_note(expression)
        arguments = [self.print_dotted(part, *bound) for part, bound in expression.bound]
        name = self._name(type(expression))
        if "#" in name:
            return fill(name, arguments)
        return rf"{name}\left({', '.join(arguments)}\right)"

    def _name(self, kind: type) -> str:
        return sign_of(kind, self.operators.get(kind)) or str(self._hprint_Function(kind.__name__))

    def _print_Abs(self, expression: Any, exp: str | None = None) -> str:
        (inside,) = expression.args
        if inside.is_Indexed and self.intervals.of(inside).low >= 0:
            return self._powered(self._print(inside), exp)
        text = rf"\left|{self._print(inside)}\right|"
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


def is_extreme(formula: Any) -> bool:
    """Return whether a formula is the larger or the smaller of two values."""
    return getattr(formula, "role", "") in ("larger", "smaller")


def values_of_extreme(extreme: Any) -> list[Any]:
    """Return the values of which a nested larger (or smaller) of two is the extreme, each once."""
    choose = max if extreme.role == "larger" else min
    values: dict[Any, None] = {}
    for part in extreme.args:
        inside = values_of_extreme(part) if is_extreme(part) else [part]
        joined = type(part) is type(extreme) or len(inside) == 1
        values.update(dict.fromkeys(inside if joined else [part]))
    numbers = [value for value in values if value.is_Number]
    number = choose(numbers) if numbers else None
    return [value for value in values if not value.is_Number] + [number] * bool(numbers)


def _spaced(product: str) -> str:
    """Put a thin space between an overlined factor and the factor behind it."""
    start = product.find(r"\overline{")
    while start >= 0:
        depth, end = 0, start
        while depth or end == start or product[end - 1] != "}":
            depth += (product[end] == "{") - (product[end] == "}")
            end += 1
        if re.match(r" (?![-+=]|\\(right|neq|geq|cdot|,))", product[end:]):
            product = product[:end] + r" \," + product[end:]
        start = product.find(r"\overline{", end)
    return product


def _is_one_sign(text: str) -> bool:
    """Return whether the LaTeX of an operand can be raised to a power without brackets."""
    parts = parse_latex(text).parts
    return "^" not in text and len(parts) == 1 and not isinstance(parts[0], Fraction)


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


def sign_of(kind: type, operator: Operator | None) -> str:
    """Return the LaTeX name of a function, or its template."""
    stated = getattr(kind, "latex", "") or (operator.latex if operator else "")
    if stated or operator is None or not issubclass(kind, symbols.Notation):
        return stated
    return rf"\operatorname{{{escape(operator.name)}}}"


def fill(template: str, arguments: Sequence[str]) -> str:
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
