"""The final comparison, at equal MACs and at equal parameters.

Every formula of the front and the baselines prune each task to the same budgets, are fine-tuned
with several seeds, and are judged on the validation split, which decides the recommendation, and
on the test split, which decides nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression, canonical
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, DegenerateScores
from gp_prune.search.archive import Archive, Candidate
from gp_prune.search.assessor import ladder_evaluation
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Evaluator
from gp_prune.search.scorer import PlannedCut, TaskScorer
from gp_prune.statistics.running import derive_seed

BASELINES = {"channel": ("random", "l1"), "weight": ("random_weight", "magnitude")}
KINDS = ("macs", "params")
"""What is equal for all contenders."""


@dataclass(frozen=True)
class Contender:
    """A formula with the conventions of its use.

    Attributes:
        name: unique in the comparison.
        expression: the formula.
        conventions: how its scores are used.
        candidate: its results in the search; None for a baseline.
        published: the source of a formula of the front that is a published one.
    """

    name: str
    expression: Expression
    conventions: Conventions
    candidate: Candidate | None = None
    published: str = ""


@dataclass(frozen=True)
class Record:
    """One pruned and fine-tuned network of the comparison.

    Attributes:
        contender: name of the formula.
        task: name of the task.
        kind: ``"macs"``, ``"params"``, or ``"ladder"`` for the search's own protocol (its ladder,
            its fine-tuning).
        keep: the share that was to be kept.
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
    keep: float
    macs: float
    params: float
    repeat: int
    validation: float = math.nan
    test: float = math.nan
    raw_test: float = math.nan


