"""From formulas to candidates: which are new, what they cost and what they are worth."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from gp_prune.language.expression import Expression, canonical
from gp_prune.language.record import MissingMeasurement
from gp_prune.metric.metric import probe
from gp_prune.pruning import Budget, DegenerateScores
from gp_prune.runs.disk import DiskSet
from gp_prune.runs.journal import Journal
from gp_prune.search.archive import WORST, Archive, Behaviour, Candidate, Objectives
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.grammar import Grammar, Individual
from gp_prune.search.scorer import Bench, Trial
from gp_prune.search.stacking import AnyOutcome, Evaluator
from gp_prune.search.successive_halving import promoted
from gp_prune.statistics.running import derive_seed

MOST_TIES = 0.5
"""A formula of which more scores than this share are tied leaves the choice to their position."""

_TRIES = 10
"""New trees are drawn at most this many times the population before a generation starts."""


class Assessor:
    """Tries formulas, each behaviour once on every rung that it reaches, and keeps an archive.

    Args:
        config: the settings.
        grammar: the typed set of the trees.
        benches: the prepared tasks, in the order of ``config.tasks``.
        evaluator: evaluates pruned networks.
        journal: where what a person may want to read is written.

    Attributes:
        archive: all formulas that were drawn.
        evaluations: networks pruned and measured, those of the journal included.
        refused: why formulas could not be tried, with their number.
    """

    def __init__(
        self,
        config: SearchConfig,
        grammar: Grammar,
        benches: Sequence[Bench],
        evaluator: Evaluator,
        journal: Journal[AnyOutcome],
    ) -> None:
        self.config = config
        self.grammar = grammar
        self.benches = list(benches)
        self.archive = Archive(grammar.primitives, config.top_rung)
        self.behaviours = 0
        self.evaluations = 0
        self.refused: Counter[str] = Counter()
        self._evaluator = evaluator
        self._journal = journal
        self._measured = DiskSet()

    def assess(
        self, drawn: Iterator[Individual], count: int, population: Sequence[Individual] = ()
    ) -> list[Individual]:
        """Try new formulas until ``count`` new behaviours were met, or too many were drawn.

        Formulas that rank nothing, and those that behave like an earlier one, cost next to
        nothing: they are recorded, but do not use up the generation. All new behaviours are tried
        on the lowest rung; the best of them, and of those of the population that still wait on a
        rung, rise.

        Returns:
            The new formulas as individuals with their candidates, also those that did not rise.
        """
        met: list[Individual] = []
        trials: dict[Behaviour, list[Trial]] = {}
        # The first are evaluated while the others are drawn and scored.
        self._try(0, self._met(drawn, count, met, trials))
        arrived = list(trials)
        older = sorted({i.candidate.behaviour for i in population}.difference(trials))
        for rung in range(self.config.top_rung):
            arrived = self._rise(rung, arrived, [*older, *trials], trials)
        for individual in met:
            self._record(self.refreshed(individual).candidate)
        return met

    def _rise(
        self,
        rung: int,
        arrived: Sequence[Behaviour],
        pool: Sequence[Behaviour],
        trials: Mapping[Behaviour, list[Trial]],
    ) -> list[Behaviour]:
        """Try the best of a rung on the next one; where one fails there, the next in line rises.

        Args:
            rung: the rung that they rise from.
            arrived: behaviours new on that rung, which decide how many rise.
            pool: all that may rise or set the standard.
            trials: the trials of this generation.

        Returns:
            Those that have risen.
        """
        wanted = math.ceil(self.config.promote[rung] * len(arrived))
        tuned = self.config.steps(rung) > 0
        risen: list[Behaviour] = []
        while len(risen) < wanted:
            tried = [self._smallest(behaviour) for behaviour in pool]
            rising = promoted(tried, rung, wanted - len(risen), by_volume=tuned)
            if not rising:
                break
            self._try(rung + 1, ((c.behaviour, self._again(c, trials)) for c in rising))
            risen += [c.behaviour for c in rising if self._smallest(c.behaviour).rung == rung + 1]
        return risen

    def _met(
        self,
        drawn: Iterator[Individual],
        count: int,
        met: list[Individual],
        new: dict[Behaviour, list[Trial]],
    ) -> Iterator[tuple[Behaviour, list[Trial]]]:
        """New behaviours with their trials.

        Args:
            drawn: trees without end.
            count: so many new behaviours are wanted.
            met: gets the new formulas that rank something.
            new: gets what is yielded.
        """
        if count < 1:
            return
        for tree in islice(drawn, _TRIES * self.config.population):
            expression = canonical(self.grammar.to_expression(tree))
            text = str(expression)
            if text in self.archive:
                continue
            trials = self.trials(expression)
            if isinstance(trials, str):
                self._refuse(trials)
                self.archive.add(Candidate(expression, WORST, _behaviour([text]), reason=trials))
                continue
            behaviour = _behaviour([trial.key for trial in trials])
            known = self.archive.smallest(behaviour)
            untried = Candidate(expression, WORST, behaviour, reason="not yet tried")
            self.archive.add(replace(known or untried, expression=expression))
            individual = self.grammar.from_expression(expression)
            individual.origin = tree.origin
            met.append(individual)
            if known is None:
                new[behaviour] = trials
                yield behaviour, trials
            if len(new) >= count:
                return

    def trials(self, expression: Expression) -> list[Trial] | str:
        """The trials of a formula on every task and step of the ladder, or why there are none."""
        if not all(map(math.isfinite, probe(expression))):
            return "its scores on the synthetic layer are not finite, so it could not be saved"
        kind = self.config.ladder_kind
        trials = []
        for bench in self.benches:
            for keep in self.config.ladder:
                try:
                    budget = Budget(kind, keep)
                    trial = bench.trial(expression, self.config.conventions, budget)
                except (DegenerateScores, MissingMeasurement) as error:
                    return f"{bench.task.name}: {error}"
                if trial.plan.ties > MOST_TIES:
                    return f"{bench.task.name}: {trial.plan.ties:.0%} of its scores are tied"
                trials.append(trial)
        return trials

    def _again(self, candidate: Candidate, trials: Mapping[Behaviour, list[Trial]]) -> list[Trial]:
        """The trials of a candidate; those of an earlier generation are made anew."""
        if candidate.behaviour in trials:
            return trials[candidate.behaviour]
        made = self.trials(candidate.expression)
        assert not isinstance(made, str), "what was tried once can be tried again"
        return made

    def _try(self, rung: int, wanted: Iterable[tuple[Behaviour, Sequence[Trial]]]) -> None:
        """Evaluate behaviours on a rung and settle what became of them."""
        tried: list[tuple[Behaviour, Sequence[Trial], list[Evaluation]]] = []

        def evaluations() -> Iterator[Evaluation]:
            for behaviour, trials in wanted:
                of_one = [
                    ladder_evaluation(
                        self.config, trial, rung, samples=self._samples(trial.task, rung)
                    )
                    for trial in trials
                ]
                tried.append((behaviour, trials, of_one))
                yield from of_one

        outcomes = self._evaluator.outcomes(evaluations())
        self.evaluations += sum(map(self._measured.add, outcomes))
        for behaviour, trials, of_one in tried:
            results = [outcomes[evaluation.key] for evaluation in of_one]
            candidate = self._tried(self._smallest(behaviour), rung, trials, results)
            self.archive.settle(candidate)
            self._record(candidate)
        if rung == 0:
            self.behaviours += len(tried)

    def _samples(self, task: str, rung: int) -> int:
        """How many validation samples a rung judges on; 0 for all."""
        most = self.config.rung_samples
        if rung == self.config.top_rung or not most:
            return 0
        (bench,) = (bench for bench in self.benches if bench.task.name == task)
        return most if len(bench.task.validation.inputs) > most else 0

    def _tried(
        self, before: Candidate, rung: int, trials: Sequence[Trial], outcomes: Sequence[Outcome]
    ) -> Candidate:
        """A candidate after its trials on a rung."""
        failed = [f"{t.task}: {o.failure}" for t, o in zip(trials, outcomes, strict=True)
                  if o.failure]  # fmt: skip
        if failed:
            self._refuse(failed[0])
            return Candidate(before.expression, WORST, before.behaviour, reason=failed[0])
        steps = len(self.config.ladder)
        by_task: dict[str, Objectives] = {}
        for position, bench in enumerate(self.benches):
            part = slice(position * steps, (position + 1) * steps)
            by_task[bench.task.name] = (
                _mean([outcome.validation for outcome in outcomes[part]]),
                _mean([macs_kept(trial) for trial in trials[part]]),
                _mean([trial.plan.achieved.params for trial in trials[part]]),
            )
        error, macs, params = (_mean(column) for column in zip(*by_task.values(), strict=True))
        earlier = (*before.earlier, before.objectives) if rung else ()
        return Candidate(
            before.expression, (error, macs, params), before.behaviour, by_task,
            rung=rung, earlier=earlier,
        )  # fmt: skip

    def _refuse(self, reason: str) -> None:
        self.refused[reason.partition(":")[2] or reason] += 1

    def _smallest(self, behaviour: Behaviour) -> Candidate:
        candidate = self.archive.smallest(behaviour)
        assert candidate is not None
        return candidate

    def _record(self, candidate: Candidate) -> None:
        self._journal.event(
            {
                "event": "candidate",
                "text": str(candidate.expression),
                "rung": candidate.rung,
                "objectives": list(candidate.objectives),
                "by_task": {name: list(values) for name, values in candidate.by_task.items()},
                **({"reason": candidate.reason} if candidate.reason else {}),
            }
        )

    def refreshed(self, individual: Individual) -> Individual:
        """The individual with what is known of it now: it may have risen."""
        candidate = self.archive.get(self.grammar.to_expression(individual))
        assert candidate is not None
        individual.candidate = candidate
        individual.fitness.values = candidate.objectives
        return individual


def ladder_evaluation(
    config: SearchConfig,
    trial: Trial,
    rung: int | None = None,
    *,
    test: bool = False,
    samples: int = 0,
) -> Evaluation:
    """How the search evaluates a trial on a rung, by default on the highest.

    All trials of a task are fine-tuned on the same order of samples, so that differences between
    candidates are due to what they cut (ranks agree better with the mean over many seeds).

    Args:
        config: the settings.
        trial: what is tried.
        rung: decides the number of fine-tuning steps.
        test: whether the test error is measured, too.
        samples: validation samples that are judged on; 0 for all.
    """
    steps = config.steps(config.top_rung if rung is None else rung)
    # Without fine-tuning there is nothing to draw, and runs of all seeds share the result.
    seed = derive_seed("trial", config.seed, trial.task) if steps else 0
    return Evaluation(trial.task, trial.plan.to_json(), steps, seed, test, samples)


def macs_kept(trial: Trial) -> float:
    """Share of the MACs that a trial keeps."""
    share = trial.plan.achieved.macs
    assert share is not None, "plans of traced networks know their MACs"
    return share


def _behaviour(keys: Sequence[str]) -> Behaviour:
    return hashlib.sha256("\0".join(keys).encode()).hexdigest()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
