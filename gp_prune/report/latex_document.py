"""Write metrics as a LaTeX document, or as a table of name, formula, size and objectives."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from gp_prune.formula.latex import DIGITS, Printed, print_latex
from gp_prune.formula.line_breaking import TEXT_WIDTH, displayed, paragraph
from gp_prune.formula.printer import escape
from gp_prune.language.axes import AXIS_MEANING, AXIS_WORDS
from gp_prune.language.primitive import Operand
from gp_prune.metric.metric import Metric
from gp_prune.report.text import printable


def standalone(metrics: Iterable[Metric], body: str = "", digits: int = DIGITS) -> str:
    """Return a document for ``pdflatex`` with a page per metric, or with the given body.

    It explains every symbol in the formulas.

    Args:
        metrics: the metrics of the document.
        body: LaTeX to show instead of the pages, such as a table; the explanations follow it.
        digits: significant digits of constants.
    """
    metrics = list(metrics)
    pages = "\n\\newpage\n".join(_section(metric, digits) for metric in metrics)
    return (
        "\\documentclass{article}\n"
        "\\usepackage{amsmath,amssymb,array,booktabs,longtable}\n"
        "\\begin{document}\n"
        "\\abovedisplayshortskip=\\abovedisplayskip\n"
        "\\raggedright\n"
        f"{body + _legend_of_table(metrics, digits) if body else pages}"
        "\\end{document}\n"
    )


def _section(metric: Metric, digits: int) -> str:
    lines = [f"\\section*{{{escape(metric.name)}}}"]
    if metric.description:
        first, rest = metric.description[0], metric.description[1:]
        lines.append(f"{escape(first.upper() + rest)}.")
    if metric.source:
        lines.append(f"Source: {escape(metric.source)}.")
    if metric.granularity == "layer":
        lines.append("The share of its channels that a layer keeps is proportional to the value:")
    else:
        lines.append(f"A higher score keeps the {metric.granularity}:")
    return "\n".join(lines) + "\n" + legend(metric, digits)


def legend(metric: Metric, digits: int = DIGITS) -> str:
    """Return the displayed formula of a metric and below it all that its signs mean."""
    printed = _print(metric, digits)
    index = ",".join(metric.expression.axes)
    head = rf"\mathrm{{score}}_{{{index}}} = " if index else r"\mathrm{value} = "
    lines = [displayed(head + printed.formula)]
    if printed.where:
        lines += [r"\noindent where", *map(displayed, printed.where)]
    return (
        "\n".join(
            [*lines, *_notes([printed]), *_signs([metric], [printed]), *_definitions([printed])]
        )
        + "\n"
    )


def _print(metric: Metric, digits: int) -> Printed:
    return print_latex(metric.expression, metric.primitives, digits=digits)


def _legend_of_table(metrics: Iterable[Metric], digits: int) -> str:
    printed = [_print(metric, digits) for metric in metrics]
    lines = ["\\par\\bigskip", *_notes(printed), *_signs(metrics, printed), *_definitions(printed)]
    return "\n".join(lines) + "\n"


def _notes(printed: Iterable[Printed]) -> list[str]:
    """Return the sentences that belong below formulas, as a paragraph."""
    notes = dict.fromkeys(note for each in printed for note in each.notes)
    for note in list(notes):  # what is said of each quotient is said of one, too
        if note.startswith("Each quotient"):
            notes.pop(note.replace("Each", "A", 1), None)
    return [rf"{{\raggedright\noindent {' '.join(notes)}\par\smallskip}}"] if notes else []


def _definitions(printed: Iterable[Printed]) -> list[str]:
    """Return the definitions of the protected and named forms, as displayed formulas."""
    lines = dict.fromkeys(line for each in printed for line in each.definitions)
    return [displayed(line) for line in lines]


def _signs(metrics: Iterable[Metric], printed: Iterable[Printed]) -> list[str]:
    """Return the meanings of the operands and their indices, as a sentence each."""
    lines = [f"${sign}$: {escape(meaning)};" for sign, meaning in signs(metrics, _texts(printed))]
    if not lines:
        return []
    return ["{\\raggedright\\noindent", *lines[:-1], lines[-1].removesuffix(";") + ".\\par}"]


def _texts(printed: Iterable[Printed]) -> list[str]:
    return [text for each in printed for text in (each.text, *each.definitions)]


def signs(metrics: Iterable[Metric], texts: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """Return the LaTeX and the meaning of all operands, indices and numbers of their values.

    Args:
        metrics: the metrics.
        texts: what is printed of them; by default their formulas.
    """
    metrics = list(metrics)
    text = " ".join([metric.latex() for metric in metrics] if texts is None else texts)
    nodes = [node for metric in metrics for node in metric.expression.nodes()]
    operands = {n.name: n.head for n in nodes if isinstance(n.head, Operand)}
    # The axes of subtrees too: pairwise distances have an index that no operand has.
    letters = {letter for node in nodes for letter in node.axes}
    return [
        *((operands[name].write_latex(), operands[name].meaning) for name in sorted(operands)),
        *(
            (letter, AXIS_MEANING[letter])
            for letter in AXIS_MEANING
            if letter in letters and (letter != "p" or _SECOND.search(text))
        ),
        *_primed(letters, text),
        *(
            (f"N_{{{letter}}}", f"number of {AXIS_WORDS[letter][1]}")
            for letter in AXIS_MEANING
            if letter in letters and f"N_{{{letter}}}" in text
        ),
    ]


_SECOND = re.compile(r"(?<![A-Za-z\\])p(?=[,}'])")
"""The second index over channels, where it is not written ``o'``."""


