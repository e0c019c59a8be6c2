"""From formulas to candidates: draw, score, submit, collect, promote."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from gp_prune.language.expression import Expression, canonical
from gp_prune.language.record import MissingMeasurement
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, probe
from gp_prune.pruning import DegenerateScores
from gp_prune.pruning.plan.weights import Target
from gp_prune.pruning.select.scores import MOST_TIES
from gp_prune.runs.journal import Journal
from gp_prune.runs.line_index import digest
from gp_prune.search.archive import Archive, Behaviour, Candidate
from gp_prune.search.config import SearchConfig
from gp_prune.search.course import GenerationCourse
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.evaluator import AnyOutcome, Evaluator
from gp_prune.search.grammar import Grammar, Individual
from gp_prune.search.objectives import COSTS, LATENCY, SIZE, aggregate, mean_cost
from gp_prune.search.scorer import PlannedCut, TaskScorer
from gp_prune.search.successive_halving import choose_promoted
from gp_prune.statistics.running import derive_seed

_TRIES = 10
"""New trees are drawn at most this many times the population before a generation starts."""


class DrawnFormula(NamedTuple):
    """A formula that the search has not met before and that ranks something.

    Attributes:
        individual: its tree, in canonical form.
        behaviour: the digest of its cuts.
        cuts: what it removes, for every task and step of the ladder.
        twin: whether an earlier formula behaves alike, so that nothing is left to evaluate.
    """

    individual: Individual
    behaviour: Behaviour
    cuts: list[PlannedCut]
    twin: bool


class _Submitted(NamedTuple):
    """A behaviour whose evaluations are under way."""

    behaviour: Behaviour
    cuts: list[PlannedCut]
    keys: list[str]


class Assessor:
    """Tries formulas, each behaviour once on every rung that it reaches, and keeps an archive.

    Args:
        config: the settings.
        grammar: the grammar of the trees.
        scorers: the prepared tasks, in the order of ``config.tasks``.
        evaluator: evaluates pruned networks.
        journal: where what a person may want to read is written.

    Attributes:
        archive: all formulas that were drawn.
        behaviours: number of distinct behaviours that were evaluated.
        refused: why formulas could not be tried, with their number.
        course: how far a generation is.
    """

    def __init__(
        self,
        config: SearchConfig,
        grammar: Grammar,
        scorers: Sequence[TaskScorer],
        evaluator: Evaluator,
        journal: Journal[AnyOutcome],
    ) -> None:
        self.config = config
        self.grammar = grammar
        self.scorers = {scorer.task.name: scorer for scorer in scorers}
        self.archive = Archive(grammar.primitives, config.names, config.top_rung)
        self.behaviours = 0
        self.refused: Counter[str] = Counter()
        self._evaluator = evaluator
        self._journal = journal
        self._queue: list[_Submitted] = []
        self._measured: set[bytes] = set()
        each = len(scorers) * len(config.cells) * len(config.errors)
        self.course = GenerationCourse(each, config.promote)
        evaluator.listener = self._tell

    @property
    def evaluations(self) -> int:
        """Return the number of networks pruned and measured, those of the journal included."""
        return len(self._measured)

    def _tell(self) -> None:
        self.course.tell(self._evaluator.waiting)

    def assess(
        self, drawn: Iterator[Individual], count: int, population: Sequence[Individual] = ()
    ) -> list[Individual]:
        """Try new formulas until ``count`` new behaviours were met, or too many were drawn.

        Formulas that rank nothing, and those that behave like an earlier one, are cheap: they are
        recorded, but do not count. All new behaviours are tried on the lowest rung; the best of
        them, and of those of the population that still wait on a rung, are promoted.

        Returns:
            The new formulas as individuals with their candidates, also those not promoted.
        """
        met: list[Individual] = []
        cuts: dict[Behaviour, list[PlannedCut]] = {}
        for tree in islice(drawn, _TRIES * self.config.population if count > 0 else 0):
            formula = self.draw_new(tree)
            if formula is None:
                continue
            met.append(formula.individual)
            if not formula.twin:
                cuts[formula.behaviour] = formula.cuts
                # The first are evaluated while the others are drawn and scored.
                self.evaluate(formula.behaviour, formula.cuts, 0)
            if len(cuts) >= count:
                break
        self.update(0)
        self.behaviours += len(cuts)
        arrived = list(cuts)
        older = sorted({i.candidate.behaviour for i in population}.difference(cuts))
        for rung in range(self.config.top_rung):
            arrived = self.promote(rung, arrived, [*older, *cuts], cuts)
        for individual in met:
            self._record(self.refreshed(individual).candidate)
            self._record_birth(individual)
        return met

    def draw_new(self, tree: Individual) -> DrawnFormula | None:
        """Score a drawn tree; return None for one that is known or ranks nothing."""
        expression = canonical(self.grammar.to_expression(tree))
        text = str(expression)
        if text in self.archive:
            return None
        cuts = self.score(expression)
        if isinstance(cuts, str):
            self._refuse(cuts)
            self.archive.add(self._untried(expression, _behaviour([text]), cuts))
            return None
        behaviour = _behaviour([cut.key for cut in cuts])
        twin = self.archive.smallest(behaviour)
        rounding = "" if twin else self._find_rounding(expression)
        if rounding:
            self._refuse(rounding)
            self.archive.add(self._untried(expression, _behaviour([text]), rounding))
            return None
        untried = self._untried(expression, behaviour, "not yet tried")
        self.archive.add(replace(twin or untried, expression=expression))
        individual = self.grammar.from_expression(expression)
        individual.origin, individual.parents = tree.origin, tree.parents
        return DrawnFormula(individual, behaviour, cuts, twin is not None)

    def _untried(self, expression: Expression, behaviour: Behaviour, reason: str) -> Candidate:
        """Return a candidate with the worst objectives that its formula can have."""
        size = float(expression.size)
        names = zip(self.config.names, self.config.worst, strict=True)
        objectives = tuple(size if name == SIZE else worst for name, worst in names)
        return Candidate(expression, objectives, behaviour, reason=reason)

    def score(self, expression: Expression) -> list[PlannedCut] | str:
        """Return the cuts of a formula on every task at every budget, or why it has none."""
        return plan_cuts(
            expression, self.config.conventions, self.config.cells, [*self.scorers.values()]
        )

    def _find_rounding(self, expression: Expression) -> str:
        """Return where a formula ranks rounding errors; empty if it does so nowhere."""
        return find_rounding(expression, [*self.scorers.values()])

    def rescore(self, candidate: Candidate) -> list[PlannedCut]:
        """Return the cuts of a candidate of an earlier generation again."""
        cuts = self.score(candidate.expression)
        assert not isinstance(cuts, str), "what was tried once can be tried again"
        return cuts

    def evaluate(self, behaviour: Behaviour, cuts: list[PlannedCut], rung: int) -> None:
        """Submit the evaluations of a behaviour on a rung."""
        keys = []
        for cut in cuts:
            for evaluation in ladder_evaluations(
                self.config, cut, rung, samples=self._samples(cut.task, rung)
            ).values():
                self.course.ask()
                self._evaluator.submit(evaluation)
                keys.append(evaluation.key)
        self._queue.append(_Submitted(behaviour, cuts, keys))
        self._tell()  # some may be known already

    def update(self, rung: int) -> None:
        """Collect what was submitted on a rung, and write down what became of it."""
        outcomes = self._evaluator.collect()
        self._measured.update(map(digest, outcomes))
        for behaviour, cuts, keys in self._queue:
            before = self._smallest(behaviour)
            candidate = self._judge(before, rung, cuts, [outcomes[key] for key in keys])
            self.archive.update(candidate)
            self._record(candidate)
        self._queue.clear()

    def promote(
        self,
        rung: int,
        arrived: Sequence[Behaviour],
        pool: Sequence[Behaviour],
        cuts: Mapping[Behaviour, list[PlannedCut]],
    ) -> list[Behaviour]:
        """Try the best of a rung on the next one; where one fails there, take the next in line.

        Args:
            rung: the rung that they come from.
            arrived: behaviours new on that rung, which decide how many are promoted.
            pool: all that may be promoted or set the standard.
            cuts: the cuts of this generation; those of others are planned again.

        Returns:
            Those that were promoted.
        """
        wanted = math.ceil(self.config.promote[rung] * len(arrived))
        worst = self.config.worst if self.config.steps(rung) > 0 else None
        risen: list[Behaviour] = []
        while len(risen) < wanted:
            tried = [self._smallest(behaviour) for behaviour in pool]
            best = choose_promoted(
                tried, rung, wanted - len(risen), weights=self.config.weights, worst=worst
            )
            if not best:
                break
            for candidate in best:
                known = cuts.get(candidate.behaviour) or self.rescore(candidate)
                self.evaluate(candidate.behaviour, known, rung + 1)
            self.update(rung + 1)
            risen += [c.behaviour for c in best if self._smallest(c.behaviour).rung == rung + 1]
        return risen

    def refreshed(self, individual: Individual) -> Individual:
        """Return the individual with what is known of it now: it may have been promoted."""
        candidate = self.archive.get(self.grammar.to_expression(individual))
        assert candidate is not None
        individual.candidate = candidate
        individual.fitness.values = candidate.objectives
        return individual

    def measure(self, expression: Expression) -> Candidate:
        """Try a formula on the highest rung alone, without a place in the archive.

        Returns:
            Its results; with a ``reason`` and the worst objectives if it cannot be tried.
        """
        cuts = self.score(expression)
        if isinstance(cuts, str):
            return self._untried(expression, _behaviour([str(expression)]), cuts)
        evaluations = [e for cut in cuts for e in ladder_evaluations(self.config, cut).values()]
        outcomes = self._evaluator.outcomes(evaluations)
        untried = self._untried(expression, _behaviour([cut.key for cut in cuts]), "not yet tried")
        results = [outcomes[evaluation.key] for evaluation in evaluations]
        top = self.config.top_rung
        return replace(self._judge(untried, top, cuts, results), rung=top, earlier=())

    def _samples(self, task: str, rung: int) -> int:
        """Return how many validation samples a rung judges on; 0 for all."""
        most = self.config.rung_samples
        if rung == self.config.top_rung or not most:
            return 0
        return most if len(self.scorers[task].task.validation.inputs) > most else 0

    def _judge(
        self, before: Candidate, rung: int, cuts: Sequence[PlannedCut], outcomes: Sequence[Outcome]
    ) -> Candidate:
        """Return a candidate after its evaluations on a rung.

        Args:
            before: what was known of it.
            rung: the rung.
            cuts: its cuts.
            outcomes: for each cut one outcome for each error that is an objective.
        """
        names = self.config.errors
        parts = [outcomes[n : n + len(names)] for n in range(0, len(outcomes), len(names))]
        measured = [
            (cut, dict(zip(names, part, strict=True)))
            for cut, part in zip(cuts, parts, strict=True)
        ]
        for cut, part in measured:
            for outcome in part.values():
                if outcome.failure:
                    reason = f"{cut.task}: {outcome.failure}"
                    self._refuse(reason)
                    return self._untried(before.expression, before.behaviour, reason)
        by_task = {
            task: self._summarize([entry for entry in measured if entry[0].task == task])
            for task in self.scorers
        }
        over_all = {**self._summarize(measured), SIZE: float(before.expression.size)}
        earlier = (*before.earlier, before.objectives) if rung else ()
        return Candidate(
            before.expression, tuple(over_all[name] for name in self.config.names),
            before.behaviour, by_task, rung=rung, earlier=earlier,
        )  # fmt: skip

    def _summarize(
        self, measured: Sequence[tuple[PlannedCut, Mapping[str, Outcome]]]
    ) -> dict[str, float]:
        """Return what was measured of some cuts as one number of each kind."""
        values = {
            name: aggregate(self.config.aggregate, [part[name].validation for _, part in measured])
            for name in self.config.errors
        }
        for name in COSTS:
            kept = [(cut.plan.asked.kind, getattr(cut, name)) for cut, _ in measured]
            values[name] = mean_cost(name, kept)
        if LATENCY in self.config.names:
            times = [outcome.latency for _, part in measured for outcome in part.values()]
            values[LATENCY] = _mean([share for share in times if share is not None])
        return values

    def _refuse(self, reason: str) -> None:
        self.refused[reason.partition(":")[2] or reason] += 1

    def _smallest(self, behaviour: Behaviour) -> Candidate:
        candidate = self.archive.smallest(behaviour)
        assert candidate is not None
        return candidate

    def _record_birth(self, individual: Individual) -> None:
        """Write what a formula was made of, and by which operator."""
        if individual.parents:
            self._journal.event(
                {
                    "event": "bred",
                    "text": str(individual.candidate.expression),
                    "operator": individual.origin,
                    "parents": list(individual.parents),
                }
            )

    def _record(self, candidate: Candidate) -> None:
        self._journal.event(
            {
                "event": "candidate",
                "text": str(candidate.expression),
                "rung": candidate.rung,
                "objectives": list(candidate.objectives),
                "by_task": {name: dict(part) for name, part in candidate.by_task.items()},
                **({"reason": candidate.reason} if candidate.reason else {}),
            }
        )


def plan_cuts(
    expression: Expression,
    conventions: Conventions,
    budgets: Sequence[Target],
    scorers: Sequence[TaskScorer],
    shares: Metric | None = None,
) -> list[PlannedCut] | str:
    """Return the cuts of a formula on every task at every budget, or why it has none.

    Args:
        expression: the formula.
        conventions: how its scores are used.
        budgets: the shares to keep, and the patterns.
        scorers: the prepared tasks; a reason begins with the name of one.
        shares: divides the budgets among the layers, where the conventions do not.
    """
    if not all(map(math.isfinite, probe(expression))):
        return "its scores on the synthetic layer are not finite, so it could not be saved"
    cuts = []
    for scorer in scorers:
        for budget in budgets:
            try:
                cut = scorer.plan(expression, conventions, budget, shares=shares)
            except (DegenerateScores, MissingMeasurement) as error:
                return f"{scorer.task.name}: {error}"
            if cut.plan.ties > MOST_TIES:
                return f"{scorer.task.name}: {cut.plan.ties:.0%} of its scores are tied"
            cuts.append(cut)
    return cuts


def find_rounding(expression: Expression, scorers: Sequence[TaskScorer]) -> str:
    """Return where a formula ranks rounding errors; empty if it does so on none of the tasks."""
    for scorer in scorers:
        layer = scorer.find_rounding(expression)
        if layer:
            return f"{scorer.task.name}: the scores of layer {layer!r} differ by rounding alone"
    return ""


def ladder_evaluations(
    config: SearchConfig,
    cut: PlannedCut,
    rung: int | None = None,
    *,
    test: bool = False,
    samples: int = 0,
) -> dict[str, Evaluation]:
    """Return the evaluations of a cut on a rung, one for each error that is an objective.

    All cuts of a task are fine-tuned on the same order of samples, so that differences between
    candidates are due to what they cut (ranks agree better with the mean over many seeds).

    Args:
        config: the settings.
        cut: what is tried.
        rung: decides the number of fine-tuning steps; by default the highest.
        test: whether the test error is measured, too.
        samples: validation samples that are judged on; 0 for all.

    Returns:
        Name of the error -> its evaluation. The first one measures the latency, where that is an
        objective.
    """
    evaluations: dict[str, Evaluation] = {}
    for name in config.errors:
        tuned = config.steps(config.top_rung if rung is None else rung)
        steps = tuned if name == "tuned_error" else 0
        # Without fine-tuning there is nothing to draw, and runs of all seeds share the result.
        seed = derive_seed("trial", config.seed, cut.task) if steps else 0
        evaluations[name] = Evaluation(
            cut.task, cut.plan.to_json(), steps, seed, test, samples,
            latency=LATENCY in config.names and not evaluations and not test, formula=cut.formula,
        )  # fmt: skip
    return evaluations


def _behaviour(keys: Sequence[str]) -> Behaviour:
    return hashlib.sha256("\0".join(keys).encode()).hexdigest()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
