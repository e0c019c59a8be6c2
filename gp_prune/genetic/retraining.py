"""Judge the network of a plan, and retrain it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.errors import Rule, UserError, number, pluralize
from gp_prune.genetic.augmented import AugmentedImages
from gp_prune.genetic.plan import GeneticPlan
from gp_prune.genetic.source import ModelSource, PreparedModel
from gp_prune.genetic.weights import (
    DENSE,
    cut_network,
    find_positions,
    find_weight_masks,
    load_network,
    put_back,
    save_state,
)
from gp_prune.runs.jobs import Decoder, Workbench
from gp_prune.runs.journal_lines import reader
from gp_prune.statistics import Batch
from gp_prune.statistics.running import call_model, device_of, to_device, training_mode
from gp_prune.statistics.time_limit import TimeLimitError
from gp_prune.training import (
    FineTuning,
    GradualRemoval,
    Samples,
    batch_norms,
    fine_tune,
    recalibrate,
)
from gp_prune.training.loss import distance, main_output
from gp_prune.training.pooling import pool_fast
from gp_prune.training.samples import Data, draw

RECALIBRATION = 512
"""Training samples on which batch norms are measured again before a plan is evaluated."""

WORST = 1e6
"""The error of a plan that could not be evaluated."""

_TEACHER_BYTES = 2**28
"""Outputs of the dense network are kept where all of them take no more than this."""


class PlanOutcome(NamedTuple):
    """The result of a job on a plan.

    Attributes:
        error: validation error, in the unit of the data; never infinite.
        weights: digest of the retrained weights; empty where nothing was retrained.
        failure: why there is no result; empty if there is one.
    """

    error: float
    weights: str = ""
    failure: str = ""


_PLAN_RULES = {
    "error": number(least=0, most=WORST),
    "weights": Rule(
        lambda value: isinstance(value, str) and re.fullmatch("([0-9a-f]{64})?", value) is not None,
        "a SHA-256 or empty",
    ),
}


def outcome_reader() -> Decoder[PlanOutcome]:
    """Return a decoder of the results of plans; the weights name a file."""
    read_fields = reader(PlanOutcome, _PLAN_RULES)

    def read(entry: Mapping[str, Any]) -> PlanOutcome:
        outcome = read_fields(entry)
        retrained = entry["key"].startswith("retrain:") and not outcome.failure
        if retrained != bool(outcome.weights):
            raise ValueError("weights")
        return outcome

    return read


@dataclass(frozen=True)
class PlanJob:
    """A job on the network of a plan.

    Attributes:
        source: the network that is pruned.
        folder: where weights are kept.
        weights: digest of those to start from.
        plan: what is removed.
    """

    source: ModelSource
    folder: str
    weights: str
    plan: GeneticPlan

    @property
    def task(self) -> str:
        """Return no task: the source loads the network itself."""
        return ""

    @property
    def title(self) -> str:
        """Return the digest of the plan and what it removes."""
        channels = sum(len(channels) for _, channels in self.plan.removed)
        return f"plan {self.plan.digest()[:16]} ({pluralize(channels, 'channel')} removed)"

    def failed(self, reason: str) -> PlanOutcome:
        """Return the worst outcome."""
        return PlanOutcome(WORST, "", reason)

    def _networks(self, workbench: Workbench) -> tuple[PreparedModel, nn.Module, nn.Module]:
        """Return the dense network, it with the weights of the job, and the plan's network."""
        prepared = self.source.prepare(workbench)
        model = load_network(prepared, self.folder, self.weights, workbench)
        smaller = pool_fast(cut_network(model, self.plan, prepared.architecture))
        if batch_norms(smaller):
            chosen = workbench.recall(
                f"recalibration\0{self.source.key}",
                lambda: draw(prepared.data.train, RECALIBRATION, 0),
            )
            recalibrate(smaller, [Batch(chosen.inputs)])
        return prepared, model, smaller


