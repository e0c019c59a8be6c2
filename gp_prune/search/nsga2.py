"""The evolutionary loop: NSGA-II over typed trees.

A search is a function of its settings. Each generation draws from a random source whose seed is
derived from the run's seed, and each evaluation has a seed derived from what it evaluates; so
neither the number of workers nor a kill and resume changes a result.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from gp_prune.errors import UserError, brief
from gp_prune.language.axes import Axes
from gp_prune.language.expression import canonical
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import Metric
from gp_prune.runs.evolution import AdaptiveOperatorRates, Growth
from gp_prune.runs.journal import Journal
from gp_prune.search.archive import Archive, Behaviour, Candidate, hypervolume
from gp_prune.search.assessor import Assessor
from gp_prune.search.census import take_census
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluator import AnyOutcome, Evaluator
from gp_prune.search.grammar import Grammar, Individual, OutsideGrammar, Vocabulary
from gp_prune.search.random_trees import Generator, Limits
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.successive_halving import survivors
from gp_prune.search.variation import CROSSOVER, Variation
from gp_prune.statistics.running import derive_seed

ELITE = 0.25
"""Share of the population that outlives a restart."""

TIME_IS_UP = "the time limit is reached"


def make_grammar(
    config: SearchConfig, primitives: PrimitiveSet
) -> tuple[Grammar, list[Individual]]:
    """Return the grammar of a search, and the formulas that the user starts from as its trees.

    Raises:
        UserError: a name of the vocabulary is unknown, or a start formula cannot be used.
    """
    vocabulary = Vocabulary(config.operands, config.operators, config.exclude)
    grammar = _build_grammar(primitives, config.root, config.max_cost, vocabulary)
    return grammar, [_read_start(text, config, grammar) for text in config.start_formulas]


@lru_cache(maxsize=1)
def _build_grammar(
    primitives: PrimitiveSet, root: Axes, max_cost: float, vocabulary: Vocabulary
) -> Grammar:
    """Return the grammar, which nobody changes: a run checks its settings by it, then searches."""
    return Grammar(primitives, root, NEEDS, max_cost, vocabulary)


def _read_start(text: str, config: SearchConfig, grammar: Grammar) -> Individual:
    """Return a formula that the user starts from, as a tree in canonical form."""
    what = f"start formula {brief(text)}"
    expression = parse(text, grammar.primitives)
    if expression.axes is not config.root:
        raise UserError(
            f"{what} has the axes {expression.axes}, and this search is for formulas of axes "
            f"{config.root}; leave it out, or search with another --granularity"
        )
    try:
        tree = grammar.from_expression(canonical(expression))
    except OutsideGrammar as error:
        raise UserError(f"{what} cannot be used: {error}") from None
    limits = Limits(config.size_limit, config.height_limit)
    if not limits.hold(tree):
        raise UserError(
            f"{what} has {len(tree)} nodes and height {tree.height}, and formulas of this "
            f"search have at most {limits.size} nodes and height {limits.height}; "
            "raise size_limit or height_limit, or leave it out"
        )
    return tree


@dataclass(frozen=True)
class Generation:
    """The state of a search after a generation.

    Attributes:
        number: 0 for the first population.
        of: number of the last one.
        assessed: distinct formulas tried so far.
        rejected: formulas that could not be tried so far.
        behaviours: distinct behaviours so far.
        complete: of these, the ones tried on the highest rung, too.
        evaluations: networks pruned and measured so far, those of the journal included.
        objectives: the names of the objectives.
        front: the front so far, thinned, least error first.
        hypervolume: what the whole front dominates; see :func:`~.archive.hypervolume`.
        stopped: the rule that ends the search here, as half a sentence; empty if none does.
        known: whether the journal had it, as after a resumption.
    """

    number: int
    of: int
    assessed: int
    rejected: int
    behaviours: int
    complete: int
    evaluations: int
    objectives: tuple[str, ...]
    front: tuple[Candidate, ...]
    hypervolume: float
    stopped: str = ""
    known: bool = field(default=False, compare=False)


class Search:
    """One run of the evolutionary loop.

    Args:
        config: the settings.
        primitives: the vocabulary.
        scorers: the prepared tasks, in the order of ``config.tasks``.
        seeds: published metrics that the first population starts from and that grafts are taken
            from, besides the start formulas of the settings.
        evaluator: evaluates pruned networks.
        journal: where what a person may want to read is written.
        clock: returns the seconds, for the time limit.
        built_in: formulas that are used like the start formulas of the settings, all of them; like
            the published ones they are left out where the settings say so.
    """

    def __init__(
        self,
        config: SearchConfig,
        primitives: PrimitiveSet,
        scorers: Sequence[TaskScorer],
        seeds: Sequence[Metric],
        evaluator: Evaluator,
        journal: Journal[AnyOutcome],
        clock: Callable[[], float] = time.monotonic,
        built_in: Sequence[Metric] = (),
    ) -> None:
        self.config = config
        self.journal = journal
        self.grammar, self.given = make_grammar(config, primitives)
        self.limits = Limits(config.size_limit, config.height_limit)
        self.seeds = self.given
        if not config.no_start_formulas:
            self.given = self.given + self._usable(built_in)
            self.seeds = self.given + self._usable(seeds)
        self.assessor = Assessor(config, self.grammar, scorers, evaluator, journal)
        self.growth = Growth()
        self._clock = clock
        self._unmoved = Growth()
        self._rates: AdaptiveOperatorRates | None = None

    @property
    def archive(self) -> Archive:
        """Return all formulas of the run."""
        return self.assessor.archive

    def _usable(self, seeds: Sequence[Metric]) -> list[Individual]:
        """Return the seeds that the grammar contains, as trees in canonical form."""
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
        """Run the search and yield its state after every generation; see ``archive`` at the end."""
        started = self._clock()
        population: list[Individual] = []
        for number in range(self.config.generations + 1):
            rng = random.Random(derive_seed("generation", self.config.seed, number))
            generator = Generator(
                self.grammar, rng, self.limits, factors=self.config.factors == "on"
            )
            variation = Variation(generator, self.seeds)
            if number == 0:
                fresh = self._first(generator)
            else:
                random_trees = self.config.strategy == "random"
                if not random_trees and 0 < self.config.restart <= self._unmoved.idle:
                    self._unmoved.idle = 0
                    elite = max(1, round(ELITE * len(population)))
                    population = survivors(population, elite, self.config.weights)
                    random_trees = True
                drawn = (
                    iter(generator.individual, None)
                    if random_trees
                    else self._breed(variation, population)
                )
                room = self._room(self.config.population)
                self.assessor.course.begin(number, room)
                fresh = self.assessor.assess(drawn, room, population)
            population = self._survivors(population + fresh)
            self._learn(fresh, population)
            report = self._report(number, population)
            stopped = self._stops(number, self._clock() - started)
            yield replace(report, stopped=stopped)
            if stopped:
                return

    def _room(self, wanted: int) -> int:
        """Return how many of the wanted behaviours may still be evaluated."""
        most = self.config.max_evaluations
        return min(wanted, max(0, most - self.assessor.behaviours)) if most else wanted

    def _stops(self, number: int, seconds: float) -> str:
        """Return the rule that ends the search, as half a sentence; empty if none does.

        An end by the time limit is written down, so that a finished run that is resumed ends at
        the same generation; all other rules depend on the course of the search alone.
        """
        config = self.config
        evaluated, idle = self.assessor.behaviours, self.growth.idle
        if config.max_evaluations and evaluated >= config.max_evaluations:
            return f"{evaluated} behaviours have been evaluated"
        if config.stall and idle >= config.stall:
            return f"the front has not grown for {idle} generations"
        # A run that is extended has the time once more.
        end = {
            "event": "stopped", "generation": number, "of": config.generations,
            "limit": config.time_limit, "reason": TIME_IS_UP,
        }  # fmt: skip
        if self.journal.holds(end) or (config.time_limit and seconds >= config.time_limit):
            self.journal.event(end)
            return TIME_IS_UP
        return ""

    def _first(self, generator: Generator) -> list[Individual]:
        """Return the first population: seeds for at most half of it, random trees for the rest.

        All seeds are tried, so that the front and the comparison know the best of them, but of the
        published ones only some breed: a population of them would explore little else. Those that
        the user gave, and the built-in ones, all breed.
        """
        size, tried = self.config.population, self._room(len(self.seeds))
        self.assessor.course.begin(0, self._room(tried + size - min(size // 2, tried)))
        seeds = self.assessor.assess(iter(self.seeds), tried)
        wanted = {str(self.grammar.to_expression(tree)) for tree in self.given}
        chosen = [seed for seed in seeds if str(seed.candidate.expression) in wanted]
        others = [seed for seed in seeds if str(seed.candidate.expression) not in wanted]
        places = max(0, size // 2 - len(chosen))
        chosen += generator.rng.sample(others, min(len(others), places))
        endless = iter(generator.individual, None)
        room = self._room(max(0, size - len(chosen)))
        self.assessor.course.expect(self.assessor.behaviours + room)
        return chosen + self.assessor.assess(endless, room, chosen)

    def _breed(self, variation: Variation, population: list[Individual]) -> Iterator[Individual]:
        """Yield offspring without end."""
        rng = variation.rng
        rates = self._operator_rates(variation)
        while True:
            first = _tournament(population, rng)
            name = rates.draw(rng)
            parents = [first]
            if name == CROSSOVER:
                parents.append(_tournament(population, rng))
                children: Sequence[Individual] = variation.crossover(*parents)
            else:
                children = (variation.apply(name, first),)
            texts = tuple(str(parent.candidate.expression) for parent in parents)
            for child in children:
                child.origin, child.parents = name, texts
                yield child

    def _operator_rates(self, variation: Variation) -> AdaptiveOperatorRates:
        """Return the rates of crossover and of the mutations."""
        if self._rates is None:
            share = self.config.crossover
            weights = {name: weight for name, (_, weight) in variation.mutations.items()}
            part = (1 - share) / sum(weights.values())
            first = {CROSSOVER: share, **{n: part * weight for n, weight in weights.items()}}
            self._rates = AdaptiveOperatorRates(first, adaptive=self.config.adaptive)
        return self._rates

    def _learn(self, fresh: Sequence[Individual], population: Sequence[Individual]) -> None:
        """Credit the operators whose offspring were tried in full and have survived."""
        bred = [individual for individual in fresh if individual.origin]
        if self._rates is None or not bred:
            return
        top = self.config.top_rung
        alive = {id(i) for i in population if i.candidate.rung == top and not i.candidate.reason}
        self._rates.learn((individual.origin, id(individual) in alive) for individual in bred)

    def _survivors(self, individuals: list[Individual]) -> list[Individual]:
        """Select by rung and NSGA-II, of every behaviour the smallest formula."""
        best: dict[Behaviour, Individual] = {}
        current = [self.assessor.refreshed(individual) for individual in individuals]
        for individual in sorted(current, key=lambda i: i.candidate.order):
            best.setdefault(individual.candidate.behaviour, individual)
        return survivors(list(best.values()), self.config.population, self.config.weights)

    def _report(self, number: int, population: Sequence[Individual]) -> Generation:
        config = self.config
        front = self.archive.shortlist(config.front_size, config.recommended_size, config.weights)
        if not front:
            raise UserError(self._nothing())
        volume = hypervolume((c.objectives for c in self.archive.front()), config.worst)
        for growth in (self.growth, self._unmoved):
            growth.update(volume)
        assessed = self.archive.assessed
        report = Generation(
            number=number,
            of=self.config.generations,
            assessed=assessed,
            rejected=len(self.archive) - assessed,
            behaviours=self.archive.behaviours,
            complete=self.archive.complete,
            evaluations=self.assessor.evaluations,
            objectives=config.names,
            front=tuple(front),
            hypervolume=volume,
        )
        census = take_census(individual.candidate.expression for individual in population)
        return replace(report, known=self._write(report, census))

    def _nothing(self) -> str:
        ((reason, count),) = self.assessor.refused.most_common(1) or [(" none was new", 0)]
        return (
            f"none of {len(self.archive)} formulas could be tried on "
            f"{', '.join(self.config.tasks)}; "
            f"{count} of them because{reason}; try other tasks or more --population"
        )

    def _write(self, report: Generation, census: Mapping[str, Any]) -> bool:
        """Write a report into the journal; return whether it was there already."""
        rates = self._rates.rates() if self._rates else {}
        event = {
            "event": "generation",
            "number": report.number,
            "assessed": report.assessed,
            "behaviours": report.behaviours,
            "complete": report.complete,
            "evaluations": report.evaluations,
            "hypervolume": report.hypervolume,
            "rates": {name: round(rate, 4) for name, rate in rates.items()},
            "front": [[str(c.expression), list(c.objectives)] for c in report.front],
            "population": dict(census),
        }
        known = self.journal.holds(event)
        if not known:
            self.journal.event(event)
            self.journal.sync()
        return known


def _tournament(population: Sequence[Individual], rng: random.Random) -> Individual:
    """Draw two and return the better: by rung, dominance, crowding distance, then the first."""
    first, second = rng.choice(population), rng.choice(population)
    if first.candidate.rung != second.candidate.rung:
        return max(first, second, key=lambda individual: individual.candidate.rung)
    if second.fitness.dominates(first.fitness):
        return second
    if first.fitness.dominates(second.fitness):
        return first
    return second if second.fitness.crowding_dist > first.fitness.crowding_dist else first
