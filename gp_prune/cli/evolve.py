"""Provide ``gp-prune evolve``: search for metrics and compare the best with published ones."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gp_prune.base.names import LANGUAGE_TASKS
from gp_prune.cli import completion
from gp_prune.cli.options import (
    Command,
    Shares,
    data_options,
    memory_option,
    pattern_option,
    sequential_option,
)
from gp_prune.cli.run_options import RunOptions, run_options
from gp_prune.errors import UserError
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.search.config import SearchConfig
    from gp_prune.search.nsga2 import Generation
    from gp_prune.search.results import SearchResult
    from gp_prune.search.run import SearchProgress


DIGITS = ("lenet-digits", "resnet-digits", "cnn-digits", "mobilenet-digits")


def _search_options(command: Command) -> Command:
    """Add the options that say what is searched: objectives, budgets, vocabulary, start."""
    options = [
        click.option("--objectives", metavar="NAME[:WEIGHT],...",
                     help="error, tuned_error, macs, params, latency, size."),
        click.option("--budget-kind", metavar="KIND,...",
                     help="What is equal for all candidates: macs, params, channels."),
        click.option("--ladder", type=Shares(),
                     help="Shares kept at which candidates are tried.  [default: of the networks]"),
        pattern_option,
        sequential_option,
        click.option("--scope", help="What is ranked together: global, layer, isomorphic or row."),
        click.option("--aggregate", help="How errors become one: log or mean."),
        click.option("--operands", metavar="NAME,...", help="Search these alone."),
        click.option("--operators", metavar="NAME,...", help="Search these alone."),
        click.option("--exclude", metavar="NAME,...",
                     help="Leave out operands, operators, or families such as labels, gradients."),
        click.option("--start-formula", "start_formulas", multiple=True,
                     shell_complete=completion.metrics,
                     metavar="FORMULA|FILE|NAME", help="Begin with it; may be given repeatedly."),
        click.option("--no-start-formulas", is_flag=True,
                     help="Do not begin with those that come along."),
    ]  # fmt: skip
    return functools.reduce(lambda result, add: add(result), reversed(options), command)


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1, shell_complete=completion.tasks)
@click.option(
    "--tasks",
    shell_complete=completion.tasks,
    help="The same names, separated by commas.  [default: small digits networks]",
)
@click.option(
    "--validate-on",
    shell_complete=completion.judging_tasks,
    multiple=True,
    metavar="TASK",
    help="Task, not in the search, that chooses the winner; repeatable, or none.  "
    "[default: two on digits]",
)
@click.option(
    "--leave-one-out",
    is_flag=True,
    default=None,
    help="One search for each task left out; each winner is tried on the task it never saw.",
)
@data_options
@click.option("--granularity", help="channel, weight, or layer for shares.  [default: channel]")
@click.option(
    "--select",
    shell_complete=completion.metrics,
    metavar="METRIC",
    help="What chooses channels, with granularity layer.  [default: flap]",
)
@click.option("--population", type=int, help="Candidates per generation.  [default: 40]")
@click.option("--generations", type=int, help="Generations after the first.  [default: 24]")
@click.option("--reuse", type=click.Path(path_type=Path), help="Reuse the results of another run.")
@click.option("--strategy", help="evolve, or random for the baseline.  [default: evolve]")
@click.option(
    "--max-evaluations",
    type=int,
    help="Most behaviours to evaluate.  [default: any; weights of language models 500]",
)
@click.option("--stall", type=int, help="Most generations without a better front.  [default: any]")
@click.option(
    "--time-limit",
    type=float,
    help="Most seconds of search; the one rule by which equal runs may differ.",
)
@_search_options
@click.option(
    "--final-seeds", type=int, help="Fine-tuning runs per network at the end.  [default: 3]"
)
@click.option(
    "--finalists",
    type=int,
    help="Formulas of the front that are fine-tuned before one is recommended; 0 for none.  "
    "[default: 6]",
)
@click.option(
    "--comparison/--no-comparison", default=None, help="Compare the front with published metrics."
)
@click.option(
    "--reduce-within-noise",
    is_flag=True,
    default=None,
    help="Shorten the front further, within the noise of its validation error.",
)
@click.option("--calibration", type=int, help="Samples to measure on.  [default: 512]")
@memory_option
@click.option("--stack", type=int, help="Networks fine-tuned as one.  [default: 1; on a GPU 16]")
@click.option("--candidate-timeout", type=float, help="Seconds per evaluation.  [default: any]")
@click.option("--candidate-memory", type=float, help="Megabytes per evaluation.  [default: any]")
@run_options(model=True)
def evolve(run: RunOptions, models: tuple[str, ...], reuse: Path | None, **given: Any) -> int:
    """Evolve pruning metrics on each MODEL together; without one, on the bundled digits.

    MODEL is a task of `gp-prune tasks`, torchvision:NAME, timm:NAME, FILE.py:FUNCTION or, for
    single weights, hf:FOLDER. A function that returns a gp_prune.Task brings its data, the others
    need --data.

    Prints the Pareto front beside random pruning and L1, recommends one formula (">>>>"), and
    leaves settings, journal, front and metric files in the run folder. With --resume, a run that
    has ended prints its result; --resume RUN --generations N makes it longer.
    """
    from gp_prune.report.console import make_console
    from gp_prune.report.recommendation import recommendation
    from gp_prune.report.search import result_json, result_lines
    from gp_prune.report.search_progress import progress_display
    from gp_prune.search.config import SearchConfig, split_names
    from gp_prune.search.run import evolve

    given["start_formulas"] = given["start_formulas"] or None
    given["no_start_formulas"] = given["no_start_formulas"] or None
    listed = () if given["tasks"] is None else split_names(given["tasks"], "--tasks")
    given["tasks"] = (*models, *listed) or None
    if run.resume and reuse:
        raise UserError(
            "--resume goes on with a run as it was begun; leave out --reuse, or begin a new run"
        )
    given["validate_on"] = _validation_names(given["validate_on"])
    config = run.load_settings(SearchConfig, given)
    if _leaves_one_out(run, config):
        return _leave_one_out(run, config, given, reuse)
    last: Generation | None = None
    try:
        with progress_display(quiet=run.quiet) as show:

            def progress(now: SearchProgress) -> None:
                nonlocal last
                last = now.generation or last
                show(now)

            result = evolve(
                config, reuse=reuse, changes=run.changes(given), progress=progress,
                **run.run_arguments(),
            )  # fmt: skip
    except KeyboardInterrupt:
        return _stop(run, last)
    run.write_report(result.config.primitives)
    if run.as_json:
        print_json(result_json(result), allow_nan=True)
        return 0
    for line in result_lines(result, sys.stdout):
        echo(line)
    echo("\n" + recommendation(result, make_console(sys.stdout).width))
    echo(_next_steps(result))
    return 0


def _validation_names(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the names that were given, none of them for ``none``; None where nothing was given."""
    if names == ("none",):
        return ()
    return names or None


