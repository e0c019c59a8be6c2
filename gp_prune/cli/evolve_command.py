"""``gp-prune evolve``: search for metrics and compare what was found."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.cli.group import INTERRUPTED
from gp_prune.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gp_prune.search.config import SearchConfig
    from gp_prune.search.engine import Generation
    from gp_prune.search.results import Result
    from gp_prune.search.run import Progress

MOST_WORKERS = 8
DIGITS = ("lenet-digits", "cnn-digits", "autoencoder-digits")


@click.command()
@click.option("--tasks", help="Names, separated by commas.  [default: the three digits tasks]")
@click.option("--granularity", help="channel or weight.  [default: channel]")
@click.option("--population", type=int, help="Candidates per generation.  [default: 40]")
@click.option("--generations", type=int, help="Generations after the first.  [default: 24]")
@click.option("--seed", type=int, help="Source of all randomness.  [default: 0]")
@click.option("--workers", type=int, help="Processes.  [default: one per core, at most 8]")
@click.option("--dask", help="Evaluate on the Dask cluster with this scheduler address.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.  [default: runs/NNN]")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with the run in a folder.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--reuse", type=click.Path(path_type=Path), help="Take over another run's work.")
@click.option("--strategy", help="evolve, or random for the baseline.  [default: evolve]")
@click.option("--max-evaluations", type=int, help="Stop after so many behaviours.  [default: any]")
@click.option("--stall", type=int, help="Stop after so many generations without a better front.")
@click.option(
    "--time-limit",
    type=float,
    help="Stop after so many seconds of search; the one rule by which equal runs may differ.",
)
@click.option("--candidate-timeout", type=float, help="Seconds per evaluation.  [default: any]")
@click.option("--candidate-memory", type=float, help="Megabytes per evaluation.  [default: any]")
@click.option("--primitives", multiple=True, help="Python file with primitives of your own.")
@click.option("--cache-dir", help="Folder for trained networks.")
@click.option("--data-root", help="Folder with torchvision's data sets.")
@click.option("--download", is_flag=True, help="Let torchvision fetch a missing data set.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
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
    from gp_prune.search.evaluation import TaskSource
    from gp_prune.search.run import evolve as run

    chosen = _settings(config, settings)
    if resume is not None and (chosen is not None or out is not None):
        raise UserError("--resume takes all settings from the run folder; leave the others out")
    folder = resume or out or _next_folder(Path("runs"))
    source = TaskSource(cache_dir, data_root, download, _device(device))
    count = _cores() if workers is None else workers
    seen: list[Generation] = []
    try:
        with progress_display(quiet=quiet) as progress:
            result = run(
                chosen, folder, source=source, workers=count, cluster=dask,
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
    from gp_prune.search.run import CONFIG

    if not (folder / CONFIG).is_file():
        click.echo("gp-prune: interrupted before the run began", err=True)
        return
    when = "before the first generation was done"
    if seen:
        (last,) = seen
        when = f"after generation {last.number} of {last.of}"
        if as_json:
            click.echo(json.dumps(interim_json(str(folder), last.front), indent=2))
        else:
            click.echo("\n".join(interim_lines(last.front, sys.stdout)))
    click.echo(
        f"gp-prune: interrupted {when}; go on with: gp-prune evolve --resume "
        f"{shlex.quote(str(folder))}",
        err=True,
    )


def _settings(config: Path | None, given: dict[str, Any]) -> SearchConfig | None:
    """The settings of the file, overruled by those of the command line; None where all default."""
    from gp_prune.search.config import SearchConfig, read_settings

    chosen: dict[str, Any] = {} if config is None else read_settings(config)
    for name, value in given.items():
        if name == "tasks" and value is not None:
            chosen["tasks"] = tuple(task.strip() for task in value.split(","))
        elif name == "primitives":
            if value:
                # Absolute, so that the run can be resumed from another folder.
                chosen["primitives"] = tuple(str(Path(file).resolve()) for file in value)
        elif value is not None:
            chosen[name] = value
    return SearchConfig(**chosen) if chosen else None


def _next_folder(parent: Path) -> Path:
    """``runs/001``, or the first number that is free."""
    number = 1
    while (parent / f"{number:03d}").exists():
        number += 1
    return parent / f"{number:03d}"


def _cores() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_WORKERS, available or 1)


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' is not available here; use --device cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; use cpu or cuda")
    return name


def _next_steps(result: Result) -> str:
    path = result.folder / "metrics" / f"{result.recommended.name}.json"
    task = next((name for name in result.config.tasks if name in DIGITS), DIGITS[0])
    budget = "--macs 0.5" if result.config.granularity == "channel" else "--ratio 0.5"
    files = "".join(f" --primitives {shlex.quote(file)}" for file in result.config.primitives)
    metric = shlex.quote(str(path))
    return (
        "\nNext:\n"
        f"  gp-prune latex {metric}{files}\n"
        f"  gp-prune apply {metric} {task} {budget} --out pruned{files}"
    )
