"""From a formula to its plans: what it would remove from the network of every task.

Scoring is cheap in comparison with trying a pruned network, so it is done in the main process, and
only networks that no earlier formula has led to are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import Interpreter
from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.language.rounding import without_rounding
from gp_prune.metric.file import Conventions
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    WeightPlan,
    consumers,
    select_channels,
    select_weights,
    trace,
)
from gp_prune.statistics import collect
from gp_prune.statistics.coverage import LayerCoverage, coverage_of
from gp_prune.tasks import Task

Plan = ChannelPlan | WeightPlan

INTERPRETER_MEMORY = 32 * 2**20
"""Bytes of subtree values that are remembered for one task."""


@dataclass(frozen=True)
class PlannedCut:
    """What is to be removed from the network of one task: the unit of work of a search.

    Attributes:
        task: name of the task.
        plan: what is removed.
        formula: what ranked it.
    """

    task: str
    plan: Plan
    formula: str = ""

    @property
    def key(self) -> str:
        """Return a text that is equal exactly for cuts that lead to the same network."""
        return f"{self.task}:{self.plan.digest()}"

    @property
    def macs(self) -> float:
        """Return the share of the MACs that is kept."""
        share = self.plan.achieved.macs
        assert share is not None, "plans of traced networks know their MACs"
        return share

    @property
    def params(self) -> float:
        """Return the share of the parameters that is kept."""
        return self.plan.achieved.params


class TaskScorer:
    """One task, prepared for scoring: its traced network and the measurements of its layers.

    Args:
        task: the task.
        calibration: number of training samples from which measurements are taken.
        seed: decides the noise, and what is measured of a layer that does not fit the memory.
        max_memory: most bytes for what is measured; None means the default.
    """

    def __init__(
        self, task: Task, calibration: int, seed: int, max_memory: int | None = None
    ) -> None:
        self.task = task
        self.architecture: Architecture = trace(
            task.model, task.example_inputs, interface=task.interface
        )
        # The first samples: the order of the training split is random already.
        batches = list(task.batches(task.train.select(slice(calibration)), 256))
        self.layers: dict[str, LayerRecord] = collect(
            task.model,
            None,
            batches,
            needs=set(NEEDS),
            max_memory=max_memory,
            loss=task.loss,
            seed=seed,
            outgoing=consumers(self.architecture),
        )
        memory = INTERPRETER_MEMORY // max(1, len(self.layers))
        self._interpreters = {n: Interpreter(layer, memory) for n, layer in self.layers.items()}
        self._ranked = {
            member.layer for group in self.architecture.free for member in group.members
        }

    @property
    def coverage(self) -> LayerCoverage:
        """Return how much of the calibration data each measurement saw."""
        return coverage_of(self.layers.values())

    def plan(
        self,
        expression: Expression,
        conventions: Conventions,
        budget: Budget,
        noise_seed: int | None = None,
    ) -> PlannedCut:
        """Plan what a formula removes from the network of the task under a budget.

        Args:
            expression: the formula, of type {o} or {o,i,k}.
            conventions: how its scores are used.
            budget: the share to keep.
            noise_seed: for new draws of the random operands; None keeps those of the measurements.

        Raises:
            DegenerateScores: the scores rank nothing.
            MissingMeasurement: the task offers too little for an operand.
        """
        scores = self._scores(expression, noise_seed)
        plan: Plan
        if "i" in expression.axes:
            plan = select_weights(self.task.model, self.architecture, scores, conventions, budget)
        else:
            plan = select_channels(self.architecture, scores, conventions, budget)
        return PlannedCut(self.task.name, plan, str(expression))

    def find_rounding(self, expression: Expression) -> str:
        """Return the first layer whose scores differ by rounding alone; empty if there is none."""
        for name in self._scored(expression):
            scores = without_rounding(expression, self.layers[name])
            if scores.numel() > 1 and bool((scores == scores.flatten()[0]).all()):
                return name
        return ""

    def _scored(self, expression: Expression) -> list[str]:
        """Return the layers that a formula ranks: of channels, those that can lose some."""
        return [n for n in self.layers if "i" in expression.axes or n in self._ranked]

    def _scores(self, expression: Expression, noise_seed: int | None) -> Mapping[str, Any]:
        names = self._scored(expression)
        interpreters = self._interpreters
        if noise_seed is not None:
            redrawn = collect(self.task.model, names, (), needs={"noise"}, seed=noise_seed)
            interpreters = {
                name: Interpreter(replace(self.layers[name], noise=redrawn[name].noise))
                for name in names
            }
        scores = {}
        for name in names:
            try:
                scores[name] = interpreters[name].evaluate(expression)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"formula {expression} fails on layer {name!r} of {self.task.name}: "
                    f"{type(error).__name__}: {error}; mend the primitive or leave it out"
                ) from error
        return scores
