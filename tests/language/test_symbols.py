"""A user's file of own operators works wherever the built-in ones do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sympy
import torch
from click.testing import CliRunner

from gp_prune import Metric, primitive_set, symbols, synthetic_layer
from gp_prune.cli import main
from gp_prune.formula.from_sympy import from_sympy
from gp_prune.formula.latex import to_sympy
from gp_prune.language.axes import CHANNEL
from gp_prune.language.declarations import PrimitiveError
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.record import NEEDS
from gp_prune.search.grammar import Grammar
from gp_prune.search.random_trees import Generator

FILE = Path(__file__).resolve().parents[2] / "examples" / "own_primitive.py"
LAYER = synthetic_layer()
OPERATORS = {"erf", "hard_tanh", "median", "soft_rank", "softsign"}
OWN = "soft_rank[o](erf(hard_tanh(median[i,k](abs(W)))))"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "own.json"
    Metric.parse(f"abs({OWN})", name="own", primitives=primitive_set(FILE)).save(path)
    return path


def test_they_are_listed_and_shown(saved: Path) -> None:
    listed = run("list", "--primitives", FILE)
    assert all(name in listed for name in OPERATORS)
    assert OWN in run("show", saved, "--primitives", FILE)


def test_they_are_printed_with_their_own_notation(saved: Path) -> None:
    assert run("latex", saved, "--primitives", FILE).strip() == (
        r"\operatorname{softrank}_{o}\left(\operatorname{erf}\left(\operatorname{hardtanh}"
        r"\left(\operatorname{med}_{i,k} \left|W_{o,i,k}\right|\right)\right)\right)"
    )
    page = run("latex", "--standalone", saved, "--primitives", FILE)
    for definition in (
        r"\operatorname{erf}(x) = \frac{2}{\sqrt{\pi}} \int_{0}^{x} e^{-t^{2}} dt",
        r"\operatorname{hardtanh}(x) = \min(\max(x, -1), 1)",
        r"\operatorname{med}\colon \text{the lower median over the indices}",
        r"\operatorname{softrank}_{i}(x_{i}) = \sum_{i'}",
    ):
        assert definition in page


def test_they_are_simplified_by_what_they_state(saved: Path) -> None:
    assert run("latex", "--simplify", saved, "--primitives", FILE).startswith(r"\operatorname{soft")
    own = primitive_set(FILE)
    for text, expected in (
        (f"abs({OWN})", OWN),  # never negative
        ("abs(median[i,k](abs(W)))", "median[i,k](abs(W))"),  # keeps the sign
        ("neg(hard_tanh(neg(b)))", "hard_tanh(b)"),  # odd
        ("maximum(hard_tanh(b), -2)", "hard_tanh(b)"),  # bounded
        ("add(b, mul(0, erf(2)))", "b"),
    ):
        assert str(Metric.parse(text, primitives=own).simplified().expression) == expected


@pytest.mark.parametrize(
    "text", [OWN, "erf(neg(b))", "mul(2, mean[i,k](soft_rank[i,k](W)))", "median[i](sum[k](W))"]
)
def test_they_are_read_back(text: str) -> None:
    own = primitive_set(FILE)
    tree = parse(text, own)
    found = from_sympy(to_sympy(tree), tree.axes, own)
    assert found.name in {tree.name, "neg"}
    torch.testing.assert_close(evaluate(found, LAYER), evaluate(tree, LAYER))


def test_a_search_uses_them() -> None:
    grammar = Grammar(primitive_set(FILE), CHANNEL, NEEDS)
    generator = Generator(grammar, random.Random(0))
    trees = [grammar.to_expression(generator.individual(2, 5)) for _ in range(200)]
    assert {node.name for tree in trees for node in tree.nodes()} >= OPERATORS | {"D"}


@pytest.mark.slow
def test_evolve_with_them(tmp_path: Path, task_cache: Path) -> None:
    run(
        *("evolve", "--primitives", FILE, "--tasks", "lenet-digits", "--population", 4),
        *("--generations", 1, "--workers", 1, "--cache-dir", task_cache, "--quiet"),
        *("--out", tmp_path / "run"),
    )
    metrics = list((tmp_path / "run" / "metrics").iterdir())
    assert metrics
    assert run("show", *metrics[:1], "--primitives", FILE)


UNDEFINED = """
from gp_prune import Elementwise, RealFunction, operator

class Half(RealFunction):
    nargs = 1

@operator("half", shape=Elementwise(1), meaning="x / 2", symbol=Half)
def half(x):
    return x / 2
"""
NUMBERS = "    numpy = staticmethod(lambda x: x / 2)\n"
DEAD_CHANNEL = """
from gp_prune import Normaliser, operator, symbols

@operator("sign", shape=Normaliser(), meaning="x / |x|", symbol=lambda call:
          symbols.Div(call.argument(0), symbols.magnitude(call.argument(0))))
def sign(x, dims):
    return x / x.abs() if x.any() else x
"""


def test_a_function_without_numbers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(UNDEFINED)
    with pytest.raises(PrimitiveError, match=r"no numeric value .* Half; give the class"):
        primitive_set(file)


def test_notation_that_is_not_stated_comes_from_the_operator(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(UNDEFINED.replace("    nargs = 1\n", "    nargs = 1\n" + NUMBERS))
    Metric.parse("half(b)", name="m", primitives=primitive_set(file)).save(tmp_path / "m.json")
    page = run("latex", "--standalone", tmp_path / "m.json", "--primitives", file)
    assert r"= \operatorname{half}\left(b_{o}\right)" in page
    assert r"\operatorname{half}\colon \text{x / 2}" in page


def test_what_is_not_finite_on_a_dead_channel_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DEAD_CHANNEL)
    with pytest.raises(PrimitiveError, match=r"'sign' on a dead channel .* are not finite"):
        primitive_set(file)


def test_the_functions_of_built_in_operators_are_found_by_name() -> None:
    b = sympy.IndexedBase("b", real=True)[symbols.index("o")]
    assert str(Metric.from_sympy(symbols.Div(b, symbols.Exp(b))).expression) == "div(b, exp(b))"
    with pytest.raises(AttributeError, match="no attribute 'Quotient'"):
        _ = symbols.Quotient


INNER = r"""
import torch
from gp_prune import BoundArguments, Signature, operator

class Inner(BoundArguments):
    binds = ("s", "s")
    latex = r"\langle #1, #2 \rangle"
    numpy = staticmethod(lambda x, y: (x * y).sum(-1))

@operator("inner", shape=Signature("os", "ocs", to="oc"), meaning="inner product", symbol=Inner)
def inner(x, y):
    return torch.einsum("os,ocs->oc", x, y)
"""


def test_a_function_of_fixed_types_with_a_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(INNER)
    own = primitive_set(file)
    metric = Metric.parse("sum[c](inner(mA, mP))", primitives=own)
    assert metric.latex() == r"\sum_{c} \langle m_{o,\cdot}, m_{o,c,\cdot} \rangle"
    assert Metric.from_sympy(metric.sympy(), primitives=own).expression == metric.expression
    assert metric.simplified() is metric
