"""``gp-prune latex``: metrics as LaTeX."""

from __future__ import annotations

import click

from gp_prune.cli.options import primitives_option, read_metrics

_EXAMPLES = """\b
Examples:
  gp-prune latex l1
  gp-prune latex --standalone l1 taylor_bn > metrics.tex
"""


@click.command(epilog=_EXAMPLES)
@click.argument("metrics", metavar="METRIC...", nargs=-1, required=True)
@click.option("--standalone", is_flag=True, help="A whole document that says what the signs mean.")
@primitives_option
def latex(metrics: tuple[str, ...], standalone: bool, primitive_files: tuple[str, ...]) -> None:
    """Print formulas as LaTeX.

    METRIC is the name of a bundled metric or a metric file. One metric gives its formula alone,
    several are told apart by comment lines.
    """
    found = read_metrics(metrics, primitive_files)
    if standalone:
        from gp_prune.report.document import standalone as document

        click.echo(document(found), nl=False)
        return
    for metric in found:
        if len(found) > 1:
            click.echo(f"% {metric.name}")
        click.echo(metric.latex())
