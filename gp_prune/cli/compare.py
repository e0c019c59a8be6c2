"""Provide ``gp-prune compare``: compare metrics at equal budgets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.cli import completion
from gp_prune.cli.options import (
    Shares,
    data_options,
    memory_option,
    pattern_option,
    sequential_option,
)
from gp_prune.cli.run_options import RunOptions, run_options
from gp_prune.errors import UserError, brief
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.judging.compare import CompareProgress, MetricComparison

_EPILOG = """\b
Examples:
  gp-prune compare taylor_bn fpgm --on resnet-digits --on cnn-digits --keep 0.75,0.5,0.3
  gp-prune compare between='var[c](muP) * sum[j](V^2)' --bundled --on resnet-digits
  gp-prune compare my_metric.json --on my_model.py:task --fine-tune short --seeds 3 --latex
  gp-prune compare wanda ria --on lenet-digits --keep 0.5,0.2,0.1,0.05
"""


class FineTune(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Parse ``none``, ``short`` or a number of mini-batches."""

    name = "none|short|STEPS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of mini-batches."""
        if isinstance(value, int):
            return value
        from gp_prune.judging.settings import SHORT

        named = {"none": 0, "short": SHORT}
        if value in named:
            return named[value]
        if not str(value).isdecimal() or len(str(value)) > 9:
            self.fail(
                f"{brief(value)} is none of none, short and a number of mini-batches", param, ctx
            )
        return int(value)


@click.command(epilog=_EPILOG)
@click.argument("metrics", metavar="[METRIC]...", nargs=-1, shell_complete=completion.metrics)
@click.option("--bundled", is_flag=True, default=None, help="Compare all bundled metrics, too.")
@click.option(
    "--granularity", help="channel or weight, with --bundled alone.  [default: of the metrics]"
)
@click.option(
    "--on", "tasks", multiple=True, metavar="TASK|MODEL", shell_complete=completion.tasks,
    help="Network; repeatable.",
)  # fmt: skip
@click.option(
    "--keep", type=Shares(), help="Shares to keep.  [default: 0.75,0.5,0.3; weights .5,.2,.1,.05]"
)
@click.option(
    "--budget-kind", metavar="KIND,...",
    help="What they count: macs, params, channels.  [default: macs,params; weights params]",
)  # fmt: skip
@pattern_option
@sequential_option
@click.option(
    "--allocation", multiple=True, metavar="NAME|METRIC",
    help="Divide budgets by: own, global, uniform, residual-whole, or a metric's shares; "
    "repeatable.  [default: global and uniform; with --sequential uniform]",
)  # fmt: skip
@click.option("--fine-tune", type=FineTune(), help="Mini-batches; short: 60.  [default: none]")
@click.option("--seeds", type=int, help="Orders of fine-tuning, and draws.  [default: 1, draws 3]")
@click.option(
    "--baseline", metavar="METRIC", shell_complete=completion.metrics,
    help="Test the others against it.  [default: l1]",
)  # fmt: skip
@click.option("--split", help="validation, or test for a final report.  [default: validation]")
@click.option("--calibration", type=int, help="Samples to measure on.  [default: 512]")
@memory_option
@data_options
@click.option("--csv", "as_csv", is_flag=True, help="Print one line for each network.")
@click.option("--latex", "as_latex", is_flag=True, help="Print the tables for a paper.")
@click.option("--plot", is_flag=True, help="Draw errors and ranks as .png and .svg.")
@run_options(model=True, followed=False)
def compare(
    run: RunOptions,
    metrics: tuple[str, ...],
    as_csv: bool,
    as_latex: bool,
    plot: bool,
    **given: Any,
) -> int:
    """Compare each METRIC at equal budgets; random pruning and L1 always take part.

    METRIC is the name of a bundled metric, a metric file, a formula or NAME=FORMULA. All rank
    channels, or all single weights.

    Prints mean ranks, errors at each budget (0 as the dense network, 1 as the best constant guess)
    and tests, once for each allocation: how the budget is divided among the layers. Leaves
    result.json and records.csv in the run folder. The test split is read with --split test alone.
    """
    from gp_prune.judging.compare import compare
    from gp_prune.judging.settings import CompareSettings
    from gp_prune.report.comparison import progress_display

    if run.as_json + as_csv + as_latex > 1:
        raise UserError("--json, --csv and --latex print different things; give one of them")
    if given["budget_kind"] is not None:
        given["budget_kind"] = tuple(k.strip() for k in given["budget_kind"].split(","))
    given |= {"metrics": metrics or None, "tasks": given["tasks"] or None,
              "allocation": given["allocation"] or None}  # fmt: skip
    settings = run.load_settings(CompareSettings, given)
    if settings is None and not run.resume:
        settings = CompareSettings()  # says what is missing
    if plot:
        from gp_prune.report.comparison_plots import find_posthocs, write_comparison_plots

        find_posthocs()  # before anything is computed
    last: CompareProgress | None = None
    try:
        with progress_display(quiet=run.quiet) as show:

            def progress(now: CompareProgress) -> None:
                nonlocal last
                last = now
                show(now)

            result = compare(settings=settings, progress=progress, **run.run_arguments())
    except KeyboardInterrupt:
        return _stop(run, last)
    plots = write_comparison_plots(result) if plot else []
    _print(run, result, plots, as_csv=as_csv, as_latex=as_latex)
    return 0


def _stop(run: RunOptions, last: CompareProgress | None) -> int:
    """Say how far the comparison had come, and how to continue it."""
    if last is None or last.stage != "compare":
        return run.report_interrupt("at its begin")
    return run.report_interrupt(f"after {last.done} of {last.of} networks")


def _print(
    run: RunOptions,
    result: MetricComparison,
    plots: Sequence[Path],
    *,
    as_csv: bool,
    as_latex: bool,
) -> None:
    from gp_prune.report.comparison import latex_tables, result_lines

    if run.as_json:
        print_json({"folder": str(result.folder), **result.to_json()})
    elif as_csv:
        echo(result.to_csv(), nl=False)
    elif as_latex:
        echo(latex_tables(result), nl=False)
    else:
        for line in result_lines(result, sys.stdout):
            echo(line)
        echo(f"\nIn {result.folder}: result.json, records.csv.")
        if plots:
            echo(f"Drawn in {', '.join(path.name for path in plots)}.")