def _primed(letters: Collection[str], text: str) -> Iterator[tuple[str, str]]:
    """Yield what the indices with a prime run over."""
    for letter in AXIS_MEANING:
        if letter in letters and re.search(rf"(?<![A-Za-z\\]){letter}'", text):
            yield f"{letter}'", f"a further index over the values of {letter}"


_ROWS_OF_A_PAGE = 15
_LETTER = 5.25  # points of a letter of typewriter type
_GAP = 12.0  # points between two columns
_NUMBER = 32.0  # points of a column of numbers
_NARROWEST = 110.0
_RAGGED = r">{\raggedright\arraybackslash}"


def latex_table(metrics: Iterable[Metric], digits: int = DIGITS) -> str:
    """Return a booktabs table; with more rows than fit on a page it is a ``longtable``.

    Formulas that are wider than their column are broken over lines. Where metric files have
    objectives, there is a row for each of them below the formula, with a column for each task and
    one for mean and standard deviation over the tasks on which that metric was measured. Needs the
    packages amsmath, array, booktabs and longtable.
    """
    metrics = list(metrics)
    tasks = _tasks(metrics)
    if tasks:
        columns, heads, rows = _stacked(metrics, tasks, digits)
    else:
        columns, heads, rows = _side_by_side(metrics, digits)
    long = len(rows) > _ROWS_OF_A_PAGE
    environment = "longtable" if long else "tabular"
    lines = [
        rf"\begin{{{environment}}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        *(rf"{head} \\" for head in heads),
        r"\midrule",
        *([r"\endhead", r"\bottomrule", r"\endfoot"] if long else []),
        *rows,
        *([] if long else [r"\bottomrule"]),
        rf"\end{{{environment}}}",
    ]
    space = r"\tabcolsep=4pt" if tasks else ""
    return "\n".join([rf"{{\lineskiplimit=3pt\lineskip=6pt{space}", *lines]) + "}\n"


def _side_by_side(metrics: Sequence[Metric], digits: int) -> tuple[str, list[str], list[str]]:
    """Return columns, heads and rows of a table without objectives."""
    longest = max(len(metric.name) for metric in metrics)
    width = max(TEXT_WIDTH - longest * _LETTER - _NUMBER - 2 * _GAP, _NARROWEST)
    rows = [
        _row(_name(metric), _formula(metric, width, digits), str(metric.expression.size))
        + r" \\ \addlinespace"
        for metric in metrics
    ]
    return f"l{_RAGGED}p{{{width:.0f}pt}}r", [_row("metric", "formula", "size")], rows


