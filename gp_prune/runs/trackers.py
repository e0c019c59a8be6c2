"""Callbacks that send the course of a run to a tracker of experiments.

Each needs its library, which is imported when the callback is made.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gp_prune._compat import import_optional
from gp_prune.errors import UserError
from gp_prune.runs.callbacks import DONE, STOPPED, Callback, RunEnd, RunStart, RunStep

_PROJECT = "gp-prune"


class TensorBoard(Callback):
    """Write the figures of each run as events of TensorBoard.

    The events of a run are in a sub-folder of the name of its run folder, so one folder holds
    many runs. A run that is resumed begins its curves again from the first step.

    Args:
        folder: that ``tensorboard --logdir`` is given.

    Attributes:
        begun: whether a run has started.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._board = import_optional(
            "torch.utils.tensorboard", "TensorBoard", "gp-prune[tensorboard]", "tensorboard"
        )
        self._writer: Any = None
        self.begun = False

    def on_start(self, start: RunStart) -> None:
        """Open the events of the run and write its settings."""
        place = self._folder / start.name
        try:
            # What an earlier session has written from this step on is not shown any more.
            self._writer = self._board.SummaryWriter(str(place), purge_step=0)
        except OSError as error:
            raise UserError(
                f"the events of TensorBoard cannot be written to {str(place)!r} "
                f"({error.strerror}); name another folder"
            ) from None
        self.begun = True
        rows = [f"| {name} | {_cell(value)} |" for name, value in start.settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), 0)

    def on_step(self, step: RunStep) -> None:
        """Write figures and texts."""
        for name, value in step.figures.items():
            self._writer.add_scalar(name, value, step.number)
        for name, text in step.texts.items():
            self._writer.add_text(name, f"`{_cell(text)}`", step.number)
        self._writer.flush()

    def on_end(self, end: RunEnd) -> None:
        """Write the figures of the result and close the events."""
        for name, value in end.figures.items():
            self._writer.add_scalar(f"result/{name}", value, 0)
        for name, text in end.texts.items():
            self._writer.add_text(f"result/{name}", f"`{_cell(text)}`", 0)
        self._writer.close()


def _cell(value: object) -> str:
    """Return a value for a table of Markdown, of which it must not become another part."""
    return re.sub(r"[|`\s]+", " ", str(value))


class MLflow(Callback):
    """Log each run as a run of MLflow; a resumed one is logged whole as a new run there.

    Args:
        experiment: its name; it is made if there is none.
        uri: of the tracking server or folder; by default what MLflow is set to, for instance by
            ``MLFLOW_TRACKING_URI``.

    Raises:
        UserError: mlflow is not installed.
    """

    def __init__(self, experiment: str = _PROJECT, uri: str | None = None) -> None:
        self._client = import_optional("mlflow", "MLflow", "gp-prune[mlflow]").MlflowClient(uri)
        self._experiment = experiment
        self._run = ""

    def on_start(self, start: RunStart) -> None:
        """Create the run and log the settings."""
        known = self._client.get_experiment_by_name(self._experiment)
        number = known.experiment_id if known else self._client.create_experiment(self._experiment)
        run = self._client.create_run(number, run_name=start.name, tags={"kind": start.kind})
        self._run = run.info.run_id
        for name, value in start.settings.items():
            self._client.log_param(self._run, name, str(value))

    def on_step(self, step: RunStep) -> None:
        """Log figures; texts are tags."""
        for name, value in step.figures.items():
            # MLflow takes no other characters.
            key = re.sub(r"[^\w\-. /]", "_", name)
            self._client.log_metric(self._run, key, value, step=step.number)
        for name, text in step.texts.items():
            self._client.set_tag(self._run, name, text)

    def on_end(self, end: RunEnd) -> None:
        """Log the result and end the run."""
        self.on_step(RunStep(0, {f"result/{n}": v for n, v in end.figures.items()}, end.texts))
        status = {DONE: "FINISHED", STOPPED: "KILLED"}.get(end.reason, "FAILED")
        self._client.set_terminated(self._run, status)


class Trackio(Callback):
    """Log each run as a run of trackio; a resumed one is logged whole as a new run there.

    Args:
        project: its name.
        options: further arguments of ``trackio.init``, such as ``space_id``.

    Raises:
        UserError: trackio is not installed.
    """

    def __init__(self, project: str = _PROJECT, **options: Any) -> None:
        self._trackio = import_optional("trackio", "Trackio", "gp-prune[trackio]")
        self._project, self._options = project, options
        self._run: Any = None

    def on_start(self, start: RunStart) -> None:
        """Begin the run with its settings."""
        config = {"kind": start.kind, **{name: str(v) for name, v in start.settings.items()}}
        self._run = self._trackio.init(
            project=self._project, name=start.name, config=config, **self._options
        )

    def on_step(self, step: RunStep) -> None:
        """Log figures and texts."""
        self._run.log({**step.figures, **step.texts}, step=step.number)

    def on_end(self, end: RunEnd) -> None:
        """Log the result and end the run."""
        result = {**end.figures, **end.texts}
        if result:
            self._run.log({f"result/{name}": value for name, value in result.items()})
        self._run.finish()
