"""A whole run: prepare the tasks, search, compare, write the run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_prune.errors import UserError
from gp_prune.language.primitive import PrimitiveSet, primitive_set
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import Budget
from gp_prune.runs.executors import Runner, make_runner
from gp_prune.runs.folder import (
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.jobs import TaskSource, network_digest
from gp_prune.runs.journal import Journal
from gp_prune.runs.statistics import write_statistics
from gp_prune.search.assessor import ladder_evaluation
from gp_prune.search.comparison import BASELINES, compare, contenders
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import AnyOutcome, Evaluator, outcome_reader, stack_size
from gp_prune.search.nsga2 import Generation, Search
from gp_prune.search.results import (
    COMPARISON,
    EarlierRun,
    SearchResult,
    assemble,
    settings_json,
    write,
    write_front_so_far,
)
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import one_thread
from gp_prune.tasks import check_task_name


@dataclass(frozen=True)
class SearchProgress:
    """How far a run is: ``stage`` is ``"tasks"``, ``"search"``, ``"compare"`` or ``"done"``.

    Attributes:
        stage: what is being done.
        done: steps of the stage that are done.
        of: steps of the stage.
        generation: the report of the last generation, in the stage ``"search"``.
    """

    stage: str
    done: int
    of: int
    generation: Generation | None = None


def evolve(
    config: SearchConfig | None = None,
    folder: str | Path = "runs/evolve",
    *,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    trust: Sequence[str | Path] = (),
    skip_lost: bool = False,
    reuse: str | Path | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
) -> SearchResult:
    """Evolve pruning metrics and compare the front with random pruning and L1.

    The result depends on ``config`` alone: not on the workers, and not on whether the run was
    killed and resumed on the way.

    Args:
        config: the settings; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        source: where the tasks are.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers evaluate in the place of ``workers``.
        resume: continue the run in ``folder``.
        trust: with ``resume``, the Python files that the stored settings may run; see SECURITY.md.
        skip_lost: whether a job whose workers die again and again is set aside for good, with the
            worst result, in the place of ending the run.
        reuse: folder of another run on the same networks whose evaluations need not be done again;
            it changes the time, not the result.
        progress: hears how far the run is.

    Raises:
        UserError: a setting, task, folder or journal is not usable; the sentence says which.
    """
    folder = Path(folder)
    config = load_or_check_settings(SearchConfig, config, folder, resume=resume, trust=trust)
    source = source or TaskSource()
    for name in config.tasks:
        check_task_name(name)
    earlier = None if reuse is None else EarlierRun(Path(reuse))
    runner = make_runner(source, workers, config.limits, cluster, skip_lost=skip_lost)
    try:
        with one_thread(), open_run_folder(folder, outcome_reader(), config) as journal:
            primitives = primitive_set(*config.primitives)
            scorers = _prepare(config, source, runner, progress)
            identity = _identity(config, source, scorers)
            if earlier is not None:
                journal.lend(earlier.reusable(config, identity))
            write_run_header(folder, config, journal, identity, resume=resume)
            coverage = {scorer.task.name: scorer.coverage for scorer in scorers}
            write_statistics(folder, config, coverage)
            with Evaluator(runner, journal, stack_size(config.stack, source.device)) as evaluator:
                return _run(config, folder, primitives, scorers, evaluator, journal, progress)
    finally:
        runner.close()


def _identity(
    config: SearchConfig, source: TaskSource, scorers: Sequence[TaskScorer]
) -> dict[str, Any]:
    """Return all that decides the outcomes of a run, as JSON."""
    networks = {scorer.task.name: network_digest(scorer.task.model) for scorer in scorers}
    return {
        **settings_json(config),
        "versions": versions(),
        "device": source.device,
        "networks": networks,
        "seeds": sorted(bundled_metrics("reference")),
    }


def _prepare(
    config: SearchConfig,
    source: TaskSource,
    runner: Runner,
    progress: Callable[[SearchProgress], None],
) -> list[TaskScorer]:
    progress(SearchProgress("tasks", 0, len(config.tasks)))
    runner.prepare(config.tasks)
    scorers = [
        TaskScorer(source.load(name), config.calibration, config.seed, config.memory)
        for name in config.tasks
    ]
    progress(SearchProgress("tasks", len(scorers), len(scorers)))
    return scorers


def _run(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    scorers: list[TaskScorer],
    evaluator: Evaluator,
    journal: Journal[AnyOutcome],
    progress: Callable[[SearchProgress], None],
) -> SearchResult:
    published = reference_metrics(primitives)
    seeds = [metric for metric in published if metric.expression.axes is config.root]
    if config.limits.limited:
        _check_limits(config, scorers, published, evaluator)
    search = Search(config, primitives, scorers, seeds, evaluator, journal)
    finished = (folder / COMPARISON).exists()
    for generation in search.generations():
        if not finished:
            with writing(folder):
                write_front_so_far(folder, generation.front)
        progress(SearchProgress("search", generation.number, generation.of, generation))
    entered = contenders(config, search.archive, published)
    comparison = compare(
        config, scorers, entered, evaluator,
        lambda done, of: progress(SearchProgress("compare", done, of)),
    )  # fmt: skip
    kinds = {scorer.task.name: scorer.task.kind for scorer in scorers}
    assert journal.begun is not None
    result = assemble(
        config, folder, primitives, search.archive, entered, comparison, kinds, evaluator.failures,
        journal.begun,
    )  # fmt: skip
    with writing(folder):
        write(result)
    progress(SearchProgress("done", 1, 1))
    return result


def _check_limits(
    config: SearchConfig,
    scorers: Sequence[TaskScorer],
    published: Sequence[Metric],
    evaluator: Evaluator,
) -> None:
    """Raise UserError where the limits are so narrow that not even a baseline can be evaluated.

    Otherwise every formula would be tried in vain.
    """
    *_, name = BASELINES[config.granularity]
    baseline = next(metric for metric in published if metric.name == name)
    budget = Budget(config.ladder_kind, max(config.ladder))
    evaluations = {
        scorer.task.name: ladder_evaluation(
            config, scorer.plan(baseline.expression, config.conventions, budget)
        )
        for scorer in scorers
    }
    outcomes = evaluator.outcomes([*evaluations.values()])
    for task, evaluation in evaluations.items():
        failure = outcomes[evaluation.key].failure
        if failure:
            raise UserError(
                f"no formula can be tried on {task}, because an evaluation of {name} {failure}; "
                "allow more with --candidate-memory and --candidate-timeout, where 0 is any amount"
            )


def reference_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """Return the published metrics, in order of name.

    Evolved ones are left out: a run would otherwise change with every metric that is added.
    """
    return [Metric.load(name, primitives) for name in bundled_metrics("reference")]
