"""Floor 9: the final comparison, at equal MACs and at equal parameters.

Every formula of the front and the baselines prune each task to the same budgets, are fine-tuned
with several seeds, and are judged on the validation split, which decides the recommendation, and
on the test split, which decides nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.expression import Expression
from gp_prune.metric import Metric
from gp_prune.pruning import Budget, DegenerateScores
from gp_prune.search.archive import Candidate
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Outcome, derived_seed
from gp_prune.search.executors import Runner
from gp_prune.search.journal import Journal
from gp_prune.search.scoring import Bench

BASELINES = {"channel": ("random", "l1"), "weight": ("random_weight", "magnitude")}
KINDS = ("macs", "params")
"""What is equal for all in the comparison."""


@dataclass(frozen=True)
class Contender:
    """A formula with the conventions of its use.

    Attributes:
        name: unique in the comparison.
        expression: the formula.
        conventions: how its scores are used.
        candidate: what the search found out about it; None for a baseline.
    """

    name: str
    expression: Expression
    conventions: Conventions
    candidate: Candidate | None = None


@dataclass(frozen=True)
class Record:
    """One pruned and fine-tuned network of the comparison.

    Attributes:
        contender: name of the formula.
        task: name of the task.
        kind: ``"macs"``, ``"params"``, or ``"ladder"`` for the search's own protocol.
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
    validation: float
    test: float
    raw_test: float


class Comparison:
    """All records of the final comparison, and means over any part of them."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)

    def part(
        self, contender: str, *, kind: str | None = None, task: str | None = None
    ) -> list[Record]:
        """The records of a contender; None means any kind but the ladder, and any task."""
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
        """Mean of a column over tasks, budgets and repeats."""
        rows = self.part(contender, kind=kind, task=task)
        return statistics.fmean(getattr(row, column) for row in rows)

    def spread(self, contender: str, column: str, *, kind: str | None = None) -> float:
        """Standard deviation, over the repeats, of the mean over tasks and budgets."""
        rows = self.part(contender, kind=kind)
        repeats = sorted({row.repeat for row in rows})
        means = [
            statistics.fmean(getattr(row, column) for row in rows if row.repeat == repeat)
            for repeat in repeats
        ]
        return statistics.stdev(means) if len(means) > 1 else 0.0


def contenders(
    config: SearchConfig, front: Sequence[Candidate], baselines: Sequence[Metric]
) -> list[Contender]:
    """The front by name, then every baseline as published, then under the run's conventions."""
    made = [
        Contender(
            metric_name(config, candidate), candidate.expression, config.conventions, candidate
        )
        for candidate in front
    ]
    for metric in baselines:
        made.append(Contender(metric.name, metric.expression, metric.conventions))
        if metric.conventions != config.conventions:
            name = f"{metric.name}@{config.scope}"
            made.append(Contender(name, metric.expression, config.conventions))
    return made


def metric_name(config: SearchConfig, candidate: Candidate) -> str:
    """A name that depends on the meaning of the metric alone."""
    metric = Metric("m", candidate.expression, config.conventions)
    return f"{config.granularity}_{metric.digest.removeprefix('sha256:')[:8]}"


def compare(
    config: SearchConfig,
    benches: Sequence[Bench],
    entered: Sequence[Contender],
    runner: Runner,
    journal: Journal,
    progress: Callable[[int, int], None],
) -> Comparison:
    """Prune, fine-tune and measure every contender at every budget.

    Args:
        config: the settings.
        benches: the prepared tasks.
        entered: what is compared.
        runner: where evaluations run.
        journal: what is already known, and where the rest is written.
        progress: hears how many of how many evaluations are done.
    """
    planned = [
        entry
        for contender in entered
        for bench in benches
        for entry in _planned(config, bench, contender)
    ]
    outcomes = _outcomes([evaluation for _, evaluation in planned], runner, journal, progress)
    records = []
    for draft, evaluation in planned:
        outcome = outcomes[evaluation.key]
        assert outcome.test is not None
        records.append(
            Record(*draft, validation=outcome.validation, test=outcome.test, raw_test=outcome.raw)
        )
    return Comparison(records)


_Draft = tuple[str, str, str, float, float, float, int]


def _planned(
    config: SearchConfig, bench: Bench, contender: Contender
) -> list[tuple[_Draft, Evaluation]]:
    """Every evaluation of a contender on a task, with what is known of its record."""
    ladder_kind = "channels" if config.granularity == "channel" else "params"
    asked = [("ladder", ladder_kind, keep) for keep in config.ladder]
    asked += [(kind, kind, keep) for kind in KINDS for keep in config.budgets]
    noisy = "noise" in contender.expression.needs
    planned = []
    for label, kind, keep in asked:
        # The ladder is one column of the table; the repeats go where the comparison is decided.
        for repeat in range(1 if label == "ladder" else config.final_seeds):
            name = bench.task.name
            noise = derived_seed("noise", config.seed, name, repeat) if noisy else None
            try:
                trial = bench.trial(
                    contender.expression, contender.conventions, Budget(kind, keep), noise
                )
            except DegenerateScores as error:
                raise UserError(f"{contender.name} cannot be compared: {error}") from None
            achieved = trial.plan.achieved
            draft = (
                contender.name,
                name,
                label,
                keep,
                achieved.macs or 0.0,
                achieved.params,
                repeat,
            )
            # The same order of samples for all contenders: differences are due to the cuts.
            seed = derived_seed("final", config.seed, name, repeat)
            evaluation = Evaluation(name, trial.plan.to_json(), config.final_steps, seed, test=True)
            planned.append((draft, evaluation))
    return planned


def _outcomes(
    evaluations: Sequence[Evaluation],
    runner: Runner,
    journal: Journal,
    progress: Callable[[int, int], None],
) -> dict[str, Outcome]:
    distinct = {evaluation.key: evaluation for evaluation in evaluations}
    known: dict[str, Outcome] = {}
    for key, evaluation in distinct.items():
        outcome = journal.known(evaluation)
        if outcome is not None:
            known[key] = outcome
    missing = [evaluation for key, evaluation in distinct.items() if key not in known]
    for evaluation, outcome in zip(missing, runner.run(missing), strict=True):
        journal.outcome(evaluation, outcome)
        known[evaluation.key] = outcome
        progress(len(known), len(distinct))
    journal.sync()
    return known


def recommended(config: SearchConfig, entered: Sequence[Contender], found: Comparison) -> Contender:
    """The smallest formula that is as good as the best one on the validation split.

    The best is the formula of the front with the least mean validation error at equal budgets; as
    good are those whose mean exceeds it by at most the standard deviation of the best one over
    its fine-tuning runs. Only formulas of at most ``config.recommended_size`` nodes count, unless
    there is none; of equally small ones the better is taken.
    """
    evolved = [c for c in entered if c.candidate is not None]
    small = [c for c in evolved if c.expression.size <= config.recommended_size] or evolved
    means = {c.name: found.mean(c.name, "validation") for c in small}
    best = min(small, key=lambda c: (means[c.name], c.expression.size, c.name))
    limit = means[best.name] + found.spread(best.name, "validation")
    as_good = [c for c in small if means[c.name] <= limit]
    return min(as_good, key=lambda c: (c.expression.size, means[c.name], c.name))
