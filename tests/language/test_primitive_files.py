"""Built-in families and users' own files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gp_prune.formula.latex import latex
from gp_prune.language.declarations import PrimitiveError
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives, primitive_set, primitives_from_file
from gp_prune.language.record import synthetic_layer

GOOD = """
import sympy
from gp_prune.language.primitive import Elementwise, operand, operator

@operator("cube", shape=Elementwise(1), meaning="x^3", symbol=lambda x: x**3)
def cube(x):
    return x * x * x

@operand("half_gamma", axes="o", latex=r"\\hat\\gamma", meaning="half of the scale")
def half_gamma(layer):
    return layer.gamma / 2

again = cube
more = [cube, operator("quart", shape=Elementwise(1), meaning="x^4", symbol=lambda x: x**4)(
    lambda x: x * x * x * x)]
"""


def written(folder: Path, content: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_builtin_families_are_found() -> None:
    found = builtin_primitives()
    assert {"W", "G", "A", "muP", "UW"} <= set(found.operands)
    assert {"add", "div", "sum", "min_max", "pairwise_distance"} <= set(found.operators)
    assert builtin_primitives() is found
    assert primitive_set() is found


def test_a_file_of_ones_own_works_like_the_builtin_ones(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert [p.name for p in primitives_from_file(path)] == ["cube", "half_gamma", "quart"]
    primitives = primitive_set(path)
    tree = parse("cube(half_gamma)", primitives)
    layer = synthetic_layer()
    assert evaluate(tree, layer).tolist() == pytest.approx(((layer.gamma / 2) ** 3).tolist())
    assert latex(tree, primitives) == r"\hat\gamma_{o}^{3}"
    assert "cube" not in builtin_primitives().operators


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = written(tmp_path / "a", GOOD)
    second = written(
        tmp_path / "b",
        GOOD.replace("cube", "power").replace("half_", "part_").replace("quart", "fourth"),
    )
    assert {"cube", "power"} <= set(primitive_set(first, second).operators)


UNPROTECTED = """
from gp_prune import symbols
from gp_prune.language.primitive import Elementwise, operator

@operator("ratio", shape=Elementwise(2), meaning="a / b", symbol=symbols.Div)
def ratio(a, b):
    return a / b
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def (", r"mine\.py' does not run: SyntaxError: "),
        ("import no_such_module", r"mine\.py' does not run: ModuleNotFoundError: "),
        ("1 / 0", r"mine\.py' does not run: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", r"mine\.py' does not run: SystemExit: 3"),
        ("x = 1", r"mine\.py': it declares no primitive; use @operand or @operator"),
        (UNPROTECTED, r"mine\.py': operator 'ratio' on zeros .* not finite; protect it"),
        (GOOD.replace('"cube"', '"a b"'), r"mine\.py': primitive name 'a b' is not valid"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    modules = set(sys.modules)
    with pytest.raises(PrimitiveError, match=message):
        primitive_set(written(tmp_path, content))
    assert not any("mine" in name for name in set(sys.modules) - modules)


def test_a_file_that_redeclares_a_builtin(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace('"cube"', '"square"'))
    with pytest.raises(
        PrimitiveError, match=r"'square' is declared twice, built in .* and in .*mine.py"
    ):
        primitive_set(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrimitiveError, match=r"none\.py' does not exist; give a Python file"):
        primitive_set(tmp_path / "none.py")
    with pytest.raises(PrimitiveError, match="does not exist"):
        primitive_set(tmp_path)
    with pytest.raises(PrimitiveError, match=r"mine\.txt' is not a Python file \(\.py\)"):
        primitive_set(written(tmp_path, GOOD, "mine.txt"))
