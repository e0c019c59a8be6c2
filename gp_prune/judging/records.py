"""Plan what a comparison measures: every metric at every budget under every allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gp_prune.base.json_fields import check_type, read_object
from gp_prune.errors import UserError
from gp_prune.judging.settings import LEAST_DRAWS, CompareSettings
from gp_prune.language.record import MissingMeasurement
from gp_prune.metric.file import OWN
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Budget,
    ChannelPlan,
    DegenerateScores,
    Pattern,
    WeightPlan,
    select_weights,
)
from gp_prune.pruning.plan.channels import describe_budget
from gp_prune.pruning.plan.weights import Target
from gp_prune.pruning.select.allocation import Allocation, keep_streams, select_allocated
from gp_prune.pruning.select.scores import keep_unranked
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.objectives import WORST_ERROR
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import derive_seed

Plan = ChannelPlan | WeightPlan
Planned = tuple["Measurement", Evaluation | None]

_MOST_MISSED = 0.05
"""Largest difference between the asked and the kept share, at most a fifth of what was asked."""


PATTERN = "pattern"
"""In the place of an allocation where the budget is a pattern: it keeps the same of every layer."""


@dataclass(frozen=True)
class Measurement:
    """One network of a comparison.

    Attributes:
        metric: name of the metric that chose what goes.
        allocation: what divided the budget among the layers; ``"pattern"`` where it is a pattern.
        task: name of the task.
        kind: what the budget counts, or the pattern.
        keep: the share that was to be kept.
        repeat: number of the draw, or of the order of fine-tuning samples.
        macs: share of the MACs really kept.
        params: share of the parameters really kept.
        error: error on the split that is judged on, 0 as the dense network and 1 as the best guess
            that looks at no input; the worst there is where there is no network.
        raw_error: the same as the task measures it; None where there is no network.
        failure: why there is no network; empty if there is one.
    """

    metric: str
    allocation: str
    task: str
    kind: str
    keep: float
    repeat: int
    macs: float
    params: float
    error: float = WORST_ERROR
    raw_error: float | None = None
    failure: str = ""

    @property
    def cell(self) -> tuple[str, str, str, float]:
        """Return what metrics are compared within: allocation, task and budget."""
        return self.allocation, self.task, self.kind, self.keep


_FIELDS = {
    "metric": str, "allocation": str, "task": str, "kind": str, "keep": float, "repeat": int,
    "macs": float, "params": float, "error": float, "raw_error": object, "failure": str,
}  # fmt: skip


def read_measurement(data: Any) -> Measurement:
    """Return a measurement from a record of a result.

    Raises:
        UserError: a field is unknown, missing or of the wrong type.
        ValueError: a number is out of its range.
    """
    values = read_object(data, "a record", _FIELDS)
    if values["raw_error"] is not None:
        check_type(values["raw_error"], float, "field 'raw_error' of a record")
    entry = Measurement(**values)
    shares = (entry.keep, entry.macs, entry.params)
    if abs(entry.error) > WORST_ERROR or entry.repeat < 0 or not all(0 <= x <= 1 for x in shares):
        raise ValueError(f"the record of {entry.metric} on {entry.task} has a number out of range")
    return entry


def plan_metric(
    settings: CompareSettings,
    scorer: TaskScorer,
    metric: Metric,
    allocations: Mapping[str, Metric | None],
    shares: Mapping[str, Mapping[str, Any] | str],
) -> list[Planned]:
    """Return every measurement of a metric on a task, with what is to be evaluated for it.

    A metric that cannot be used has measurements with the reason and nothing to evaluate.

    Args:
        settings: of the comparison.
        scorer: the prepared task.
        metric: what ranks.
        allocations: see :class:`gp_prune.judging.settings.Entered`.
        shares: what :func:`score_allocations` returns for the task.
    """
    noisy = "noise" in metric.needs
    draws = max(LEAST_DRAWS, settings.seeds) if noisy else 1
    repeats = draws if noisy else settings.seeds if settings.fine_tune else 1
    seeds = [
        derive_seed("noise", settings.seed, scorer.task.name, draw) if noisy else None
        for draw in range(draws)
    ]
    # Block after block, a metric scores anew for each budget.
    scores = [{} if scorer.sequential else _scores(scorer, metric, seed) for seed in seeds]
    divisions = [
        _divide(settings, scorer, metric, name, by, shares.get(name))
        for name, by in allocations.items()
    ]
    planned: list[Planned] = []
    for division, budget in _cells(settings, divisions):
        plans = [
            _plan(scorer, metric, drawn, seed, budget, division)
            for drawn, seed in zip(scores, seeds, strict=True)
        ]
        planned += [
            _measurement(
                settings, scorer, metric, division.name, budget, repeat,
                plans[repeat if noisy else 0],
            )
            for repeat in range(repeats)
        ]  # fmt: skip
    return planned


class _Division(NamedTuple):
    """How budgets are divided among the layers of a task for one metric.

    Attributes:
        name: of the allocation, as tables have it.
        allocation: by which channels are selected, or why budgets cannot be divided.
    """

    name: str
    allocation: Allocation | str


def _divide(
    settings: CompareSettings,
    scorer: TaskScorer,
    metric: Metric,
    name: str,
    by: Metric | None,
    scores: Mapping[str, Any] | str | None,
) -> _Division:
    """Return what an allocation is for a metric, whose own may be the shares of another one.

    Args:
        settings: of the comparison.
        scorer: the prepared task.
        metric: what ranks.
        name: of the allocation.
        by: the metric that divides budgets for all metrics, if any.
        scores: its scores, or why there are none.
    """
    if name == OWN and metric.shares is not None:
        by = metric.shares
        scores = _scores(scorer, by, None)
    if by is None:
        return _Division(name, Allocation(name))
    if isinstance(scores, str):
        return _Division(name, scores)
    assert scores is not None, "a metric that divides has scores, or a reason why not"
    return _Division(name, Allocation.by(by, scores, name))


def _cells(
    settings: CompareSettings, divisions: Sequence[_Division]
) -> list[tuple[_Division, Target]]:
    """Return every budget under every allocation, then the patterns, which divide nothing."""
    shares = [(division, budget) for division in divisions for budget in settings.budgets]
    pattern = _Division(PATTERN, Allocation(PATTERN))
    return [*shares, *((pattern, target) for target in settings.patterns)]


def score_allocations(
    settings: CompareSettings, scorer: TaskScorer, allocations: Mapping[str, Metric | None]
) -> dict[str, Mapping[str, Any] | str]:
    """Return name -> scores of a task's layers, or why there are none, by metrics that allocate."""
    return {
        name: _scores(scorer, metric, None)
        for name, metric in allocations.items()
        if metric is not None
    }


