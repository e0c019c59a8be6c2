"""Provide ``gp-prune evolve``: search for metrics and compare the best with published ones."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.cli.options import RunOptions, memory_option, run_options
from gp_prune.errors import UserError
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.search.nsga2 import Generation
    from gp_prune.search.results import SearchResult
    from gp_prune.search.run import SearchProgress


DIGITS = ("lenet-digits", "cnn-digits", "autoencoder-digits")


@click.command()
@click.option("--tasks", help="Names, separated by commas.  [default: the three digits tasks]")
@click.option("--granularity", help="channel or weight.  [default: channel]")
@click.option("--population", type=int, help="Candidates per generation.  [default: 40]")
@click.option("--generations", type=int, help="Generations after the first.  [default: 24]")
@click.option("--reuse", type=click.Path(path_type=Path), help="Reuse the results of another run.")
@click.option("--strategy", help="evolve, or random for the baseline.  [default: evolve]")
@click.option("--max-evaluations", type=int, help="Most behaviours to evaluate.  [default: any]")
@click.option("--stall", type=int, help="Most generations without a better front.  [default: any]")
@click.option(
    "--time-limit",
    type=float,
    help="Most seconds of search; the one rule by which equal runs may differ.",
)
@click.option("--calibration", type=int, help="Samples to measure on.  [default: 512]")
@memory_option
@click.option("--stack", type=int, help="Networks fine-tuned as one.  [default: 1; on a GPU 16]")
@click.option("--candidate-timeout", type=float, help="Seconds per evaluation.  [default: any]")
@click.option("--candidate-memory", type=float, help="Megabytes per evaluation.  [default: any]")
@run_options()
def evolve(run: RunOptions, reuse: Path | None, **given: Any) -> int:
    """Evolve pruning metrics on real networks; without options, on the bundled digits.

    Prints the Pareto front beside random pruning and L1, recommends one formula (">>>>"), and
    leaves settings, journal, front and metric files in the run folder.
    """
    from gp_prune.report.search import (
        progress_display,
        recommendation,
        result_json,
        result_lines,
    )
    from gp_prune.search.config import SearchConfig
    from gp_prune.search.run import evolve

    if given["tasks"] is not None:
        given["tasks"] = _task_names(given["tasks"])
    if run.resume and reuse:
        raise UserError(
            "--resume goes on with a run as it was begun; leave out --reuse, or begin a new run"
        )
    config = run.load_settings(SearchConfig, given)
    last: Generation | None = None
    try:
        with progress_display(quiet=run.quiet) as show:

            def progress(now: SearchProgress) -> None:
                nonlocal last
                last = now.generation or last
                show(now)

            result = evolve(config, reuse=reuse, progress=progress, **run.run_arguments())
    except KeyboardInterrupt:
        return _stop(run, last)
    if run.as_json:
        print_json(result_json(result), allow_nan=True)
        return 0
    for line in result_lines(result, sys.stdout):
        echo(line)
    echo("\n" + recommendation(result))
    echo(_next_steps(result))
    return 0


def _task_names(text: str) -> tuple[str, ...]:
    """Return the names in a list that is separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UserError(
            f"--tasks is {text!r}, where a name is empty; write names such as lenet-digits, "
            "separated by commas"
        )
    return names


def _stop(run: RunOptions, last: Generation | None) -> int:
    """Print the front so far, and how to continue the run."""
    from gp_prune.report.search import interim_json, interim_lines

    if last is None:
        return run.report_interrupt("before the first generation was done")
    return run.report_interrupt(
        f"after generation {last.number} of {last.of}",
        interim_json(str(run.folder), last.front),
        interim_lines(last.front, sys.stdout),
    )


def _next_steps(result: SearchResult) -> str:
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
