"""``gp-prune latex``: metrics as LaTeX."""

from __future__ import annotations

import click

from gp_prune.cli.options import primitives_option, read_metrics

_EXAMPLES = """\b
Examples:
  gp-prune latex l1
  gp-prune latex --standalone l1 taylor_bn > metrics.tex
  gp-prune latex --table --simplify l1 run/metrics/*.json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("metrics", metavar="METRIC...", nargs=-1, required=True)
@click.option("--table", is_flag=True, help="A table with name, formula, size and objectives.")
@click.option("--simplify", is_flag=True, help="A simpler formula of the same values, if any.")
@click.option("--standalone", is_flag=True, help="A whole document that says what the signs mean.")
@primitives_option
def latex(
    metrics: tuple[str, ...],
    table: bool,
    simplify: bool,
    standalone: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """Print formulas as LaTeX.

    METRIC is the name of a bundled metric or a metric file. One metric gives its formula alone,
    several are told apart by comment lines. A table needs the packages amsmath, array, booktabs
    and, from 16 metrics on, longtable; long formulas are broken over lines.
    """
    found = read_metrics(metrics, primitive_files)
    if simplify:
        found = [metric.simplified() for metric in found]
    if standalone or table:
        from gp_prune.report.document import standalone as document
        from gp_prune.report.latex_table import latex_table

        body = latex_table(found) if table else ""
        click.echo(document(found, body) if standalone else body, nl=False)
        return
    for metric in found:
        if len(found) > 1:
            click.echo(f"% {metric.name}")
        click.echo(metric.latex())
