"""From plans to retrained networks: the jobs, and what becomes of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gp_prune.errors import UserError
from gp_prune.genetic import network
from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.network import state_path
from gp_prune.genetic.plan import Layout, Masks, Plan
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.subject import ModelSource, Prepared
from gp_prune.runs.executors import Runner, run_with_journal
from gp_prune.runs.jobs import Workbench
from gp_prune.runs.journal import Journal
from gp_prune.statistics import Batch, Loss
from gp_prune.statistics.running import call_model, derive_seed, device_of, to_device, training_mode
from gp_prune.training import FineTuning, Samples, batch_norms, fine_tune, recalibrate
from gp_prune.training.loss import distance, main_output
from gp_prune.training.pooling import pool_fast
from gp_prune.training.samples import Data, draw, sample_count, take

DENSE = "dense"
"""In the place of a digest: the weights of the network that is pruned."""

RECALIBRATION = 512
"""Training samples on which batch norms are measured anew before a plan is tried."""

WORST = 1e6
"""The error of a plan that could not be tried."""

_TEMPERATURE = 4.0
_TAUGHT_BYTES = 2**28
"""Outputs of the dense network are kept where all of them take no more than this."""


class Outcome(NamedTuple):
    """What became of a plan.

    Attributes:
        error: validation error, in the unit of the data; never infinite.
        weights: digest of the retrained weights; empty where nothing was retrained.
        failure: why there is no result; empty if there is one.
    """

    error: float
    weights: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Trial:
    """Try a plan without retraining.

    Attributes:
        subject: the network.
        folder: where weights are kept.
        weights: digest of those that the plan is tried on.
        plan: what is removed.
        samples: most validation samples.
    """

    subject: ModelSource
    folder: str
    weights: str
    plan: Plan
    samples: int

    @property
    def key(self) -> str:
        """Equal exactly for jobs with the same result."""
        return f"trial:{self.weights[:32]}:{self.plan.digest()}:{self.samples}"

    @property
    def task(self) -> str:
        """None: the subject loads the network itself."""
        return ""

    def run(self, workbench: Workbench) -> Outcome:
        """The validation error of the network of the plan."""
        prepared = self.subject.prepared(workbench)
        model = current(prepared, self.folder, self.weights, workbench)
        smaller = pool_fast(network.pruned(model, self.plan, prepared.architecture))
        if batch_norms(smaller):
            _recalibrated(smaller, prepared, workbench, self.subject.key)
        return Outcome(prepared.error(smaller, self.samples))

    def failed(self, reason: str) -> Outcome:
        """The worst that counts."""
        return Outcome(WORST, "", reason)


@dataclass(frozen=True)
class Retrain:
    """Retrain the network of a plan.

    Attributes:
        subject: the network.
        folder: where weights are kept.
        weights: digest of those to start from.
        plan: what is removed, and stays so.
        tuning: how; its share of distillation is 0, because that is done here.
        distill: share of the loss that compares with the dense network.
        shift: pixels by which training images are moved at most.
    """

    subject: ModelSource
    folder: str
    weights: str
    plan: Plan
    tuning: FineTuning
    distill: float
    shift: int = 0

    @property
    def key(self) -> str:
        """Equal exactly for jobs with the same result."""
        how = json.dumps([self.tuning.to_json(), self.distill, self.shift], sort_keys=True)
        return f"retrain:{self.weights[:32]}:{self.plan.digest()}:{how}"

    @property
    def task(self) -> str:
        """None: the subject loads the network itself."""
        return ""

    def run(self, workbench: Workbench) -> Outcome:
        """Retrain, write the weights down, judge on all validation samples."""
        prepared = self.subject.prepared(workbench)
        model = current(prepared, self.folder, self.weights, workbench)
        smaller = pool_fast(network.pruned(model, self.plan, prepared.architecture))
        if batch_norms(smaller):
            _recalibrated(smaller, prepared, workbench, self.subject.key)
        try:
            self._tune(smaller, prepared, workbench)
        except UserError as error:
            return self.failed(str(error))
        places = network.positions(model, self.plan, prepared.architecture)
        state = network.put_back(cpu_state(model), smaller, places, self.plan)
        digest = network.save_state(state, Path(self.folder))
        return Outcome(prepared.error(smaller), digest)

    def _tune(self, model: nn.Module, prepared: Prepared, workbench: Workbench) -> None:
        train: Data = prepared.data.train
        loss = prepared.data.loss
        settings, teacher = self.tuning, None
        if self.distill:
            taught = _taught(prepared, workbench, self.subject.key)
            if taught is None:
                settings, teacher = _distilling(settings, self.distill), prepared.model
            else:
                train, loss = taught, _joined(loss, self.distill)
        fine_tune(
            model,
            Shifted(train, self.shift) if self.shift else train,
            loss,
            settings,
            validation=prepared.data.validation,
            error=lambda network, _: prepared.error(network),
            teacher=teacher,
            held=network.held(prepared.model, self.plan, prepared.architecture),
        )

    def failed(self, reason: str) -> Outcome:
        """The worst that counts."""
        return Outcome(WORST, "", reason)


class Shifted(Dataset[Batch]):
    """Training images, moved by some pixels anew whenever they are taken; zeros come in.

    What is compared with the output is that of the image as it is. All images of a mini-batch are
    moved alike, by torch's random numbers, which fine-tuning seeds in every epoch.

    Args:
        data: the images.
        most: most pixels in each direction.

    Raises:
        UserError: the data are not images that can be read in any order, or none would be left.
    """

    def __init__(self, data: Data, most: int) -> None:
        few = take(data, torch.arange(1)).inputs if isinstance(data, Dataset) else None
        if not isinstance(data, Dataset) or not isinstance(few, Tensor) or few.dim() != 4:
            raise UserError(
                f"shift is {most}, but the training data are no images (samples, channels, height, "
                "width) that can be read in any order; use shift 0"
            )
        height, width = few.shape[2:]
        if most >= min(height, width):
            raise UserError(
                f"shift is {most}, but the training images have {height} x {width} pixels, so "
                "nothing of them might be left; use a shift of a few pixels"
            )
        self._data, self._most = data, most

    def __len__(self) -> int:
        return sample_count(self._data)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The samples with these numbers, their images moved."""
        batch = take(self._data, torch.tensor(indices))
        assert isinstance(batch.inputs, Tensor)
        down, right = (int(torch.randint(2 * self._most + 1, ())) for _ in range(2))
        height, width = batch.inputs.shape[2:]
        padded = functional.pad(batch.inputs, (self._most,) * 4)
        return batch._replace(inputs=padded[:, :, down : down + height, right : right + width])


