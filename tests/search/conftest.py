"""Searches whose evaluations are synthetic, so that they take no time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from gp_prune.language.primitive import builtin_primitives
from gp_prune.runs.executors import completed
from gp_prune.runs.jobs import Job, TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.nsga2 import Generation, Search
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.start_formulas import two_factor_metrics
from gp_prune.statistics.running import derive_seed

# What tests compare of run folders is there.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))


class SyntheticRunner:
    """A runner that takes the error from the plan, with noise that fine-tuning adds."""

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []

    def prepare(self, tasks: Sequence[str]) -> None:
        pass

    def submit(self, job: Job[Any]) -> Future[Any]:
        assert isinstance(job, Evaluation)
        self.evaluations.append(job)
        plan = derive_seed(job.plan["digest"]) / 2**31
        error = 0.8 * plan + 0.2 * derive_seed(job.key) / 2**31
        return completed(Outcome(error, None, error))

    def close(self) -> None:
        pass


class Simulation:
    """A search with synthetic evaluations, after its end."""

    def __init__(
        self, search: Search, runner: SyntheticRunner, generations: list[Generation]
    ) -> None:
        self.search = search
        self.runner = runner
        self.generations = generations


@pytest.fixture(scope="session")
def lenet_bench(task_cache: Path) -> TaskScorer:
    """The smallest task, prepared."""
    return TaskScorer(TaskSource(cache_dir=str(task_cache)).load("lenet-digits"), 64, 0)


@pytest.fixture
def simulate(lenet_bench: TaskScorer) -> Callable[..., Simulation]:
    """`simulate(folder, **settings)`: a search with synthetic evaluations and its journal there."""

    def run(
        folder: Path,
        *,
        clock: Callable[[], float] = lambda: 0.0,
        lent: dict[str, Outcome] | None = None,
        built_in: bool = False,
        **settings: Any,
    ) -> Simulation:
        config = SearchConfig(
            **{
                "tasks": ("lenet-digits",), "calibration": 64, "population": 8, "generations": 4,
                "rung_steps": (0,), "promote": (0.25,), "budget_kind": ("channels",),
                "objectives": ("tuned_error", "macs", "params"),
                **settings,
            }
        )  # fmt: skip
        primitives = builtin_primitives()
        published = reference_metrics(primitives)
        seeds = [m for m in published if m.expression.axes is config.root][:12]
        runner = SyntheticRunner()
        folder.mkdir(exist_ok=True)
        with Journal(folder, outcome_reader()) as journal:
            journal.lend(lent or {})
            evaluator = Evaluator(runner, journal, stack=1)
            forms = two_factor_metrics(primitives) if built_in else []
            search = Search(
                config, primitives, [lenet_bench], seeds, evaluator, journal, clock, forms
            )
            return Simulation(search, runner, list(search.generations()))

    return run
