"""Provide ``gp-prune evaluate``: judge one formula by the objectives of a search."""

from __future__ import annotations

import sys
from typing import Any

import click

from gp_prune.cli import completion
from gp_prune.cli.options import (
    Shares,
    check_device,
    data_options,
    json_option,
    memory_option,
    model_timeout_option,
    pattern_option,
    primitives_option,
    quiet_option,
    sequential_option,
)
from gp_prune.report.text import echo, print_json

DEGENERATE = 3
INVALID = 4
"""Exit codes: the scores of the formula rank nothing; the text is no formula or no metric."""

_EPILOG = """\b
Exit codes:
  0  the objectives are printed
  2  a task or an option is not usable
  3  the formula is degenerate: its scores rank nothing on a task
  4  the text is no formula, or its type is not that of a metric
\b
Examples:
  gp-prune evaluate 'sum[i,k](abs(W))' --on lenet-digits
  gp-prune evaluate 'var[n,s](A) * sum[j](V^2)' --on lenet-digits --on resnet-digits --json
  gp-prune evaluate flap --allocation 'sqrt(macs_freed)' --on resnet-digits
"""


@click.command(epilog=_EPILOG)
@click.argument("formula", shell_complete=completion.metrics)
@click.option(
    "--on", "tasks", multiple=True, required=True, metavar="TASK|MODEL",
    shell_complete=completion.tasks,
    help="What it is tried on; repeatable.",
)  # fmt: skip
@click.option(
    "--allocation", metavar="METRIC", shell_complete=completion.metrics,
    help="Let this metric, or formula of the shares, divide the budget among the layers.",
)  # fmt: skip
@click.option("--keep", type=Shares(), help="Shares to keep.  [default: 0.5,0.3; weights 0.3,0.15]")
@click.option(
    "--budget-kind", metavar="KIND,...",
    help="What they count: macs, params, channels.  [default: macs; weights params]",
)  # fmt: skip
@pattern_option
@click.option("--scope", default="", help="What is ranked together.  [default: of the metric]")
@sequential_option
@click.option("--aggregate", default="log", help="How errors become one: log or mean.")
@click.option("--calibration", type=int, help="Samples to measure on.  [default: 512]")
@memory_option
@data_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@primitives_option
@click.option("--cache-dir", help="Folder for trained networks.")
@model_timeout_option
@click.option("--data-root", help="Folder with torchvision's data sets.")
@click.option("--download", is_flag=True, help="Let torchvision fetch a missing data set.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@json_option
@quiet_option
def evaluate(
    formula: str,
    tasks: tuple[str, ...],
    allocation: str | None,
    primitive_files: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Judge FORMULA as a search judges its candidates, on the validation split of each task.

    FORMULA is the text of a formula, the name of a bundled metric or a metric file. The text is
    parsed and never executed. A text has the conventions of a search (global ranking), a metric its
    own. TASK is as for `gp-prune evolve`.

    Prints the error of each task and budget right after pruning, and the objectives. With --json
    the object says by its entry status whether the formula is ok, degenerate or invalid.
    """
    # Formulas need sympy, for which nobody who completes a name should wait.
    from gp_prune.language.expression import ExpressionError
    from gp_prune.language.primitive import primitive_set
    from gp_prune.metric.file import MetricError, check_ranks
    from gp_prune.metric.metric import Metric

    try:
        metric = Metric.load(formula, primitive_set(*primitive_files))
        check_ranks(metric)
    except (ExpressionError, MetricError) as error:
        return _refuse("invalid", formula, str(error), as_json=as_json)
    if allocation is not None:
        metric = metric.with_shares(allocation)
    # Torch is imported only now, when the formula is known to be one.
    from gp_prune.judging.judge import DegenerateFormula, Judge
    from gp_prune.report.judging import result_lines
    from gp_prune.runs.jobs import TaskSource

    check_device(given["device"])
    places = {name: given.pop(name) for name in ("cache_dir", "data_root", "download", "device")}
    source = TaskSource(**places, model_timeout=given.pop("model_timeout"))
    settings = {name: value for name, value in given.items() if value is not None}
    if "budget_kind" in settings:
        settings["budget_kind"] = tuple(k.strip() for k in settings["budget_kind"].split(","))
    if not quiet:
        echo(f"gp-prune: preparing {', '.join(tasks)}", err=True)
    judge = Judge(tasks, primitives=primitive_files, source=source, **settings)
    try:
        result = judge(metric)
    except DegenerateFormula as error:
        return _refuse("degenerate", formula, str(error), as_json=as_json)
    if as_json:
        print_json({"status": "ok", **result.to_json()})
        return 0
    for line in result_lines(result, sys.stdout):
        echo(line)
    return 0


def _refuse(status: str, formula: str, reason: str, *, as_json: bool) -> int:
    """Say why there are no objectives, and return the exit code."""
    if as_json:
        print_json({"status": status, "formula": formula, "reason": reason})
    echo(f"gp-prune: error: {' '.join(reason.split())}", err=True)
    return DEGENERATE if status == "degenerate" else INVALID