def _formula(metric: Metric, width: float, digits: int) -> str:
    """Return the formula and its named terms for a cell of that width in points."""
    printed = _print(metric, digits)
    text = paragraph(printed.formula, width)
    if not printed.where:
        return text
    return rf"{text}, \newline where {', '.join(paragraph(term, width) for term in printed.where)}"


def _stacked(
    metrics: Sequence[Metric], tasks: Sequence[str], digits: int
) -> tuple[str, list[str], list[str]]:
    """Return columns, heads and rows of a table with the objectives below each formula."""
    count = len(tasks) + 2
    name_width = max(TEXT_WIDTH - len(tasks) * (_NUMBER + 4.0) - 2 * _NUMBER - 2 * _GAP, 78.0)
    across = rf"@{{}}{_RAGGED}p{{{TEXT_WIDTH:.0f}pt}}@{{}}"
    rows = []
    for metric in metrics:
        size = f"{_name(metric)}, size {metric.expression.size}"
        text = rf"{size} \newline {_formula(metric, TEXT_WIDTH, digits)}"
        part = [rf"\multicolumn{{{count}}}{{{across}}}{{{text}}}"]
        measured = _measured(metric)
        for objective in dict.fromkeys(name for row in measured.values() for name in row):
            numbers = [measured.get(task, {}).get(objective) for task in tasks]
            cells = ["" if x is None else f"{x:.3f}" for x in numbers]
            part.append(_row(_words(objective), *cells, _mean(numbers)))
        rows += [rf"{row} \\*" for row in part[:-1]] + [rf"{part[-1]} \\ \addlinespace"]
    columns = f"{_RAGGED}p{{{name_width:.0f}pt}}{'r' * (count - 1)}"
    if len(tasks) <= _NAMED_COLUMNS:
        heads = [rf"\shortstack[r]{{{_words(task, _BREAK)}}}" for task in tasks]
        return columns, [_row("objective", *heads, _MEAN_HEAD)], rows
    numbered = [f"{number}: {_words(task)}" for number, task in enumerate(tasks, 1)]
    key = rf"\multicolumn{{{count}}}{{{across}}}{{tasks {', '.join(numbered)}}}"
    heads = [str(number) for number in range(1, len(tasks) + 1)]
    return columns, [_row(key), _row("objective", *heads, _MEAN_HEAD)], rows


_NAMED_COLUMNS = 3
"""The most tasks whose names fit above the columns."""
_MEAN_HEAD = r"mean $\pm$ deviation"
_BREAK = r"\\"


def _words(name: str, gap: str = " ") -> str:
    """Return a name as words; with a gap for lines, as lines."""
    return escape(printable(name)).replace(r"\_", gap).replace("-", f"-{gap.strip()}")


def _tasks(metrics: Iterable[Metric]) -> list[str]:
    """Return the names of all tasks on which a metric was measured, in the order of the files."""
    return list(dict.fromkeys(task for metric in metrics for task in _measured(metric)))


def _measured(metric: Metric) -> dict[str, dict[str, float]]:
    """Return the numbers that a metric file has of each task."""
    tasks = {
        task: {name: float(x) for name, x in row.items() if _is_number(x)}
        for task, row in metric.objectives.items()
        if isinstance(row, Mapping)
    }
    return {task: row for task, row in tasks.items() if row}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mean(numbers: Iterable[float | None]) -> str:
    """Return mean and population standard deviation over the tasks with a number."""
    known = [x for x in numbers if x is not None]
    return rf"${fmean(known):.3f} \pm {pstdev(known):.3f}$" if len(known) > 1 else ""


def _name(metric: Metric) -> str:
    return rf"\texttt{{{escape(metric.name)}}}"


def _row(*cells: str) -> str:
    return " & ".join(cells)
