"""The options of commands that run, resume and are followed, and what they mean."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gp_prune._compat import import_torch
from gp_prune.base.files import resolve_path
from gp_prune.cli import INTERRUPTED
from gp_prune.errors import UserError
from gp_prune.report.text import echo, print_json

if TYPE_CHECKING:
    from gp_prune.runs.settings import Settings
    from gp_prune.runs.trackers import TensorBoard

    S = TypeVar("S", bound=Settings)
from gp_prune.cli.options import (
    MODEL_TIMEOUT,
    Command,
    check_device,
    json_option,
    model_timeout_option,
    primitives_option,
    quiet_option,
    tensorboard_option,
)

MAX_WORKERS = 8


@dataclass(frozen=True)
class RunOptions:
    """Hold the options of a command that writes a run folder, apart from the run's settings.

    Attributes:
        resume: the folder of the run to continue.
        config: a TOML file with settings.
        out: the folder of a new run.
        workers: number of processes; None for one per core, at most :data:`MAX_WORKERS`.
        dask: address of a Dask scheduler.
        primitive_files: Python files with additional primitives.
        data_root: folder with torchvision's data sets.
        download: whether torchvision may download a missing data set.
        device: ``"cpu"`` or ``"cuda"``.
        as_json: whether to print the result as JSON.
        quiet: whether to print no progress.
        trust: Python files that the settings of ``resume`` or ``config`` may run.
        skip_lost: whether what was lost again and again is set aside.
        cache_dir: folder for trained networks.
        model_timeout: seconds that a user's function and a forward pass of its network may take;
            None where no user's network is run.
        tensorboard: folder for the events of TensorBoard; None for none.
    """

    resume: Path | None
    config: Path | None
    out: Path | None
    workers: int | None
    dask: str | None
    primitive_files: tuple[str, ...]
    data_root: str | None
    download: bool
    device: str
    as_json: bool
    quiet: bool
    trust: tuple[str, ...] = ()
    skip_lost: bool = False
    cache_dir: str | None = None
    model_timeout: float | None = None
    tensorboard: Path | None = None

    def load_settings(self, settings_class: type[S], given: dict[str, Any]) -> S | None:
        """Return the settings of the file and the command line; None where neither has any.

        Args:
            settings_class: the class of the settings.
            given: the command line's settings by name, which overrule the file; None = not given.

        Raises:
            UserError: a setting is wrong, settings are given for a run that is resumed, or a file
                of settings runs a Python file that the command line does not name.
        """
        stored = {} if self.config is None else settings_class.read(self.config)
        direct = {name: value for name, value in given.items() if value is not None}
        if self.primitive_files and not self.resume:
            # Absolute, so that the run can be resumed from another folder.
            direct["primitives"] = tuple(map(resolve_path, self.primitive_files))
        settings = {**stored, **direct}
        if self.resume and (stored or self.out or set(direct) - settings_class.ADJUSTABLE):
            names = sorted(settings_class.ADJUSTABLE.intersection(given))
            options = [f"--{name.replace('_', '-')}" for name in names]
            but = f" (only {', '.join(options)} may be given)" if options else ""
            raise UserError(
                f"--resume takes all settings from the run folder; leave the others out{but}"
            )
        checked = settings_class(**settings) if settings and not self.resume else None
        if not self.resume:
            from gp_prune.runs.settings import check_trust, code_files

            if self.skip_lost:
                raise UserError("--skip-lost is for a run that is resumed; leave it out")
            read = code_files({name: stored[name] for name in stored if name not in direct})
            file = f"settings file {str(self.config)!r}" if self.config else "this command"
            check_trust(read, self.trust, file)
        return checked

    def changes(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the settings that a resumed run changes, by name; None in ``given`` = not given.

        :meth:`load_settings` has checked them.
        """
        return {name: value for name, value in given.items() if self.resume and value is not None}

    @cached_property
    def folder(self) -> Path:
        """Return the folder of the run; by default the first of ``runs/001``, ... that is free."""
        given = self.resume or self.out
        numbered = (Path("runs") / f"{number:03d}" for number in range(1, 10**6))
        return given or next(folder for folder in numbered if not folder.exists())

    @cached_property
    def board(self) -> TensorBoard | None:
        """Return what writes the events of TensorBoard, if they are wanted.

        Raises:
            UserError: tensorboard is not installed.
        """
        if self.tensorboard is None:
            return None
        from gp_prune.runs.trackers import TensorBoard

        return TensorBoard(self.tensorboard)

    def run_arguments(self) -> dict[str, Any]:
        """Return the arguments that every run takes from these options.

        Raises:
            UserError: CUDA is asked for, and there is none, or tensorboard is not installed.
        """
        from gp_prune.runs.jobs import TaskSource
        from gp_prune.runs.processes import cores

        check_device(self.device)
        source = TaskSource(self.cache_dir, self.data_root, self.download, self.device)
        if self.model_timeout is not None:
            source = replace(source, model_timeout=self.model_timeout)
        workers = min(MAX_WORKERS, cores()) if self.workers is None else self.workers
        return {
            "folder": self.folder, "source": source, "workers": workers, "cluster": self.dask,
            "resume": self.resume is not None, "skip_lost": self.skip_lost,
            # Files of primitives are settings of a new run.
            "trust": (*self.trust, *self.primitive_files) if self.resume else (),
            **({} if self.board is None else {"callbacks": [self.board]}),
        }  # fmt: skip

    @property
    def _changed_timeout(self) -> str | None:
        """Return the model timeout where it is not the default."""
        return None if self.model_timeout in (None, MODEL_TIMEOUT) else f"{self.model_timeout:g}"

    @property
    def resume_command(self) -> str:
        """Return the command that continues the run, with all that it needs to be the same run."""
        import tomllib

        from gp_prune.runs.folder import CONFIG
        from gp_prune.runs.settings import code_files

        settings = tomllib.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        options = [("--resume", str(self.folder))]
        options += [("--trust", file) for file in dict.fromkeys(code_files(settings))]
        for flag, value in (
            ("--cache-dir", self.cache_dir), ("--data-root", self.data_root),
            ("--dask", self.dask), ("--model-timeout", self._changed_timeout),
            ("--device", None if self.device == "cpu" else self.device),
            ("--tensorboard", None if self.tensorboard is None else str(self.tensorboard)),
        ):  # fmt: skip
            if value is not None:
                options.append((flag, value))
        words = [word for option in options for word in option]
        words += ["--download"] if self.download else []
        command = click.get_current_context().command.name
        return f"gp-prune {command} {shlex.join(words)}"

    def write_report(self, code: Iterable[str] = ()) -> None:
        """Write the page of the run, which has ended, into its folder, and say where it is.

        Where the folder holds several runs, each has a page. The result is in the other files
        already, so a page that cannot be written is a warning.

        Args:
            code: Python files of primitives that the run has used.
        """
        from gp_prune.report.page.write import REPORT, find_run, write_report, write_reports

        if self.tensorboard is not None and (self.board is None or not self.board.begun):
            echo(
                "gp-prune: warning: the run had ended before, so nothing was written for "
                "TensorBoard", err=True,
            )  # fmt: skip
        try:
            write = write_report if find_run(self.folder) else write_reports
            write(self.folder, trust=tuple(code))
        except UserError as error:
            echo(f"gp-prune: warning: there is no {REPORT}: {error}", err=True)
            return
        if not self.quiet:
            echo(f"gp-prune: report: {self.folder / REPORT}", err=True)

    def report_early_interrupt(self, first: str) -> int:
        """Print that a run was interrupted before a step was done, see :meth:`report_interrupt`.

        Args:
            first: the step of a new run; a resumed one repeats what it has done before.
        """
        again = self.resume is not None
        return self.report_interrupt(
            "before it had come as far as before" if again else f"before {first} was done"
        )

    def report_interrupt(self, when: str, data: Any = None, lines: Iterable[str] = ()) -> int:
        """Print what an interrupted run has reached and how to continue it.

        Args:
            when: how far the run had come, for instance ``"after generation 3 of 24"``.
            data: its state for ``--json``; None for nothing.
            lines: its state as text.

        Returns:
            The exit code of the command.
        """
        from gp_prune.runs.folder import CONFIG

        if not (self.folder / CONFIG).is_file():
            echo("gp-prune: interrupted before the run began", err=True)
            return INTERRUPTED
        if not self.as_json:
            for line in lines:
                echo(line)
        elif data is not None:
            print_json(data, allow_nan=True)
        echo(f"gp-prune: interrupted {when}; go on with: {self.resume_command}", err=True)
        return INTERRUPTED


