"""Complete names of metrics, tasks and data sets in a shell; provide ``gp-prune completion``.

A person waits for each completion, so nothing here imports torch or sympy.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

from gp_prune.base.names import DATA_SETS, TASK_NAMES, TEXT_TASKS, WEIGHTS_TASKS, bundled_metrics
from gp_prune.errors import UserError
from gp_prune.report.text import echo

_VARIABLE = "_GP_PRUNE_COMPLETE"
_OPERATORS = ("none", "random", "variance", "conjunctive")
_RECIPES = ("binary-clusters", "binary-clusters-50")


def _complete(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin like this; where there are none, the shell shows files."""
    begun = dict.fromkeys(name for name in names if name.startswith(incomplete))
    found = [CompletionItem(name) for name in begun]
    return found or [CompletionItem(incomplete, type="file")]


def metrics(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a bundled metric or a file."""
    return _complete(bundled_metrics(), incomplete)


def mutations(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a metric or ``random``."""
    return _complete(("random", *bundled_metrics()), incomplete)


def pruning_operators(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete what prunes an autoencoder: its own operators, or a metric."""
    return _complete((*_OPERATORS, *bundled_metrics()), incomplete)


def tasks(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a built-in task or a file with a network; of names with commas the last one."""
    before, comma, last = incomplete.rpartition(",")
    names = (*TASK_NAMES, *(f"{name}:" for name in (*TEXT_TASKS, *WEIGHTS_TASKS)))
    taken = before.split(",")
    return _complete(
        (f"{before}{comma}{name}" for name in names if name not in taken), before + comma + last
    )


def judging_tasks(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a built-in task or ``none``."""
    return _complete(("none", *TASK_NAMES), incomplete)


def data_sets(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a data set of images or a folder."""
    return _complete(DATA_SETS, incomplete)


def autoencoder_data(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a data set of the autoencoder trainer or a file."""
    return _complete((*_RECIPES, *DATA_SETS), incomplete)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes commands, options, metrics and tasks.

    bash: eval "$(gp-prune completion bash)" in ~/.bashrc; zsh: eval "$(gp-prune completion zsh)" in
    ~/.zshrc, after compinit; fish: gp-prune completion fish | source in ~/.config/fish/config.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has these three"
    try:
        script = kind(context.find_root().command, {}, "gp-prune", _VARIABLE).source()
    except (OSError, RuntimeError) as error:  # click asks bash for its version
        raise UserError(f"{shell} cannot be completed here: {error}") from None
    echo(script)
