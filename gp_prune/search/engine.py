"""Floor 9: the evolutionary loop: NSGA-II over typed trees.

A search is a function of its settings. Each generation draws from a random source of its own,
derived from the run's seed, and each evaluation has a seed derived from what it evaluates; so
neither the number of workers nor a kill and resume changes a result.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from deap import tools

from gp_prune.errors import UserError
from gp_prune.expression import Expression, canonical
from gp_prune.layer import NEEDS, MissingMeasurement
from gp_prune.metric import Metric, probe
from gp_prune.primitive import PrimitiveSet
from gp_prune.pruning import Budget, DegenerateScores
from gp_prune.search.archive import WORST, Archive, Candidate, Objectives
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Outcome, derived_seed
from gp_prune.search.executors import Runner
from gp_prune.search.generation import Generator, Limits
from gp_prune.search.journal import Journal
from gp_prune.search.outcomes import resolve
from gp_prune.search.scoring import Bench, Trial
from gp_prune.search.typed_set import Individual, OutsideGrammar, TypedSet
from gp_prune.search.variation import Variation

MOST_TIES = 0.5
"""A formula of which more scores than this share are tied leaves the choice to their position."""

_TRIES = 10
"""New trees are drawn at most this many times the population before a generation starts."""


@dataclass(frozen=True)
class Generation:
    """What one generation gave.

    Attributes:
        number: 0 for the first population.
        of: number of the last one.
        assessed: distinct formulas tried so far.
        rejected: formulas that could not be tried so far.
        behaviours: distinct behaviours so far.
        evaluations: networks pruned and measured so far, those of the journal included.
        best: the candidate of least error so far.
        front: number of candidates on the front.
    """

    number: int
    of: int
    assessed: int
    rejected: int
    behaviours: int
    evaluations: int
    best: Candidate
    front: int


class Search:
    """One run of the evolutionary loop.

    Args:
        config: the settings.
        primitives: the vocabulary.
        benches: the prepared tasks, in the order of ``config.tasks``.
        seeds: metrics that the first population starts from and that grafts are taken from.
        runner: where evaluations run.
        journal: what is already known, and where the rest is written.
    """

    def __init__(
        self,
        config: SearchConfig,
        primitives: PrimitiveSet,
        benches: Sequence[Bench],
        seeds: Sequence[Metric],
        runner: Runner,
        journal: Journal,
    ) -> None:
        self.config = config
        self.benches = list(benches)
        self.runner = runner
        self.journal = journal
        self.archive = Archive()
        self.grammar = TypedSet(primitives, config.root, NEEDS, config.max_cost)
        self.limits = Limits(config.size_limit, config.height_limit)
        self.seeds = self._usable(seeds)
        self._outcomes: dict[str, Outcome] = {}
        self._refused: Counter[str] = Counter()
        self._by_behaviour: dict[tuple[str, ...], Candidate] = {}

    def _usable(self, seeds: Sequence[Metric]) -> list[Individual]:
        """The seeds that the grammar contains, as trees in canonical form."""
        usable = []
        for metric in seeds:
            try:
                tree = self.grammar.from_expression(canonical(metric.expression))
            except OutsideGrammar:
                continue
            if self.limits.hold(tree):
                usable.append(tree)
        return usable

    def generations(self) -> Iterator[Generation]:
        """Run the search, generation by generation; the archive holds the result."""
        population: list[Individual] = []
        for number in range(self.config.generations + 1):
            rng = random.Random(derived_seed("generation", self.config.seed, number))
            generator = Generator(self.grammar, rng, self.limits)
            variation = Variation(generator, self.seeds)
            if number == 0:
                fresh = self._first(generator)
            else:
                fresh = self._assess(self._bred(variation, population), self.config.population)
            population = self._survivors(population + fresh)
            yield self._report(number)

    def _first(self, generator: Generator) -> list[Individual]:
        """Seeds for at most half of the population, random trees for the rest.

        All seeds are tried, so that the front and the comparison know the best of them, but only
        some breed: a population of published formulas would explore little else.
        """
        seeds = self._assess(iter(self.seeds), len(self.seeds))
        count = min(len(seeds), self.config.population // 2)
        chosen = generator.rng.sample(seeds, count)
        endless = iter(generator.individual, None)
        return chosen + self._assess(endless, self.config.population - count)

    def _bred(self, variation: Variation, population: list[Individual]) -> Iterator[Individual]:
        """Offspring without end."""
        rng = variation.rng
        while True:
            first = _tournament(population, rng)
            if rng.random() < self.config.crossover:
                yield from variation.crossover(first, _tournament(population, rng))
            else:
                yield variation.mutate(first)

    def _assess(self, drawn: Iterator[Individual], count: int) -> list[Individual]:
        """Try new formulas until ``count`` new behaviours were met, or too many were drawn.

        Formulas that rank nothing, and those that behave like an earlier one, cost next to
        nothing: they are recorded, but do not use up the generation.
        """
        wanted: dict[tuple[str, ...], tuple[Expression, list[Trial]]] = {}
        twins: list[tuple[Expression, tuple[str, ...]]] = []
        for tree in islice(drawn, _TRIES * self.config.population):
            expression = canonical(self.grammar.to_expression(tree))
            text = str(expression)
            if text in self.archive:
                continue
            trials = self._trials(expression)
            if isinstance(trials, str):
                self._refused[trials.partition(":")[2] or trials] += 1
                self.archive.add(Candidate(expression, WORST, (text,), reason=trials))
                continue
            behaviour = tuple(trial.key for trial in trials)
            self.archive.add(Candidate(expression, WORST, behaviour, reason="not yet tried"))
            if behaviour in self._by_behaviour or behaviour in wanted:
                twins.append((expression, behaviour))
            else:
                wanted[behaviour] = expression, trials
            if len(wanted) >= count:
                break
        trials = [trial for _, tried in wanted.values() for trial in tried]
        evaluations = [self.evaluation(trial) for trial in trials]
        outcomes = resolve(evaluations, self.runner, self.journal)
        for trial, evaluation in zip(trials, evaluations, strict=True):
            self._outcomes[trial.key] = outcomes[evaluation.key]
        assessed = [self._candidate(e, b, tried) for b, (e, tried) in wanted.items()]
        assessed += [self._twin(expression, behaviour) for expression, behaviour in twins]
        return [self._individual(candidate) for candidate in assessed]

    def _trials(self, expression: Expression) -> list[Trial] | str:
        """The trials of a formula on every task and rung of the ladder, or why there are none."""
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

    def evaluation(self, trial: Trial) -> Evaluation:
        """How a trial is evaluated during the search."""
        return ladder_evaluation(self.config, trial)

    def _candidate(
        self, expression: Expression, behaviour: tuple[str, ...], trials: Sequence[Trial]
    ) -> Candidate:
        reason = self._failure(trials)
        if reason:
            self._refused[reason.partition(":")[2]] += 1
            return self._settled(Candidate(expression, WORST, behaviour, reason=reason))
        rungs = len(self.config.ladder)
        by_task: dict[str, Objectives] = {}
        for position, bench in enumerate(self.benches):
            part = trials[position * rungs : (position + 1) * rungs]
            by_task[bench.task.name] = (
                _mean([self._outcomes[trial.key].validation for trial in part]),
                _mean([macs_kept(trial) for trial in part]),
                _mean([trial.plan.achieved.params for trial in part]),
            )
        error, macs, params = (_mean(column) for column in zip(*by_task.values(), strict=True))
        return self._settled(Candidate(expression, (error, macs, params), behaviour, by_task))

    def _failure(self, trials: Sequence[Trial]) -> str:
        """Why a trial has no result (its worker died, hung or took too much); empty if all have."""
        for trial in trials:
            failure = self._outcomes[trial.key].failure
            if failure:
                return f"{trial.task}: {failure}"
        return ""

    def _settled(self, candidate: Candidate) -> Candidate:
        self.archive.add(candidate)
        self._by_behaviour[candidate.behaviour] = candidate
        self._record(candidate)
        return candidate

    def _twin(self, expression: Expression, behaviour: tuple[str, ...]) -> Candidate:
        """A candidate that prunes exactly as an earlier one."""
        known = self._by_behaviour[behaviour]
        candidate = replace(known, expression=expression)
        self.archive.add(candidate)
        if candidate.order < known.order:
            self._by_behaviour[behaviour] = candidate
        self._record(candidate)
        return candidate

    def _record(self, candidate: Candidate) -> None:
        self.journal.event(
            {
                "event": "candidate",
                "text": str(candidate.expression),
                "objectives": list(candidate.objectives),
                "by_task": {name: list(values) for name, values in candidate.by_task.items()},
                **({"reason": candidate.reason} if candidate.reason else {}),
            }
        )

    def _individual(self, candidate: Candidate) -> Individual:
        individual = self.grammar.from_expression(candidate.expression)
        individual.fitness.values = candidate.objectives
        individual.candidate = candidate
        return individual

    def _survivors(self, individuals: list[Individual]) -> list[Individual]:
        """NSGA-II over the smallest formula of every behaviour."""
        best: dict[tuple[str, ...], Individual] = {}
        for individual in sorted(individuals, key=lambda i: i.candidate.order):
            best.setdefault(individual.candidate.behaviour, individual)
        chosen: list[Individual] = tools.selNSGA2(list(best.values()), self.config.population)
        return chosen

    def _report(self, number: int) -> Generation:
        front = self.archive.front(self.config.front_size)
        if not front:
            reason, count = self._refused.most_common(1)[0]
            raise UserError(
                f"none of {len(self.archive)} formulas could be tried on {self.config.tasks}; "
                f"{count} of them because{reason}; try other tasks or more --population"
            )
        report = Generation(
            number=number,
            of=self.config.generations,
            assessed=self.archive.assessed,
            rejected=len(self.archive) - self.archive.assessed,
            behaviours=self.archive.behaviours,
            evaluations=len(self._outcomes),
            best=front[0],
            front=len(front),
        )
        self.journal.event(
            {
                "event": "generation",
                "number": number,
                "assessed": report.assessed,
                "behaviours": report.behaviours,
                "evaluations": report.evaluations,
                "front": [[str(c.expression), list(c.objectives)] for c in front],
            }
        )
        self.journal.sync()
        return report


def ladder_evaluation(config: SearchConfig, trial: Trial, *, test: bool = False) -> Evaluation:
    """How the search evaluates a trial; with ``test`` the test error is measured, too.

    All trials of a task are fine-tuned on the same order of samples, so that differences between
    candidates are due to what they cut (ranks agree better with the mean over many seeds).
    """
    seed = derived_seed("trial", config.seed, trial.task)
    steps = config.fine_tune_steps
    return Evaluation(trial.task, trial.plan.to_json(), steps, seed, test=test)


def macs_kept(trial: Trial) -> float:
    """Share of the MACs that a trial keeps."""
    share = trial.plan.achieved.macs
    assert share is not None, "plans of traced networks know their MACs"
    return share


def _tournament(population: Sequence[Individual], rng: random.Random) -> Individual:
    """The better of two: by dominance, then by crowding distance, then the first drawn."""
    first, second = rng.choice(population), rng.choice(population)
    if second.fitness.dominates(first.fitness):
        return second
    if first.fitness.dominates(second.fitness):
        return first
    return second if second.fitness.crowding_dist > first.fitness.crowding_dist else first


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
