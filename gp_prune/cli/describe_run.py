"""Print the vocabulary, the pages of the bundled metrics, and metrics as LaTeX or otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from gp_prune.cli.metric_facts import warn_of_changes
from gp_prune.language.axes import Normaliser, Reduction, Signature
from gp_prune.language.infix import write_infix
from gp_prune.language.primitive import Operator, PrimitiveSet, builtin_primitives, primitive_set
from gp_prune.language.record import families_of
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.report.text import echo, print_json


def _group_by_folder() -> dict[str, list[Metric]]:
    folders: dict[str, list[Metric]] = {}
    for name, file in bundled_metrics().items():
        folder = str(file).replace("\\", "/").split("/")[-2]
        folders.setdefault(folder, []).append(Metric.load(name))
    return folders


def print_page(*, html: bool) -> None:
    """Print the bundled metrics as the gallery, or as the page evolved_metrics/README.md."""
    if html:
        from gp_prune.report.gallery import gallery

        echo(gallery(_group_by_folder()), nl=False)
        return
    from gp_prune.report.catalogue import markdown_page

    echo(markdown_page(_group_by_folder()), nl=False)


def list_vocabulary(
    primitive_files: Sequence[str], *, operands: bool, operators: bool, as_json: bool
) -> None:
    """List operands or operators; where neither is asked for, what the files add."""
    primitives = primitive_set(*primitive_files)
    if operands:
        tables = {"operands": _operand_table, "families": _family_table}
    elif operators:
        tables = {"operators": _operator_table}
    else:
        known = set(builtin_primitives())
        primitives = PrimitiveSet(p for p in primitives if p not in known)
        tables = {"operands": _operand_table, "operators": _operator_table}
    _print_tables({name: table(primitives) for name, table in tables.items()}, as_json=as_json)


_Rows = list[list[str]]
"""A table; the first row has the headings."""


def _print_tables(tables: dict[str, _Rows], *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                name: [dict(zip(headings, row, strict=True)) for row in rows]
                for name, (headings, *rows) in tables.items()
            }
        )
        return
    for headings, *rows in tables.values():
        if rows:
            from gp_prune.report.console import make_console, print_table

            print_table(make_console(sys.stdout), headings, rows, fold=headings[-4:])


def _operand_table(primitives: PrimitiveSet) -> _Rows:
    return [
        ["operand", "axes", "latex", "needs", "meaning"],
        *(
            [x.name, str(x.axes), x.write_latex(), " ".join(sorted(x.needs)), x.meaning]
            for x in primitives.operands.values()
        ),
    ]


def _family_table(primitives: PrimitiveSet) -> _Rows:
    """Return the families of operands that a search can leave out."""
    families: dict[str, list[str]] = {}
    for operand in primitives.operands.values():
        for family in families_of(operand.needs) if operand.searchable else ():
            families.setdefault(family, []).append(operand.name)
    return [
        ["family", "operands"],
        *([name, " ".join(members)] for name, members in sorted(families.items())),
    ]


def _operator_table(primitives: PrimitiveSet) -> _Rows:
    return [
        ["operator", "axes", "laws", "cost", "meaning"],
        *(
            [*_signature(x), " ".join(sorted(x.laws)), f"{x.cost:g}", x.meaning]
            for x in primitives.operators.values()
        ),
    ]


def _signature(operator: Operator) -> tuple[str, str]:
    """Return how the operator is written, and what it does to axes."""
    shape, name = operator.shape, operator.name
    if isinstance(shape, Reduction):
        return f"{name}[axes](x)", "removed"
    if isinstance(shape, Normaliser):
        return f"{name}[axes](x)", "kept"
    letters = "x" if shape.arity == 1 else ", ".join("abcdef"[: shape.arity])
    if isinstance(shape, Signature):
        return f"{name}({letters})", f"{', '.join(map(str, shape.arguments))} -> {shape.to}"
    return f"{name}({letters})", "kept" if shape.arity == 1 else "united"


def print_metrics(
    names: Sequence[str],
    primitive_files: Sequence[str],
    form: str | None,
    *,
    table: bool,
    standalone: bool,
    simplify: bool,
    digits: int,
) -> None:
    """Print metrics as a document, as a table or each in a form; None is LaTeX with comments."""
    primitives = primitive_set(*primitive_files)
    chosen = [Metric.load(name, primitives) for name in names]
    for metric in chosen:
        warn_of_changes(metric)
    if simplify:
        chosen = [metric.simplified() for metric in chosen]
    owners = {part.name: metric.name for metric in chosen for part in metric.parts[1:]}
    chosen = _with_shares(chosen)
    if standalone or table:
        from gp_prune.report import latex_document

        body = latex_document.latex_table(chosen, digits) if table else ""
        text = latex_document.standalone(chosen, body, digits) if standalone else body
        echo(text, nl=False)
        return
    if form == "bibtex":
        from gp_prune.report.bibtex import bibliography

        echo(bibliography(chosen), nl=False)
        return
    for metric in chosen:
        if len(chosen) > 1:
            owner = owners.get(metric.name)
            said = "" if owner is None else f", which gives the shares of the layers for {owner}"
            echo(_COMMENTS.get(form, "% {}").format(metric.name + said))
        echo(_FORMS[form](metric, digits))


def _with_shares(metrics: Sequence[Metric]) -> list[Metric]:
    """Return each metric followed by the one that gives its shares, unless that came before."""
    found: list[Metric] = []
    for metric in metrics:
        found.append(metric)
        shares = metric.shares
        if shares is not None and all(shares.digest != other.digest for other in found):
            found.append(shares)
    return found


def _commented(metric: Metric, digits: int) -> str:
    """Return the formula with the sentences that belong below it as comments above it."""
    from gp_prune.formula.latex import print_latex

    printed = print_latex(metric.expression, metric.primitives, digits=digits)
    return "\n".join([*(f"% {note}" for note in printed.notes), printed.text])


def _explained(metric: Metric, digits: int) -> str:
    from gp_prune.report.latex_document import legend

    return legend(metric, digits).rstrip("\n")


_FORMS: dict[str | None, Callable[[Metric, int], str]] = {
    None: _commented,
    "plain": lambda metric, digits: metric.latex(digits, name_terms=False),
    "legend": _explained,
    "mathml": lambda metric, digits: metric.mathml(digits),
    "sympy": lambda metric, digits: str(metric.sympy()),
    "text": lambda metric, digits: str(metric.expression),
    "infix": lambda metric, digits: write_infix(metric.expression),
}
_COMMENTS: dict[str | None, str] = {
    "mathml": "<!-- {} -->", "sympy": "# {}", "text": "# {}", "infix": "# {}",
}  # fmt: skip
"""The line that names one of several formulas, where it is not a comment of LaTeX."""