def _leaves_one_out(run: RunOptions, config: SearchConfig | None) -> bool:
    """Tell whether there is a search for each task left out."""
    from gp_prune.runs.folder import CONFIG
    from gp_prune.search.config import SearchConfig

    if run.resume and (run.resume / CONFIG).is_file():
        return SearchConfig.from_toml(run.resume / CONFIG).leave_one_out
    return config is not None and config.leave_one_out


def _leave_one_out(
    run: RunOptions, config: SearchConfig | None, given: dict[str, Any], reuse: Path | None
) -> int:
    """Run a search for each task left out, and print what their winners do there."""
    from gp_prune.report.search import left_out_json, left_out_lines
    from gp_prune.report.search_progress import progress_display
    from gp_prune.search.leave_one_out import leave_one_out

    if run.tensorboard is not None:  # its searches have the names of tasks
        run = replace(run, tensorboard=run.tensorboard / run.folder.resolve().name)

    def started(task: str) -> None:
        if not run.quiet:
            echo(f"gp-prune: without {task}", err=True)

    try:
        with progress_display(quiet=run.quiet) as show:
            left = leave_one_out(
                config, reuse=reuse, changes=run.changes(given), progress=show, started=started,
                **run.run_arguments(),
            )  # fmt: skip
    except KeyboardInterrupt:
        return run.report_interrupt("before all searches were done")
    run.write_report({file for one in left for file in one.result.config.primitives})
    if run.as_json:
        print_json({"folder": str(run.folder), "left_out": left_out_json(left)}, allow_nan=True)
        return 0
    for line in left_out_lines(left, sys.stdout):
        echo(line)
    return 0


def _stop(run: RunOptions, last: Generation | None) -> int:
    """Print the front so far, and how to continue the run."""
    from gp_prune.report.search import interim_json, interim_lines

    if last is None:
        from gp_prune.search.results import FRONT

        front = run.folder / FRONT
        if front.is_file():  # it was written a moment ago, or before the run was resumed
            return run.report_interrupt(f"with the front so far in {front}")
        return run.report_interrupt("before the first generation was done")
    when = f"after generation {last.number} of {last.of}"
    if last.number == last.of or last.stopped:
        when = "while the front was compared with published metrics"
    return run.report_interrupt(
        when,
        interim_json(str(run.folder), last),
        interim_lines(last, sys.stdout),
    )


def _next_model(tasks: Sequence[str]) -> str:
    """Return a network for the next command: one of the user's, or a small one."""
    own = [name for name in tasks if ":" in name]
    known = [name for name in tasks if name in (*DIGITS, *LANGUAGE_TASKS)]
    return shlex.quote(next(iter((*own, *known, DIGITS[0]))))


def _next_steps(result: SearchResult) -> str:
    """Return commands that go on with the recommended formula."""
    path = result.folder / "metrics" / f"{result.recommended.name}.json"
    task = _next_model(result.config.tasks)
    budget = "--keep-macs 0.5" if result.config.granularity != "weight" else "--pruning-ratio 0.5"
    if result.config.pattern and not result.config.budgets:
        budget = f"--pattern {result.config.pattern[0]}"
    files = "".join(f" --primitives {shlex.quote(file)}" for file in result.config.primitives)
    metric = shlex.quote(str(path))
    config = result.config
    shape = ",".join(map(str, config.input_shape))
    given = (
        ("data", config.data), ("kind", config.kind), ("weights", config.model_weights),
        ("input-shape", shape),
    )  # fmt: skip
    named = ":" in task
    own = "".join(f" --{name} {shlex.quote(value)}" for name, value in given if value and named)
    return (
        "\nNext:\n"
        f"  gp-prune latex {metric}{files}\n"
        f"  gp-prune apply {metric} {task}{own} {budget} --out pruned{files}"
    )
