"""Elementwise operators; division, logarithm, square root and exponential are protected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import Elementwise
from gp_prune.language.primitive import operator
from gp_prune.language.symbols import EPSILON, EXP_LIMIT, Light, RealFunction

if TYPE_CHECKING:
    from torch import Tensor


UNARY = Elementwise(1)
BINARY = Elementwise(2)


# The digests of saved metrics cover the source line on which a lambda stands; it stays as it is.
# fmt: off
@operator(
    "add", shape=BINARY, meaning="a + b", infix="+", symbol=lambda a, b: a + b, laws=["commutative"]
    , phrase="{a} plus {b}", unit="same",
)
def add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


@operator("sub", shape=BINARY, meaning="a - b", infix="-", symbol=lambda a, b: a - b, phrase="{a} minus {b}", unit="same")  # noqa: E501
def sub(a: Tensor, b: Tensor) -> Tensor:
    return a - b


@operator(
    "mul", shape=BINARY, meaning="a b", infix="*", symbol=lambda a, b: a * b, laws=["commutative"]
    , phrase="{a} times {b}", unit="product",
)
def mul(a: Tensor, b: Tensor) -> Tensor:
    return a * b
# fmt: on


SMALL_DIVISOR = r"A quotient is 0 where the magnitude of its divisor is at most $10^{-12}$."


class Div(RealFunction):
    """Protected division: a / b where |b| > EPSILON, else 0."""

    nargs = 2
    latex = r"\frac{#1}{#2}^{\dagger}"
    definition = ""
    note = (
        r"A quotient marked $\dagger$ is 0 where the magnitude of its divisor is at most "
        r"$10^{-12}$."
    )
    light = (
        Light(r"\frac{#1}{#2}", argument=2, low=2 * EPSILON),
        Light(
            r"\frac{#1}{#2}",
            argument=2,
            low=0.0,
            note=SMALL_DIVISOR,
        ),
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


@operator(
    "div",
    shape=BINARY,
    meaning="a / b, 0 where |b| <= 1e-12",
    infix="/",
    symbol=Div,
    phrase="{a} divided by {b}",
    note="A quotient is 0 where the divisor is at most 1e-12 in magnitude.",
    unit="quotient",
)
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
    "maximum",
    shape=BINARY,
    meaning="the larger of a and b",
    symbol=Maximum,
    laws=["commutative"],
    phrase="the larger of {a} and {b}",
    unit="same",
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
    "minimum",
    shape=BINARY,
    meaning="the smaller of a and b",
    symbol=Minimum,
    laws=["commutative"],
    phrase="the smaller of {a} and {b}",
    unit="same",
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
    phrase="the negative of {a}",
    unit="same",
)
def neg(x: Tensor) -> Tensor:
    return -x


@operator(
    "abs",
    shape=UNARY,
    meaning="|x|",
    symbol=symbols.magnitude,
    laws=["idempotent", "even", "magnitude", "nonnegative"],
    phrase="the magnitude of {a}",
    unit="same",
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
    phrase="the square of {a}",
    unit="square",
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


@operator(
    "sqrt",
    shape=UNARY,
    meaning="sqrt(|x|)",
    symbol=Sqrt,
    laws=["even", "nonnegative"],
    phrase="the square root of {a}",
    note="A square root is that of the magnitude.",
    unit="root",
)
def sqrt(x: Tensor) -> Tensor:
    return x.abs().sqrt()


_SMALL_LOGARITHM = r"The logarithm of a number below $10^{-12}$ is that of $10^{-12}$."


class Log(RealFunction):
    """Protected logarithm: log(max(|x|, EPSILON))."""

    nargs = 1
    latex = r"\log_{\epsilon}"
    definition = r"\log_{\epsilon} x = \log \max(|x|, \epsilon) \quad (\epsilon = 10^{-12})"
    light = (
        Light(r"\log\left(#1\right)", low=EPSILON),
        Light(r"\log\left(#1\right)", low=0.0, note=_SMALL_LOGARITHM),
        Light(r"\log\left|#1\right|", note=_SMALL_LOGARITHM),
    )
    role = "logarithm"

    @staticmethod
    def written_out(x: Any) -> Any:
        return sympy.log(sympy.Max(sympy.Abs(x), EPSILON))


@operator(
    "log",
    shape=UNARY,
    meaning="log(max(|x|, 1e-12))",
    symbol=Log,
    laws=["even"],
    phrase="the logarithm of {a}",
    note="A logarithm is the natural one of the magnitude, or of 1e-12 where that is larger.",
    unit="plain",
)
def log(x: Tensor) -> Tensor:
    return x.abs().clamp(min=EPSILON).log()


class Exp(RealFunction):
    """Clamped exponential: exp(min(x, EXP_LIMIT))."""

    nargs = 1
    is_nonnegative = True
    latex = r"\exp_{50}"
    definition = r"\exp_{50} x = \exp(\min(x, 50))"
    light = (
        Light(r"\exp\left(#1\right)", high=EXP_LIMIT),
        Light(r"\exp\left(#1\right)", note="An exponent above 50 counts as 50."),
    )
    role = "exponential"

    @staticmethod
    def written_out(x: Any) -> Any:
        return sympy.exp(sympy.Min(x, EXP_LIMIT))


@operator(
    "exp",
    shape=UNARY,
    meaning="exp(min(x, 50))",
    symbol=Exp,
    laws=["nonnegative"],
    phrase="the exponential of {a}",
    note="An exponential is that of 50 where its argument is larger.",
    unit="plain",
)
def exp(x: Tensor) -> Tensor:
    return x.clamp(max=EXP_LIMIT).exp()


@operator("tanh", shape=UNARY, meaning="tanh(x)", symbol=lambda x: sympy.tanh(x, evaluate=False), phrase="the hyperbolic tangent of {a}", unit="plain")  # fmt: skip # noqa: E501
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
    phrase="1 where {a} is not 0 and 0 elsewhere",
    unit="number",
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


@operator(
    "at_least",
    shape=BINARY,
    meaning="1 where a is at least b, else 0",
    symbol=AtLeast,
    phrase="1 where {a} is at least {b} and 0 elsewhere",
    unit="number",
)
def at_least(a: Tensor, b: Tensor) -> Tensor:
    return (a >= b).to(a.dtype)
