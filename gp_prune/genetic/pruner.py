"""The genetic pruner as an object for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from gp_prune.apply.evaluation import Measure
from gp_prune.apply.models import LoadedModel
from gp_prune.apply.tuning import TuningData, own_data
from gp_prune.errors import UserError
from gp_prune.genetic.result import Result
from gp_prune.genetic.run import Progress, prune_genetically
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.subject import InMemoryModel
from gp_prune.runs.jobs import TaskSource
from gp_prune.statistics import Loss
from gp_prune.training.samples import draw

_OF_NAMED = ("data", "weights", "input_shape", "model_seed", "most")
"""Settings that a network in memory does not take."""


class GeneticPruner:
    """Prunes networks by a genetic algorithm and retraining in turns.

    ``GeneticPruner(rounds=4).prune(model, (inputs, labels)).recommended.model`` is a smaller
    network; ``.points`` are the whole front.

    Args:
        settings: how; the defaults where none are given.
        workers: processes for networks that can be loaded by name; one torch thread each.
        cluster: address of a Dask scheduler whose workers work in their place.
        source: folders of tasks and data sets, and the device.
        progress: hears where a run stands.
        changes: settings by name that differ from ``settings``.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        settings: GeneticSettings | None = None,
        *,
        workers: int = 1,
        cluster: str | None = None,
        source: TaskSource | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        **changes: Any,
    ) -> None:
        known = GeneticSettings.__dataclass_fields__
        for name in changes:
            if name not in known:
                raise UserError(f"unknown setting {name!r}; there are {', '.join(known)}")
        self.settings = replace(settings or GeneticSettings(), **changes)
        self._workers, self._cluster, self._source = workers, cluster, source
        self._progress = progress

    def prune(
        self,
        model: nn.Module | str,
        data: Any = None,
        folder: str | Path = "runs/genetic",
        *,
        example_inputs: Any = None,
        loss: Loss | None = None,
        kind: Measure = "error",
        resume: bool = False,
        timed: bool = True,
    ) -> Result:
        """Prune a network; what is found is in the result and in the run folder.

        Args:
            model: the name of a network (as of ``gp-prune genetic``) or a trained module, which is
                not changed. Modules are pruned in this process.
            data: for a module: a pair (inputs, target) of tensors, batches, or what
                :func:`gp_prune.own_data` gives; for a name a data set or a folder of images, or
                None for a task.
            folder: the run folder; it must be new, unless ``resume``.
            example_inputs: what the module can be called with; by default one sample of the data.
            loss: of training a module; by default cross entropy, or the mean squared error.
            kind: of a module's errors, ``"error"`` (share of wrong classes) or ``"mse"``.
            resume: go on with the run in ``folder``, which had the same settings.
            timed: whether to measure the time of the convolutions at the end.

        Raises:
            UserError: an argument does not fit, or the network cannot be pruned.
        """
        if isinstance(model, str):
            if example_inputs is not None or loss is not None or kind != "error":
                raise UserError(
                    f"{model!r} has its own inputs, loss and kind of error; leave out "
                    "example_inputs, loss and kind, or give the module itself"
                )
            settings = replace(self.settings, model=model, data=data or "")
            return self._run(settings, folder, None, resume, timed)
        for name in _OF_NAMED:
            if getattr(self.settings, name):
                raise UserError(
                    f"{name} is for networks that are loaded by name; leave it out for a module"
                )
        if data is None:
            raise UserError("a network in memory needs data; give a pair (inputs, target)")
        own = data if isinstance(data, TuningData) else own_data(
            data, loss=loss, kind=kind, share=self.settings.validation_share
        )  # fmt: skip
        inputs = first_sample(own) if example_inputs is None else example_inputs
        subject = InMemoryModel.of(LoadedModel("network", model, inputs), own)
        try:
            settings = replace(self.settings, model="")
            return self._run(settings, folder, subject, resume, timed)
        finally:
            subject.forget()

    def _run(
        self,
        settings: GeneticSettings,
        folder: str | Path,
        subject: InMemoryModel | None,
        resume: bool,
        timed: bool,
    ) -> Result:
        return prune_genetically(
            settings, folder, subject=subject, source=self._source, workers=self._workers,
            cluster=self._cluster, resume=resume, timed=timed, progress=self._progress,
        )  # fmt: skip


def first_sample(data: TuningData) -> Any:
    """The inputs of one training sample."""
    return draw(data.train, 1, 0).inputs
