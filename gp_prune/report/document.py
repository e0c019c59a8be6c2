"""A LaTeX document that shows metrics and says what every sign in them means."""

from __future__ import annotations

from collections.abc import Iterable

from gp_prune.axes import AXIS_MEANING
from gp_prune.latex import definitions
from gp_prune.metric import Metric
from gp_prune.primitive import Operand

_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def standalone(metrics: Iterable[Metric]) -> str:
    """A document for ``pdflatex`` with a section per metric; needs amsmath and amssymb alone."""
    body = "\n".join(_section(metric) for metric in metrics)
    return (
        "\\documentclass{article}\n"
        "\\usepackage[T1]{fontenc}\n"
        "\\usepackage{amsmath,amssymb}\n"
        "\\begin{document}\n"
        f"{body}"
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
    lines += [
        f"A higher score keeps the {metric.granularity}:",
        f"\\[ \\mathrm{{score}}_{{{index}}} = {metric.latex()} \\]",
        *_signs(metric),
        *(f"\\[ {line} \\]" for line in definitions(metric.sympy())),
    ]
    return "\n".join(lines) + "\n"


def _signs(metric: Metric) -> list[str]:
    """What the operands and their indices stand for, as a sentence each."""
    nodes = list(metric.expression.nodes())
    operands = {n.name: n.head for n in nodes if isinstance(n.head, Operand)}
    # The axes of subtrees too: pairwise distances have an index that no operand has.
    letters = {letter for node in nodes for letter in node.axes}
    lines = [f"${operands[n].latex}$: {escaped(operands[n].meaning)};" for n in sorted(operands)]
    lines += [f"${a}$: {escaped(AXIS_MEANING[a])};" for a in AXIS_MEANING if a in letters]
    return ["\\noindent", *lines[:-1], lines[-1].removesuffix(";") + "."] if lines else []
