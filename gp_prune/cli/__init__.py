"""Provide the command line ``gp-prune``.

May import every package; open this file first.
"""

from __future__ import annotations

import click

from gp_prune import __version__
from gp_prune.cli.group import CommandGroup, LazyCommand

COMMANDS = {
    "evolve": LazyCommand(
        "gp_prune.cli.evolve:evolve", "Search for new metrics by genetic programming."
    ),
    "apply": LazyCommand("gp_prune.cli.apply:apply", "Prune a network by a metric."),
    "genetic": LazyCommand(
        "gp_prune.cli.genetic:genetic", "Prune one network by a genetic algorithm."
    ),
    "autoencode": LazyCommand(
        "gp_prune.cli.autoencode:autoencode", "Train autoencoders and prune them during training."
    ),
    "list": LazyCommand("gp_prune.cli.describe:list_metrics", "List the bundled metrics."),
    "show": LazyCommand("gp_prune.cli.describe:show", "Show everything that a metric contains."),
    "latex": LazyCommand("gp_prune.cli.describe:latex", "Print metrics as LaTeX."),
}
"""All commands with the path of their code, which is imported when the command is used."""


@click.group(
    name="gp-prune",
    cls=CommandGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="gp-prune", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Discover pruning metrics by genetic programming, apply them, print them as formulas."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
