"""Read a sympy formula back into the tree that computes it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy

from gp_prune.formula.matching import bound_indices, match_written_out
from gp_prune.formula.tree_builder import AxisPadding, sort_by_text
from gp_prune.language import symbols
from gp_prune.language.axes import AXIS_MEANING, SCALAR, Axes, Signature
from gp_prune.language.expression import Expression, ExpressionError, nearest_double
from gp_prune.language.primitive import Operator, PrimitiveSet

_SHOWN = 100

Indices = Mapping[str, str]
"""The name of the index of each axis letter around a term."""


class FormulaError(ExpressionError):
    """A sympy formula that the operators cannot compute; the message names the term."""


def from_sympy(formula: Any, axes: Axes, primitives: PrimitiveSet) -> Expression:
    """Return the tree that computes a sympy formula.

    Args:
        formula: a formula in the vocabulary of :mod:`gp_prune.language.symbols`, whose free indices
            are the letters of ``axes``.
        axes: the type of the result.
        primitives: the vocabulary.

    Raises:
        FormulaError: a term is unknown, has an index that is not in scope, divides without
            protection, or cannot be computed by the operators; the message names it.
    """
    if not isinstance(formula, sympy.Expr):
        raise FormulaError(f"a formula is a sympy expression, not {type(formula).__name__}")
    try:
        reader = _Reader(formula, primitives)
        tree = reader.read(formula, {letter: letter for letter in axes})
        return reader.build.fit_axes(tree, axes)
    except RecursionError:
        raise FormulaError("the formula is nested too deeply to be read") from None
    except FormulaError:
        raise
    except ExpressionError as error:
        raise FormulaError(f"the formula cannot be read: {error}") from None


def free_axes(formula: Any) -> Axes:
    """Return the axes whose plain letters are free indices of a formula."""
    free: set[Any] = getattr(formula, "free_symbols", set())
    indices = {s for term in free if isinstance(term, sympy.Indexed) for s in term.indices}
    return Axes({s.name for s in indices & free if s.name in AXIS_MEANING})


def _shown(term: Any) -> str:
    text = " ".join(str(term).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _error(term: Any, text: str) -> FormulaError:
    return FormulaError(f"the term {_shown(term)} {text}")


def _is_length(term: Any) -> bool:
    """Return whether a term is the length of an axis, such as ``N_o``."""
    return term.is_Symbol and term.name[:2] == "N_" and term.name[2:] in AXIS_MEANING


def _finite_double(number: Any) -> float:
    """Return the nearest double; FormulaError where there is none."""
    try:
        value = nearest_double(number)
    except TypeError:  # not real
        value = math.nan
    if not math.isfinite(value):
        raise FormulaError(f"the number {_shown(number)} is not a finite double")
    return value


class _Reader:
    def __init__(self, formula: Any, primitives: PrimitiveSet) -> None:
        self.primitives = primitives
        used = {str(base.label) for base in formula.atoms(sympy.IndexedBase)}
        self.build = AxisPadding(primitives, used)
        self.patterns = self.build.patterns
        self.known: dict[Any, Expression] = {}

    def read(self, term: Any, indices: Indices) -> Expression:
        """Return the tree of a term; its axes are among those of ``indices``."""
        key = term, tuple(sorted(indices.items()))
        if key not in self.known:
            try:
                self.known[key] = self._read(term, indices)
            except FormulaError:
                raise
            except ExpressionError as error:
                raise _error(term, f"cannot be read: {error}") from None
        return self.known[key]

    def _read(self, term: Any, indices: Indices) -> Expression:
        if term.is_Number or term.is_NumberSymbol:
            return Expression.constant(_finite_double(term))
        if _is_length(term):
            return self.build.length(term.name[2:])
        if isinstance(term, sympy.Indexed | sympy.Symbol):
            return self._operand(term, indices)
        special = self._written_out(term, indices)
        if special is not None:
            return special
        for kind, method in self._KINDS.items():
            if isinstance(term, kind):
                return method(self, term, indices)
        return self._function(term, indices)

    def _operand(self, term: Any, indices: Indices) -> Expression:
        name, read_at = (term.name, ()) if term.is_Symbol else (str(term.base.label), term.indices)
        operand = self.primitives.operands.get(name)
        if operand is None:
            close = difflib.get_close_matches(name, self.primitives.operands, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise _error(term, f"has the unknown operand {name!r}{hint}")
        if len(read_at) != len(operand.axes):
            raise _error(
                term,
                f"has {len(read_at)} indices, but operand {name!r} has the axes {operand.axes}",
            )
        for letter, index in zip(operand.axes, read_at, strict=True):
            if str(index) != indices.get(letter):
                scope = ", ".join(indices.values()) or "none"
                raise _error(
                    term,
                    f"has the index {index} for the axis {letter}, which "
                    f"is not in scope there (the indices in scope: {scope})",
                )
        return Expression.of(operand)

    def _written_out(self, term: Any, indices: Indices) -> Expression | None:
        """Read a normaliser, or an operator of fixed types, that is written out as a formula."""
        whole = isinstance(term, sympy.Sum)  # the square of what is a root of a sum
        for power in (1, 2) if whole else (1,):
            form = term if power == 1 else sympy.sqrt(term)
            found = match_written_out(self.patterns.written, form, indices)
            if found is not None:
                operator, over, arguments = found
                values = [self.read(a.term, a.indices) for a in arguments]
                return self.build.power(self._fixed(operator, over, values), Fraction(power))
        return None

    def _fixed(self, operator: Operator, over: Axes, values: list[Expression]) -> Expression:
        """Apply an operator to values that may lack axes that it needs."""
        if isinstance(operator.shape, Signature):
            types: Sequence[Axes] = operator.shape.arguments
            values = [self.build.fit_axes(v, t) for v, t in zip(values, types, strict=True)]
        else:
            values = [self.build.add_axes(value, over) for value in values]
        return Expression.apply(operator, *values, over=over)

    def _function(self, term: Any, indices: Indices) -> Expression:
        """Read a function by name: elementwise, or over indices."""
        found = self.patterns.function(term)
        if found is not None:
            operator, arguments = found
            return Expression.apply(operator, *(self.read(part, indices) for part in arguments))
        named = self.patterns.over.get(type(term))
        if named is None:
            known = sorted(
                kind.__name__ for kind in [*self.patterns.functions, *self.patterns.over]
            )
            raise _error(
                term,
                f"is of {type(term).__name__}, which no operator computes; "
                f"the known functions are {', '.join(known)}",
            )
        if isinstance(term, symbols.AlongAxes):
            letters = {name: letter for letter, name in indices.items()}
            along = [letters.get(symbol.name) for symbol in term.indices]
            if None in along:
                raise _error(term, "runs along an index not in scope")
            over = Axes(letter for letter in along if letter)
            return self._fixed(named, over, [self.read(term.body, indices)])
        body = self.read(term.body, self._inside(term, term.indices, indices))
        if isinstance(named.shape, Signature):
            return self._fixed(named, SCALAR, [body])
        return self.build.reduce(named, self._letters(term, term.indices), body)

    def _inside(self, term: Any, bound: Sequence[Any], indices: Indices) -> Indices:
        letters = [symbols.axis_of(symbol) for symbol in bound]
        if any(letter not in AXIS_MEANING for letter in letters):
            raise _error(term, "binds an index that is no axis letter with primes")
        return {**indices, **dict(zip(letters, (s.name for s in bound), strict=True))}

    def _letters(self, term: Any, bound: Sequence[Any]) -> Axes:
        try:
            return Axes([symbols.axis_of(symbol) for symbol in bound])
        except ValueError as error:
            raise _error(term, f"cannot be read: {error}") from None

    def _add(self, term: Any, indices: Indices) -> Expression:
        minus = [part for part in term.args if part.as_coeff_Mul()[0].is_negative]
        plus = [part for part in term.args if part not in minus]
        gained = sort_by_text(self.read(part, indices) for part in plus)
        lost = sort_by_text(self.read(-part, indices) for part in minus)
        difference = self.build.difference(gained, lost)
        assert difference is not None
        return difference

    def _mul(self, term: Any, indices: Indices) -> Expression:
        coefficient, rest = term.as_coeff_Mul()
        lengths: dict[str, Fraction] = {}
        factors: list[tuple[Any, Any]] = []
        for factor in sympy.Mul.make_args(rest):
            base, exponent = factor.args if factor.is_Pow else (factor, sympy.Integer(1))
            if _is_length(base) and exponent.is_Rational:
                lengths[base.name[2:]] = Fraction(exponent.p, exponent.q)
            else:
                factors.append((base, exponent))
        # A mean before the root of a sum, which could use up its lengths.
        factors.sort(key=lambda factor: -factor[1] if factor[1].is_Rational else 0)
        values = [self._factor(b, e, indices, lengths) for b, e in factors]
        powers = {
            letter: self.build.power(self.build.length(letter), abs(exponent))
            for letter, exponent in sorted(lengths.items())
            if exponent
        }
        values += [power for letter, power in powers.items() if lengths[letter] > 0]
        product = self.build.join("multiply", sort_by_text(values))
        for letter, power in powers.items():
            if lengths[letter] < 0:
                product = self.build.apply("divide", product or Expression.constant(1), power)
        if coefficient.is_Rational:
            return self.build.scale(
                product, _finite_double(coefficient.p), _finite_double(coefficient.q)
            )
        return self.build.scale(product, _finite_double(coefficient))

    def _factor(
        self, base: Any, exponent: Any, indices: Indices, lengths: dict[str, Fraction]
    ) -> Expression:
        """Read a factor; sums whose lengths divide the product become means and use them up."""
        left = dict(lengths)
        averaged = []
        for symbol in reversed(bound_indices(base)) if isinstance(base, sympy.Sum) else ():
            letter = symbols.axis_of(symbol).replace("p", "o")
            if exponent.is_Rational and exponent > 0 and left.get(letter, 0) <= -exponent:
                left[letter] += Fraction(exponent.p, exponent.q)
                averaged.append(symbol.name)
        if averaged and self.build.has("mean") and not self._written_out(base, indices):
            value = self._sum(base, indices, averaged)
            lengths.update(left)
            return self.build.power(value, Fraction(exponent.p, exponent.q))
        return self._raised(base, exponent, indices)

    def _sum(self, term: Any, indices: Indices, averaged: Sequence[str] = ()) -> Expression:
        """Read a sum; its inner part may be a written-out form that sympy merged with the rest."""
        for limit in term.limits:
            letter = symbols.axis_of(limit[0]).replace("p", "o")
            if [str(end) for end in limit[1:]] != ["1", f"N_{letter}"]:
                raise _error(term, "sums over a part of an axis")
        bound = bound_indices(term)
        merged = self._merged(term, indices)
        if merged is not None and not set(averaged) - {symbol.name for symbol in merged[1]}:
            return self._over(*merged, averaged, term)
        if len({symbols.axis_of(symbol) for symbol in bound}) < len(bound):
            inner = sympy.Sum(term.function, *term.limits[:-1])
            value = self._sum(inner, self._inside(term, bound[-1:], indices), averaged)
            return self._over(value, bound[-1:], averaged, term)
        value = self.read(term.function, self._inside(term, bound, indices))
        return self._over(value, bound, averaged, term)

    def _merged(self, term: Any, indices: Indices) -> tuple[Expression, Sequence[Any]] | None:
        """Return the written-out form that sympy merged with a sum, and what the sum runs over."""
        bound = bound_indices(term)
        for count in range(len(bound) - 1, 0, -1):
            inner = sympy.Sum(term.function, *term.limits[:count])
            value = self._written_out(inner, self._inside(term, bound[count:], indices))
            if value is not None:
                return value, bound[count:]
        return None

    def _over(
        self, value: Expression, bound: Sequence[Any], averaged: Sequence[str], term: Any
    ) -> Expression:
        """Sum over the bound indices, mean over the ``averaged`` ones, in a legal order."""
        parts = {
            "mean": self._letters(term, [s for s in bound if s.name in averaged]),
            "total": self._letters(term, [s for s in bound if s.name not in averaged]),
        }
        inner = "mean" if bound[0].name in averaged else "total"
        ways = sorted(parts, key=lambda name: name != inner)
        for name in sorted(ways, key=lambda name: not (value.axes - parts[name]).legal):
            if parts[name]:
                value = self.build.reduce(self.build.operator(name), parts[name], value)
        return value

    def _pow(self, term: Any, indices: Indices) -> Expression:
        base, exponent = term.args
        return self._raised(base, exponent, indices)

    def _raised(self, base: Any, exponent: Any, indices: Indices) -> Expression:
        if not exponent.is_Rational or exponent.q & (exponent.q - 1):
            raise FormulaError(
                f"the power {_shown(base**exponent)} is no product of squares and square roots"
            )
        if exponent.is_negative:
            raise FormulaError(
                f"the term {_shown(base**exponent)} divides without protection; "
                "write the quotient as gp_prune.language.symbols.Div(a, b), "
                "which is 0 where b is near 0"
            )
        if exponent.q != 1:
            return self._rooted(base, Fraction(exponent.p, exponent.q), indices)
        return self.build.power(self.read(base, indices), Fraction(int(exponent)))

    def _rooted(self, base: Any, exponent: Fraction, indices: Indices) -> Expression:
        root = sympy.sqrt(base)
        found = self._written_out(root, indices) if root.is_Pow else None
        if found is not None:
            return self.build.power(found, 2 * exponent)
        if not symbols.nonnegative(base):
            raise FormulaError(
                f"the root of {_shown(base)} is not defined where that is negative; "
                "write it as gp_prune.language.symbols.Sqrt(x), the root of |x|"
            )
        if self.build.has("norm") and isinstance(base, sympy.Sum):
            inner = base.function
            plain = self._merged(base, indices) is None
            if plain and isinstance(inner, sympy.Pow) and inner.exp == 2:
                bound = bound_indices(base)
                letters = self._letters(base, bound)
                body = self.read(inner.base, self._inside(base, bound, indices))
                norm = self.build.reduce(self.build.operator("norm"), letters, body)
                return self.build.power(norm, 2 * exponent)
        return self.build.power(self.read(base, indices), exponent)

    _KINDS: Mapping[type, Callable[[_Reader, Any, Indices], Expression]] = {
        sympy.Add: _add,
        sympy.Mul: _mul,
        sympy.Pow: _pow,
        sympy.Sum: _sum,
    }