class Comparison:
    """Keep all records of the final comparison, and compute means over any part of them."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)

    def part(
        self, contender: str, *, kind: str | None = None, task: str | None = None
    ) -> list[Record]:
        """Return the records of a contender; None means any kind but the ladder, and any task."""
        return [
            record
            for record in self.records
            if record.contender == contender
            and (record.kind == kind if kind else record.kind != "ladder")
            and task in (None, record.task)
        ]

    def mean(
        self, contender: str, column: str, *, kind: str | None = None, task: str | None = None
    ) -> float:
        """Return the mean of a column over tasks, budgets and repeats."""
        rows = self.part(contender, kind=kind, task=task)
        return statistics.fmean(getattr(row, column) for row in rows)

    def spread(self, contender: str, column: str, *, kind: str | None = None) -> float:
        """Return the standard deviation, over the repeats, of the mean over tasks and budgets."""
        rows = self.part(contender, kind=kind)
        repeats = sorted({row.repeat for row in rows})
        means = [
            statistics.fmean(getattr(row, column) for row in rows if row.repeat == repeat)
            for repeat in repeats
        ]
        return statistics.stdev(means) if len(means) > 1 else 0.0


def contenders(
    config: SearchConfig, archive: Archive, published: Sequence[Metric]
) -> list[Contender]:
    """Return the formulas to compare: the front, then the baselines.

    A formula of the front that is a published one keeps its name. The baselines are random, L1 (or
    magnitude), and the published metric that did best in the search, each under the conventions of
    this run; random and L1 also as published.

    Args:
        config: the settings.
        archive: all candidates of the run.
        published: the reference metrics.
    """
    known = {canonical(m.expression): m for m in published if m.expression.axes is config.root}
    entries = []
    for candidate in archive.shortlist(config.front_size, config.recommended_size):
        metric = known.get(candidate.expression)
        name = f"{metric.name}_{config.scope}" if metric else metric_name(config, candidate)
        source = metric.source or metric.name if metric else ""
        entries.append(Contender(name, candidate.expression, config.conventions, candidate, source))
    by_name = {metric.name: metric for metric in published}
    for baseline in BASELINES[config.granularity]:
        metric = by_name[baseline]
        entries.append(Contender(baseline, metric.expression, metric.conventions))
        if metric.conventions != config.conventions:
            entries.append(_under_conventions(config, metric))
    tried = [(archive.get(expression), metric) for expression, metric in known.items()]
    # Errors compare within a rung only, and the better ones have risen.
    scored = [
        (-c.rung, c.objectives[0], m.name, m) for c, m in tried if c is not None and not c.reason
    ]
    if scored:
        entries.append(_under_conventions(config, min(scored)[-1]))
    unique: dict[str, Contender] = {}
    for contender in entries:
        unique.setdefault(contender.name, contender)
    return list(unique.values())


def _under_conventions(config: SearchConfig, metric: Metric) -> Contender:
    """Return a published metric under the conventions of the run."""
    return Contender(f"{metric.name}_{config.scope}", metric.expression, config.conventions)


def metric_name(config: SearchConfig, candidate: Candidate) -> str:
    """Return a name that depends on the meaning of the metric alone."""
    metric = Metric("m", candidate.expression, config.conventions)
    return f"{config.granularity}_{metric.digest.removeprefix('sha256:')[:8]}"


def compare(
    config: SearchConfig,
    scorers: Sequence[TaskScorer],
    entered: Sequence[Contender],
    evaluator: Evaluator,
    progress: Callable[[int, int], None],
) -> Comparison:
    """Prune, fine-tune and measure every contender at every budget.

    Args:
        config: the settings.
        scorers: the prepared tasks.
        entered: what is compared.
        evaluator: evaluates pruned networks.
        progress: hears how many of how many evaluations are done.

    Raises:
        UserError: a contender cannot be scored on a task.
    """
    planned = [
        entry
        for contender in entered
        for scorer in scorers
        for entry in _plan(config, scorer, contender)
    ]
    outcomes = evaluator.outcomes([evaluation for _, evaluation in planned], progress)
    records = []
    for draft, evaluation in planned:
        outcome = outcomes[evaluation.key]
        assert outcome.test is not None
        records.append(
            replace(draft, validation=outcome.validation, test=outcome.test, raw_test=outcome.raw)
        )
    return Comparison(records)


def _plan(
    config: SearchConfig, scorer: TaskScorer, contender: Contender
) -> list[tuple[Record, Evaluation]]:
    """Return every evaluation of a contender on a task, with its record without the errors."""
    noisy = "noise" in contender.expression.needs
    asked = [("ladder", Budget(config.ladder_kind, keep)) for keep in config.ladder]
    asked += [(kind, Budget(kind, keep)) for kind in KINDS for keep in config.budgets]
    planned = []
    for label, budget in asked:
        # The search fine-tunes once; random numbers are drawn again for every repeat.
        repeats = config.final_seeds if label != "ladder" or noisy else 1
        cut = _cut(config, scorer, contender, budget, 0 if noisy else None)
        for repeat in range(repeats):
            if noisy and repeat:
                cut = _cut(config, scorer, contender, budget, repeat)
            if label == "ladder":
                evaluation = ladder_evaluation(config, cut, test=True)
            else:
                # One order of samples for all contenders: differences are due to the cuts.
                seed = derive_seed("final", config.seed, cut.task, repeat)
                plan = cut.plan.to_json()
                evaluation = Evaluation(
                    cut.task, plan, config.final_steps, seed, test=True, formula=cut.formula
                )
            record = Record(
                contender=contender.name,
                task=cut.task,
                kind=label,
                keep=budget.keep,
                macs=cut.macs,
                params=cut.params,
                repeat=repeat,
            )
            planned.append((record, evaluation))
    return planned


def _cut(
    config: SearchConfig, scorer: TaskScorer, contender: Contender, budget: Budget, draw: int | None
) -> PlannedCut:
    noise = None
    if draw is not None:
        purpose = (scorer.task.name, budget.kind, budget.keep, draw)
        noise = derive_seed("noise", config.seed, *purpose)
    try:
        return scorer.plan(contender.expression, contender.conventions, budget, noise)
    except DegenerateScores as error:
        raise UserError(f"{contender.name} cannot be compared: {error}") from None


def recommend(
    config: SearchConfig, entered: Sequence[Contender], comparison: Comparison
) -> Contender:
    """Return the smallest formula that is as good as the best one on the validation split.

    The best is the formula of the front with the least mean validation error at equal budgets; as
    good are those whose mean exceeds it by at most the standard deviation of the best one over
    its fine-tuning runs. Only formulas of at most ``config.recommended_size`` nodes count, unless
    there is none; of equally small ones the better is taken.
    """
    evolved = [c for c in entered if c.candidate is not None]
    small = [c for c in evolved if c.expression.size <= config.recommended_size] or evolved
    means = {c.name: comparison.mean(c.name, "validation") for c in small}
    best = min(small, key=lambda c: (means[c.name], c.expression.size, c.name))
    limit = means[best.name] + comparison.spread(best.name, "validation")
    as_good = [c for c in small if means[c.name] <= limit]
    return min(as_good, key=lambda c: (c.expression.size, means[c.name], c.name))
