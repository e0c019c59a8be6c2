"""Choose the formula of the front that a run recommends, by errors on validation splits.

All formulas of the front are judged by the error that the search minimised. The best of them, the
finalists, are then judged by the error after fine-tuning, too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from gp_prune.search.comparison import Cell, Comparison
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import BASELINES, Contender
from gp_prune.search.held_out import restrict
from gp_prune.search.objectives import aggregate, compared


def judge_of(config: SearchConfig, comparison: Comparison, held_out: Comparison) -> Comparison:
    """Return the comparison that decides: on unseen tasks, if there are any that choose."""
    chooses = restrict(held_out, config.validation_tasks)
    return chooses if chooses.records else comparison


def judged_error(contender: Contender, comparison: Comparison, errors: Sequence[str] = ()) -> float:
    """Return the validation error that a formula of the front is judged by.

    It is the mean at equal budgets, or the error in the search where nothing was compared.

    Args:
        contender: the formula.
        comparison: what decides.
        errors: the errors that count alike; empty means the one that all are judged by.
    """
    if comparison.records:
        cells = _validation(contender.name, comparison, errors)
        return aggregate(comparison.config.aggregate, [*cells.values()])
    assert contender.candidate is not None
    return contender.candidate.objectives[0]


def finalists(
    config: SearchConfig,
    entered: Sequence[Contender],
    comparison: Comparison,
    judge: Comparison,
) -> list[Contender]:
    """Return the formulas among which a run chooses, by the error that all are judged by.

    Where they are judged after fine-tuning, too, they are at most ``config.finalists``: those of
    at most ``config.recommended_size`` nodes that are not clearly better than random scores in the
    fewest cases, and of these the best.

    Args:
        config: the settings.
        entered: the formulas of the front and the baselines.
        comparison: that of the tasks of the search.
        judge: that of the tasks that choose: the ones that are not in the search, if there are any.
    """
    evolved = [c for c in entered if c.candidate is not None]
    if len(config.deciding_errors) == 1:
        return evolved
    lost = {c.name: lost_to_random(config, c.name, comparison, judge) for c in evolved}
    ranked = sorted(
        evolved,
        key=lambda c: (
            c.expression.size > config.recommended_size,
            lost[c.name],
            judged_error(c, judge),
            c.expression.size,
            c.name,
        ),
    )
    return ranked[: config.finalists]


def recommend(
    config: SearchConfig,
    entered: Sequence[Contender],
    comparison: Comparison,
    judge: Comparison,
) -> Contender:
    """Return the smallest of the finalists that is as good as the best on the validation split.

    Only finalists count that prune clearly better than random scores on every task by each error
    that decides, at equal MACs and at equal parameters; where there is none, those that do so in
    most cases. Of these, only formulas of at most ``config.recommended_size`` nodes count, unless
    there is none. The best has the least mean of these errors; as good are those that exceed it,
    over tasks, budgets and errors, by at most the standard error of the difference. Where the error
    after fine-tuning decides alone, with several seeds, as good are those whose error exceeds it by
    at most the standard deviation of the best one over these seeds. Without a comparison it is the
    one with the least error in the search. Of equally small ones the better is taken.

    Args:
        config: the settings.
        entered: the formulas of the front and the baselines.
        comparison: that of the tasks of the search, with the finalists by all errors that decide.
        judge: that of the tasks that choose, likewise.
    """
    errors = config.deciding_errors
    last = finalists(config, entered, comparison, judge)
    lost = {c.name: lost_to_random(config, c.name, comparison, judge, errors) for c in last}
    last = [c for c in last if lost[c.name] == min(lost.values())]
    last = [c for c in last if c.expression.size <= config.recommended_size] or last
    means = {c.name: judged_error(c, judge, errors) for c in last}
    best = min(last, key=lambda c: (means[c.name], c.expression.size, c.name))
    if config.judged_repeats > 1 or not judge.records:
        spread = judge.spread(best.name, "validation") if judge.records else 0.0
        as_good = [c for c in last if means[c.name] <= means[best.name] + spread]
    else:
        gaps = {c.name: excess(c.name, best.name, judge, errors) for c in last}
        as_good = [c for c in last if gaps[c.name][0] <= gaps[c.name][1]]
    return min(as_good, key=lambda c: (c.expression.size, means[c.name], c.name))


def excess(
    name: str, best: str, comparison: Comparison, errors: Sequence[str] = ()
) -> tuple[float, float]:
    """Return by how much a formula is worse than another on the validation split.

    Args:
        name: the formula.
        best: the other one.
        comparison: has the errors of both.
        errors: the errors that count alike; empty means the one that all are judged by.

    Returns:
        The mean, over tasks, budgets and errors, of the difference (of the logarithms, where the
        aggregate is ``log``), and its standard error.
    """
    scale = comparison.config.aggregate
    first, second = (_validation(one, comparison, errors) for one in (name, best))
    differences = [
        compared(scale, error) - compared(scale, second[cell]) for cell, error in first.items()
    ]
    few = len(differences) < 2
    error = 0.0 if few else statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), error


def lost_to_random(
    config: SearchConfig,
    name: str,
    comparison: Comparison,
    judge: Comparison,
    errors: Sequence[str] = (),
) -> int:
    """Return in how many cases a formula does not prune clearly better than random scores.

    A case is a task of either comparison with what is equal, MACs or parameters, and one of the
    errors (by default the one that all are judged by). Its error is the mean over the budgets on
    the validation split. It is clearly less where the difference exceeds its standard error over
    the draws of random scores and the fine-tuning runs.
    """
    random, *_ = BASELINES[config.granularity]
    lost = 0
    for part in (comparison,) if judge is comparison else (comparison, judge):
        for error in errors or config.errors[:1]:
            for task, kind in dict.fromkeys((record.task, record.kind) for record in part.records):
                if kind != "ladder":
                    (own, noise), (other, scatter) = (
                        part.typical(one, kind=kind, task=task, error=error)
                        for one in (name, random)
                    )
                    lost += own + math.hypot(noise, scatter) >= other
    return lost


def _validation(name: str, comparison: Comparison, errors: Sequence[str]) -> dict[Cell, float]:
    """Return the validation errors of a formula, for every task, budget and error."""
    cells: dict[Cell, float] = {}
    for error in errors or comparison.config.errors[:1]:
        cells |= comparison.cells(name, "validation", error=error)
    return cells
