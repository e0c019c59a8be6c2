"""Choose the formula of the front that a run recommends, by errors on validation splits."""

from __future__ import annotations

from collections.abc import Sequence

from gp_prune.search.comparison import BASELINES, KINDS, Comparison, Contender
from gp_prune.search.config import SearchConfig
from gp_prune.search.held_out import restrict


def judge_of(config: SearchConfig, comparison: Comparison, held_out: Comparison) -> Comparison:
    """Return the comparison that decides: on unseen tasks, if there are any that choose."""
    chooses = restrict(held_out, config.validation_tasks)
    return chooses if chooses.records else comparison


def judged_error(contender: Contender, comparison: Comparison) -> float:
    """Return the validation error that a formula of the front is judged by.

    It is the mean at equal budgets, or the error in the search where nothing was compared.
    """
    if comparison.records:
        return comparison.mean(contender.name, "validation")
    assert contender.candidate is not None
    return contender.candidate.objectives[0]


def recommend(
    config: SearchConfig,
    entered: Sequence[Contender],
    comparison: Comparison,
    judge: Comparison,
) -> Contender:
    """Return the smallest formula that is as good as the best one on the validation split.

    Only formulas count that prune better than random scores on every task, at equal MACs and at
    equal parameters; where there is none, those that do so in most cases. Of these, only formulas
    of at most ``config.recommended_size`` nodes count, unless there is none.

    The best is the formula of the front with the least validation error at equal budgets; as good
    are those that exceed it, over tasks and budgets, by at most the standard error of the
    difference. Where the networks are fine-tuned with several seeds, as good are those whose error
    exceeds it by at most the standard deviation of the best one over these seeds. Without a
    comparison it is the one with the least error in the search. Of equally small ones the better is
    taken.

    Args:
        config: the settings.
        entered: the formulas of the front and the baselines.
        comparison: that of the tasks of the search.
        judge: that of the tasks that choose: the ones that are not in the search, if there are any.
    """
    evolved = [c for c in entered if c.candidate is not None]
    lost = {c.name: lost_to_random(config, c.name, comparison, judge) for c in evolved}
    least = min(lost.values())
    evolved = [c for c in evolved if lost[c.name] == least]
    small = [c for c in evolved if c.expression.size <= config.recommended_size] or evolved
    means = {c.name: judged_error(c, judge) for c in small}
    best = min(small, key=lambda c: (means[c.name], c.expression.size, c.name))
    if config.judged_repeats > 1 or not judge.records:
        spread = judge.spread(best.name, "validation") if judge.records else 0.0
        as_good = [c for c in small if means[c.name] <= means[best.name] + spread]
    else:
        gaps = {c.name: judge.excess(c.name, best.name) for c in small}
        as_good = [c for c in small if gaps[c.name][0] <= gaps[c.name][1]]
    return min(as_good, key=lambda c: (c.expression.size, means[c.name], c.name))


def lost_to_random(
    config: SearchConfig, name: str, comparison: Comparison, judge: Comparison
) -> int:
    """Return in how many cases a formula prunes no better than random scores.

    A case is a task of either comparison with what is equal, MACs or parameters; its error is that
    on the validation split over the budgets.
    """
    random, *_ = BASELINES[config.granularity]
    lost = 0
    for part in (comparison,) if judge is comparison else (comparison, judge):
        for task, kind in dict.fromkeys((record.task, record.kind) for record in part.records):
            if kind in KINDS:
                own, other = (
                    part.mean(one, "validation", kind=kind, task=task) for one in (name, random)
                )
                lost += own >= other
    return lost
