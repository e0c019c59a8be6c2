"""Provide ``gp-prune list``, ``show`` and ``latex``, which describe metrics and primitives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from gp_prune.cli import completion
from gp_prune.cli.options import json_option, primitives_option
from gp_prune.formula.units import unit_of
from gp_prune.formula.words import in_words
from gp_prune.language.axes import Normaliser, Reduction, Signature
from gp_prune.language.infix import write_infix
from gp_prune.language.primitive import Operator, PrimitiveSet, builtin_primitives, primitive_set
from gp_prune.language.record import NEEDS, families_of
from gp_prune.metric.metric import INVARIANCES, Metric, bundled_metrics
from gp_prune.report.catalogue import operator_cost, passes
from gp_prune.report.text import echo, print_json

_LIST_EXAMPLES = """\b
Examples:
  gp-prune list
  gp-prune list --primitives my_primitives.py
  gp-prune list --operands --primitives my_primitives.py
  gp-prune list --html > gallery.html
"""


@click.command("list", epilog=_LIST_EXAMPLES)
@click.option("--operands", is_flag=True, help="List the tensors of a layer that formulas read.")
@click.option("--operators", is_flag=True, help="List the functions that formulas apply.")
@click.option("--markdown", is_flag=True, help="Print the page evolved_metrics/README.md.")
@click.option("--html", is_flag=True, help="Print the gallery, docs/gallery.html: a web page.")
@json_option
@primitives_option
def list_metrics(
    operands: bool,
    operators: bool,
    markdown: bool,
    html: bool,
    as_json: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """List the bundled metrics, or the vocabulary of formulas.

    With --primitives alone, list what these files add to the vocabulary.
    """
    pages = markdown + html
    if operands + operators + pages > 1 or (pages and as_json):
        raise click.UsageError(
            "give one of --operands, --operators, --markdown, --html and --json alone"
        )
    if pages and primitive_files:
        raise click.UsageError(
            f"--{'html' if html else 'markdown'} shows the bundled metrics, to which --primitives "
            "adds none; leave out --primitives"
        )
    if html:
        from gp_prune.report.gallery import gallery

        echo(gallery(_group_by_folder()), nl=False)
        return
    if markdown:
        from gp_prune.report.catalogue import markdown_page

        echo(markdown_page(_group_by_folder()), nl=False)
        return
    if operands or operators:
        primitives = primitive_set(*primitive_files)
        tables = (
            {"operands": _operand_table, "families": _family_table}
            if operands
            else {"operators": _operator_table}
        )
    elif primitive_files:
        known = set(builtin_primitives())
        primitives = PrimitiveSet(p for p in primitive_set(*primitive_files) if p not in known)
        tables = {"operands": _operand_table, "operators": _operator_table}
    else:
        _list_metrics(as_json=as_json)
        return
    _list_vocabulary({name: table(primitives) for name, table in tables.items()}, as_json=as_json)


def _group_by_folder() -> dict[str, list[Metric]]:
    folders: dict[str, list[Metric]] = {}
    for name, file in bundled_metrics().items():
        folder = str(file).replace("\\", "/").split("/")[-2]
        folders.setdefault(folder, []).append(Metric.load(name))
    return folders


def _list_metrics(*, as_json: bool) -> None:
    metrics = [Metric.load(name) for name in bundled_metrics()]
    if as_json:
        print_json({"metrics": [_as_object(metric) for metric in metrics]})
        return
    rows = [
        [m.name, m.granularity, str(m.expression), " ".join(sorted(m.needs)), m.source]
        for m in metrics
    ]
    from gp_prune.report.console import make_console, print_table  # rich is slow to import

    print_table(
        make_console(sys.stdout),
        ["metric", "prunes", "formula", "needs", "source"],
        rows,
        fold=["formula", "needs", "source"],
    )


def _as_object(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "description": metric.description,
        "granularity": metric.granularity,
        "text": str(metric.expression),
        "latex": metric.latex(),
        "needs": sorted(metric.needs),
        "passes": passes(metric.needs),
        "cost": operator_cost(metric.expression),
        "invariances": list(metric.invariances),
        "source": metric.source,
    }


_Rows = list[list[str]]
"""A table; the first row has the headings."""


def _list_vocabulary(tables: dict[str, _Rows], *, as_json: bool) -> None:
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


_SHOW_EXAMPLES = """\b
Examples:
  gp-prune show taylor_bn
  gp-prune show --explain 'sum[i,k](abs(W)) + 0.5 * std[n,s](A)'
  gp-prune show run/metrics/best.json --json
