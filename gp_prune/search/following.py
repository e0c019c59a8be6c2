"""What a search tells its callbacks, see :mod:`gp_prune.runs.callbacks`."""

from __future__ import annotations

from gp_prune.apply.own_task import short_names
from gp_prune.runs.callbacks import DONE, RunEnd, RunStep
from gp_prune.search.comparison import equal_kinds
from gp_prune.search.nsga2 import Generation
from gp_prune.search.objectives import ERRORS
from gp_prune.search.results import SearchResult


def step_of(generation: Generation) -> RunStep:
    """Return a generation as a step: the course of the front, and its least errors."""
    figures: dict[str, float] = {
        "hypervolume": generation.hypervolume,
        "front": len(generation.front),
        "formulas": generation.assessed,
        "behaviours": generation.behaviours,
        "evaluations": generation.evaluations,
    }
    for place, name in enumerate(generation.objectives):
        figures[f"least/{name}"] = min(c.objectives[place] for c in generation.front)
    error = next(name for name in generation.objectives if name in ERRORS)
    shorts = short_names(generation.front[0].by_task)
    for task, short in shorts.items():
        values = [c.by_task[task][error] for c in generation.front if task in c.by_task]
        figures[f"least_{error}/{short}"] = min(values)
    texts = {"best formula": str(generation.front[0].expression)}
    return RunStep(generation.number, figures, texts, generation)


def end_of(result: SearchResult) -> RunEnd:
    """Return a result as the end of a run: the recommended formula and its test errors."""
    best, comparison = result.recommended, result.comparison
    figures = {"size": float(best.expression.size)}
    if comparison.records:
        for kind in equal_kinds(result.config):
            figures[f"test_error/equal_{kind}"] = comparison.mean(best.name, "test", kind=kind)
    texts = {"recommended": best.name, "formula": str(best.expression)}
    return RunEnd(DONE, figures, texts, result)