@dataclass(frozen=True)
class EvaluatePlan(PlanJob):
    """Judge the network of a plan without retraining.

    Attributes:
        samples: most validation samples.
    """

    samples: int

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for jobs with the same result."""
        return f"trial:{self.weights[:32]}:{self.plan.digest()}:{self.samples}"

    def run(self, workbench: Workbench) -> PlanOutcome:
        """Return the validation error of the network of the plan."""
        prepared, _, smaller = self._networks(workbench)
        return PlanOutcome(prepared.error(smaller, self.samples))


@dataclass(frozen=True)
class RetrainPlan(PlanJob):
    """Retrain the network of a plan; what is removed stays removed.

    Weights that are removed on the way are zero in the weights that are kept.

    Attributes:
        tuning: how; its share of distillation is 0, because that is done here.
        distill: share of the loss that compares with the teacher.
        softening: temperature of that comparison.
        shift: pixels by which training images are moved at most.
        distort: how much training images are distorted at most.
        params: parameters that are not zero at the end, at most; weights are removed step by step.
            0 removes none.
        teacher: digest of the weights of the dense network whose outputs are learned.
    """

    tuning: FineTuning
    distill: float
    softening: float = 4.0
    shift: int = 0
    distort: float = 0.0
    params: int = 0
    teacher: str = DENSE

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for jobs with the same result."""
        how = json.dumps(
            [
                self.tuning.to_json(), self.distill, self.softening, self.shift, self.distort,
                self.params, self.teacher,
            ],
            sort_keys=True,
        )  # fmt: skip
        return f"retrain:{self.weights[:32]}:{self.plan.digest()}:{how}"

    def run(self, workbench: Workbench) -> PlanOutcome:
        """Retrain, save the weights, judge on all validation samples."""
        prepared, model, smaller = self._networks(workbench)
        try:
            self._tune(smaller, prepared, workbench)
        except TimeLimitError:  # it says nothing about the plan
            raise
        except UserError as error:
            return self.failed(str(error))
        places = find_positions(model, self.plan, prepared.architecture)
        dense = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        kept = self.plan
        if self.params:  # the zeros of the trained network say which weights are left
            for name in kept.marks():
                dense[f"{name}.weight"] = torch.zeros_like(dense[f"{name}.weight"])
            kept = GeneticPlan(kept.removed)
        digest = save_state(put_back(dense, smaller, places, kept), Path(self.folder))
        return PlanOutcome(prepared.error(smaller), digest)

    def _tune(self, model: nn.Module, prepared: PreparedModel, workbench: Workbench) -> None:
        train: Data = prepared.data.train
        loss: Any = prepared.data.loss
        tuning, teacher, share = self.tuning, None, self.distill
        if share:
            dense = load_network(prepared, self.folder, self.teacher, workbench)
            key = f"{self.source.key}\0{self.folder}\0{self.teacher}"
            taught = add_teacher_outputs(dense, prepared.data.train, workbench, key)
            if taught is None:
                tuning = replace(tuning, distill=share, temperature=self.softening)
                teacher = dense
            else:
                train = taught

                def loss(output: Any, target: tuple[Any, Tensor]) -> Tensor:
                    wanted, teacher_output = target
                    apart = distance(output, teacher_output, wanted, self.softening)
                    return share * apart + (1 - share) * prepared.data.loss(output, wanted)

        if self.shift or self.distort:
            train = AugmentedImages(train, self.shift, self.distort)
        held = find_weight_masks(prepared.model, self.plan, prepared.architecture)
        layers = tuple(layer for layer, _ in held)
        fine_tune(
            model,
            train,
            loss,
            tuning,
            validation=prepared.data.validation,
            error=lambda network, _: prepared.error(network),
            teacher=teacher,
            held=held,
            removal=GradualRemoval(self.params, layers) if self.params else None,
        )


def add_teacher_outputs(
    teacher: nn.Module, train: Data, workbench: Workbench, key: str
) -> Samples | None:
    """Return the training samples with the outputs of a teacher as part of their target.

    So it runs once and not in every epoch. None where the samples are not in memory, or the
    outputs would take too much of it.
    """
    if not isinstance(train, Samples) or not isinstance(train.inputs, Tensor):
        return None

    def run_teacher() -> Samples | None:
        assert isinstance(train.inputs, Tensor)
        outputs = []
        with training_mode(teacher, False), torch.no_grad():
            for part in torch.split(train.inputs, 256):
                inputs = to_device(part, device_of(teacher))
                outputs.append(main_output(call_model(teacher, inputs)))
                if outputs[0].nbytes / len(outputs[0]) * len(train) > _TEACHER_BYTES:
                    return None
        return Samples(train.inputs, (train.target, torch.cat(outputs)), train.labels)

    return workbench.recall(f"taught\0{key}", run_teacher)
