"""What the recommended formula keeps of every layer, written into the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gp_prune.pruning import ChannelPlan
from gp_prune.pruning.cost import NORM
from gp_prune.runs.journal import Journal
from gp_prune.search.comparison import final_budgets, plan_setting
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.evaluator import AnyOutcome
from gp_prune.search.scorer import PlannedCut, TaskScorer


def record_layer_shares(
    config: SearchConfig,
    scorers: Sequence[TaskScorer],
    best: Contender,
    journal: Journal[AnyOutcome],
) -> None:
    """Write an event for every task and budget of the final comparison.

    Args:
        config: the settings.
        scorers: the tasks.
        best: the recommended formula.
        journal: of the run.
    """
    noisy = "noise" in best.expression.needs
    draws = plan_setting(config).noise_seeds
    for scorer in scorers:
        for _, budget in final_budgets(config):
            noise = draws(scorer.task.name, budget)[0] if noisy else None
            cut = scorer.plan(best.expression, best.conventions, budget, noise)
            journal.event(
                {
                    "event": "layers",
                    "contender": best.name,
                    "task": scorer.task.name,
                    "budget": budget.kind,
                    "keep": budget.keep,
                    "layers": _shares(scorer, cut),
                }
            )


def _shares(scorer: TaskScorer, cut: PlannedCut) -> list[list[Any]]:
    """Return name, what is kept and what there was of each layer: channels, or weights."""
    plan = cut.plan
    if not isinstance(plan, ChannelPlan):
        masks = {name: kept.unpack() for name, kept in plan.kept.items()}
        return [[name, int(mask.sum()), int(mask.size)] for name, mask in masks.items()]
    architecture = scorer.architecture
    whole = {group.name: group.size for group in architecture.groups}
    kept = plan.kept(architecture)
    return [
        [layer.name, layer.outputs.width(kept), layer.outputs.width(whole)]
        for layer in architecture.layers
        if layer.kind != NORM
    ]