"""


@click.command(epilog=_SHOW_EXAMPLES)
@click.argument("metric", shell_complete=completion.metrics)
@click.option(
    "--explain",
    is_flag=True,
    help="Also test invariances and find like metrics on small networks (takes seconds).",
)
@json_option
@primitives_option
def show(metric: str, explain: bool, as_json: bool, primitive_files: tuple[str, ...]) -> None:
    """Show the formula, also in words, the conventions, needs and provenance of a metric.

    METRIC is the name of a bundled metric, a metric file or a formula.
    """
    loaded = Metric.load(metric, primitive_set(*primitive_files))
    _warn_of_changes(loaded)
    facts = _facts(loaded)
    if explain:
        facts |= _tested(loaded) | _comparison(loaded)
    if as_json:
        print_json(facts)
    else:
        from gp_prune.report.console import make_console, print_facts

        print_facts(make_console(sys.stdout), _lines(facts))


def _warn_of_changes(metric: Metric) -> None:
    """Say on stderr which primitives are not what they were when a metric was saved."""
    changed = metric.changed_primitives()
    if changed:
        what = "primitive" if len(changed) == 1 else "primitives"
        echo(
            f"gp-prune: {what} {', '.join(changed)} of metric {metric.name!r} changed since it was "
            "saved, so what is printed may not be what it computed; use the version or "
            "--primitives file it was made with",
            err=True,
        )


def _facts(metric: Metric) -> dict[str, Any]:
    simpler = metric.simplified()
    words = in_words(metric.expression)
    return {
        "name": metric.name,
        "description": metric.description,
        "words": words.sentence,
        "where": words.parts,
        "reads": words.operands,
        "notes": list(words.notes),
        "unit": unit_of(metric.expression),
        "text": str(metric.expression),
        "infix": write_infix(metric.expression),
        "simplified": "" if simpler is metric else str(simpler.expression),
        "latex": metric.latex(),
        "granularity": metric.granularity,
        "conventions": metric.conventions.to_json(),
        "needs": {need: NEEDS[need] for need in NEEDS if need in metric.needs},
        "passes": passes(metric.needs),
        "cost": operator_cost(metric.expression),
        "invariances": {name: INVARIANCES[name] for name in metric.invariances},
        "size": metric.expression.size,
        "height": metric.expression.height,
        "source": metric.source,
        "objectives": dict(metric.objectives),
        "provenance": dict(metric.provenance),
        "digest": metric.digest,
    }


def _tested(metric: Metric) -> dict[str, Any]:
    """Return which invariances hold on a small network."""
    from gp_prune.tasks.invariance import TESTS, find_invariances  # they need torch

    found = find_invariances(metric).items()
    holds = {True: "holds", False: "does not hold"}
    return {"tested": {name: f"{holds[kept]}: {TESTS[name]}" for name, kept in found}}


def _comparison(metric: Metric) -> dict[str, Any]:
    """Return what a metric ranks like, and the variance that its parts carry."""
    from gp_prune.tasks.likeness import likeness  # it needs torch

    found = likeness(metric)
    facts: dict[str, Any] = {"ranks_like": {name: round(tau, 3) for name, tau in found.nearest}}
    if found.kind:
        facts[f"{found.kind}_carry"] = {part: round(share, 3) for part, share in found.parts}
    return facts


_IF_EMPTY = {
    "needs": {"weights only": "no data"},
    "invariances": {"none": "nothing is declared"},
}
"""Text for empty objects that carry information."""


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of all facts that are not empty, one line per entry of an object."""
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        value = value or _IF_EMPTY.get(name, value)
        if isinstance(value, dict):
            for number, (key, entry) in enumerate(value.items()):
                text = entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
                lines.append(("" if number else name, f"{key}: {text}"))
        elif isinstance(value, list):
            lines += [("" if number else name, text) for number, text in enumerate(value)]
        elif value != "":
            lines.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return lines


