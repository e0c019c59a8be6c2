"""A LaTeX document that shows metrics and says what every sign in them means."""

from __future__ import annotations

from collections.abc import Iterable

from gp_prune.axes import AXIS_MEANING
from gp_prune.latex import definitions
from gp_prune.latex_lines import QUOTIENT, displayed, has_inline_quotient
from gp_prune.metric import Metric
from gp_prune.primitive import Operand

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def standalone(metrics: Iterable[Metric], body: str = "") -> str:
    """A document for ``pdflatex`` with a page per metric, or with the given body.

    The page says what every sign in the formula means.

    Args:
        metrics: what the document is of.
        body: LaTeX to show instead of the pages, such as a table; the signs follow it.
    """
    metrics = list(metrics)
    pages = "\n\\newpage\n".join(map(_section, metrics))
    return (
        "\\documentclass{article}\n"
        "\\usepackage{amsmath,amssymb,array,booktabs,longtable}\n"
        "\\begin{document}\n"
        "\\raggedright\n"
        f"{body + _legend(metrics) if body else pages}"
        "\\end{document}\n"
    )


def escaped(text: str) -> str:
    """Plain text for LaTeX."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _section(metric: Metric) -> str:
    index = ",".join(metric.expression.axes)
    lines = [f"\\section*{{{escaped(metric.name)}}}"]
    if metric.description:
        first, rest = metric.description[0], metric.description[1:]
        lines.append(f"{escaped(first.upper() + rest)}.")
    if metric.source:
        lines.append(f"Source: {escaped(metric.source)}.")
    score = f"\\mathrm{{score}}_{{{index}}} = {metric.latex()}"
    lines += [
        f"A higher score keeps the {metric.granularity}:",
        displayed(score),
        *_signs([metric]),
        *_definitions([metric]),
    ]
    return "\n".join(lines) + "\n"


def _legend(metrics: Iterable[Metric]) -> str:
    return "\n".join(["\\par\\bigskip", *_signs(metrics), *_definitions(metrics)]) + "\n"


def _definitions(metrics: Iterable[Metric]) -> list[str]:
    """What the protected and named forms of all formulas mean, as displayed formulas."""
    lines = {line: None for metric in metrics for line in definitions(metric.sympy())}
    found = [displayed(line) for line in lines]
    if any(has_inline_quotient(displayed(metric.latex())) for metric in metrics):
        found.append(displayed(QUOTIENT))
    return found


def _signs(metrics: Iterable[Metric]) -> list[str]:
    """What the operands and their indices stand for, as a sentence each."""
    nodes = [node for metric in metrics for node in metric.expression.nodes()]
    operands = {n.name: n.head for n in nodes if isinstance(n.head, Operand)}
    # The axes of subtrees too: pairwise distances have an index that no operand has.
    letters = {letter for node in nodes for letter in node.axes}
    lines = [f"${operands[n].latex}$: {escaped(operands[n].meaning)};" for n in sorted(operands)]
    lines += [f"${a}$: {escaped(AXIS_MEANING[a])};" for a in AXIS_MEANING if a in letters]
    if not lines:
        return []
    return ["{\\raggedright\\noindent", *lines[:-1], lines[-1].removesuffix(";") + ".\\par}"]
