"""Load the network that is pruned and its data, in the main process and in every worker."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import nn

from gp_prune.apply.data import TuningData, tuning_data
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.errors import UserError
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.pruning import Architecture, trace
from gp_prune.runs.jobs import TaskSource, Workbench, network_digest
from gp_prune.statistics import Batch
from gp_prune.tasks import Split
from gp_prune.training import Samples
from gp_prune.training.samples import draw, fingerprint, gather, in_order

_BATCH = 250
"""Samples that are judged at a time."""


class PreparedModel:
    """A network and its data, ready for pruning.

    Args:
        loaded: the network.
        data: what it is trained and judged on.

    Attributes:
        architecture: the traced network.
        digest: SHA-256 of its weights.
    """

    def __init__(self, loaded: LoadedModel, data: TuningData) -> None:
        self.loaded = loaded
        self.model = loaded.model
        self.data = data
        self.architecture: Architecture = trace(
            loaded.model, loaded.example_inputs, interface=loaded.interface
        )
        self.digest = network_digest(loaded.model)
        self._first: dict[int, Samples] = {}

    def error(self, model: nn.Module, most: int | None = None) -> float:
        """Measure the validation error, at most twice the trivial one.

        Args:
            model: a network of the same inputs and outputs.
            most: number of samples, the first ones; all by default.
        """
        data = self.data.validation if most is None else self.first_samples(most)
        error = self.data.evaluate(model, data, batch_size=_BATCH).error
        worst = 2 * self.trivial_error
        return min(error, worst) if math.isfinite(error) else worst

    def first_samples(self, most: int) -> Samples:
        """Return the first validation samples, in memory."""
        if most not in self._first:
            self._first[most] = gather(self.data.validation, most)
        return self._first[most]

    @cached_property
    def trivial_error(self) -> float:
        """Return the validation error of the best constant prediction, at least 1e-12.

        Raises:
            UserError: it is not positive, as an error of a user may be.
        """
        if self.data.task is not None:
            assert isinstance(self.data.validation, Split)  # of the task
            error = self.data.task.trivial_error_on(self.data.validation)
            if self.data.kind == "own" and error <= 0:
                raise UserError(
                    f"the error of task {self.data.name!r} is {error:.4g} for the best constant "
                    "guess, and errors are given as a share of that; give an error that is positive"
                )
        elif self.data.kind == "error":
            # Batch by batch, because the images of a folder may not fit into memory.
            batches = in_order(self.data.validation, _BATCH)
            labels = torch.cat([b.target if b.labels is None else b.labels for b in batches])
            error = 1 - float(labels.bincount().max()) / len(labels)
        else:
            target = gather(self.data.validation).target.double()
            error = float((target - target.mean(0)).square().mean())
        return max(error, 1e-12)

    def samples_digest(self) -> str:
        """Tell the samples from others, see :func:`gp_prune.training.samples.fingerprint`."""
        return f"{fingerprint(self.data.train)}; {fingerprint(self.data.validation)}"

    def calibration(self, samples: int, seed: int) -> list[Batch]:
        """Return training samples on which metrics measure."""
        return list(in_order(draw(self.data.train, samples, seed), 64))


class ModelSource(Protocol):
    """Says where the network and its data are; plain data that travels to the workers."""

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for equal networks with equal data."""

    def prepare(self, workbench: Workbench) -> PreparedModel:
        """Return the network and its data, loaded once per worker."""


@dataclass(frozen=True)
class NamedModel:
    """The network that the settings name, which every worker can load.

    Attributes:
        settings: name the network and its data.
        source: the folders.
        digest: of the network as the main process has loaded it; empty where that is not known.
    """

    settings: GeneticSettings
    source: TaskSource
    digest: str = ""

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for equal networks with equal data."""
        return repr(self)

    def prepare(self, workbench: Workbench) -> PreparedModel:
        """Return the network and its data, loaded once per worker.

        Raises:
            UserError: they cannot be loaded, or differ from those of the main process.
        """
        prepared = workbench.recall(f"model\0{self.key}", self.load)
        if self.digest and prepared.digest != self.digest:
            raise UserError(
                f"a worker has other weights for {self.settings.model!r} than the main process; "
                "give both the same files and cache folder"
            )
        return prepared

    def load(self) -> PreparedModel:
        """Load the network and its data.

        Raises:
            UserError: they cannot be loaded.
        """
        settings, source = self.settings, self.source
        loaded = load_model(
            settings.model,
            input_shape=settings.input_shape or None,
            weights=settings.weights or None,
            seed=settings.model_seed,
            **source.arguments(),
        )
        data = tuning_data(
            loaded,
            settings.data or None,
            share=settings.validation_share,
            samples=settings.most or None,
            data_root=source.data_root,
            download=source.download,
        )
        if not settings.read_test:
            validation = data.validation
            data = replace(data, read_report=lambda: validation, split="validation")
        return PreparedModel(loaded, data)


@dataclass(frozen=True, eq=False)
class InMemoryModel:
    """A network that a program holds in memory; it cannot travel to other processes."""

    prepared: PreparedModel

    @property
    def key(self) -> str:
        """Return a text that tells the network from others in this process."""
        return f"{id(self.prepared)}\0{self.prepared.digest}"

    def prepare(self, workbench: Workbench) -> PreparedModel:
        """Return the network and its data."""
        return self.prepared
