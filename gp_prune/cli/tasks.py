"""Provide ``gp-prune tasks``: list the built-in tasks with the cost of their networks."""

from __future__ import annotations

import sys

import click

from gp_prune.cli.options import json_option
from gp_prune.report.text import echo, print_json


@click.command("tasks")
@json_option
def list_tasks(as_json: bool) -> None:
    """List the built-in tasks: what is predicted, input, parameters, MACs, time of training.

    Any of them may be followed by @SEED, which trains it from another seed: lenet-digits@1. Write
    llama-text:FILE for a language model that is trained on a text of yours.
    """
    from gp_prune.report.console import make_console, new_table, render
    from gp_prune.tasks.catalogue import task_facts

    facts = task_facts()
    if as_json:
        print_json({"tasks": [entry._asdict() for entry in facts]})
        return
    table = new_table("", ["task", "kind", ">input", ">params", ">MACs", ">training"], padding=2)
    for entry in facts:
        sizes = "x".join(map(str, entry.input_shape))
        table.add_row(
            entry.name, entry.kind, sizes, f"{entry.params:,}", f"{entry.macs:,}", entry.training
        )
    for line in render(make_console(sys.stdout), table):
        echo(line)
    echo("training: how long it takes on one core, about; it is done once")
