"""Elementwise operators; division, logarithm, square root and exponential are protected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import Elementwise
from gp_prune.language.primitive import operator
from gp_prune.language.symbols import EPSILON, EXP_LIMIT, RealFunction

if TYPE_CHECKING:
    from torch import Tensor


UNARY = Elementwise(1)
BINARY = Elementwise(2)


@operator(
    "add", shape=BINARY, meaning="a + b", infix="+", symbol=lambda a, b: a + b, laws=["commutative"]
)
def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


@operator("sub", shape=BINARY, meaning="a - b", infix="-", symbol=lambda a, b: a - b)
def sub(a: Tensor, b: Tensor) -> Tensor:
    return a - b


@operator(
    "mul", shape=BINARY, meaning="a b", infix="*", symbol=lambda a, b: a * b, laws=["commutative"]
)
def mul(a: Tensor, b: Tensor) -> Tensor:
    return a * b


class Div(RealFunction):
    """Protected division: a / b where |b| > EPSILON, else 0."""

    nargs = 2
    latex = r"\frac{#1}{#2}_{\!\epsilon}"
    definition = (
        r"\frac{a}{b}_{\!\epsilon} = \frac{a}{b} \text{ where } |b| > \epsilon, "
        r"\text{ else } 0 \quad (\epsilon = 10^{-12})"
    )
    keeps_sign = True
    role = "divide"

    @classmethod
    def eval(cls, a: Any, b: Any) -> Any:
        """Divide at once where the divisor is a number."""
        if b.is_Number:
            return a / b if abs(b) > sympy.Float(EPSILON) else sympy.Integer(0)
        return None

    @staticmethod
    def written_out(a: Any, b: Any) -> Any:
        return sympy.Piecewise((a / b, sympy.Abs(b) > EPSILON), (0, True))


@operator("div", shape=BINARY, meaning="a / b, 0 where |b| <= 1e-12", infix="/", symbol=Div)
def div(a: Tensor, b: Tensor) -> Tensor:
    allowed = b.abs() > EPSILON
    return (a / b.where(allowed, 1.0)).where(allowed, 0.0)


class Maximum(RealFunction):
    """The larger of two values (sympy's own Max spends seconds on comparing large arguments)."""

    nargs = 2
    latex = r"\max"
    definition = ""
    keeps_sign = True
    role = "larger"

    @staticmethod
    def written_out(a: Any, b: Any) -> Any:
        return sympy.Max(a, b)


@operator(
    "maximum", shape=BINARY, meaning="the larger of a and b", symbol=Maximum, laws=["commutative"]
)
def maximum(a: Tensor, b: Tensor) -> Tensor:
    return a.maximum(b) + 0.0  # of 0 and -0 torch takes the first or the second; now it is 0


class Minimum(RealFunction):
    """The smaller of two values."""

    nargs = 2
    latex = r"\min"
    definition = ""
    role = "smaller"

    @staticmethod
    def written_out(a: Any, b: Any) -> Any:
        return sympy.Min(a, b)


@operator(
    "minimum", shape=BINARY, meaning="the smaller of a and b", symbol=Minimum, laws=["commutative"]
)
def minimum(a: Tensor, b: Tensor) -> Tensor:
    return a.minimum(b) + 0.0


@operator(
    "neg",
    shape=UNARY,
    meaning="-x",
    infix="-x",
    symbol=lambda x: -x,
    laws=["involution", "negation"],
)
def neg(x: Tensor) -> Tensor:
    return -x


@operator(
    "abs",
    shape=UNARY,
    meaning="|x|",
    symbol=symbols.magnitude,
    laws=["idempotent", "even", "magnitude", "nonnegative"],
)
def magnitude(x: Tensor) -> Tensor:
    return x.abs()


@operator(
    "square",
    shape=UNARY,
    meaning="x^2",
    infix="x^2",
    symbol=symbols.square,
    laws=["even", "nonnegative"],
)
def square(x: Tensor) -> Tensor:
    return x * x


class Sqrt(RealFunction):
    """Protected square root: sqrt(|x|)."""

    nargs = 1
    is_nonnegative = True
    definition = ""
    role = "root"

    @classmethod
    def eval(cls, x: Any) -> Any:
        """Return the plain square root where the argument cannot be negative."""
        return sympy.sqrt(x) if symbols.nonnegative(x) else None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        """Print the root, with bars where the argument may be negative."""
        text = printer.doprint(self.args[0])
        if not symbols.nonnegative(self.args[0], getattr(printer, "nonnegative", ())):
            text = rf"\left|{text}\right|"
        text = rf"\sqrt{{{text}}}"
        return rf"\left({text}\right)^{{{exp}}}" if exp else text

    @staticmethod
    def written_out(x: Any) -> Any:
        return sympy.sqrt(sympy.Abs(x))


@operator("sqrt", shape=UNARY, meaning="sqrt(|x|)", symbol=Sqrt, laws=["even", "nonnegative"])
def sqrt(x: Tensor) -> Tensor:
    return x.abs().sqrt()


class Log(RealFunction):
    """Protected logarithm: log(max(|x|, EPSILON))."""

    nargs = 1
    latex = r"\log_{\epsilon}"
    definition = r"\log_{\epsilon} x = \log \max(|x|, \epsilon) \quad (\epsilon = 10^{-12})"
    role = "logarithm"

    @staticmethod
    def written_out(x: Any) -> Any:
        return sympy.log(sympy.Max(sympy.Abs(x), EPSILON))


@operator("log", shape=UNARY, meaning="log(max(|x|, 1e-12))", symbol=Log, laws=["even"])
def log(x: Tensor) -> Tensor:
    return x.abs().clamp(min=EPSILON).log()


class Exp(RealFunction):
    """Clamped exponential: exp(min(x, EXP_LIMIT))."""

    nargs = 1
    is_nonnegative = True
    latex = r"\exp_{50}"
    definition = r"\exp_{50} x = \exp(\min(x, 50))"
    role = "exponential"

    @staticmethod
    def written_out(x: Any) -> Any:
        return sympy.exp(sympy.Min(x, EXP_LIMIT))


@operator("exp", shape=UNARY, meaning="exp(min(x, 50))", symbol=Exp, laws=["nonnegative"])
def exp(x: Tensor) -> Tensor:
    return x.clamp(max=EXP_LIMIT).exp()


@operator("tanh", shape=UNARY, meaning="tanh(x)", symbol=lambda x: sympy.tanh(x, evaluate=False))
def tanh(x: Tensor) -> Tensor:
    return x.tanh()


class Indicator(RealFunction):
    """The Iverson bracket of a comparison: 1 where it holds, else 0."""

    is_nonnegative = True
    is_indicator = True
    definition = r"[\,\cdot\,] = 1 \text{ where the statement holds, else } 0"

    def _eval_power(self, exponent: Any) -> Any:
        """Return this: a positive power of 0 or 1 is the same number."""
        return self if exponent.is_positive else None


class NotEqual(Indicator):
    """[a != b]."""

    nargs = 2
    latex = r"\left[#1 \neq #2\right]"
    role = "nonzero"
    role_arguments = ("x", 0)

    @staticmethod
    def written_out(a: Any, b: Any) -> Any:
        return sympy.Piecewise((1, sympy.Ne(a, b)), (0, True))


@operator(
    "nonzero",
    shape=UNARY,
    meaning="1 where x is not 0, else 0",
    symbol=lambda x: NotEqual(x, 0),
    laws=["even", "nonnegative"],
)
def nonzero(x: Tensor) -> Tensor:
    return (x != 0).to(x.dtype)


class AtLeast(Indicator):
    """[a >= b]."""

    nargs = 2
    latex = r"\left[#1 \geq #2\right]"

    @staticmethod
    def written_out(a: Any, b: Any) -> Any:
        return sympy.Piecewise((1, a >= b), (0, True))


@operator("at_least", shape=BINARY, meaning="1 where a is at least b, else 0", symbol=AtLeast)
def at_least(a: Tensor, b: Tensor) -> Tensor:
    return (a >= b).to(a.dtype)