def _scores(scorer: TaskScorer, metric: Metric, noise_seed: int | None) -> Mapping[str, Any] | str:
    """Return the scores of all layers, or why there are none."""
    try:
        return scorer.ranking_scores(metric.expression, noise_seed)
    except (UserError, MissingMeasurement) as error:
        return str(error)


def _plan(
    scorer: TaskScorer,
    metric: Metric,
    scores: Mapping[str, Any] | str,
    noise_seed: int | None,
    budget: Target,
    division: _Division,
) -> Plan | str:
    """Return what goes, or why nothing can."""
    allocation = division.allocation
    if isinstance(scores, str):
        return scores
    if isinstance(allocation, str):
        return allocation
    try:
        if metric.granularity == "weight":
            return _plan_weights(scorer, metric, scores, noise_seed, budget, division.name)
        assert isinstance(budget, Budget), "patterns are of single weights"
        plan = _plan_channels(scorer, metric, scores, budget, allocation)
        return _missed(plan, budget) or plan
    except (DegenerateScores, UserError) as error:
        return str(error)


def _plan_weights(
    scorer: TaskScorer,
    metric: Metric,
    scores: Mapping[str, Any],
    noise_seed: int | None,
    budget: Target,
    name: str,
) -> WeightPlan | str:
    """Return which weights go, or why the share cannot be kept."""
    task, conventions = scorer.task, metric.conventions
    if scorer.sequential:
        ranked = conventions if isinstance(budget, Pattern) else conventions.under(name)
        plan = scorer.plan(metric.expression, ranked, budget, noise_seed).plan
        assert isinstance(plan, WeightPlan), "what ranks single weights"
        return plan
    if isinstance(budget, Pattern):
        return select_weights(
            task.model, scorer.architecture, scores, conventions, pattern=budget, ignore=task.whole
        )
    plan = select_weights(
        task.model, scorer.architecture, scores, conventions.under(name), budget, ignore=task.whole
    )
    return _missed(plan, budget) or plan


