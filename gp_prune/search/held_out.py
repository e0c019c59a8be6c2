"""Tasks that no formula was evolved on: they choose the winner, or report on it alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gp_prune.errors import UserError
from gp_prune.language.record import MissingMeasurement
from gp_prune.search.comparison import (
    Comparison,
    Record,
    final_budgets,
    final_errors,
    measure_records,
    plan_records,
)
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.evaluator import Evaluator
from gp_prune.search.objectives import WORST_ERROR
from gp_prune.search.scorer import TaskScorer


def compare_held_out(
    config: SearchConfig,
    scorers: Sequence[TaskScorer],
    entered: Sequence[Contender],
    evaluator: Evaluator,
    progress: Callable[[int, int], None],
    *,
    judged: bool = True,
) -> Comparison:
    """Prune and measure every contender on tasks that are not in the search, by their error there.

    Budgets and fine-tuning are those of the final comparison. A formula that ranks nothing on such
    a task has the worst error there.

    Args:
        config: the settings.
        scorers: the prepared tasks.
        entered: what is compared.
        evaluator: evaluates pruned networks.
        progress: hears how many of how many evaluations are done.
        judged: whether by the error that all are judged by, or by the other one.
    """
    records: list[Record] = []
    planned: list[tuple[Record, Evaluation]] = []
    for contender in entered:
        for scorer in scorers:
            try:
                planned += [
                    (record, evaluation)
                    for record, evaluation in plan_records(config, scorer, contender, judged=judged)
                    if record.kind != "ladder"
                ]
            except (UserError, MissingMeasurement):
                records += _worst(config, scorer.task.name, contender.name, judged=judged)
    records += measure_records(planned, evaluator, progress)
    return Comparison(records, config)


def _worst(config: SearchConfig, task: str, contender: str, *, judged: bool) -> list[Record]:
    """Return the records of a formula that cannot be used on a task."""
    return [
        Record(
            contender, task, kind, budget.kind, budget.keep, error, macs=budget.keep,
            params=budget.keep, repeat=repeat,
            validation=WORST_ERROR, test=WORST_ERROR, raw_test=WORST_ERROR,
        )
        for kind, budget in final_budgets(config)
        for error, steps in final_errors(config, judged=judged).items()
        for repeat in range(config.final_seeds if steps else 1)
    ]  # fmt: skip


def restrict(comparison: Comparison, tasks: Sequence[str]) -> Comparison:
    """Return the part of a comparison that is of some tasks."""
    records = [record for record in comparison.records if record.task in tasks]
    return Comparison(records, comparison.config)
