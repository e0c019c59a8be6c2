"""Alternate two steps: a genetic algorithm until it converges, then retraining of its elite."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import nn

from gp_prune.errors import UserError
from gp_prune.genetic.augmented import AugmentedImages
from gp_prune.genetic.elite import Elite, MetricScores
from gp_prune.genetic.plan import GeneLayout, GeneticPlan, KeptShares, Masks
from gp_prune.genetic.retraining import (
    EvaluatePlan,
    PlanOutcome,
    RetrainPlan,
)
from gp_prune.genetic.selection import REFERENCE, Fitness, select_nondominated
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.source import ModelSource, PreparedModel
from gp_prune.genetic.variation import Individual, Variation
from gp_prune.genetic.weights import DENSE, load_network, load_state, state_path
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import MetricMutation
from gp_prune.runs.evolution import Growth, find_nondominated, hypervolume, volume_gains
from gp_prune.runs.executors import Runner
from gp_prune.runs.inside import InsideStep
from gp_prune.runs.job_queue import run_with_journal
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.runs.journal import Journal
from gp_prune.statistics.coverage import LayerCoverage
from gp_prune.statistics.running import derive_seed

_TRIES = 10
"""Offspring are drawn at most this many times the population before a generation starts."""
_LEAST_REACH = 0.01


@dataclass(frozen=True)
class RoundStatus:
    """The state of a run after a generation or a retraining.

    Attributes:
        round: from 1.
        of: most rounds.
        generation: of the round; None after the retraining of the round.
        evaluations: distinct plans tried so far.
        hypervolume: of all that was tried and retrained, in error by the trivial error, MACs and
            parameters kept.
        front: retrained networks that no other one dominates, the least error first.
        kind: what the errors are: ``"error"`` (rate), ``"mse"`` or ``"own"``.
    """

    round: int
    of: int
    generation: int | None
    evaluations: int
    hypervolume: float
    front: tuple[Elite, ...]
    kind: str


class RetrainingRequest(NamedTuple):
    """A network that is to be retrained.

    Attributes:
        start: where the weights come from.
        masks: its genome.
        plan: what is removed.
        epochs: of retraining.
        params: parameters that are not zero at the end, at most; 0 removes none on the way.
        learns: whether the teacher's outputs are part of the loss.
    """

    start: Elite
    masks: Masks
    plan: GeneticPlan
    epochs: int
    params: int = 0
    learns: bool = True


class Engine:
    """One run.

    Args:
        source: the network, as the workers load it.
        prepared: the network, as it is in this process.
        settings: how it is pruned.
        pool: the mutations.
        folder: where weights are kept.
        runner: where jobs run.
        journal: what is known already, and where the rest is written.
        inside: hears how far the present step is.

    Attributes:
        archive: the dense network and all that were retrained.
        teacher: what the first round starts from and retrained networks learn from: the dense
            network, or it after a training before the first round.
        failures: why plans could not be evaluated or retrained, one reason for each.
        evaluated: called with how many plans, or networks, of how many are done in a step.
        inside: how far the present step is.
    """

    def __init__(
        self,
        source: ModelSource,
        prepared: PreparedModel,
        settings: GeneticSettings,
        pool: Sequence[MetricMutation],
        folder: str,
        runner: Runner,
        journal: Journal[PlanOutcome],
        inside: InsideStep | None = None,
    ) -> None:
        self.evaluated: Callable[[int, int], None] = lambda done, of: None
        self.inside = inside or InsideStep()
        self.prepared, self.settings = prepared, settings
        self.layout = GeneLayout(
            prepared.model, prepared.architecture, settings.granularity, settings.macs,
            sparse=settings.pareto or settings.lambdas[2] > 0,
        )  # fmt: skip
        if settings.final_params < 1 and not self.layout.shapes:
            raise UserError(
                f"final_params is {settings.final_params}, but no single weights of this network "
                "have genes; use granularity 'auto' or 'weight', with the parameters in the fitness"
            )
        self.variation = Variation(self.layout, settings, pool)
        self._source, self._folder = source, folder
        self._runner, self._journal = runner, journal
        self._workbench = Workbench(TaskSource())
        if settings.shift or settings.distort:  # refuses other data, now
            AugmentedImages(prepared.data.train, settings.shift, settings.distort)
        self._metrics = [mutation.metric for mutation in pool if mutation.metric is not None]
        self._batches = prepared.calibration(settings.calibration, settings.seed)
        error, trivial = prepared.error(prepared.model), prepared.trivial_error
        unit = 1.0 if prepared.data.kind == "error" else trivial
        self.fitness = Fitness(settings, error, trivial, unit)
        masks = self.layout.full()
        plan = self.layout.plan(masks)
        shares = self.layout.shares(plan)
        self.archive = [Elite(0, 0, masks, plan, shares, DENSE, error, score=self._score)]
        self.teacher = self.archive[0]
        self.failures: list[str] = []
        self.coverage: LayerCoverage = {}
        weights = settings.lambdas
        self._reference = REFERENCE if settings.pareto else (4 * sum(weights),)
        self._retrained = 0
        self._tried: set[tuple[int, str]] = set()
        self._seen: list[tuple[float, float, float]] = []

    @property
    def evaluations(self) -> int:
        """Return the number of distinct plans that were tried."""
        return len(self._tried)

    def rounds(self) -> Iterator[RoundStatus]:
        """Run; the archive holds the result."""
        self._train_teacher()
        parents, idle, best = [self.teacher], 0, math.inf
        for number in range(1, self.settings.rounds + 1):
            self._score_parents(parents)
            tried = yield from self._converge(parents, number)
            chosen = self.fitness.select_elites(tried, self.settings.elites)
            requests = [
                RetrainingRequest(i.elite, i.masks, i.plan, self.settings.epochs) for i in chosen
            ]
            fresh = [e for e in self.retrain(requests, number, number) if e is not None]
            self.archive += fresh
            for elite in fresh:
                self._see(elite.error, elite.shares)
            able = [elite for elite in fresh if self.fitness.is_tolerable(elite)]
            self._adapt_reach(len(able), len(fresh))
            parents = self.fitness.select_parents([*parents, *able], self.settings.elites)
            yield self._report(number, None)
            merit = min(map(self.fitness.merit_of, able), default=best)
            idle, best = (0, merit) if merit < best else (idle + 1, best)
            if self._room(1) <= 0 or not chosen or idle == (self.settings.patience or -1):
                return

    def _train_teacher(self) -> None:
        """Train the dense network before anything is removed, if that is asked for."""
        dense, epochs = self.archive[0], self.settings.dense_epochs
        if epochs:
            request = RetrainingRequest(dense, dense.masks, dense.plan, epochs, learns=False)
            (trained,) = self.retrain([request], 0, "dense")
            self.teacher = trained or dense

    def _score_parents(self, parents: Sequence[Elite]) -> None:
        """Score the parents of a round, and forget the scores of all others, which are large."""
        if self._metrics:
            for elite in parents:
                elite.scores  # noqa: B018  (measured now, while those of its parent are known)
        for elite in [self.teacher, *self.archive]:
            if elite not in parents:
                elite.forget_scores()

    def _score(self, elite: Elite) -> MetricScores:
        """Measure the scores of a network's genes by the metrics of the pool."""
        earlier = None if elite.parent is None else elite.parent.scores
        scores = self.measure_scores(elite, self._metrics, earlier)
        for note in scores.notes:
            self._journal.event({"event": "unranked", "network": elite.number, "note": note})
        return scores

    def measure_scores(
        self, elite: Elite, metrics: Sequence[Metric], earlier: MetricScores | None = None
    ) -> MetricScores:
        """Measure the scores of a network's genes.

        Args:
            elite: the network.
            metrics: what scores them.
            earlier: scores of the network that it was pruned from.
        """
        scores = MetricScores(self.layout, metrics, earlier)
        seed = derive_seed("ratings", self.settings.seed, elite.number)
        inputs, loss = self.prepared.loaded.example_inputs, self.prepared.data.loss
        memory = self.settings.memory
        scores.measure(self.load(elite), elite.plan, self._batches, loss, inputs, seed, memory)
        if elite.number == 0 and scores.coverage:
            self.coverage = {**self.coverage, **scores.coverage}
        return scores

    def load(self, elite: Elite) -> nn.Module:
        """Return the dense network with the weights of a network; nobody may change it."""
        return load_network(self.prepared, self._folder, elite.weights, self._workbench)

    def _room(self, count: int) -> int:
        """Return ``count``, or the number of plans that may still be tried if that is less."""
        most = self.settings.max_evaluations
        return min(count, most - self.evaluations) if most else count

    def _converge(
        self, parents: Sequence[Elite], number: int
    ) -> Generator[RoundStatus, None, list[Individual]]:
        """Run the genetic algorithm of a round; return all that was tried in it."""
        rng = random.Random(derive_seed("round", self.settings.seed, number))
        size, growth = self.settings.population, Growth()
        able = parents[: self._room(len(parents))]
        first = [Individual(elite, elite.masks, elite.plan, elite.shares) for elite in able]
        self._evaluate(first)
        born = self._draw(lambda: self.variation.child([rng.choice(first)], rng), size - len(first))
        tried = [*first, *born]
        self.variation.learn(zip(born, self._successes(first, born), strict=True))
        population = self.fitness.select_survivors(tried, rng)
        yield self._report(number, 0)
        for generation in range(1, self.settings.generations + 1):
            if self._room(1) <= 0:
                break
            born = self._draw(partial(self._breed, population, rng), size)
            tried += born
            self.variation.learn(zip(born, self._successes(population, born), strict=True))
            population = self.fitness.select_survivors(self._pool(population, born), rng)
            yield self._report(number, generation)
            growth.update(self._progress(population))
            if not born or (self.settings.stall and growth.idle >= self.settings.stall):
                break
        return tried

    def _draw(self, draw: Callable[[], Individual], count: int) -> list[Individual]:
        """Draw and evaluate new individuals."""
        count = self._room(count)
        fresh: dict[tuple[int, str], Individual] = {}
        for _ in range(_TRIES * self.settings.population):
            if len(fresh) >= count:
                break
            individual = draw()
            if individual.key not in self._tried:
                fresh.setdefault(individual.key, individual)
        self._evaluate(list(fresh.values()))
        return list(fresh.values())

    def _breed(self, population: Sequence[Individual], rng: random.Random) -> Individual:
        """Create one offspring of a population."""
        first = self.fitness.select_parent(population, rng)
        if rng.random() >= self.settings.crossover_rate:
            return self.variation.child([first], rng)
        winner, loser = self.fitness.compare(first, rng.choice(population))
        child = self.variation.child((winner, loser), rng)
        if winner is loser and not self.settings.pareto:
            child.replaces = None  # else the best would make way for any of its own offspring
        return child

    def _evaluate(self, individuals: Sequence[Individual]) -> None:
        """Evaluate plans and set their fitness."""
        samples = self.settings.samples
        jobs = [
            EvaluatePlan(self._source, self._folder, i.elite.weights, i.plan, samples)
            for i in individuals
        ]
        self.inside.what = "plans evaluated"
        outcomes = run_with_journal(jobs, self._runner, self._journal, self.evaluated, self.inside)
        for individual, job in zip(individuals, jobs, strict=True):
            individual.error, _, failure = outcomes[job.key]
            if individual.plan == individual.elite.plan and not failure:
                individual.elite.trial_error = individual.error
        for individual, job in zip(individuals, jobs, strict=True):
            failure = outcomes[job.key].failure
            self.fitness.assign(individual)
            if individual.key not in self._tried:
                self._tried.add(individual.key)
                self.failures += [f"{job.title}: {failure}"] if failure else []
                self._see(individual.error, individual.shares)

    def _see(self, error: float, shares: KeptShares) -> None:
        """Add a network to the front whose hypervolume is reported."""
        self._seen.append(self.fitness.objectives(error, shares))

    def _pool(
        self, population: Sequence[Individual], born: Sequence[Individual]
    ) -> list[Individual]:
        """Return parents and offspring, without losers whose place their offspring has taken.

        On the front a loser that the offspring does not dominate is another compromise.
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

    def _successes(self, parents: Sequence[Individual], born: Sequence[Individual]) -> list[float]:
        """Return for each offspring what it adds to the parents' hypervolume, from 0 to 1.

        Survival says less: while a population is young, most offspring survive, of any mutation.
        """
        offspring, before = ([i.fitness.values for i in part] for part in (born, parents))
        return volume_gains(offspring, before, self._reference)

    def _progress(self, population: Sequence[Individual]) -> float:
        """Return the hypervolume of the population, which grows while it gets better."""
        return hypervolume(
            [individual.fitness.values for individual in population], self._reference
        )

    def _adapt_reach(self, able: int, fresh: int) -> None:
        """Halve the reach where few retrained networks are tolerable; raise it where all are."""
        if fresh and able * 2 <= fresh:
            self.fitness.reach = max(_LEAST_REACH, self.fitness.reach / 2)
        elif fresh and able == fresh:
            self.fitness.reach = min(self.settings.reach, self.fitness.reach * 1.5)

    def retrain(
        self, requests: Sequence[RetrainingRequest], number: int, purpose: object
    ) -> list[Elite | None]:
        """Retrain networks; return None for those that fail, whose reason is recorded.

        Args:
            requests: what to retrain.
            number: the round.
            purpose: the round or the purpose, which decides the order of the samples.
        """
        settings = self.settings
        seed = derive_seed("retrain", settings.seed, purpose)
        jobs = [
            RetrainPlan(
                self._source, self._folder, start.weights, plan,
                settings.tuning(epochs, seed, decay=not params),
                settings.distill if learns else 0.0, settings.softening, settings.shift,
                settings.distort, params, self.teacher.weights,
            )
            for start, _, plan, epochs, params, learns in requests
        ]  # fmt: skip
        self.inside.what = "networks retrained"
        outcomes = run_with_journal(jobs, self._runner, self._journal, self.evaluated, self.inside)
        # The journal may know weights that somebody has deleted since.
        lost = [
            job for job in jobs if (weights := outcomes[job.key].weights)
            and not state_path(Path(self._folder), weights).exists()
        ]  # fmt: skip
        for key, future in [(job.key, self._runner.submit(job)) for job in lost]:
            outcomes[key] = future.result()
        return [
            self._admit(request, outcomes[job.key], number)
            for job, request in zip(jobs, requests, strict=True)
        ]

    def _admit(self, request: RetrainingRequest, outcome: PlanOutcome, number: int) -> Elite | None:
        """Return a retrained network under its number; record the reason where there is none."""
        start, masks, plan, epochs, params, _ = request
        if outcome.failure:
            self._journal.event(
                {"event": "failed", "plan": plan.digest(), "reason": outcome.failure}
            )
            self.failures.append(outcome.failure)
            return None
        self._retrained += 1
        if params:
            masks = self.layout.masks_of_zeros(
                masks, load_state(Path(self._folder), outcome.weights)
            )
            plan = self.layout.plan(masks)
        return Elite(
            self._retrained, number, masks, plan, self.layout.shares(plan), outcome.weights,
            outcome.error, start.epochs + epochs, start, self._score,
        )  # fmt: skip

    def _report(self, number: int, generation: int | None) -> RoundStatus:
        """Write the state of the run into the journal and return it."""
        # The vectors that others dominate are of no use any more.
        self._seen = [self._seen[n] for n in find_nondominated(self._seen)]
        status = RoundStatus(
            round=number,
            of=self.settings.rounds,
            generation=generation,
            evaluations=self.evaluations,
            hypervolume=hypervolume(self._seen, REFERENCE),
            front=tuple(select_nondominated(self.archive)),
            kind=self.prepared.data.kind,
        )
        self._journal.event({
            "event": "turn", "round": number, "generation": generation,
            "evaluations": status.evaluations, "hypervolume": status.hypervolume,
            "reach": self.fitness.reach,
            "rates": {name: round(rate, 4) for name, rate in self.variation.rates().items()},
            "front": [[e.number, e.error, e.shares.macs, e.shares.params] for e in status.front],
        })  # fmt: skip
        self._journal.sync()
        return status
