"""The two steps in turn: a genetic algorithm until it converges, then retraining of the elite."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.plan import Layout, Shares
from gp_prune.genetic.retraining import DENSE, Outcome, Retraining, Shifted, Trial, Wanted, current
from gp_prune.genetic.selection import REFERENCE, Fitness, Turn, Volume, compromises, nondominated
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.subject import ModelSource, Prepared
from gp_prune.genetic.variation import Individual, Variation
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import MetricMutation
from gp_prune.runs.executors import Runner, run_with_journal
from gp_prune.runs.hypervolume import Growth, hypervolume
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.runs.journal import Journal
from gp_prune.statistics.running import derive_seed

_TRIES = 10
"""Offspring are drawn at most this many times the population before a generation starts."""
_LEAST_REACH = 0.01


class Engine:
    """One run.

    Args:
        subject: the network, as the workers find it.
        prepared: the network, as it is here.
        settings: how it is pruned.
        pool: the mutations.
        folder: where weights are kept.
        runner: where jobs run.
        journal: what is known already, and where the rest is written.

    Attributes:
        archive: the dense network and all that were retrained.
        evaluations: distinct plans that were tried.
        retraining: makes the networks of the archive but the first.
    """

    def __init__(
        self,
        subject: ModelSource,
        prepared: Prepared,
        settings: GeneticSettings,
        pool: Sequence[MetricMutation],
        folder: str,
        runner: Runner,
        journal: Journal[Outcome],
    ) -> None:
        self.settings = settings
        self.layout = Layout(
            prepared.model, prepared.architecture, settings.granularity, settings.macs,
            sparse=settings.pareto or settings.lambdas[2] > 0,
        )  # fmt: skip
        self.variation = Variation(self.layout, settings, pool)
        self._subject, self._prepared, self._folder = subject, prepared, folder
        self._runner, self._journal = runner, journal
        self.bench = Workbench(TaskSource())
        if settings.shift:
            Shifted(prepared.data.train, settings.shift)  # refuses what are no images, now
        self._metrics = [mutation.metric for mutation in pool if mutation.metric is not None]
        self._batches = prepared.calibration(settings.calibration, settings.seed)
        dense_error = prepared.error(prepared.model)
        trivial = prepared.trivial_error
        unit = 1.0 if prepared.data.kind == "error" else trivial
        self.judge = Fitness(settings, dense_error, trivial, unit)
        self.archive = [self._dense(dense_error)]
        self._tried: dict[tuple[int, str], float] = {}
        self._volume = Volume()
        self.evaluations = 0
        self.retraining = Retraining(
            subject, settings, self.layout, folder, runner, journal, self._rate
        )

    def _dense(self, error: float) -> Elite:
        masks = self.layout.full()
        plan = self.layout.plan(masks)
        return Elite(0, 0, masks, plan, self.layout.shares(plan), DENSE, error, rate=self._rate)

    def _rate(self, elite: Elite) -> MetricScores:
        """Measure the scores of a network's sites by the metrics of the pool."""
        earlier = None if elite.parent is None else elite.parent.ratings
        ratings = self.rated_by(elite, self._metrics, earlier)
        for note in ratings.notes:
            self._journal.event({"event": "unranked", "network": elite.number, "note": note})
        return ratings

    def rated_by(
        self, elite: Elite, metrics: Sequence[Metric], earlier: MetricScores | None = None
    ) -> MetricScores:
        """The scores of a network's sites.

        Args:
            elite: the network.
            metrics: what scores them.
            earlier: scores of the network that it was pruned from.
        """
        ratings = MetricScores(self.layout, metrics, earlier)
        model = current(self._prepared, self._folder, elite.weights, self.bench)
        seed = derive_seed("ratings", self.settings.seed, elite.number)
        inputs, loss = self._prepared.loaded.example_inputs, self._prepared.data.loss
        ratings.measure(model, elite.plan, self._batches, loss, inputs, seed)
        return ratings

    def rounds(self) -> Iterator[Turn]:
        """Run; the archive holds the result."""
        parents, idle, best = self.archive[:1], 0, math.inf
        for number in range(1, self.settings.rounds + 1):
            tried: list[Individual] = []
            self._keep_ratings(parents)
            yield from self._converge(parents, number, tried)
            chosen = self.judge.elites(tried, self.settings.elites)
            fresh = self._retrain(chosen, number)
            parents = self._parents(parents, fresh)
            yield self._turn(number, None)
            merit = min(map(self.judge.merit, filter(self.judge.tolerable, fresh)), default=best)
            idle, best = (0, merit) if merit < best else (idle + 1, best)
            if self._spent() or not chosen or idle == (self.settings.patience or -1):
                return

    def _keep_ratings(self, parents: Sequence[Elite]) -> None:
        """Rate the parents of a round, and forget the ratings of all others, which are large."""
        if self._metrics:
            for elite in parents:
                elite.ratings  # noqa: B018  (measured now, while those of its parent are known)
        for elite in self.archive:
            if elite not in parents:
                elite.forget()

    def _spent(self) -> bool:
        return self._room(1) <= 0

    def _room(self, count: int) -> int:
        """At most so many plans, as far as they may still be tried."""
        most = self.settings.max_evaluations
        return min(count, most - self.evaluations) if most else count

    def _converge(
        self, parents: Sequence[Elite], number: int, tried: list[Individual]
    ) -> Iterator[Turn]:
        """The genetic algorithm of a round; ``tried`` gathers all that were tried in it."""
        rng = random.Random(derive_seed("round", self.settings.seed, number))
        growth = Growth()
        able = parents[: self._room(len(parents))]
        own = [Individual(elite, elite.masks, elite.plan, elite.shares) for elite in able]
        self._try(own)
        count = self.settings.population - len(own)
        born = self._drawn(lambda: self.variation.child([rng.choice(own)], rng), count)
        tried += [*own, *born]
        population = self.judge.survivors([*own, *born], rng)
        self._learn(born, population)
        yield self._turn(number, 0)
        for generation in range(1, self.settings.generations + 1):
            if self._spent():
                return
            bred = partial(self._bred, population, rng)
            born = self._drawn(bred, self.settings.population)
            tried += born
            population = self.judge.survivors(self._pool(population, born), rng)
            self._learn(born, population)
            yield self._turn(number, generation)
            growth.see(self._progress(population))
            if not born or (self.settings.stall and growth.idle >= self.settings.stall):
                return

    def _bred(self, population: Sequence[Individual], rng: random.Random) -> Individual:
        judge = self.judge
        first = judge.parent(population, rng)
        if rng.random() >= self.settings.crossover_rate:
            return self.variation.child([first], rng)
        winner, loser = judge.better(first, rng.choice(population))
        child = self.variation.child((winner, loser), rng)
        if winner is loser and not self.settings.pareto:
            child.replaces = None  # else the best would make way for any offspring of its own
        return child

    def _pool(
        self, population: Sequence[Individual], born: Sequence[Individual]
    ) -> list[Individual]:
        """Parents and offspring, without losers whose place their offspring has taken.

        On the front a loser that the offspring does not dominate is a compromise of its own.
        """
        lost = {
            id(child.replaces) for child in born
            if child.replaces is not None
            and (not self.settings.pareto or child.fitness.dominates(child.replaces.fitness))
        }  # fmt: skip
        kept = [i for i in population if id(i) not in lost]
        for child in born:
            child.replaces = None
        return [*kept, *born]

    def _progress(self, population: Sequence[Individual]) -> float:
        """A number that grows while the population gets better."""
        values = [individual.fitness.values for individual in population]
        if self.settings.pareto:
            return hypervolume(values, REFERENCE)
        return float(4 * sum(self.settings.lambdas) - min(value[0] for value in values))

    def _drawn(self, draw: Callable[[], Individual], count: int) -> list[Individual]:
        """New individuals that have been tried."""
        count = self._room(count)
        fresh: dict[tuple[int, str], Individual] = {}
        for _ in range(_TRIES * self.settings.population):
            if len(fresh) >= count:
                break
            individual = draw()
            if individual.key not in self._tried:
                fresh.setdefault(individual.key, individual)
        self._try(list(fresh.values()))
        return list(fresh.values())

    def _try(self, individuals: Sequence[Individual]) -> None:
        """Try plans and set their fitness."""
        settings = self.settings
        jobs = [
            Trial(self._subject, self._folder, i.elite.weights, i.plan, settings.samples)
            for i in individuals
        ]
        outcomes = run_with_journal(jobs, self._runner, self._journal)
        for individual, job in zip(individuals, jobs, strict=True):
            individual.error = outcomes[job.key].error
            self.judge.rate(individual)
            if individual.key not in self._tried:
                self._tried[individual.key] = individual.error
                self._see(individual.error, individual.shares)
        self.evaluations = len(self._tried)

    def _see(self, error: float, shares: Shares) -> None:
        """Take a network into the front whose hypervolume is reported."""
        self._volume.see(self.judge.objectives(error, shares.macs, shares.params))

    def _learn(self, born: Sequence[Individual], population: Sequence[Individual]) -> None:
        alive = {id(individual) for individual in population}
        self.variation.learn((child, id(child) in alive) for child in born)

    def _retrain(self, chosen: Sequence[Individual], number: int) -> list[Elite]:
        """Retrain individuals; the new members of the archive."""
        wanted = [Wanted(i.elite, i.masks, i.plan, self.settings.epochs) for i in chosen]
        fresh = [e for e in self.retraining.run(wanted, number, number) if e is not None]
        self.archive += fresh
        for elite in fresh:
            self._see(elite.error, elite.shares)
        return fresh

    def _parents(self, parents: Sequence[Elite], fresh: Sequence[Elite]) -> list[Elite]:
        """Those that the next population starts from; the reach adapts to what came of it."""
        able = [elite for elite in fresh if self.judge.tolerable(elite)]
        if fresh and len(able) * 2 <= len(fresh):
            self.judge.reach = max(_LEAST_REACH, self.judge.reach / 2)
        elif fresh and len(able) == len(fresh):
            self.judge.reach = min(self.settings.reach, self.judge.reach * 1.5)
        if self.settings.pareto:
            return compromises([*parents, *able], self.settings.elites)
        pool = {id(elite): elite for elite in [*parents, *able]}
        return sorted(pool.values(), key=self.judge.merit)[: self.settings.elites]

    def front(self) -> list[Elite]:
        """The networks of the archive that no other one dominates, the least error first."""
        return nondominated(self.archive)

    def _turn(self, number: int, generation: int | None) -> Turn:
        turn = Turn(
            round=number,
            of=self.settings.rounds,
            generation=generation,
            evaluations=self.evaluations,
            hypervolume=self._volume.size,
            front=tuple(self.front()),
            kind=self._prepared.data.kind,
        )
        self._journal.event({
            "event": "turn", "round": number, "generation": generation,
            "evaluations": turn.evaluations, "hypervolume": turn.hypervolume,
            "reach": self.judge.reach,
            "rates": {name: round(rate, 4) for name, rate in self.variation.rates().items()},
            "front": [[e.number, e.error, e.shares.macs, e.shares.params] for e in turn.front],
        })  # fmt: skip
        self._journal.sync()
        return turn
