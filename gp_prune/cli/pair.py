"""Provide ``gp-prune pair``: save a metric with what divides budgets among the layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from gp_prune.cli import completion
from gp_prune.cli.options import primitives_option
from gp_prune.errors import UserError
from gp_prune.report.text import echo

_EPILOG = """\b
Examples:
  gp-prune pair two_factor.json gecco_2 --out pair.json
  gp-prune pair 'var[c](muP) * sum[j](V^2)' gecco_2 --name between --out between.json
  gp-prune pair flap '1 / channels' --out narrow.json
  gp-prune apply between.json my_model.py:build --data images/ --keep-macs 0.5
"""


@click.command(epilog=_EPILOG)
@click.argument("metric", shell_complete=completion.metrics)
@click.argument("shares", shell_complete=completion.metrics)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--name", help="Name of the pair.  [default: METRIC-by-SHARES]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@primitives_option
def pair(
    metric: str,
    shares: str,
    out: Path,
    name: str | None,
    force: bool,
    primitive_files: tuple[str, ...],
) -> None:
    """Save METRIC with SHARES, which says how many channels each layer keeps.

    Where a network is cut matters as much as what is cut. SHARES divides a budget among the
    layers, a metric of channels by its global ranking, a formula of layers by its values, and
    METRIC chooses the channels of each layer. Both are names of bundled metrics, metric files or
    formulas. Every command takes the file.
    """
    if out.suffix != ".json":
        raise UserError(f"--out is {str(out)!r}; give a file that ends with .json")
    if out.exists() and not force:
        raise UserError(f"{str(out)!r} is there already; give another file, or --force")
    # Formulas need sympy, for which nobody who completes a name should wait.
    from gp_prune.language.primitive import primitive_set
    from gp_prune.metric.metric import Metric

    primitives = primitive_set(*primitive_files)
    chooses, divides = (Metric.load(given, primitives) for given in (metric, shares))
    name = name or f"{chooses.name}-by-{divides.name}"
    made = replace(chooses.with_shares(divides), name=name)
    try:
        made.save(out)
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written: {error.strerror}") from None
    echo(f"{made.name}: {made.expression}, shares by {made.parts[-1].expression}, in {out}")