def _missed(plan: Plan, budget: Budget) -> str:
    """Return how far a plan is from the share that was asked for; empty where it is near."""
    kept = getattr(plan.achieved, budget.kind)
    if abs(kept - budget.keep) > min(_MOST_MISSED, budget.keep / 5):
        return f"keeps {kept:.3f} of the {budget.kind} where {budget.keep:g} are asked for"
    return ""


def _plan_channels(
    scorer: TaskScorer,
    metric: Metric,
    scores: Mapping[str, Any],
    budget: Budget,
    allocation: Allocation,
) -> ChannelPlan:
    """Return which channels go; groups that a metric does not rank stay, as in ``prune``."""
    architecture = scorer.architecture
    if allocation.name == "residual-whole":
        architecture = keep_streams(architecture)
    ranking = allocation.ranking(metric.conventions)
    architecture = keep_unranked(architecture, scores, ranking)
    if allocation.scores is not None:
        architecture = keep_unranked(architecture, allocation.scores, allocation.ranking_of_shares)
    return select_allocated(architecture, scores, metric.conventions, budget, allocation)


def _measurement(
    settings: CompareSettings,
    scorer: TaskScorer,
    metric: Metric,
    allocation: str,
    budget: Target,
    repeat: int,
    plan: Plan | str,
) -> Planned:
    task = scorer.task.name
    entry = Measurement(
        metric.name, allocation, task, budget.kind, budget.keep, repeat, budget.keep, budget.keep
    )
    if isinstance(plan, str):
        return replace(entry, failure=plan), None
    macs = plan.achieved.macs
    assert macs is not None, "plans of traced networks know their MACs"
    entry = replace(entry, macs=macs, params=plan.achieved.params)
    steps = settings.fine_tune
    # One order of samples for all metrics: differences are due to the cuts.
    seed = derive_seed("final", settings.seed, task, repeat) if steps else 0
    return entry, Evaluation(
        task, plan.to_json(), steps, seed, settings.split == "test", formula=metric.name
    )


def drop_impossible(measurements: Sequence[Measurement]) -> tuple[list[Measurement], list[str]]:
    """Leave out the cells in which no metric has a network.

    Returns:
        The others, and a sentence on each cell that is left out.

    Raises:
        UserError: nothing is left.
    """
    possible = {entry.cell for entry in measurements if not entry.failure}
    left_out: dict[tuple[str, str, str, float], str] = {}
    for entry in measurements:
        if entry.cell not in possible:
            left_out.setdefault(entry.cell, entry.failure)
    notes = [
        f"{task}, {describe_budget(kind, keep)}, {allocation}: left out, as no metric meets it "
        f"({reason})"
        for (allocation, task, kind, keep), reason in left_out.items()
    ]
    if not possible:
        raise UserError(f"no metric can be used at any budget: {notes[0]}")
    return [entry for entry in measurements if entry.cell in possible], notes
