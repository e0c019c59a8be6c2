"""Formulas as cells of a page."""

from __future__ import annotations

from functools import cache

from gp_prune.errors import UserError
from gp_prune.formula.latex import print_latex
from gp_prune.formula.mathml import latex_to_mathml
from gp_prune.language.expression import Expression
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.report.page.parts import Cell


class FormulaPrinter:
    """Makes cells of formulas.

    Args:
        primitives: the vocabulary. A formula that uses another one is shown as text.
    """

    def __init__(self, primitives: PrimitiveSet) -> None:
        self._primitives = primitives
        self._math = cache(self._print)

    def cell(self, formula: Expression | str, *, target: str = "") -> Cell:
        """Return a formula with its MathML, or as its text where it cannot be read."""
        text = str(formula)
        return Cell(text, math=self._math(text), target=target)

    def _print(self, text: str) -> str:
        try:
            printed = print_latex(parse(text, self._primitives), self._primitives)
            return "".join(map(latex_to_mathml, (printed.formula, *printed.where)))
        except UserError:
            return ""
