"""The final comparison, at equal MACs and at equal parameters.

Every formula of the front and the baselines prune each task to the same budgets and are judged by
the error that the search minimised: on the validation split, which decides the recommendation, and
on the test split, which decides nothing. On the tasks of the search, the winner and the baselines
under its conventions are then judged by the other error too: after fine-tuning, or right after
pruning.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gp_prune.errors import UserError
from gp_prune.pruning import Budget, DegenerateScores, Pattern
from gp_prune.pruning.plan.weights import Target
from gp_prune.search.assessor import ladder_evaluations
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.evaluator import Evaluator
from gp_prune.search.objectives import ERRORS, aggregate
from gp_prune.search.reduction import PlanSetting
from gp_prune.search.scorer import PlannedCut, TaskScorer
from gp_prune.statistics.running import derive_seed

KINDS = ("macs", "params")
"""What is equal for all contenders at a share."""
PATTERN = "pattern"
"""In the place of :data:`KINDS` where the budget is a pattern."""


@dataclass(frozen=True)
class Record:
    """One pruned and fine-tuned network of the comparison.

    Attributes:
        contender: name of the formula.
        task: name of the task.
        kind: what is equal for all contenders, ``"macs"``, ``"params"`` or ``"pattern"``, or
            ``"ladder"`` for the search's own protocol (its budgets, its fine-tuning).
        budget: what the share to keep counts, or the pattern.
        keep: the share that was to be kept.
        error: ``"error"`` for the error right after pruning, ``"tuned_error"`` for that after
            fine-tuning.
        macs: share of MACs really kept.
        params: share of parameters really kept.
        repeat: number of the fine-tuning run.
        validation: relative error on the validation split.
        test: relative error on the test split.
        raw_test: error on the test split as the task measures it.
    """

    contender: str
    task: str
    kind: str
    budget: str
    keep: float
    error: str
    macs: float
    params: float
    repeat: int
    validation: float = math.nan
    test: float = math.nan
    raw_test: float = math.nan


class Cell(NamedTuple):
    """A task with a budget and an error; see :class:`Record`."""

    task: str
    kind: str
    budget: str
    keep: float
    error: str


class Comparison:
    """Keep all records of the final comparison, and summarise any part of them.

    Args:
        records: the records.
        config: the settings of the run: how the errors on several tasks and budgets become one,
            and by which error all contenders are judged.
    """

    def __init__(self, records: Sequence[Record], config: SearchConfig) -> None:
        self.records = list(records)
        self.config = config

    def part(
        self,
        contender: str,
        *,
        kind: str | None = None,
        task: str | None = None,
        error: str | None = None,
    ) -> list[Record]:
        """Return the records of a contender.

        Args:
            contender: its name.
            kind: None means any kind but the ladder.
            task: None means any task.
            error: None means the one by which all are judged.
        """
        error = error or self.config.errors[0]
        return [
            record
            for record in self.records
            if record.contender == contender
            and (record.kind == kind if kind else record.kind != "ladder")
            and task in (None, record.task)
            and record.error == error
        ]

    def mean(
        self,
        contender: str,
        column: str,
        *,
        kind: str | None = None,
        task: str | None = None,
        error: str | None = None,
    ) -> float:
        """Return one number for a column over tasks, budgets and repeats.

        Of ``validation`` and ``test`` it is the aggregate of the means over the repeats, of all
        other columns the mean.
        """
        return self._summarize(self.part(contender, kind=kind, task=task, error=error), column)

    def _summarize(self, rows: Sequence[Record], column: str) -> float:
        if column not in ("validation", "test"):
            return statistics.fmean(getattr(row, column) for row in rows)
        return aggregate(self.config.aggregate, [*_cells(rows, column).values()])

    def cells(self, contender: str, column: str, *, error: str | None = None) -> dict[Cell, float]:
        """Return the mean of a column over the repeats, for every task and budget."""
        return _cells(self.part(contender, error=error), column)

    def typical(self, contender: str, *, kind: str, task: str, error: str) -> tuple[float, float]:
        """Return the validation error on one task, and its standard error over the repeats.

        It is the arithmetic mean over the budgets: on one task errors are of one scale. The
        standard error is 0 where there is one repeat alone.
        """
        repeats: dict[int, list[float]] = {}
        for row in self.part(contender, kind=kind, task=task, error=error):
            repeats.setdefault(row.repeat, []).append(row.validation)
        means = [statistics.fmean(values) for _, values in sorted(repeats.items())]
        few = len(means) < 2
        noise = 0.0 if few else statistics.stdev(means) / math.sqrt(len(means))
        return statistics.fmean(means), noise

    def spread(
        self,
        contender: str,
        column: str,
        *,
        kind: str | None = None,
        task: str | None = None,
        error: str | None = None,
    ) -> float:
        """Return the standard deviation, over the repeats, of the value over tasks and budgets.

        It is 0 where there is one repeat alone, as for all but random formulas right after pruning.
        """
        rows = self.part(contender, kind=kind, task=task, error=error)
        values = [
            self._summarize([row for row in rows if row.repeat == repeat], column)
            for repeat in sorted({row.repeat for row in rows})
        ]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def _cells(rows: Sequence[Record], column: str) -> dict[Cell, float]:
    """Return the mean of a column over the repeats, for every task, budget and error."""
    cells: dict[Cell, list[float]] = {}
    for row in rows:
        cell = Cell(row.task, row.kind, row.budget, row.keep, row.error)
        cells.setdefault(cell, []).append(getattr(row, column))
    return {cell: statistics.fmean(values) for cell, values in cells.items()}


def plan_setting(config: SearchConfig) -> PlanSetting:
    """Return where the plans of a formula decide its results, in the search and the comparison."""
    budgets = [*config.cells, *(budget for _, budget in final_budgets(config))]

    def noise_seeds(task: str, budget: Target) -> list[int]:
        return [_noise_seed(config, task, budget, draw) for draw in range(config.final_seeds)]

    return PlanSetting(config.conventions, tuple(budgets), noise_seeds)


def equal_kinds(config: SearchConfig) -> tuple[str, ...]:
    """Return what is equal for all in the final comparison: :data:`KINDS` or :data:`PATTERN`."""
    return tuple(dict.fromkeys(kind for kind, _ in final_budgets(config)))


def final_budgets(config: SearchConfig) -> list[tuple[str, Target]]:
    """Return the budgets of the final comparison, each with what is equal for all there."""
    kinds = config.budget_kind if config.sequential else KINDS
    shares = [(kind, Budget(kind, keep)) for kind in kinds for keep in config.budgets]
    return [*shares, *((PATTERN, Pattern.parse(text)) for text in config.pattern)]


def _noise_seed(config: SearchConfig, task: str, budget: Target, draw: int) -> int:
    return derive_seed("noise", config.seed, task, budget.kind, budget.keep, draw)


def compare(
    config: SearchConfig,
    scorers: Sequence[TaskScorer],
    entered: Sequence[Contender],
    evaluator: Evaluator,
    progress: Callable[[int, int], None],
    *,
    judged: bool = True,
) -> Comparison:
    """Prune and measure every contender at every budget.

    Args:
        config: the settings.
        scorers: the prepared tasks.
        entered: what is compared.
        evaluator: evaluates pruned networks.
        progress: hears how many of how many evaluations are done.
        judged: whether by the error that all are judged by, or by the other one.

    Raises:
        UserError: a contender cannot be scored on a task.
    """
    if not config.comparison:
        return Comparison([], config)
    planned = [
        entry
        for contender in entered
        for scorer in scorers
        for entry in plan_records(config, scorer, contender, judged=judged)
    ]
    return Comparison(measure_records(planned, evaluator, progress), config)


def measure_records(
    planned: Sequence[tuple[Record, Evaluation]],
    evaluator: Evaluator,
    progress: Callable[[int, int], None],
) -> list[Record]:
    """Return the records with the errors of their evaluations.

    Args:
        planned: what :func:`plan_records` returns.
        evaluator: evaluates pruned networks.
        progress: hears how many of how many evaluations are done.
    """
    outcomes = evaluator.outcomes([evaluation for _, evaluation in planned], progress)
    records = []
    for draft, evaluation in planned:
        outcome = outcomes[evaluation.key]
        assert outcome.test is not None
        records.append(
            replace(draft, validation=outcome.validation, test=outcome.test, raw_test=outcome.raw)
        )
    return records


def plan_records(
    config: SearchConfig, scorer: TaskScorer, contender: Contender, *, judged: bool
) -> list[tuple[Record, Evaluation]]:
    """Return every evaluation of a contender on a task, with its record without the errors.

    Raises:
        UserError: the contender cannot be scored on the task.
    """
    noisy = "noise" in contender.expression.needs
    asked = [("ladder", budget) for budget in config.cells if judged]
    asked += final_budgets(config)
    planned = []
    for label, budget in asked:
        for repeat in range(config.final_seeds):
            if noisy or not repeat:
                cut = _cut(config, scorer, contender, budget, repeat if noisy else None)
            record = Record(
                contender=contender.name,
                task=cut.task,
                kind=label,
                budget=budget.kind,
                keep=budget.keep,
                error="",
                macs=cut.macs,
                params=cut.params,
                repeat=repeat,
            )
            if label == "ladder":
                evaluations = ladder_evaluations(config, cut, test=True)
            else:
                evaluations = _final_evaluations(config, cut, repeat, judged=judged)
            for error, evaluation in evaluations.items():
                # The search fine-tunes once; random numbers are drawn again for every repeat.
                if not repeat or noisy or (label != "ladder" and evaluation.steps):
                    planned.append((replace(record, error=error), evaluation))
    return planned


def final_errors(config: SearchConfig, *, judged: bool) -> dict[str, int]:
    """Return the errors of the final comparison, with their mini-batches of fine-tuning.

    Args:
        config: the settings.
        judged: the error that all contenders are judged by, or the other one, which is left out
            where it would be the same.
    """
    steps = dict(zip(ERRORS, (0, config.final_steps), strict=True))
    kept = config.errors[0]
    return {
        name: count
        for name, count in steps.items()
        if (name == kept) == judged and (judged or config.final_steps)
    }


def _final_evaluations(
    config: SearchConfig, cut: PlannedCut, repeat: int, *, judged: bool
) -> dict[str, Evaluation]:
    """Return the evaluations of a cut in the comparison, by the error that they measure."""
    plan = cut.plan.to_json()
    # One order of samples for all contenders: differences are due to the cuts.
    seed = derive_seed("final", config.seed, cut.task, repeat)
    return {
        name: Evaluation(
            cut.task, plan, steps, seed if steps else 0, test=True, formula=cut.formula
        )
        for name, steps in final_errors(config, judged=judged).items()
    }


def _cut(
    config: SearchConfig, scorer: TaskScorer, contender: Contender, budget: Target, draw: int | None
) -> PlannedCut:
    noise = None
    if draw is not None:
        noise = _noise_seed(config, scorer.task.name, budget, draw)
    try:
        return scorer.plan(contender.expression, contender.conventions, budget, noise)
    except DegenerateScores as error:
        raise UserError(f"{contender.name} cannot be compared: {error}") from None
