"""From a formula to its plans: what it would remove from the network of every task.

Scoring is cheap in comparison with trying a pruned network, so it is done in the main process, and
only networks that no earlier formula has led to are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gp_prune.apply.options import PruneOptions
from gp_prune.apply.sequential import select_in_order
from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import Interpreter
from gp_prune.language.record import NEEDS, LayerRecord, MissingMeasurement
from gp_prune.language.rounding import RoundingCheck, without_rounding
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    Pattern,
    WeightPlan,
    consumers,
    layer_places,
    select_weights,
    trace,
)
from gp_prune.pruning.plan.weights import Target
from gp_prune.pruning.select.allocation import OWN_ALLOCATION, Allocation, select_allocated
from gp_prune.statistics.coverage import LayerCoverage
from gp_prune.statistics.on_demand import Measurements
from gp_prune.statistics.recording import LABEL_NEEDS
from gp_prune.statistics.records import draw_noise
from gp_prune.statistics.running import copy_model, one_thread
from gp_prune.tasks import Task

Plan = ChannelPlan | WeightPlan

INTERPRETER_MEMORY = 32 * 2**20
"""Bytes of subtree values that are remembered for one task."""

ROUNDING_MEMORY = 256 * 2**20
"""Bytes that checks for rounding may keep for one task."""

_PLANS = 1024
"""Plans in order that are remembered for one task."""

_Ordered = tuple[Expression, Conventions, Target, int | None]
"""What a plan in order is asked for by: formula, conventions, budget, seed of the noise."""

MOST_TOKENS = 8192
"""Tokens from which a language model is measured, at most: 64 sequences of 128."""


def _samples(task: Task, calibration: int) -> int:
    """Return the number of samples that are measured."""
    if task.kind != "language":
        return calibration
    return max(1, min(calibration, MOST_TOKENS // task.train.inputs.shape[1]))


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

    A measurement is taken when the first formula needs it.

    Args:
        task: the task.
        calibration: number of training samples from which measurements are taken; of a language
            model at most as many as have 8192 tokens.
        seed: decides the noise, and what is measured of a layer that does not fit the memory.
        max_memory: most bytes for what is measured; None means the default.
        sequential: whether plans of single weights score each block on the outputs of the pruned
            blocks before it; scores without a plan are those of the dense network.
        select: chooses the channels of each layer where formulas give the shares of the layers.
    """

    def __init__(
        self,
        task: Task,
        calibration: int,
        seed: int,
        max_memory: int | None = None,
        *,
        sequential: bool = False,
        select: Metric | None = None,
    ) -> None:
        self.task = task
        self._select = select
        self._seed, self._max_memory = seed, max_memory
        self.architecture: Architecture = trace(
            task.model, task.example_inputs, interface=task.keep
        )
        # The first samples: the order of the training split is random already.
        self._batches = list(
            task.batches(task.train.select(slice(_samples(task, calibration))), 256)
        )
        # Formulas of earlier generations and of the front are planned again and again. No
        # functools.lru_cache: with a method of this object it would be a reference cycle, which
        # holds what was measured until the garbage collector comes by.
        self._in_order: dict[_Ordered, WeightPlan] = {}
        self.sequential = sequential
        self._measurements = Measurements(
            task.model,
            self._batches,
            # A formula that needs labels is tried in vain on a task without them.
            needs=set(NEEDS) - (LABEL_NEEDS if task.train.labels is None else set()),
            max_memory=max_memory,
            loss=task.loss,
            seed=seed,
            outgoing=consumers(self.architecture),
            places=layer_places(self.architecture),
        )
        self._renew()
        self._ranked = {
            member.layer for group in self.architecture.free for member in group.members
        }

    @property
    def layers(self) -> Mapping[str, LayerRecord]:
        """Return what has been measured of the layers: what formulas have asked for so far."""
        return self._measurements.records

    @property
    def coverage(self) -> LayerCoverage:
        """Return how much of the calibration data each measurement so far saw."""
        return self._measurements.coverage

    def measure(self, needs: AbstractSet[str]) -> None:
        """Measure what was not measured before; formulas that are scored do so by themselves.

        Args:
            needs: keys of :data:`gp_prune.language.record.NEEDS`.
        """
        with one_thread():
            found = self._measurements.ask(needs)
        if found:
            self._renew()

    def _renew(self) -> None:
        """Evaluate formulas on what has been measured by now."""
        memory = INTERPRETER_MEMORY // max(1, len(self.layers))
        self._interpreters = {n: Interpreter(layer, memory) for n, layer in self.layers.items()}
        memory = ROUNDING_MEMORY // max(1, len(self.layers))
        self._rounding = {
            n: RoundingCheck(layer, self._interpreters[n], memory)
            for n, layer in self.layers.items()
        }

    def plan(
        self,
        expression: Expression,
        conventions: Conventions,
        budget: Target,
        noise_seed: int | None = None,
        shares: Metric | None = None,
    ) -> PlannedCut:
        """Plan what a formula removes from the network of the task under a budget.

        Args:
            expression: the formula, of type {o} or {o,i,k}; where another metric chooses channels,
                it gives the shares of the layers, by its values or (type {o}) its global ranking.
            conventions: how its scores are used.
            budget: the share to keep, or a pattern, for formulas of type {o,i,k}.
            noise_seed: for new draws of the random operands; None keeps those of the measurements.
            shares: divides the budget among the layers, where the conventions do not.

        Raises:
            DegenerateScores: the scores rank nothing.
            MissingMeasurement: the task offers too little for an operand.
        """
        plan: Plan
        if self.sequential:
            plan = self._plan_in_order((expression, conventions, budget, noise_seed))
            return PlannedCut(self.task.name, plan, str(expression))
        formula = str(expression)
        if self._select is not None:
            shares = Metric("shares", expression, conventions)
            expression, conventions = self._select.expression, self._select.conventions
        scores = self._scores(expression, noise_seed)
        if "i" in expression.axes:
            plan = select_weights(
                self.task.model,
                self.architecture,
                scores,
                conventions,
                None if isinstance(budget, Pattern) else budget,
                pattern=budget if isinstance(budget, Pattern) else None,
                ignore=self.task.whole,
            )
        else:
            assert isinstance(budget, Budget), "patterns are of single weights"
            allocation = OWN_ALLOCATION
            if shares is not None:
                given = self._scores(shares.expression, noise_seed)
                allocation = Allocation.by(shares, given)
            plan = select_allocated(self.architecture, scores, conventions, budget, allocation)
        return PlannedCut(self.task.name, plan, formula)

    def _plan_in_order(self, asked: _Ordered) -> WeightPlan:
        """Return a plan of :meth:`_select_in_order`; the last ones asked for are kept."""
        plan = self._in_order.pop(asked, None) or self._select_in_order(*asked)
        self._in_order[asked] = plan
        if len(self._in_order) > _PLANS:
            del self._in_order[next(iter(self._in_order))]
        return plan

    def _select_in_order(
        self,
        expression: Expression,
        conventions: Conventions,
        budget: Target,
        noise_seed: int | None,
    ) -> WeightPlan:
        """Plan which weights go where each block is scored after those before it are pruned."""
        if expression.needs & LABEL_NEEDS and self.task.train.labels is None:
            raise MissingMeasurement(f"task {self.task.name!r} has no class labels")
        pattern = budget if isinstance(budget, Pattern) else None
        options = PruneOptions(
            metric=Metric("formula", expression, conventions),
            keep_params=None if pattern else budget.keep,
            pattern=pattern,
            seed=self._seed if noise_seed is None else noise_seed,
            sequential=True,
            max_memory=self._max_memory,
        )
        model = copy_model(self.task.model)
        with one_thread():
            chosen = select_in_order(
                model, options, self.architecture, self._batches, self.task.example_inputs,
                ignore=self.task.whole, loss=self.task.loss,
            )  # fmt: skip
        return chosen.plan

    def ranking_scores(
        self, expression: Expression, noise_seed: int | None = None
    ) -> dict[str, Tensor]:
        """Return the scores of the layers as they are ranked when a network is pruned.

        Scores that differ by rounding alone are their mean, see
        :func:`~gp_prune.language.rounding.without_rounding`.

        Args:
            expression: the formula, of type {o} or {o,i,k}.
            noise_seed: for new draws of the random operands; None keeps those of the measurements.

        Raises:
            MissingMeasurement: the task offers too little for an operand.
        """
        names = self._scored(expression)
        if noise_seed is None:
            return {name: self._rounding[name].without_rounding(expression) for name in names}
        return {
            name: without_rounding(expression, self._redrawn(name, noise_seed)) for name in names
        }

    def find_rounding(self, expression: Expression) -> str:
        """Return the first layer whose scores differ by rounding alone; empty if there is none."""
        for name in self._scored(expression):
            scores = self._rounding[name].without_rounding(expression)
            if scores.numel() > 1 and bool((scores == scores.flatten()[0]).all()):
                return name
        return ""

    def _scored(self, expression: Expression) -> list[str]:
        """Return the layers that a formula ranks, measured: those that can lose something."""
        self.measure(expression.needs)
        if "i" in expression.axes:
            return [name for name in self.layers if name not in self.task.whole]
        return [name for name in self.layers if name in self._ranked]

    def _scores(self, expression: Expression, noise_seed: int | None) -> Mapping[str, Any]:
        names = self._scored(expression)
        interpreters = self._interpreters
        if noise_seed is not None:
            interpreters = {name: Interpreter(self._redrawn(name, noise_seed)) for name in names}
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

    def _redrawn(self, name: str, noise_seed: int) -> LayerRecord:
        """Return the measurements of a layer with other random numbers."""
        layer = self.layers[name]
        noise = draw_noise(name, tuple(layer.weight.shape), noise_seed)
        return replace(layer, noise=noise.to(layer.weight))