def current(prepared: Prepared, folder: str, weights: str, workbench: Workbench) -> nn.Module:
    """The dense network with the weights of that digest; nobody may change it."""
    if weights == DENSE:
        return prepared.model

    def load() -> nn.Module:
        model = copy.deepcopy(prepared.model)
        model.load_state_dict(network.load_state(Path(folder), weights))
        return model

    return workbench.recall(f"network\0{folder}\0{weights}", load)


def cpu_state(model: nn.Module) -> network.State:
    """The weights and buffers of a network, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def _recalibrated(model: nn.Module, prepared: Prepared, workbench: Workbench, subject: str) -> None:
    """Measure batch norms anew, in place, always on the same training samples."""
    chosen = workbench.recall(
        f"recalibration\0{subject}",
        lambda: draw(prepared.data.train, RECALIBRATION, 0),
    )
    recalibrate(model, [Batch(chosen.inputs)])


def _taught(prepared: Prepared, workbench: Workbench, subject: str) -> Samples | None:
    """The training samples with the outputs of the dense network as part of their target.

    So it runs once and not in every epoch. None where the samples are not in memory, or the
    outputs would take too much of it.
    """
    train = prepared.data.train
    if not isinstance(train, Samples) or not isinstance(train.inputs, Tensor):
        return None

    def make() -> Samples | None:
        assert isinstance(train.inputs, Tensor)
        outputs = []
        with training_mode(prepared.model, False), torch.no_grad():
            for part in torch.split(train.inputs, 256):
                inputs = to_device(part, device_of(prepared.model))
                outputs.append(main_output(call_model(prepared.model, inputs)))
                if outputs[0].nbytes / len(outputs[0]) * len(train) > _TAUGHT_BYTES:
                    return None
        return Samples(train.inputs, (train.target, torch.cat(outputs)), train.labels)

    return workbench.recall(f"taught\0{subject}", make)


def _joined(loss: Loss, share: float) -> Any:
    """The loss joined with the distance from the outputs of the dense network."""

    def joined(output: Any, target: tuple[Any, Tensor]) -> Tensor:
        wanted, taught = target
        apart = distance(output, taught, wanted, _TEMPERATURE)
        return share * apart + (1 - share) * loss(output, wanted)

    return joined


def _distilling(settings: FineTuning, share: float) -> FineTuning:
    return replace(settings, distill=share, temperature=_TEMPERATURE)


class Wanted(NamedTuple):
    """A network that is to be retrained.

    Attributes:
        start: where the weights come from.
        masks: its genome.
        plan: what is removed.
        epochs: of retraining.
    """

    start: Elite
    masks: Masks
    plan: Plan
    epochs: int


class Retraining:
    """Retrains the networks of plans, each under a number of its own.

    Args:
        subject: the network that is pruned, as the workers find it.
        settings: how it is retrained.
        layout: knows what a plan keeps.
        folder: where weights are kept.
        runner: where jobs run.
        journal: what is known already, and where the rest is written.
        rate: measures the scores of a network when they are first asked for.

    Attributes:
        failures: why retrainings gave no network, one reason for each.
    """

    def __init__(
        self,
        subject: ModelSource,
        settings: GeneticSettings,
        layout: Layout,
        folder: str,
        runner: Runner,
        journal: Journal[Outcome],
        rate: Callable[[Elite], MetricScores],
    ) -> None:
        self.failures: list[str] = []
        self._subject, self._settings, self._layout = subject, settings, layout
        self._folder, self._runner, self._journal = folder, runner, journal
        self._rate = rate
        self._numbers = 0

    def run(self, wanted: Sequence[Wanted], number: int, what_for: object) -> list[Elite | None]:
        """The networks that are wanted; None for those that fail, which are written down.

        Args:
            wanted: what to retrain.
            number: the round.
            what_for: the round or the purpose, which decides the order of the samples.
        """
        jobs = [self._job(one, what_for) for one in wanted]
        outcomes = run_with_journal(jobs, self._runner, self._journal)
        # The journal may know weights that somebody has deleted since.
        lost = [job for job in jobs if self._lost(outcomes[job.key])]
        for job, outcome in zip(lost, self._runner.run(lost), strict=True):
            outcomes[job.key] = outcome
        fresh: list[Elite | None] = []
        for job, (start, masks, plan, epochs) in zip(jobs, wanted, strict=True):
            outcome = outcomes[job.key]
            if outcome.failure:
                self._journal.event({"event": "failed", "plan": plan.digest(),
                                     "reason": outcome.failure})  # fmt: skip
                self.failures.append(outcome.failure)
                fresh.append(None)
                continue
            self._numbers += 1
            shares = self._layout.shares(plan)
            fresh.append(
                Elite(self._numbers, number, masks, plan, shares, outcome.weights, outcome.error,
                      start.epochs + epochs, start, self._rate)
            )  # fmt: skip
        return fresh

    def _job(self, wanted: Wanted, what_for: object) -> Retrain:
        settings = self._settings
        seed = derive_seed("retrain", settings.seed, what_for)
        return Retrain(
            self._subject, self._folder, wanted.start.weights, wanted.plan,
            settings.tuning(wanted.epochs, seed), settings.distill, settings.shift,
        )  # fmt: skip

    def _lost(self, outcome: Outcome) -> bool:
        return (
            bool(outcome.weights) and not state_path(Path(self._folder), outcome.weights).exists()
        )
