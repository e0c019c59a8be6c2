"""``gp-prune genetic``: prune one network by a genetic algorithm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.cli import options
from gp_prune.cli.group import INTERRUPTED, insistent_interrupts
from gp_prune.cli.options import Sizes, primitives_option
from gp_prune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gp_prune.genetic.result import Result
    from gp_prune.genetic.run import Progress
    from gp_prune.genetic.selection import Turn
    from gp_prune.genetic.settings import GeneticSettings


_LAMBDAS = ("lambda_error", "lambda_macs", "lambda_sparsity")
_EXAMPLES = """\b
Examples:
  gp-prune genetic
  gp-prune genetic caffe_lenet-mnist --lambda-error 1 --lambda-macs 0.1 --lambda-sparsity 1
  gp-prune genetic my_model.py:build --data images/ --granularity channel --epochs 3
  gp-prune genetic lenet-digits --mutation random --mutation taylor_weights
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model", required=False)
# What is wanted.
@click.option("--pareto", is_flag=True, help="The front of all three objectives (the default).")
@click.option("--lambda-error", type=float, metavar="A", help="One fitness: weight of the error,")
@click.option("--lambda-macs", type=float, metavar="B", help="of the share of MACs kept,")
@click.option("--lambda-sparsity", type=float, metavar="C", help="and of the parameters kept.")
@click.option("--granularity", help="auto, channel or weight.  [default: auto]")
@click.option("--count-macs", "macs", help="auto, conv or all.  [default: auto]")
@click.option(
    "--limit", type=float, metavar="E", help="Most error above the dense network's that is advised."
)
@click.option(
    "--tolerance", type=float, metavar="E", help="Likewise, of a network that is pruned further."
)
# The network and its data.
@click.option("--data", metavar="SET|FOLDER", help="A data set, or a folder of class folders.")
@click.option("--weights", metavar="FILE", help="State dict for the network.")
@click.option("--input-shape", type=Sizes(), help="Sizes of one input.")
@click.option("--model-seed", type=int, help="Of random weights, or a task's training.")
@click.option("--most", type=int, metavar="N", help="Most samples to train and judge on.")
@click.option("--samples", type=int, metavar="N", help="Most samples on which a plan is tried.")
# The genetic algorithm.
@click.option(
    "--mutation", "mutations", metavar="METRIC", multiple=True, help="Metric, or random; several."
)
@click.option("--temperature", type=float, help="Of the draw by rank; 0 is greedy.  [default: 0.1]")
@click.option("--amount", type=float, help="Mean share that a mutation removes.  [default: 0.1]")
@click.option("--restore", type=float, help="Share of mutations that restore.  [default: 0.1]")
@click.option("--selection", help="nsga2, truncation, tournament or roulette.")
@click.option("--crossover", help="microbial or uniform.  [default: microbial]")
@click.option("--population", type=int, help="Plans per generation.  [default: 32]")
@click.option("--generations", type=int, help="Most generations per round.  [default: 12]")
@click.option("--stall", type=int, help="Generations without progress that end a round.")
@click.option("--rounds", type=int, help="Turns of pruning and retraining.  [default: 8]")
@click.option("--patience", type=int, help="Rounds without a better network that end it.")
@click.option("--elites", type=int, help="Networks retrained in a round.  [default: 4]")
@click.option("--max-evaluations", type=int, help="Stop after so many plans.  [default: any]")
# Retraining.
@click.option("--epochs", type=int, help="Of retraining in a round.  [default: 6]")
@click.option("--points", type=int, help="Networks of the front at the end.  [default: 6]")
@click.option("--final-epochs", type=int, help="Of retraining at the end.  [default: 16]")
@click.option("--distill", type=float, metavar="A", help="Share of distillation.  [default: 0.5]")
@click.option("--shift", type=int, help="Pixels that training images are moved by.  [default: 0]")
@click.option("--lr", "learning_rate", type=float, help="Highest learning rate.  [default: 0.003]")
@click.option("--batch-size", type=int, help="Of retraining.  [default: 64]")
@click.option("--baselines/--no-baselines", default=None, help="Compare with random and L1.")
@click.option("--plot/--no-plot", default=None, help="Draw front.png and front.svg.")
@primitives_option
@options.seed_option
@options.workers_option
@options.dask_option
@options.out_option
@options.resume_option
@options.config_option
@options.cache_option
@options.data_option
@options.download_option
@options.device_option
@options.run_json_option
@options.run_quiet_option
def genetic(
    resume: Path | None,
    config: Path | None,
    out: Path | None,
    workers: int | None,
    dask: str | None,
    as_json: bool,
    quiet: bool,
    cache_dir: str | None,
    data_root: str | None,
    download: bool,
    device: str,
    plot: bool | None,
    **given: Any,
) -> int:
    """Prune MODEL by a genetic algorithm; without options, the LeNet of the bundled digits.

    MODEL is a task such as lenet-digits, torchvision:NAME, timm:NAME or FILE.py:FUNCTION; networks
    that are no task's need --data. A plan says which channels of which convolution go, and which
    weights of which linear layer. Pruning and retraining take turns; the front of error, MACs and
    parameters is printed beside random and L1 pruning to the same sizes, and its networks, which
    gp_prune.load_pruned reads, are left in the run folder with a plot.
    """
    from gp_prune.genetic.result import result_json
    from gp_prune.genetic.run import prune_genetically
    from gp_prune.report.genetic import progress_display, result_lines

    chosen = _settings(config, given)
    folder = options.run_folder(out, resume, chosen)
    source = options.task_source(cache_dir, data_root, download, device)
    draws = options.draws(plot)
    seen: list[Turn] = []
    try:
        with insistent_interrupts(), progress_display(quiet=quiet) as progress:
            result = prune_genetically(
                chosen, folder, source=source, workers=options.worker_count(workers), cluster=dask,
                resume=resume is not None, progress=lambda now: _watch(now, seen, progress),
            )  # fmt: skip
        report = result_json(result)
        drawn = _drawn(report, folder) if draws else []
    except KeyboardInterrupt:
        _stopped(folder, seen, as_json=as_json)
        return INTERRUPTED
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return 0
    for line in result_lines(result, sys.stdout):
        click.echo(line)
    click.echo(_next_steps(result, drawn))
    return 0


