"""Options and arguments that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from gp_prune.discovery import primitive_set
from gp_prune.errors import UserError
from gp_prune.metric import Metric
from gp_prune.primitive import PrimitiveSet

primitives_option = click.option(
    "--primitives",
    "primitive_files",
    metavar="FILE.py",
    multiple=True,
    help="Python file with your own operands and operators; may be given several times.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
)
quiet_option = click.option("--quiet", is_flag=True, help="Print no progress on stderr.")


class Sizes(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Sizes of one input sample: ``3,64,64``."""

    name = "C,H,W"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The sizes as whole numbers of at least 1."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no list of sizes; write it like 3,64,64", param, ctx)
        return tuple(int(part) for part in parts)


def read_metric(text: str, primitives: PrimitiveSet) -> Metric:
    """The metric that a person names: a bundled one or a file.

    Raises:
        UserError: there is no such metric, or it is not valid.
    """
    if "(" in text and not Path(text).exists():
        raise UserError(
            f"{text!r} is a formula, but this takes the name of a bundled metric or a metric file; "
            "write the file with gp_prune.Metric.parse(text, name=...).save(path)"
        )
    return Metric.load(text, primitives)


def read_metrics(names: Sequence[str], primitive_files: Sequence[str]) -> list[Metric]:
    """The metrics that a person names, in the vocabulary of the given files."""
    primitives = primitive_set(*primitive_files)
    return [read_metric(name, primitives) for name in names]


def print_json(data: Any) -> None:
    """Print a JSON object on stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
