"""Define the options that several commands share, and what they mean."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gp_prune.base.sizes import MAX_MEMORY
from gp_prune.cli import completion
from gp_prune.errors import UserError, brief
from gp_prune.report.text import echo

if TYPE_CHECKING:
    from gp_prune.runs.settings import Settings

    S = TypeVar("S", bound=Settings)

Command = Callable[..., Any]


MODEL_TIMEOUT = 300.0
"""As in ``statistics/time_limit.py``, which is imported with torch."""
_MOST_NUMBERS = 10**8
"""Of one sample."""

primitives_option = click.option(
    "--primitives",
    "primitive_files",
    metavar="FILE.py",
    multiple=True,
    help="Python file with additional operands and operators; may be given several times.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else."
)
memory_option = click.option(
    "--max-memory",
    metavar="SIZE",
    help=f"Most memory for measured statistics, such as 500MB.  [default: {MAX_MEMORY}]",
)
model_timeout_option = click.option(
    "--model-timeout",
    type=float,
    default=MODEL_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="Most time of FILE.py:FUNCTION, and of each forward pass of its network; 0 for any.",
)
tensorboard_option = click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the course of the run for TensorBoard, into a sub-folder of DIR.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print no progress on stderr.")


class Sizes(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Parse the sizes of one input sample: ``3,64,64``."""

    name = "C,H,W"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the sizes as whole numbers of at least 1."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
            self.fail(f"{brief(value)} is no list of sizes; write it like 3,64,64", param, ctx)
        sizes = tuple(map(int, parts))
        if math.prod(sizes) > _MOST_NUMBERS:
            self.fail(
                f"{brief(value)} is a sample of more than {_MOST_NUMBERS:,} numbers; make it "
                "smaller", param, ctx
            )  # fmt: skip
        return sizes


class Shares(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Parse shares to keep, separated by commas: ``0.5,0.3``."""

    name = "S,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the shares as numbers; what shares may be is checked with the settings."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{brief(value)} is no list of shares; write it like 0.5,0.3", param, ctx)


class Patterns(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Parse patterns, separated by commas: ``2:4,4:8``."""

    name = "N:M,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the texts; what patterns may be is checked with the settings."""
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in str(value).split(","))


pattern_option = click.option(
    "--pattern",
    type=Patterns(),
    help="Of single weights, keep N of every M; without shares, in their place.",
)


sequential_option = click.option(
    "--sequential",
    is_flag=True,
    default=None,
    help="Score single weights of each block on outputs of the pruned blocks before it.",
)


def data_options(command: Command) -> Command:
    """Add the options of data for the networks that bring none."""
    options = [
        click.option("--data", metavar="SET|FOLDER|FILE", shell_complete=completion.data_sets,
                     help="Images, or a text for hf:FOLDER, for models that bring no data."),
        click.option("--kind", help="What those do: classification or reconstruction."),
        click.option("--weights", "model_weights", metavar="FILE", help="State dict for a model."),
        click.option("--input-shape", type=Sizes(), help="Sizes of one input of a model."),
        click.option("--most", type=int, metavar="N", help="Most images to read of each part."),
    ]  # fmt: skip
    return functools.reduce(lambda result, add: add(result), reversed(options), command)


def check_device(name: str) -> None:
    """Raise UserError for ``"cuda"`` where there is none."""
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("device 'cuda' is not available here; use --device cpu")


def can_plot(plot: bool | None) -> bool:
    """Return whether to draw; warn where no choice was made and matplotlib is missing.

    Raises:
        UserError: a plot was asked for, and matplotlib is missing.
    """
    from gp_prune.report.plots import find_matplotlib

    if plot is False:
        return False
    try:
        find_matplotlib()
    except UserError as error:
        sentence = f"{error}, or leave the plot out with --no-plot"
        if plot:
            raise UserError(sentence) from None
        echo(f"gp-prune: warning: {sentence}", err=True)
        return False
    return True