def _settings(config: Path | None, given: dict[str, Any]) -> GeneticSettings | None:
    """The settings of the file, overruled by those of the command line; None where all default."""
    from gp_prune.genetic.settings import GeneticSettings

    weights = [given.pop(name) for name in _LAMBDAS]
    pareto = given.pop("pareto")
    if any(weight is not None for weight in weights):
        if pareto:
            raise UserError("--pareto keeps the objectives apart; leave the lambdas out")
        # What is not named does not count, as long as the error does.
        defaults = (1.0, 0.0, 0.0)
        pairs = zip(weights, defaults, strict=True)
        given["lambdas"] = tuple(d if w is None else w for w, d in pairs)
    elif pareto:
        given["lambdas"] = ()
    given["mutations"] = tuple(map(_metric, given["mutations"])) or None
    if given["temperature"] is not None and given["mutations"] == ("random",):
        raise UserError("--temperature is of metrics; leave it out, or name one with --mutation")
    # Absolute, so that the run can be resumed from another folder.
    files = given.pop("primitive_files")
    given["primitives"] = tuple(str(Path(file).resolve()) for file in files) or None
    for name, place in (("data", _data), ("weights", _place), ("model", _model)):
        if given[name] is not None:
            given[name] = place(given[name])
    return options.chosen_settings(GeneticSettings, config, given)


def _place(text: str) -> str:
    """A file or folder by its whole path, where there is one."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def _model(text: str) -> str:
    """A user's file by its whole path; a name as it is, whatever folder is called so."""
    file, _, function = text.rpartition(":")
    return f"{_place(file)}:{function}" if file.endswith(".py") else text


def _data(text: str) -> str:
    """As :func:`_place`, but a data set goes before a folder that is called so."""
    from gp_prune.tasks.data import DATA_SETS

    return text if text in DATA_SETS else _place(text)


def _metric(text: str) -> str:
    """As :func:`_place`, but a bundled metric goes before a file that is called so."""
    from gp_prune.metric.file import bundled_metrics
    from gp_prune.metric.mutation import RANDOM

    return text if text == RANDOM or text in bundled_metrics() else _place(text)


def _drawn(report: dict[str, Any], folder: Path) -> list[Path]:
    from gp_prune.report.plots import plot_front

    paths = [folder / "front.png", folder / "front.svg"]
    for path in paths:
        plot_front(report, path)
    return paths


def _watch(now: Progress, seen: list[Turn], show: Callable[[Progress], None]) -> None:
    """Show where the run stands and remember its last front."""
    if now.turn is not None:
        seen[:] = [now.turn]
    show(now)


def _stopped(folder: Path, seen: list[Turn], *, as_json: bool) -> None:
    """Print the front so far, and how the run goes on."""
    from gp_prune.report.genetic import interim_json, interim_lines

    if not options.has_begun(folder):
        return
    when = "before the first generation was done"
    if seen:
        (last,) = seen
        when = f"in round {last.round} of {last.of}"
        if as_json:
            click.echo(json.dumps(interim_json(str(folder), last.front), indent=2))
        else:
            click.echo("\n".join(interim_lines(last.front, last.kind, sys.stdout)))
    options.say_how_to_go_on("genetic", folder, when)


def _next_steps(result: Result, drawn: list[Path]) -> str:
    from gp_prune.genetic.result import NETWORKS

    lines = [""]
    if drawn:
        lines.append(f"Drawn in {' and '.join(map(str, drawn))}.")
    best = result.recommended or next(iter(result.points), None)
    if best is not None:
        place = str(result.folder / NETWORKS / best.name)
        lines.append(f"gp_prune.load_pruned({place!r}, model) gives {best.name} back.")
    return "\n".join(lines)
