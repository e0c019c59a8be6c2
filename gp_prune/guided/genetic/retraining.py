"""From plans to retrained networks: the jobs, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gp_prune.evolution.executors import Runner
from gp_prune.evolution.journal import Journal
from gp_prune.evolution.outcomes import resolve
from gp_prune.evolution.seeds import derived_seed
from gp_prune.guided.genetic.elite import Elite
from gp_prune.guided.genetic.jobs import Outcome, Retrain
from gp_prune.guided.genetic.layout import Layout, Masks
from gp_prune.guided.genetic.network import state_path
from gp_prune.guided.genetic.plan import Plan
from gp_prune.guided.genetic.ratings import Ratings
from gp_prune.guided.genetic.settings import GeneticSettings
from gp_prune.guided.genetic.subject import Subject


class Retraining:
    """Retrains the networks of plans, each under a number of its own.

    Args:
        subject: the network that is pruned, as the workers find it.
        settings: how it is retrained.
        layout: knows what a plan keeps.
        folder: where weights are kept.
        runner: where jobs run.
        journal: what is known already, and where the rest is written.
        rate: measures the scores of a network when they are first asked for.

    Attributes:
        failures: why retrainings gave no network, one reason for each.
    """

    def __init__(
        self,
        subject: Subject,
        settings: GeneticSettings,
        layout: Layout,
        folder: str,
        runner: Runner,
        journal: Journal[Outcome],
        rate: Callable[[Elite], Ratings],
    ) -> None:
        self.failures: list[str] = []
        self._subject, self._settings, self._layout = subject, settings, layout
        self._folder, self._runner, self._journal = folder, runner, journal
        self._rate = rate
        self._numbers = 0

    def job(self, start: Elite, plan: Plan, epochs: int, what_for: object) -> Retrain:
        """The job that retrains a plan on the weights of a network.

        Args:
            start: where the weights come from.
            plan: what is removed.
            epochs: of retraining.
            what_for: the round or the purpose, which decides the order of the samples.
        """
        seed = derived_seed("retrain", self._settings.seed, what_for)
        return Retrain(
            self._subject, self._folder, start.weights, plan,
            self._settings.tuning(epochs, seed), self._settings.distill, self._settings.shift,
        )  # fmt: skip

    def run(
        self, wanted: Sequence[tuple[Elite, Masks, Plan]], jobs: Sequence[Retrain], number: int
    ) -> list[Elite | None]:
        """What becomes of jobs that retrain; None for those that fail, which are written down.

        Args:
            wanted: for every job where it starts, and its genome and plan.
            jobs: the jobs.
            number: the round.
        """
        outcomes = resolve(jobs, self._runner, self._journal)
        # The journal may know weights that somebody has deleted since.
        lost = [job for job in jobs if self._lost(outcomes[job.key])]
        for job, outcome in zip(lost, self._runner.run(lost), strict=True):
            outcomes[job.key] = outcome
        fresh: list[Elite | None] = []
        for job, (parent, masks, plan) in zip(jobs, wanted, strict=True):
            outcome = outcomes[job.key]
            if outcome.failure:
                self._journal.event({"event": "failed", "plan": plan.digest(),
                                     "reason": outcome.failure})  # fmt: skip
                self.failures.append(outcome.failure)
                fresh.append(None)
                continue
            self._numbers += 1
            shares = self._layout.shares(plan)
            epochs = parent.epochs + job.tuning.epochs
            fresh.append(
                Elite(self._numbers, number, masks, plan, shares, outcome.weights, outcome.error,
                      epochs, parent, self._rate)
            )  # fmt: skip
        return fresh

    def _lost(self, outcome: Outcome) -> bool:
        return (
            bool(outcome.weights) and not state_path(Path(self._folder), outcome.weights).exists()
        )
