"""From plans to retrained networks: the jobs, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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


class Wanted(NamedTuple):
    """A network that is to be retrained.

    Attributes:
        start: where the weights come from.
        masks: its genome.
        plan: what is removed.
        epochs: of retraining.
    """

    start: Elite
    masks: Masks
    plan: Plan
    epochs: int


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

    def run(self, wanted: Sequence[Wanted], number: int, what_for: object) -> list[Elite | None]:
        """The networks that are wanted; None for those that fail, which are written down.

        Args:
            wanted: what to retrain.
            number: the round.
            what_for: the round or the purpose, which decides the order of the samples.
        """
        jobs = [self._job(one, what_for) for one in wanted]
        outcomes = resolve(jobs, self._runner, self._journal)
        # The journal may know weights that somebody has deleted since.
        lost = [job for job in jobs if self._lost(outcomes[job.key])]
        for job, outcome in zip(lost, self._runner.run(lost), strict=True):
            outcomes[job.key] = outcome
        fresh: list[Elite | None] = []
        for job, (start, masks, plan, epochs) in zip(jobs, wanted, strict=True):
            outcome = outcomes[job.key]
            if outcome.failure:
                self._journal.event({"event": "failed", "plan": plan.digest(),
                                     "reason": outcome.failure})  # fmt: skip
                self.failures.append(outcome.failure)
                fresh.append(None)
                continue
            self._numbers += 1
            shares = self._layout.shares(plan)
            fresh.append(
                Elite(self._numbers, number, masks, plan, shares, outcome.weights, outcome.error,
                      start.epochs + epochs, start, self._rate)
            )  # fmt: skip
        return fresh

    def _job(self, wanted: Wanted, what_for: object) -> Retrain:
        settings = self._settings
        seed = derived_seed("retrain", settings.seed, what_for)
        return Retrain(
            self._subject, self._folder, wanted.start.weights, wanted.plan,
            settings.tuning(wanted.epochs, seed), settings.distill, settings.shift,
        )  # fmt: skip

    def _lost(self, outcome: Outcome) -> bool:
        return (
            bool(outcome.weights) and not state_path(Path(self._folder), outcome.weights).exists()
        )