def run_options(
    *, cache: bool = True, model: bool = False, followed: bool = True
) -> Callable[[Command], Command]:
    """Add the options of :class:`RunOptions` and ``--seed`` to a command.

    The command gets one :class:`RunOptions` as its first argument; the seed is a setting.

    Args:
        cache: whether the command uses trained networks.
        model: whether the command may run a user's network.
        followed: whether the command takes callbacks.
    """
    path = click.Path(path_type=Path)
    options = [
        primitives_option,
        click.option("--seed", type=int, help="Seed of all random numbers.  [default: 0]"),
        click.option("--workers", type=int, help="Processes.  [default: one per core, at most 8]"),
        click.option("--dask", help="Evaluate on the Dask cluster with this scheduler address."),
        click.option("--out", type=path, help="Run folder.  [default: runs/NNN]"),
        click.option("--resume", type=path, help="Continue the run in this folder."),
        click.option("--skip-lost", is_flag=True,
                     help="With --resume: set aside what killed its workers, as the worst result."),
        click.option("--config", type=path, help="TOML file with settings."),
        click.option("--trust", multiple=True, metavar="FILE.py",
                     help="Python file that the settings of --resume or --config may run."),
        *([click.option("--cache-dir", help="Folder for trained networks.")] if cache else []),
        *([model_timeout_option] if model else []),
        click.option("--data-root", help="Folder with torchvision's data sets."),
        click.option("--download", is_flag=True, help="Let torchvision fetch a missing data set."),
        click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu",
                     show_default=True, help="Device to compute on."),
        *([tensorboard_option] if followed else []),
        json_option,
        quiet_option,
    ]  # fmt: skip

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            names = [field.name for field in fields(RunOptions) if field.name in given]
            run = RunOptions(**{name: given.pop(name) for name in names})
            import_torch()
            try:
                return function(run, **given)
            except UserError as error:
                from gp_prune.runs.host import JobLost

                if not isinstance(error, JobLost):
                    raise
                raise UserError(
                    f"{error.title} could not be computed: {error.reason}; free memory or give "
                    f"fewer --workers and go on with: {run.resume_command} (with --skip-lost, what "
                    "is lost is set aside)"
                ) from error

        return functools.reduce(lambda result, add: add(result), reversed(options), command)

    return decorate
