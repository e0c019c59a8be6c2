"""Provide ``gp-prune list``, ``show`` and ``latex``, which describe metrics and primitives."""

from __future__ import annotations

import click
from click.core import ParameterSource

from gp_prune.cli import completion
from gp_prune.cli.options import json_option, primitives_option

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
@click.option("--facts", is_flag=True, help="Print evolved_metrics/facts.json: all that show says.")
@json_option
@primitives_option
def list_metrics(
    operands: bool,
    operators: bool,
    markdown: bool,
    html: bool,
    facts: bool,
    as_json: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """List the bundled metrics, or the vocabulary of formulas.

    With --primitives alone, list what these files add to the vocabulary.
    """
    pages = {"markdown": markdown, "html": html, "facts": facts}
    page = next((name for name, given in pages.items() if given), "")
    if operands + operators + sum(pages.values()) > 1 or (page and as_json):
        raise click.UsageError(
            "give one of --operands, --operators, --markdown, --html, --facts and --json alone"
        )
    if page and primitive_files:
        raise click.UsageError(
            f"--{page} shows the bundled metrics, to which --primitives adds none; leave out "
            "--primitives"
        )
    # Formulas need sympy, for which nobody who completes a name or reads a list should wait.
    if html or markdown or operands or operators or primitive_files:
        from gp_prune.cli import describe_run

        if page:
            describe_run.print_page(html=html)
        else:
            describe_run.list_vocabulary(
                primitive_files, operands=operands, operators=operators, as_json=as_json
            )
        return
    from gp_prune.cli import metric_facts

    if facts:
        metric_facts.print_all_facts()
    else:
        metric_facts.list_metrics(as_json=as_json)


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
    from gp_prune.cli.metric_facts import show_metric

    show_metric(metric, primitive_files, explain=explain, as_json=as_json)


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
    out. Of a metric with shares both formulas are printed. A table needs the packages amsmath,
    array, booktabs and, when it is long, longtable.
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
    from gp_prune.cli.describe_run import print_metrics

    print_metrics(
        metrics, primitive_files, form,
        table=table, standalone=standalone, simplify=simplify, digits=digits,
    )  # fmt: skip


def _chosen_form(given: list[str]) -> str | None:
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise click.UsageError(f"{names} exclude each other; give one of them")
    return given[0] if given else None


_EXACT = frozenset({"bibtex", "sympy", "text", "infix"})
"""Forms that have all digits of constants, or no constants."""
