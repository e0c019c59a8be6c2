"""Every built-in primitive keeps its promises, and a planted bad one is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor

from gp_prune.language import symbols
from gp_prune.language.axes import Axes, Elementwise, Normaliser, Reduction, Signature
from gp_prune.language.checks import SIZES, check
from gp_prune.language.declarations import PrimitiveError, Shape
from gp_prune.language.interpreter import evaluate
from gp_prune.language.numeric import evaluate as evaluate_formula
from gp_prune.language.primitive import Operand, Operator, builtin_primitives, operand, operator
from gp_prune.language.record import LayerRecord, synthetic_layer
from gp_prune.language.symbols import Call

UNARY = Elementwise(1)
BINARY = Elementwise(2)

BUILTIN = list(builtin_primitives())


@pytest.mark.parametrize("primitive", BUILTIN, ids=lambda primitive: primitive.name)
def test_builtin_primitive_keeps_its_promises(primitive: Operand | Operator) -> None:
    check(primitive)


def test_sizes_are_those_of_the_synthetic_layer() -> None:
    layer = synthetic_layer()
    for found in builtin_primitives().operands.values():
        assert tuple(found.read(layer).shape) == tuple(SIZES[letter] for letter in found.axes)


def make(
    compute: Callable[..., Any],
    symbol: Callable[..., Any],
    shape: Shape = UNARY,
    laws: tuple[str, ...] = (),
) -> Operator:
    return operator("bad", shape=shape, meaning="planted", symbol=symbol, laws=laws)(compute)


BAD_OPERATORS: dict[str, tuple[dict[str, Any], str]] = {
    "unprotected division": (
        {"compute": lambda a, b: a / b, "symbol": symbols.Div, "shape": BINARY},
        "'bad' on zeros of axes .* gives values that are not finite; protect it",
    ),
    "unprotected logarithm": (
        {"compute": lambda x: x.log(), "symbol": symbols.Log},
        "on random numbers of axes {o} gives values that are not finite; protect it",
    ),
    "unprotected exponential": (
        {"compute": lambda x: x.exp(), "symbol": sympy.exp},
        "on huge numbers of axes .* gives values that are not finite; protect it",
    ),
    "wrong shape": (
        {"compute": lambda x: x.sum(), "symbol": lambda x: x},
        r"gives shape \(\), not \(4,\) for axes {o}",
    ),
    "wrong shape of a reduction": (
        {
            "compute": lambda x, dims: x.sum(dims, keepdim=True),
            "symbol": lambda call: symbols.total(call.body, *call.bound),
            "shape": Reduction(),
        },
        r"gives shape \(4, 1, 1\), not \(4,\) for axes {o}",
    ),
    "no tensor": (
        {"compute": lambda x: 1.0, "symbol": lambda x: x},
        "gives a value of type float, not a tensor",
    ),
    "single precision": (
        {"compute": lambda x: x.float(), "symbol": lambda x: x},
        "gives torch.float32; return torch.float64",
    ),
    "fails": (
        {"compute": lambda x: x @ x[:, None, None, None], "symbol": lambda x: x},
        "'bad' on random numbers of axes {o}: .*Error: ",
    ),
    "sympy form disagrees": (
        {"compute": lambda x: x.abs(), "symbol": lambda x: x},
        "torch and sympy disagree; make them the same function",
    ),
    "sympy form disagrees at zero alone": (
        {"compute": lambda x: (x >= 0).double(), "symbol": lambda x: 1 - symbols.AtLeast(-x, 0)},
        "on zeros .*torch and sympy disagree",
    ),
    "sympy form disagrees for huge numbers alone": (
        {"compute": lambda x: x.clamp(max=1e6), "symbol": lambda x: x},
        "on huge numbers .*torch and sympy disagree",
    ),
    "sample variance instead of population variance": (
        {
            "compute": lambda x, dims: x.var(dims, correction=1),
            "symbol": lambda call: symbols.VarOver(call.body, *call.bound),
            "shape": Reduction(),
        },
        "torch and sympy disagree",
    ),
    "normaliser along the wrong axis": (
        {
            "compute": lambda x, dims: x - x.mean(-1, keepdim=True),
            "symbol": lambda call: call.argument(0) - symbols.mean(call.body, *call.bound),
            "shape": Normaliser(),
        },
        "torch and sympy disagree",
    ),
    "transposed pairs": (
        {
            "compute": lambda x: x.sum((1, 2))[:, None] - x.sum((1, 2))[None, :],
            "symbol": lambda call: _first_minus_second(call, reverse=True),
            "shape": Signature("oik", to="op"),
        },
        "torch and sympy disagree",
    ),
    "sympy form without a number": (
        {"compute": lambda x: x, "symbol": sympy.Function("wave")},
        "its sympy form fails: ValueError: no numeric value is defined for wave",
    ),
    "sympy form fails": (
        {"compute": lambda x: x, "symbol": lambda x: x.no_such_thing},
        "its sympy form fails: AttributeError",
    ),
    "not commutative": (
        {
            "compute": lambda a, b: a - b,
            "symbol": lambda a, b: a - b,
            "shape": BINARY,
            "laws": ("commutative",),
        },
        "'bad' does not keep its law 'commutative'",
    ),
    "not even": (
        {"compute": lambda x: x, "symbol": lambda x: x, "laws": ("even",)},
        "'bad' does not keep its law 'even'",
    ),
    "not nonnegative": (
        {"compute": lambda x: x, "symbol": lambda x: x, "laws": ("nonnegative",)},
        "'bad' does not keep its law 'nonnegative'",
    ),
    "not idempotent": (
        {"compute": lambda x: x * x, "symbol": lambda x: x**2, "laws": ("idempotent",)},
        "'bad' does not keep its law 'idempotent'",
    ),
    "not an involution": (
        {"compute": lambda x: x * x, "symbol": lambda x: x**2, "laws": ("involution",)},
        "'bad' does not keep its law 'involution'",
    ),
    "not the negation": (
        {"compute": lambda x: x * -2, "symbol": lambda x: -2 * x, "laws": ("negation",)},
        "'bad' does not keep its law 'negation'",
    ),
    "not the magnitude": (
        {"compute": lambda x: x * x, "symbol": lambda x: x**2, "laws": ("magnitude",)},
        "'bad' does not keep its law 'magnitude'",
    ),
}


def _first_minus_second(call: Call, reverse: bool) -> sympy.Expr:
    i, k = call.fresh("i"), call.fresh("k")
    here = symbols.total(call.argument(0, i=i, k=k), i, k)
    there = symbols.total(call.argument(0, o=call.free("p"), i=i, k=k), i, k)
    return there - here if reverse else here - there


@pytest.mark.parametrize("name", BAD_OPERATORS)
def test_bad_operator_is_refused(name: str) -> None:
    declaration, message = BAD_OPERATORS[name]
    with pytest.raises(PrimitiveError, match=message):
        make(**declaration)


GOOD_OPERATORS: dict[str, dict[str, Any]] = {
    "sine": {"compute": torch.sin, "symbol": sympy.sin},
    "sign": {"compute": torch.sign, "symbol": sympy.sign},
    "error function": {"compute": torch.erf, "symbol": sympy.erf},
    "floor": {"compute": torch.floor, "symbol": sympy.floor},
    "larger of three": {
        "compute": lambda a, b, c: a.maximum(b).maximum(c),
        "symbol": sympy.Max,
        "shape": Elementwise(3),
    },
    "sigmoid": {
        "compute": lambda x: x.clamp(min=-50).neg().exp().add(1).reciprocal(),
        "symbol": lambda x: 1 / (1 + symbols.Exp(-x)),
    },
    "three arguments": {
        "compute": lambda a, b, c: a * b + c,
        "symbol": lambda a, b, c: a * b + c,
        "shape": Elementwise(3),
    },
    "distance of two numbers": {
        "compute": lambda a, b: (a - b).abs(),
        "symbol": lambda a, b: symbols.magnitude(a - b),
        "shape": BINARY,
        "laws": ("commutative",),
    },
    "pairs": {
        "compute": lambda x: x.sum((1, 2))[:, None] - x.sum((1, 2))[None, :],
        "symbol": lambda call: _first_minus_second(call, reverse=False),
        "shape": Signature("oik", to="op"),
    },
}


@pytest.mark.parametrize("name", GOOD_OPERATORS)
def test_good_operator_is_taken(name: str) -> None:
    assert isinstance(make(**GOOD_OPERATORS[name]), Operator)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda layer: layer.weight, r"gives shape \(4, 3, 4\), not \(4,\) for axes {o}"),
        (lambda layer: layer.bias.log(), "'bad' is not finite on the synthetic layer"),
        (lambda layer: layer.bias.tolist(), "gives a value of type list, not a tensor"),
        (lambda layer: layer.bias.float(), "gives torch.float32; return torch.float64"),
        (lambda layer: layer.nothing, "'bad' fails on the synthetic layer: AttributeError: "),
    ],
)
def test_bad_operand_is_refused(read: Callable[[LayerRecord], Tensor], message: str) -> None:
    with pytest.raises(PrimitiveError, match=message):
        operand("bad", axes="o", meaning="planted")(read)


@pytest.mark.parametrize(
    ("trait", "value"),
    [
        ("is_nonnegative", True),
        ("keeps_sign", True),
        ("is_indicator", True),
        ("odd", True),
        ("idempotent", True),
        ("bounds", (-0.5, 0.5)),
    ],
)
def test_a_function_that_is_not_what_its_class_states(trait: str, value: object) -> None:
    stated = {"nargs": 1, "written_out": staticmethod(lambda x: x**2 - 1), trait: value}
    function = type("Parabola", (symbols.RealFunction,), stated)
    with pytest.raises(PrimitiveError, match=f"'bad': Parabola states '{trait}', which does not"):
        make(lambda x: x * x - 1, function)
    del stated[trait]
    assert make(lambda x: x * x - 1, type("Parabola", (symbols.RealFunction,), stated))


NORMALISERS = [p.name for p in BUILTIN if isinstance(getattr(p, "shape", None), Normaliser)]


def test_an_operand_that_is_said_not_to_be_negative() -> None:
    declare = operand("mine", axes="o", meaning="mine", nonnegative=True)
    assert declare(lambda layer: layer.bias.abs()).nonnegative
    with pytest.raises(PrimitiveError, match="operand 'mine' is below 0 on the synthetic layer"):
        declare(lambda layer: layer.bias)


@pytest.mark.parametrize("name", NORMALISERS)
@pytest.mark.parametrize("over", ["o", "i", "k", "ik", "oik"])
def test_normaliser_by_name_equals_torch(name: str, over: str) -> None:
    """Where the argument is long, the formula names the normaliser instead of writing it out."""
    from gp_prune.formula.latex import to_sympy
    from gp_prune.language.parser import parse

    part = "mul(tanh(W), maximum(add(W, exp(G)), sub(b, Xn)))"
    long = f"add({part}, mul({part}, log(G)))"
    tree = parse(f"{name}[{','.join(over)}]({long})", builtin_primitives())
    formula = to_sympy(tree)
    assert isinstance(formula, symbols.AlongAxes)
    layer = synthetic_layer()
    operands = {o.name: o.read(layer).numpy() for o in builtin_primitives().operands.values()}
    found = torch.from_numpy(evaluate_formula(formula, operands, SIZES, "oik").copy())
    torch.testing.assert_close(found, evaluate(tree, layer), rtol=1e-10, atol=1e-12)
    assert set(map(str, formula.free_symbols)) >= set(over)
    assert tree.axes is Axes("oik")


@pytest.mark.parametrize(
    ("compute", "laws", "shape"),
    [
        (lambda x: x.clamp(min=0), ("nonnegative",), Elementwise(1)),
        (lambda a, b: a.maximum(b), ("commutative",), Elementwise(2)),
        (lambda a, b: a.minimum(b), ("commutative",), Elementwise(2)),
    ],
)
def test_laws_hold_bit_for_bit(
    compute: Callable[..., Tensor], laws: tuple[str, ...], shape: Elementwise
) -> None:
    """Torch returns -0 or 0 by the order of the arguments, which a canonical form would change."""
    symbol = (lambda x: sympy.Max(x, 0)) if shape.arity == 1 else sympy.Max
    if shape.arity == 2 and float(compute(torch.tensor(1.0), torch.tensor(2.0))) == 1.0:
        symbol = sympy.Min
    declare = operator("law", shape=shape, meaning="planted", symbol=symbol, laws=laws)
    with pytest.raises(PrimitiveError, match=r"its law .* in every bit, .* add 0.0 to what it"):
        declare(compute)
    declare(lambda *values: compute(*values) + 0.0)
