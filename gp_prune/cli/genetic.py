"""Provide ``gp-prune genetic``: prune one network by a genetic algorithm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.base.files import resolve_path
from gp_prune.cli import completion
from gp_prune.cli.options import Sizes, can_plot, memory_option
from gp_prune.cli.run_options import RunOptions, run_options
from gp_prune.errors import UserError
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.genetic.engine import RoundStatus
    from gp_prune.genetic.run import GeneticProgress


_LAMBDAS = ("lambda_error", "lambda_macs", "lambda_sparsity")
_EXAMPLES = """\b
Examples:
  gp-prune genetic
  gp-prune genetic caffe_lenet-mnist --lambda-error 1 --lambda-macs 0.1 --lambda-sparsity 1
  gp-prune genetic my_model.py:build --data images/ --granularity channel --epochs 3
  gp-prune genetic lenet-digits --mutation random --mutation taylor_weights
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model", required=False, shell_complete=completion.tasks)
# What is wanted.
@click.option("--pareto", is_flag=True, help="Search the front of all three objectives.  [default]")
@click.option("--lambda-error", type=float, metavar="A", help="One fitness: weight of the error.")
@click.option(
    "--lambda-macs", type=float, metavar="B", help="Its weight of the share of MACs kept."
)
@click.option(
    "--lambda-sparsity", type=float, metavar="C", help="Its weight of the parameters kept."
)
@click.option(
    "--goal-macs",
    type=float,
    metavar="SHARE",
    help="Share of the MACs that is small enough; below it the error decides.",
)
@click.option("--goal-params", type=float, metavar="SHARE", help="Likewise of the parameters.")
@click.option("--granularity", help="auto, channel or weight.  [default: auto]")
@click.option("--count-macs", "macs", help="auto, conv or all.  [default: auto]")
@click.option(
    "--limit",
    type=float,
    metavar="E",
    help="Most error above the dense network's of what is recommended.",
)
@click.option(
    "--tolerance",
    type=float,
    metavar="E",
    help="Most error above the dense network's to prune further.",
)
# The network and its data.
@click.option(
    "--data",
    metavar="SET|FOLDER",
    shell_complete=completion.data_sets,
    help="A data set, or a folder of class folders.",
)
@click.option("--weights", metavar="FILE", help="State dict for the network.")
@click.option("--input-shape", type=Sizes(), help="Sizes of one input.")
@click.option("--model-seed", type=int, help="Seed of random weights, or of a task's training.")
@click.option("--most", type=int, metavar="N", help="Most samples to train and evaluate on.")
@click.option("--samples", type=int, metavar="N", help="Most samples to evaluate a plan on.")
@click.option("--calibration", type=int, help="Samples to measure metrics on.  [default: 256]")
@memory_option
# The genetic algorithm.
@click.option(
    "--mutation",
    "mutations",
    shell_complete=completion.mutations,
    metavar="METRIC",
    multiple=True,
    help="A metric, or random; repeatable.",
)
@click.option(
    "--temperature", type=float, help="Randomness of a mutation; 0 is greedy.  [default: 0.1]"
)
@click.option("--amount", type=float, help="Mean share that a mutation removes.  [default: 0.1]")
@click.option(
    "--restore", type=float, help="Share of mutations that restore units.  [default: 0.1]"
)
@click.option("--selection", help="nsga2, truncation, tournament or roulette.")
@click.option("--crossover", help="microbial or uniform.  [default: microbial]")
@click.option("--population", type=int, help="Plans per generation.  [default: 32]")
@click.option("--generations", type=int, help="Most generations per round.  [default: 12]")
@click.option("--stall", type=int, help="Most generations without progress in a round.")
@click.option("--rounds", type=int, help="Rounds of pruning and retraining.  [default: 8]")
@click.option("--patience", type=int, help="Most rounds without a better network.")
@click.option("--elites", type=int, help="Networks retrained in a round.  [default: 4]")
@click.option("--max-evaluations", type=int, help="Most plans to evaluate.  [default: any]")
# Retraining.
@click.option("--epochs", type=int, help="Epochs of retraining in a round.  [default: 6]")
@click.option("--points", type=int, help="Networks of the front at the end.  [default: 6]")
@click.option("--final-epochs", type=int, help="Epochs of retraining at the end.  [default: 16]")
@click.option(
    "--final-params",
    type=float,
    metavar="SHARE",
    help="Most parameters kept at the end; weights go step by step.",
)
@click.option("--removal-epochs", type=int, help="Epochs of that removal.  [default: 12]")
@click.option(
    "--dense-epochs",
    type=int,
    help="Epochs for which the dense network is trained before the first round; the others start "
    "from it and learn from it.  [default: 0]",
)
@click.option(
    "--distill", type=float, metavar="A", help="Distillation's share of the loss.  [default: 0.5]"
)
@click.option("--softening", type=float, help="Temperature of distillation.  [default: 4]")
@click.option("--shift", type=int, help="Pixels that images are shifted by.  [default: 0]")
@click.option("--distort", type=float, help="Strength of image distortion.  [default: 0]")
@click.option("--lr", "learning_rate", type=float, help="Highest learning rate.  [default: 0.003]")
@click.option("--averaging", type=float, help="Share of averaged weights kept in a step.")
@click.option("--batch-size", type=int, help="Batch size of retraining.  [default: 64]")
@click.option("--baselines/--no-baselines", default=None, help="Compare with random and L1.")
@click.option("--read-test/--no-read-test", default=None, help="Judge on test samples at the end.")
@click.option("--plot/--no-plot", default=None, help="Draw front.png and front.svg.")
@run_options(model=True)
def genetic(run: RunOptions, plot: bool | None, **given: Any) -> int:
    """Prune MODEL by a genetic algorithm; without options, the LeNet of the bundled digits.

    MODEL is a task such as lenet-digits, torchvision:NAME, timm:NAME or FILE.py:FUNCTION; only a
    task brings its data, the others need --data. A plan lists the channels of each convolution and
    the weights of each linear layer to remove. Pruning and retraining alternate. Prints the front
    of error, MACs and parameters beside random and L1 pruning to the same sizes, and leaves its
    networks (for gp_prune.load_pruned) and a plot in the run folder.
    """
    from gp_prune.genetic.run import prune_genetically
    from gp_prune.genetic.settings import GeneticSettings
    from gp_prune.genetic.stored import read_report
    from gp_prune.report.genetic import progress_display

    settings = run.load_settings(GeneticSettings, _to_settings(given))
    finished = read_report(run.resume) if run.resume else None
    draws = can_plot(plot)
    if finished is not None:
        plots = [path for path in _plot_files(run.folder) if path.exists()]
        missing = draws and len(plots) < len(_plot_files(run.folder))
        plots = _plot(finished, run.folder) if missing else plots
        run.write_report()
        _print_result(run, finished, plots)
        return 0
    last: RoundStatus | None = None
    try:
        with progress_display(quiet=run.quiet) as show:

            def progress(now: GeneticProgress) -> None:
                nonlocal last
                last = now.status or last
                show(now)

            result = prune_genetically(settings, progress=progress, **run.run_arguments())
        report = result.to_json()
        plots = _plot(report, run.folder) if draws else []
    except KeyboardInterrupt:
        return _stop(run, last)
    run.write_report()
    _print_result(run, report, plots)
    return 0


