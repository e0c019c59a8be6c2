"""What a declaration says is checked when it is made, and the message names the primitive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import sympy
from torch import Tensor

from gp_prune.formula.line_breaking import parse_latex
from gp_prune.language.axes import Elementwise, Normaliser, Reduction
from gp_prune.language.declarations import PrimitiveError, check_latex, check_operand_latex
from gp_prune.language.primitive import (
    Operand,
    builtin_primitives,
    operand,
    operator,
    primitive_set,
    primitives_from_file,
)
from gp_prune.language.symbols import AlongAxes, BoundArguments, OverAxes, RealFunction
from gp_prune.language.user_file import run_python_file

GOOD: dict[str, Any] = {
    "name": "cube", "shape": Elementwise(1), "meaning": "x^3", "symbol": lambda x: x**3,
}  # fmt: skip


def cube(x: Tensor) -> Tensor:
    return x**3


def declare(**changes: Any) -> None:
    given = {**GOOD, **changes}
    operator(given.pop("name"), **given)(cube)


class Over(OverAxes):
    """A reduction."""


class Along(AlongAxes):
    """A normaliser."""


class Entry(RealFunction):
    """A function of entries."""


class Bound(BoundArguments):
    """A function of fixed types."""

    binds = ("n",)


@pytest.mark.parametrize("name", ["symbol", "shape", "meaning"])
def test_what_is_missing_is_named_with_the_operator(name: str) -> None:
    given = {key: value for key, value in GOOD.items() if key not in (name, "name")}
    with pytest.raises(PrimitiveError, match=f"'cube'.*{name}="):
        operator("cube", **given)
    with pytest.raises(PrimitiveError, match=r"operand 'mine': axes= is missing"):
        operand("mine", meaning="x")
    with pytest.raises(PrimitiveError, match=r"primitive 'mine': .*meaning="):
        operand("mine", axes="o")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"symbol": "x**3"}, "symbol= is 'x.*3'"),
        ({"shape": "elementwise"}, "shape= is 'elementwise'"),
        ({"name": cube}, "primitive name <function"),
        ({"meaning": "two\nlines"}, "in one line"),
        ({"meaning": "\x1b[31m"}, "in one line"),
        ({"symbol": Over}, "the class Over, which is not for .* Elementwise; derive it from Real"),
        ({"symbol": Along}, "the class Along"),
        ({"symbol": Bound}, "the class Bound"),
        ({"symbol": Entry, "shape": Reduction()}, "derive it from OverAxes"),
        ({"symbol": Along, "shape": Reduction()}, "derive it from OverAxes"),
        ({"symbol": sympy.erf, "shape": Reduction()}, "derive it from OverAxes"),
        ({"symbol": Over, "shape": Normaliser()}, "derive it from AlongAxes"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PrimitiveError, match=words):
        declare(**changes)


BAD_LATEX = [
    (r"$foo$", "dollar|'\\$'"), (r"\frac{#1}{2", "without its end"), ("x}", "without '{' before"),
    (r"#2", "names an argument '#2', and it has 1"), (r"#", "names an argument '#'"),
    (r"#x", "names an argument"), (r"\left( #1", "without its end"), (r"#1 \right)", "without"),
    (r"x^", "nothing after"), (r"x_{}^", "nothing after"), ("x\\", "backslash"), ("50 % of", "'%'"),
    ("a\nb", "one line"), (r"{\left( x} \right)", "without"),
    (r"\begin{cases} 1", "without its end"),
    (r"\sqrt", "nothing after"), (3, "no text"), ("\u202e", "printable"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD_LATEX)
@pytest.mark.parametrize("where", ["latex", "class", "operand"])
def test_latex_that_cannot_stand_in_a_formula_is_refused(text: Any, words: str, where: str) -> None:
    with pytest.raises(PrimitiveError, match=r"'(cube|mine)': latex="):
        if where == "latex":
            declare(symbol=sympy.erf, latex=text)
        elif where == "class":
            declare(symbol=type("Named", (RealFunction,), {"latex": text}))
        else:
            operand("mine", axes="o", meaning="x", latex=text)(lambda layer: layer.gamma)
    with pytest.raises(PrimitiveError, match=words):
        check_latex(text, "it", 1)


def test_definitions_are_checked() -> None:
    with pytest.raises(PrimitiveError, match="operator 'cube': definition="):
        declare(definition="f(x) = {")
    with pytest.raises(PrimitiveError, match="operator 'cube': definition="):
        declare(symbol=type("Named", (RealFunction,), {"definition": "$x$"}))


@pytest.mark.parametrize(
    "text",
    [
        r"\operatorname{cube}", r"\left| #1 \right|^{3}", r"\{#1\}", r"\frac{#1}{2}", r"\left\lVert"
        r" #1 \right\rVert_2", r"\lVert #1 \rVert_2", r"\text{a \$ sign, 50\,\%}", r"x_{i}'",
        r"\begin{cases} 1 & #1 > 0 \\ 0 \end{cases}", r"\left. x \right|_{0}", "",
    ],
)  # fmt: skip
def test_latex_that_can_stand_in_a_formula_is_accepted_and_read(text: str) -> None:
    check_latex(text, "it", 1)
    parse_latex(text.replace("#1", "x"))


def test_all_that_is_built_in_would_be_accepted() -> None:
    for primitive in builtin_primitives():
        if isinstance(primitive, Operand):
            check_operand_latex(primitive.latex, primitive.name, len(primitive.axes))
        else:
            check_latex(primitive.latex, primitive.name, 9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"x_{#1}", "leaves out an index"),
        (r"x_{#3}", "names an argument '#3', and it has 2"),
        (r"{#,#1}", "no sign beside its indices"),
    ],
)
def test_a_template_of_an_operand_shows_every_index(text: str, words: str) -> None:
    with pytest.raises(PrimitiveError, match=words):
        check_operand_latex(text, "mine", 2)
    for good in (r"x_{#}", r"x^{#2}_{#1}", r"\frac{\partial L_{#2}}{\partial x_{#}}", "x"):
        check_operand_latex(good, "mine", 2)


def test_a_file_that_fails_leaves_no_module(tmp_path: Path) -> None:
    for number, (text, words) in enumerate(
        (
            ("raise ValueError('no\\nmore')", "does not run: ValueError: no; mend the file"),
            ("import sys; sys.exit(3)", "does not run: SystemExit: 3"),
            ("def f(:", "does not run: SyntaxError"),
        )
    ):
        path = tmp_path / f"file{number}.py"
        path.write_text(text)
        with pytest.raises(PrimitiveError, match=rf"primitive file .*{path.name}.* {words}"):
            primitives_from_file(path)
        with pytest.raises(ValueError, match=rf"model file .*{words}"):
            run_python_file(path, "gp_prune_user_model_x", "model file")
        assert not [name for name in sys.modules if name.startswith("gp_prune_user_") and
                    name.endswith((f"file{number}", "_x"))]  # fmt: skip
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(PrimitiveError, match="declares no primitive"):
        primitives_from_file(tmp_path / "empty.py")
    assert "gp_prune_user_primitives_empty" not in sys.modules


def test_two_files_with_one_name_are_both_named(tmp_path: Path) -> None:
    text = (
        "from gp_prune import operand\n"
        "mine = operand('mine', axes='o', meaning='x')(lambda layer: layer.gamma)\n"
    )
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(text)
    with pytest.raises(PrimitiveError, match=r"'mine' is declared twice, in '.*a.py' and in "):
        primitive_set(tmp_path / "a.py", tmp_path / "b.py")
