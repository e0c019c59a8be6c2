"""Say in sentences which formula a search recommends, by which rule, and how it did."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from gp_prune.report.console import (
    MARK,
)
from gp_prune.search.comparison import PATTERN, Comparison
from gp_prune.search.config import SearchConfig
from gp_prune.search.held_out import restrict
from gp_prune.search.results import SearchResult

BUDGET_NAMES = {"macs": "equal MACs", "params": "equal params", PATTERN: "pattern"}


def choosing_tasks(result: SearchResult) -> tuple[str, ...]:
    """Return the tasks, none of them in the search, by which the winner was chosen."""
    measured = {record.task for record in result.held_out.records}
    return tuple(name for name in result.config.validation_tasks if name in measured)


def compared_errors(result: SearchResult) -> list[str]:
    """Return the errors of the comparison: the one that decides, then the other one."""
    present = {record.error for record in result.comparison.records if record.kind != "ladder"}
    return sorted(present, key=lambda name: name != result.config.errors[0])


def recommendation(result: SearchResult, width: int | None = None) -> str:
    """Return the recommended formula, the rule of its choice and its error on the test split.

    Args:
        result: of the search.
        width: at which sentences are wrapped; formulas and LaTeX never are, so that they can be
            copied. None wraps nothing.
    """
    config = result.config
    best = result.recommended
    metric = result.metrics[best.name]
    found_formula = metric.parts[-1]  # of a pair it is the shares that were searched
    simple = found_formula.simplified().expression
    lines = [
        f"{MARK} {best.name} = {best.expression}",
        *([f"     Simplified: {simple}"] if simple.size < best.expression.size else []),
        *([f"     Found as: {found}"] if (found := metric.provenance.get("found_as")) else []),
        *([f"     Published: {best.published}"] if best.published else []),
        f"     LaTeX: {found_formula.latex()}",
        *([f"     Channels by: {metric.expression}"] if metric.shares is not None else []),
        *_rule(config, choosing_tasks(result)),
        *(f"     Test split {line}" for line in verdict(result)),
    ]
    copied = (MARK, "     Simplified", "     Found as", "     LaTeX", "     Channels by")
    return "\n".join(
        line if width is None or line.startswith(copied) else _wrap(line, width) for line in lines
    )


def _wrap(line: str, width: int) -> str:
    """Break a line between words; what follows stands a little further in than its beginning."""
    return textwrap.fill(
        line, max(width, 40), subsequent_indent=7 * " ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _rule(config: SearchConfig, unseen: Sequence[str]) -> list[str]:
    """Return how the recommended formula was chosen, in lines.

    Args:
        config: the settings.
        unseen: the tasks that chose it, none of them in the search; empty if there were none.
    """
    limit = f"(formulas of at most {config.recommended_size} nodes); the test split"
    if not config.comparison:
        return [
            "     Rule: the formula with the least error in the search",
            f"     {limit} was not read.",
        ]
    beaten = "uniform shares" if config.granularity == "layer" else "random scores"
    both = len(config.deciding_errors) > 1
    end = "" if both else ","
    what = "deviation" if config.judged_repeats > 1 else "error"
    return [
        f"     Rule: of the formulas that beat {beaten} on every task (or on most){end}",
        *(["     right after pruning and after fine-tuning,"] if both else []),
        "     the smallest whose validation error at equal budgets is within one",
        f"     standard {what} of the least{' one' if unseen else ''}",
        *([f"     on {', '.join(unseen)}, which were not in the search"] if unseen else []),
        f"     {limit} decided nothing.",
    ]


def verdict(result: SearchResult) -> list[str]:
    """Compare the recommended formula with every baseline on the test split.

    Returns:
        A line for each kind of budget and each error, on the tasks of the search and on those that
        chose the formula: its mean error, and for every baseline its mean error and the number of
        tasks on which the formula has less.
    """
    each = [
        (budget, error) for error in compared_errors(result) for budget in compared_budgets(result)
    ]
    words = {"error": "right after pruning", "tuned_error": "after fine-tuning"}
    lines = [
        f"at {BUDGET_NAMES[budget]} {words[error]}: "
        f"{_against_baselines(result, result.comparison, budget, error)}"
        for budget, error in each
    ]
    unseen = choosing_tasks(result)
    there = restrict(result.held_out, unseen)
    lines += [
        f"at {BUDGET_NAMES[budget]} {words[error]} on {', '.join(unseen)}: "
        f"{_against_baselines(result, there, budget, error)}"
        for budget, error in each
        if there.part(result.recommended.name, kind=budget, error=error)
    ]
    return lines


def _against_baselines(
    result: SearchResult, comparison: Comparison, budget: str, error_name: str
) -> str:
    """Return the mean test error of the recommended formula beside that of each baseline."""
    best = result.recommended.name
    tasks = list(dict.fromkeys(record.task for record in comparison.records))

    def mean(name: str, task: str | None = None) -> float:
        return comparison.mean(name, "test", kind=budget, task=task, error=error_name)

    error = mean(best)
    against = []
    for contender in result.contenders:
        if contender.candidate is not None or contender.name == best:
            continue
        if not comparison.part(contender.name, kind=budget, error=error_name):
            continue
        other = mean(contender.name)
        wins = sum(mean(best, task) < mean(contender.name, task) for task in tasks)
        word = "below" if error < other else "NOT below"
        against.append(f"{word} {contender.name} {other:.3f} ({wins} of {len(tasks)} tasks)")
    return f"{error:.3f}, {', '.join(against)}"


def compared_budgets(result: SearchResult) -> list[str]:
    """Return the kinds of budgets that a search was compared at."""
    present = {record.kind for record in result.comparison.records}
    return [budget for budget in BUDGET_NAMES if budget in present]
