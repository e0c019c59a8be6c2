"""What the commands that write a run folder share: options, folder, workers, interruption."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gp_prune.errors import UserError
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.language.registry import primitive_set
from gp_prune.metric.metric import Metric

if TYPE_CHECKING:
    from gp_prune.runs.config import Settings
    from gp_prune.runs.jobs import TaskSource

    S = TypeVar("S", bound=Settings)


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


MOST_WORKERS = 8

_FILE = click.Path(path_type=Path)

seed_option = click.option("--seed", type=int, help="Source of all randomness.  [default: 0]")
workers_option = click.option(
    "--workers", type=int, help="Processes.  [default: one per core, at most 8]"
)
dask_option = click.option(
    "--dask", help="Evaluate on the Dask cluster with this scheduler address."
)
out_option = click.option("--out", type=_FILE, help="Run folder.  [default: runs/NNN]")
resume_option = click.option("--resume", type=_FILE, help="Go on with the run in a folder.")
config_option = click.option("--config", type=_FILE, help="TOML file with settings.")
cache_option = click.option("--cache-dir", help="Folder for trained networks.")
data_option = click.option("--data-root", help="Folder with torchvision's data sets.")
download_option = click.option(
    "--download", is_flag=True, help="Let torchvision fetch a missing data set."
)
device_option = click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
run_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
run_quiet_option = click.option("--quiet", is_flag=True, help="No progress.")


def run_folder(out: Path | None, resume: Path | None, settings: Settings | None) -> Path:
    """The folder of a run: the given one, or ``runs/001``, or the first number that is free.

    Raises:
        UserError: settings or another folder are given for a run that is resumed.
    """
    if resume is None:
        return out or _next_folder(Path("runs"))
    if settings is not None or out is not None:
        raise UserError("--resume takes all settings from the run folder; leave the others out")
    return resume


def _next_folder(parent: Path) -> Path:
    number = 1
    while (parent / f"{number:03d}").exists():
        number += 1
    return parent / f"{number:03d}"


def worker_count(given: int | None) -> int:
    """The number of workers: the given one, or one per core that this process may use."""
    if given is not None:
        return given
    from gp_prune.runs.processes import cores

    return min(MOST_WORKERS, cores())


def task_source(
    cache_dir: str | None, data_root: str | None, download: bool, device: str
) -> TaskSource:
    """Where the tasks are, from the options.

    Raises:
        UserError: there is no such device.
    """
    from gp_prune.runs.jobs import TaskSource

    return TaskSource(cache_dir, data_root, download, checked_device(device))


def checked_device(name: str) -> str:
    """The name of a device that is there; UserError for any other."""
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; use cpu or cuda")
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("device 'cuda' is not available here; use --device cpu")
    return name


def chosen_settings(kind: type[S], config: Path | None, given: dict[str, Any]) -> S | None:
    """The settings of the file, overruled by those of the command line; None where all default.

    Args:
        kind: the class of the settings.
        config: a TOML file.
        given: settings by name; None means not given.
    """
    chosen: dict[str, Any] = {} if config is None else kind.read(config)
    chosen.update({name: value for name, value in given.items() if value is not None})
    return kind(**chosen) if chosen else None


def draws(plot: bool | None) -> bool:
    """Whether to draw; where nothing was asked for and matplotlib is missing, a warning says so.

    Raises:
        UserError: a plot was asked for, and matplotlib is missing; said before the run begins.
    """
    if plot is False:
        return False
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    sentence = (
        "a plot needs matplotlib, which is not installed; install it with "
        "pip install 'gp-prune[plot]', or leave the plot out with --no-plot"
    )
    if plot:
        raise UserError(sentence)
    click.echo(f"gp-prune: warning: {sentence}", err=True)
    return False


def listed(text: str | None) -> tuple[str, ...] | None:
    """The names in a list with commas; None where nothing was given."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def has_begun(folder: Path) -> bool:
    """Whether an interrupted run can be resumed; says so on stderr if not."""
    from gp_prune.runs.folder import CONFIG

    if (folder / CONFIG).is_file():
        return True
    click.echo("gp-prune: interrupted before the run began", err=True)
    return False


def say_how_to_go_on(command: str, folder: Path, when: str) -> None:
    """One sentence on stderr after an interrupt.

    Args:
        command: name of the command of the run.
        folder: its folder.
        when: how far it had come, for instance ``"after generation 3 of 24"``.
    """
    click.echo(
        f"gp-prune: interrupted {when}; go on with: gp-prune {command} --resume "
        f"{shlex.quote(str(folder))}",
        err=True,
    )
