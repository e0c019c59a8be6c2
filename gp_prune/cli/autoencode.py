"""Provide ``gp-prune autoencode``: train autoencoders and prune them during training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.base.files import resolve_path
from gp_prune.cli import completion
from gp_prune.cli.options import can_plot, memory_option
from gp_prune.cli.run_options import RunOptions, run_options
from gp_prune.errors import UserError
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.autoencoder.population import GenerationReport
    from gp_prune.autoencoder.settings import AutoencodeSettings


_OF_COEVOLUTION = (
    "cells", "topology", "radius", "tournament", "exchange", "updates", "selection_samples",
    "rate_step",
)  # fmt: skip
_OF_PRUNING = ("schedule", "probability", "amount", "unit", "regrow")
_OF_METRICS = ("temperature", "samples", "max_memory")
_EXAMPLES = """\b
Examples:
  gp-prune autoencode
  gp-prune autoencode --mode canonical --operator random --schedule final
  gp-prune autoencode --data binary-clusters --cells 9 --topology torus --target-sparsity 0.5
  gp-prune autoencode --data mnist --limit 5000 --operator class_map_energy
"""


@click.command(epilog=_EXAMPLES)
@click.option("--mode", help="canonical (one autoencoder) or coevolve.  [default: coevolve]")
@click.option(
    "--operator",
    shell_complete=completion.pruning_operators,
    help="none, random, variance, conjunctive or a metric.  [default: conjunctive]",
)
@click.option(
    "--schedule",
    help="fixed, increase, decrease, population, exponential, final or after.  "
    "[default: exponential]",
)
@click.option(
    "--data", metavar="SET|FILE.npz", shell_complete=completion.autoencoder_data,
    help="binary-clusters, binary-clusters-50, digits, mnist, fashionmnist, cifar10, or a file "
    "with the array inputs (and labels).  [default: digits]",
)  # fmt: skip
@click.option("--limit", type=int, help="Most samples to train and validate on.")
@click.option("--code", type=int, help="Width of the code.  [default: as published]")
@click.option("--loss", help="l1 or bce.  [default: l1 for binary clusters, otherwise bce]")
# Pruning.
@click.option("--probability", type=float, help="The p of the schedule.  [default: 0.5]")
@click.option("--amount", type=float, help="Share that one event removes.  [default: 0.05]")
@click.option(
    "--target-sparsity", type=float, metavar="S",
    help="Remove this share of the hidden nodes (or as many weights); sets the amount.",
)  # fmt: skip
@click.option(
    "--temperature", type=float, help="Randomness of pruning; 0 is greedy.  [default: 0.1]"
)
@click.option("--unit", help="node or weight.  [default: what the metric scores; node for random]")
@click.option("--samples", type=int, help="Samples to measure a metric on.  [default: 100]")
@memory_option
@click.option("--regrow", is_flag=True, default=None, help="Let what was pruned grow again.")
# Training.
@click.option("--epochs", type=int, help="Epochs of each autoencoder.  [default: 60]")
@click.option("--batch-size", type=int, help="Samples per step.  [default: 20]")
@click.option("--lr", "learning_rate", type=float, help="First learning rate.  [default: 0.002]")
@click.option("--rate-decay", type=float, help="Canonical: factor per quarter.  [default: 0.5]")
# Coevolution.
@click.option("--cells", type=int, help="Number of cells.  [default: 6]")
@click.option("--topology", help="ring or torus.  [default: ring]")
@click.option("--radius", type=int, help="Radius of the neighbourhood.  [default: 1]")
@click.option("--tournament", type=int, help="Size of a tournament.  [default: 2]")
@click.option("--exchange", help="Encoder and decoder: apart or together.  [default: apart]")
@click.option("--updates", help="asynchronous or synchronous.  [default: asynchronous]")
@click.option("--selection-samples", type=int, help="Samples to compare pairs on.  [default: 100]")
@click.option("--rate-step", type=float, help="Mutation of the learning rate.  [default: 0.1]")
@click.option("--plot/--no-plot", default=None, help="Draw curves and reconstructions.")
@run_options(cache=False)
def autoencode(run: RunOptions, plot: bool | None, **given: Any) -> int:
    """Train autoencoders and prune them during training; by default on the bundled digits.

    One autoencoder (canonical), or a ring or torus of cells that exchange encoders and decoders
    (coevolve). Prints the cells and the test error of the best, and leaves history, network,
    curves and reconstructions in the run folder.
    """
    from gp_prune.autoencoder.run import autoencode
    from gp_prune.autoencoder.settings import AutoencodeSettings
    from gp_prune.autoencoder.stored import read_report
    from gp_prune.report.autoencoder import progress_display
    from gp_prune.report.plots import plot_files

    for name in ("data", "operator"):
        if given[name] is not None and given[name].endswith((".npz", ".json")):
            given[name] = resolve_path(given[name])
    settings = run.load_settings(AutoencodeSettings, given)
    if settings is not None:
        _check_use(settings, {name for name, value in given.items() if value is not None})
    draws = can_plot(plot)
    finished = read_report(run.resume) if run.resume else None
    if finished is not None:
        plots = [path for path in plot_files(run.folder) if path.exists()]
        if not draws or plots == plot_files(run.folder):
            run.write_report()
            _print_result(run, finished, plots)
            return 0
    last: GenerationReport | None = None
    try:
        with progress_display(quiet=run.quiet) as show:

            def progress(now: GenerationReport) -> None:
                nonlocal last
                last = now
                show(now)

            result = autoencode(settings, progress=progress, inside=show, **run.run_arguments())
        plots = _plot(result) if draws else []
    except KeyboardInterrupt:
        return _stop(run, last)
    run.write_report()
    _print_result(run, result.to_json(), plots)
    return 0


def _print_result(run: RunOptions, report: dict[str, Any], plots: list[Path]) -> None:
    from gp_prune.report.autoencoder import result_lines

    if run.as_json:
        print_json({**report, "plots": list(map(str, plots))}, allow_nan=True)
        return
    for line in result_lines(report, sys.stdout):
        echo(line)
    if plots:
        echo(f"\nDrawn in {', '.join(path.name for path in plots)} there.")


def _check_use(settings: AutoencodeSettings, given: set[str]) -> None:
    """Refuse options that would have no effect.

    A settings file may set more than is used: that of a run folder has all settings.
    """
    canonical, operator = settings.mode == "canonical", settings.operator
    rules = [
        (canonical, _OF_COEVOLUTION, "is of coevolution", "--mode coevolve"),
        (not canonical, ("rate_decay",), "is of canonical training", "--mode canonical"),
        (operator == "none", _OF_PRUNING, "is of pruning", "an --operator"),
        (operator in ("none", "random"), _OF_METRICS, "is of metrics", "one as --operator"),
    ]
    for useless, names, reason, remedy in rules:
        for name in names:
            if useless and name in given:
                option = name.replace("_", "-")
                raise UserError(f"--{option} {reason}; leave it out, or give {remedy}")
    if settings.target_sparsity and "amount" in given:
        raise UserError(
            "--amount follows from the target sparsity; leave it out, or --target-sparsity"
        )


def _plot(result: Any) -> list[Path]:
    from gp_prune.report.plots import write_plots

    return write_plots(result)


def _stop(run: RunOptions, last: GenerationReport | None) -> int:
    """Print how far the run has come, and how to continue it."""
    if last is None:
        return run.report_early_interrupt("the first epoch")
    state = {
        "folder": str(run.folder), "epoch": last.number, "of": last.of,
        "validation_loss": last.best, "sparsity": last.sparsity,
    }  # fmt: skip
    return run.report_interrupt(f"after epoch {last.number} of {last.of}", state)
