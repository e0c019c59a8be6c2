"""``gp-prune evolve``: search for metrics and compare what was found."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.cli import options
from gp_prune.cli.group import INTERRUPTED, insistent_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

    from gp_prune.search.config import SearchConfig
    from gp_prune.search.nsga2 import Generation
    from gp_prune.search.results import Result
    from gp_prune.search.run import Progress


DIGITS = ("lenet-digits", "cnn-digits", "autoencoder-digits")


@click.command()
@click.option("--tasks", help="Names, separated by commas.  [default: the three digits tasks]")
@click.option("--granularity", help="channel or weight.  [default: channel]")
@click.option("--population", type=int, help="Candidates per generation.  [default: 40]")
@click.option("--generations", type=int, help="Generations after the first.  [default: 24]")
@options.seed_option
@options.workers_option
@options.dask_option
@options.out_option
@options.resume_option
@options.config_option
@click.option("--reuse", type=click.Path(path_type=Path), help="Take over another run's work.")
@click.option("--strategy", help="evolve, or random for the baseline.  [default: evolve]")
@click.option("--max-evaluations", type=int, help="Stop after so many behaviours.  [default: any]")
@click.option("--stall", type=int, help="Stop after so many generations without a better front.")
@click.option(
    "--time-limit",
    type=float,
    help="Stop after so many seconds of search; the one rule by which equal runs may differ.",
)
@click.option("--stack", type=int, help="Networks fine-tuned as one.  [default: 1; on a GPU 16]")
@click.option("--candidate-timeout", type=float, help="Seconds per evaluation.  [default: any]")
@click.option("--candidate-memory", type=float, help="Megabytes per evaluation.  [default: any]")
@click.option("--primitives", multiple=True, help="Python file with primitives of your own.")
@options.cache_option
@options.data_option
@options.download_option
@options.device_option
@options.run_json_option
@options.run_quiet_option
def evolve(
    resume: Path | None,
    reuse: Path | None,
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
    **settings: Any,
) -> int:
    """Evolve pruning metrics on real networks; without options, on the bundled digits.

    Prints the Pareto front beside random pruning and L1, recommends one formula (">>>>"), and
    leaves settings, journal, front and metric files in the run folder.
    """
    from gp_prune.report.console import progress_display
    from gp_prune.report.front import recommendation, result_json, result_lines
    from gp_prune.search.run import evolve as run

    chosen = _settings(config, settings)
    folder = options.run_folder(out, resume, chosen)
    source = options.task_source(cache_dir, data_root, download, device)
    seen: list[Generation] = []
    try:
        with insistent_interrupts(), progress_display(quiet=quiet) as progress:
            result = run(
                chosen, folder, source=source, workers=options.worker_count(workers), cluster=dask,
                resume=resume is not None, reuse=reuse,
                progress=lambda now: _watch(now, seen, progress),
            )  # fmt: skip
    except KeyboardInterrupt:
        _stopped(folder, seen, as_json=as_json)
        return INTERRUPTED
    if as_json:
        click.echo(json.dumps(result_json(result), indent=2))
        return 0
    for line in result_lines(result, sys.stdout):
        click.echo(line)
    click.echo("\n" + recommendation(result))
    click.echo(_next_steps(result))
    return 0


def _watch(now: Progress, seen: list[Generation], show: Callable[[Progress], None]) -> None:
    """Show where the run stands and remember its last generation."""
    if now.generation is not None:
        seen[:] = [now.generation]
    show(now)


def _stopped(folder: Path, seen: list[Generation], *, as_json: bool) -> None:
    """Print the front so far, and how the run goes on."""
    from gp_prune.report.front import interim_json, interim_lines

    if not options.has_begun(folder):
        return
    when = "before the first generation was done"
    if seen:
        (last,) = seen
        when = f"after generation {last.number} of {last.of}"
        if as_json:
            click.echo(json.dumps(interim_json(str(folder), last.front), indent=2))
        else:
            click.echo("\n".join(interim_lines(last.front, sys.stdout)))
    options.say_how_to_go_on("evolve", folder, when)


def _settings(config: Path | None, given: dict[str, Any]) -> SearchConfig | None:
    """The settings of the file, overruled by those of the command line; None where all default."""
    from gp_prune.search.config import SearchConfig

    given["tasks"] = options.listed(given["tasks"])
    # Absolute, so that the run can be resumed from another folder.
    files = tuple(str(Path(file).resolve()) for file in given["primitives"])
    given["primitives"] = files or None
    return options.chosen_settings(SearchConfig, config, given)


def _next_steps(result: Result) -> str:
    path = result.folder / "metrics" / f"{result.recommended.name}.json"
    task = next((name for name in result.config.tasks if name in DIGITS), DIGITS[0])
    budget = "--keep-macs 0.5" if result.config.granularity == "channel" else "--pruning-ratio 0.5"
    files = "".join(f" --primitives {shlex.quote(file)}" for file in result.config.primitives)
    metric = shlex.quote(str(path))
    return (
        "\nNext:\n"
        f"  gp-prune latex {metric}{files}\n"
        f"  gp-prune apply {metric} {task} {budget} --out pruned{files}"
    )