_LATEX_EXAMPLES = """\b
Examples:
  gp-prune latex l1
  gp-prune latex --legend lamp > lamp.tex
  gp-prune latex --standalone l1 taylor_bn > metrics.tex
  gp-prune latex --table --simplify l1 run/metrics/*.json
  gp-prune latex --bibtex l1 wanda > metrics.bib
  gp-prune latex --infix 'sum[i,k](abs(W)) * std[n,s](A)'
"""


@click.command(epilog=_LATEX_EXAMPLES)
@click.argument(
    "metrics", metavar="METRIC...", nargs=-1, required=True, shell_complete=completion.metrics
)
@click.option("--plain", is_flag=True, help="Print nothing but the formula, in full.")
@click.option("--legend", is_flag=True, help="Print it with what its signs mean.")
@click.option("--standalone", is_flag=True, help="Print a document that explains the symbols.")
@click.option("--table", is_flag=True, help="Print a table of name, formula, size and objectives.")
@click.option("--bibtex", is_flag=True, help="Print the sources as BibTeX entries.")
@click.option("--mathml", is_flag=True, help="Print MathML, for a web page.")
@click.option("--sympy", is_flag=True, help="Print the formula of sympy.")
@click.option("--text", is_flag=True, help="Print the text form, add(b, gamma).")
@click.option("--infix", is_flag=True, help="Print the infix form, b + gamma.")
@click.option(
    "--simplify", is_flag=True, help="Print a simpler formula of the same values, if any."
)
@click.option(
    "--digits",
    type=click.IntRange(1, 17),
    default=3,
    show_default=True,
    help="Significant digits of constants in LaTeX and MathML; metric files have all.",
)
@primitives_option
def latex(
    metrics: tuple[str, ...],
    table: bool,
    simplify: bool,
    standalone: bool,
    digits: int,
    primitive_files: tuple[str, ...],
    **forms: bool,
) -> None:
    """Print formulas as LaTeX, or in another form.

    METRIC is the name of a bundled metric, a metric file or a formula. A formula is one line of
    mathematics without dollar signs. What must be said below it stands before it as a comment, and
    several formulas are each named by a comment, so that the output can be piped into a document. A
    wide term that occurs more than once is named and defined after the formula; --plain writes it
    out. A table needs the packages amsmath, array, booktabs and, when it is long, longtable.
    """
    form = _chosen_form([name for name, given in forms.items() if given])
    if form is not None and (standalone or table):
        raise click.UsageError(
            f"--{form} prints single formulas; leave out --standalone and --table"
        )
    source = click.get_current_context().get_parameter_source("digits")
    if form in _EXACT and source is not ParameterSource.DEFAULT:
        raise click.UsageError(f"--{form} rounds no constants; leave out --digits")
    if form == "bibtex" and simplify:
        raise click.UsageError("--bibtex prints no formulas; leave out --simplify")
    primitives = primitive_set(*primitive_files)
    chosen = [Metric.load(name, primitives) for name in metrics]
    for metric in chosen:
        _warn_of_changes(metric)
    if simplify:
        chosen = [metric.simplified() for metric in chosen]
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
            echo(_COMMENTS.get(form, "% {}").format(metric.name))
        echo(_FORMS[form](metric, digits))


def _chosen_form(given: list[str]) -> str | None:
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise click.UsageError(f"{names} exclude each other; give one of them")
    return given[0] if given else None


def _commented(metric: Metric, digits: int) -> str:
    """Return the formula with the sentences that belong below it as comments above it."""
    from gp_prune.formula.latex import print_latex

    printed = print_latex(metric.expression, metric.primitives, digits=digits)
    return "\n".join([*(f"% {note}" for note in printed.notes), printed.text])


def _explained(metric: Metric, digits: int) -> str:
    from gp_prune.report.latex_document import legend

    return legend(metric, digits).rstrip("\n")


_EXACT = frozenset({"bibtex", "sympy", "text", "infix"})
"""Forms that have all digits of constants, or no constants."""

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
