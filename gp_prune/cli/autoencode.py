"""``gp-prune autoencode``: train autoencoders and prune them on the way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.cli import options
from gp_prune.cli.group import INTERRUPTED, insistent_interrupts
from gp_prune.cli.options import primitives_option
from gp_prune.errors import UserError

if TYPE_CHECKING:
    from gp_prune.autoencoder.run import Progress
    from gp_prune.autoencoder.settings import AutoencodeSettings


_OF_COEVOLUTION = (
    "cells", "topology", "radius", "tournament", "exchange", "updates", "selection_samples",
    "rate_step",
)  # fmt: skip
_OF_PRUNING = ("schedule", "probability", "amount", "unit", "regrow")
_OF_METRICS = ("temperature", "samples")
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
    "--operator", help="none, random, variance, conjunctive or a metric.  [default: conjunctive]"
)
@click.option(
    "--schedule",
    help="fixed, increase, decrease, population, exponential, final or after.  "
    "[default: exponential]",
)
@click.option(
    "--data", metavar="SET|FILE.npz",
    help="binary-clusters, binary-clusters-50, digits, mnist, fashionmnist, cifar10, or a file "
    "with the array inputs (and labels).  [default: digits]",
)  # fmt: skip
@click.option("--limit", type=int, help="Most samples to train and to validate on.")
@click.option("--code", type=int, help="Width of the code.  [default: as published]")
@click.option("--loss", help="l1 or bce.  [default: l1 for binary clusters, otherwise bce]")
# Pruning.
@click.option("--probability", type=float, help="The p of the schedule.  [default: 0.5]")
@click.option("--amount", type=float, help="Share that one event removes.  [default: 0.05]")
@click.option(
    "--target-sparsity", type=float, metavar="S",
    help="End with this share of the hidden nodes (or as many weights) gone; sets the amount.",
)  # fmt: skip
@click.option("--temperature", type=float, help="Of the draw by rank; 0 is greedy.  [default: 0.1]")
@click.option("--unit", help="node or weight.  [default: what the metric scores; node for random]")
@click.option("--samples", type=int, help="Training samples an operator measures.  [default: 100]")
@click.option("--regrow", is_flag=True, default=None, help="Let what was pruned grow again.")
# Training.
@click.option("--epochs", type=int, help="Of every autoencoder.  [default: 60]")
@click.option("--batch-size", type=int, help="Samples per step.  [default: 20]")
@click.option("--lr", "learning_rate", type=float, help="First learning rate.  [default: 0.002]")
@click.option("--rate-decay", type=float, help="Canonical: factor per quarter.  [default: 0.5]")
# Coevolution.
@click.option("--cells", type=int, help="Number of cells.  [default: 6]")
@click.option("--topology", help="ring or torus.  [default: ring]")
@click.option("--radius", type=int, help="Neighbourhood, at most the whole grid.  [default: 1]")
@click.option("--tournament", type=int, help="Size of a tournament.  [default: 2]")
@click.option("--exchange", help="Encoder and decoder apart or together.  [default: apart]")
@click.option("--updates", help="asynchronous or synchronous.  [default: asynchronous]")
@click.option("--selection-samples", type=int, help="To compare pairs on.  [default: 100]")
@click.option("--rate-step", type=float, help="Mutation of the learning rate.  [default: 0.1]")
@click.option("--plot/--no-plot", default=None, help="Draw curves and reconstructions.")
@primitives_option
@options.seed_option
@options.workers_option
@options.dask_option
@options.out_option
@options.resume_option
@options.config_option
@options.data_option
@options.download_option
@options.device_option
@options.run_json_option
@options.run_quiet_option
def autoencode(
    resume: Path | None,
    config: Path | None,
    out: Path | None,
    workers: int | None,
    dask: str | None,
    as_json: bool,
    quiet: bool,
    data_root: str | None,
    download: bool,
    device: str,
    plot: bool | None,
    **given: Any,
) -> int:
    """Train autoencoders and prune them on the way; without options, on the bundled digits.

    One autoencoder (canonical), or a ring or torus of cells that exchange encoders and decoders
    (coevolve). Prints the cells and the test error of the best, and leaves history, network,
    curves and reconstructions in the run folder.
    """
    from gp_prune.autoencoder.run import autoencode as run
    from gp_prune.report.autoencoder import progress_display, result_lines

    chosen = _settings(config, given)
    folder = options.run_folder(out, resume, chosen)
    source = options.task_source(None, data_root, download, device)
    draws = options.draws(plot)
    seen: list[Progress] = []
    try:
        with insistent_interrupts(), progress_display(quiet=quiet) as show:

            def watch(now: Progress) -> None:
                seen[:] = [now]
                show(now)

            result = run(
                chosen, folder, source=source, workers=options.worker_count(workers), cluster=dask,
                resume=resume is not None, progress=watch,
            )  # fmt: skip
        drawn = _drawn(result) if draws else []
    except KeyboardInterrupt:
        _stopped(folder, seen, as_json=as_json)
        return INTERRUPTED
    if as_json:
        plots = [str(path) for path in drawn]
        click.echo(json.dumps({**result.to_json(), "plots": plots}, indent=2))
        return 0
    for line in result_lines(result, sys.stdout):
        click.echo(line)
    if drawn:
        click.echo(f"\nDrawn in {', '.join(path.name for path in drawn)} there.")
    return 0


def _settings(config: Path | None, given: dict[str, Any]) -> AutoencodeSettings | None:
    """The settings of the file, overruled by those of the command line; None where all default."""
    from gp_prune.autoencoder.settings import AutoencodeSettings

    # Absolute, so that the run can be resumed from another folder.
    files = given.pop("primitive_files")
    given["primitives"] = tuple(str(Path(file).resolve()) for file in files) or None
    for name in ("data", "operator"):
        value = given[name]
        if value is not None and value.endswith((".npz", ".json")) and Path(value).exists():
            given[name] = str(Path(value).resolve())
    chosen = options.chosen_settings(AutoencodeSettings, config, given)
    if chosen is not None:
        _check_use(chosen, {name for name, value in given.items() if value is not None})
    return chosen


def _check_use(settings: AutoencodeSettings, given: set[str]) -> None:
    """Refuse what was given on the command line and would have no effect.

    A settings file may say more than is used: that of a run folder has all settings.
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


def _drawn(result: Any) -> list[Path]:
    from gp_prune.report.plots import write_plots

    return write_plots(result)


def _stopped(folder: Path, seen: list[Progress], *, as_json: bool) -> None:
    """Say how far the run had come, and how it goes on."""
    if not options.has_begun(folder):
        return
    when = "before the first epoch was done"
    if seen:
        (last,) = seen
        when = f"after epoch {last.done} of {last.of}"
        if as_json:
            state = {
                "folder": str(folder), "epoch": last.done, "of": last.of,
                "validation_loss": last.generation.best, "sparsity": last.generation.sparsity,
            }  # fmt: skip
            click.echo(json.dumps(state, indent=2))
    options.say_how_to_go_on("autoencode", folder, when)