def _print_result(run: RunOptions, report: dict[str, Any], plots: list[Path]) -> None:
    from gp_prune.report.genetic import result_lines

    if run.as_json:
        print_json(report, allow_nan=True)
        return
    for line in result_lines(report, sys.stdout):
        echo(line)
    echo(_next_steps(run.folder, report, plots))


def _to_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the settings that the options give; None = not given."""
    from gp_prune.metric.file import bundled_metrics
    from gp_prune.metric.mutation import RANDOM
    from gp_prune.tasks.data import DATA_SETS

    weights = [given.pop(name) for name in _LAMBDAS]
    pareto = given.pop("pareto")
    if any(weight is not None for weight in weights):
        if pareto:
            raise UserError("--pareto keeps the objectives apart; leave the lambdas out")
        # Without a weight of its own the error counts fully and the others do not.
        defaults = (1.0, 0.0, 0.0)
        pairs = zip(weights, defaults, strict=True)
        given["lambdas"] = tuple(d if w is None else w for w, d in pairs)
    elif pareto:
        given["lambdas"] = ()
    if given["temperature"] is not None and given["mutations"] == (RANDOM,):
        raise UserError("--temperature is of metrics; leave it out, or name one with --mutation")
    known = {RANDOM, *bundled_metrics()}
    given["mutations"] = tuple(resolve_path(name, known) for name in given["mutations"]) or None
    if given["data"] is not None:
        given["data"] = resolve_path(given["data"], DATA_SETS)
    if given["weights"] is not None:
        given["weights"] = resolve_path(given["weights"])
    file, _, function = (given["model"] or "").rpartition(":")
    if file.endswith(".py"):
        given["model"] = f"{resolve_path(file)}:{function}"
    return given


def _plot(report: dict[str, Any], folder: Path) -> list[Path]:
    from gp_prune.report.plots import plot_front

    paths = _plot_files(folder)
    for path in paths:
        plot_front(report, path)
    return paths


def _plot_files(folder: Path) -> list[Path]:
    return [folder / "front.png", folder / "front.svg"]


def _stop(run: RunOptions, last: RoundStatus | None) -> int:
    """Print the front so far, and how to continue the run."""
    from gp_prune.report.genetic import interim_json, interim_lines

    if last is None:
        return run.report_early_interrupt("a generation")
    return run.report_interrupt(
        f"in round {last.round} of {last.of}",
        interim_json(str(run.folder), last.front),
        interim_lines(last.front, last.kind, sys.stdout),
    )


def _next_steps(folder: Path, report: dict[str, Any], plots: list[Path]) -> str:
    from gp_prune.genetic.front import NETWORKS

    lines = [""]
    if plots:
        lines.append(f"Drawn in {' and '.join(map(str, plots))}.")
    best = report["recommended"] or next((point["name"] for point in report["front"]), None)
    if best is not None:
        path = str(folder / NETWORKS / best)
        lines.append(f"gp_prune.load_pruned({path!r}, model) gives {best} back.")
    return "\n".join(lines)
