"""A whole run: prepare the tasks, search, compare, write the run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_prune.language.primitive import PrimitiveSet
from gp_prune.language.registry import primitive_set
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.runs.dask import DaskCluster
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
from gp_prune.search.comparison import compare, contenders
from gp_prune.search.config import SearchConfig
from gp_prune.search.nsga2 import Generation, Search
from gp_prune.search.results import (
    COMPARISON,
    EarlierRun,
    Result,
    assemble,
    settings_json,
    write,
    write_front_so_far,
)
from gp_prune.search.scorer import Bench
from gp_prune.search.stacking import AnyOutcome, Evaluator, outcome_reader, stack_size
from gp_prune.statistics.running import one_thread
from gp_prune.tasks import check_task_name


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``stage`` is ``"tasks"``, ``"search"``, ``"compare"`` or ``"done"``.

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
    reuse: str | Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Evolve pruning metrics and compare the front with random pruning and L1.

    The result depends on ``config`` alone: not on the workers, and not on whether the run was
    killed and resumed on the way.

    Args:
        config: the settings; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        source: where the tasks are.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers evaluate in the place of ``workers``.
        resume: go on with the run in ``folder``.
        reuse: folder of another run on the same networks whose evaluations need not be done again;
            it changes the time, not the result.
        progress: hears where the run stands.

    Raises:
        UserError: a setting, task, folder or journal is not usable; the sentence says which.
    """
    folder = Path(folder)
    config = load_or_check_settings(SearchConfig, config, folder, resume=resume)
    source = source or TaskSource()
    for name in config.tasks:
        check_task_name(name)
    primitives = primitive_set(*config.primitives)
    earlier = None if reuse is None else EarlierRun(Path(reuse))
    allowance = config.allowance
    runner: Runner
    if cluster is None:
        runner = make_runner(source, workers, allowance)
    else:
        runner = DaskCluster(source, cluster, allowance)
    try:
        with one_thread(), open_run_folder(folder, outcome_reader()) as journal:
            benches = _prepared(config, source, runner, progress)
            identity = _identity(config, source, benches)
            if earlier is not None:
                journal.lend(earlier.reusable(config, identity))
            write_run_header(folder, config, journal, identity, resume=resume)
            evaluator = Evaluator(runner, journal, stack_size(config.stack, source.device))
            return _run(config, folder, primitives, benches, evaluator, journal, progress)
    finally:
        runner.close()


def _identity(config: SearchConfig, source: TaskSource, benches: Sequence[Bench]) -> dict[str, Any]:
    """All that decides the outcomes of a run, as JSON."""
    networks = {bench.task.name: network_digest(bench.task.model) for bench in benches}
    return {
        **settings_json(config),
        "versions": versions(),
        "device": source.device,
        "networks": networks,
        "seeds": sorted(bundled_metrics("reference")),
    }


def _prepared(
    config: SearchConfig,
    source: TaskSource,
    runner: Runner,
    progress: Callable[[Progress], None],
) -> list[Bench]:
    progress(Progress("tasks", 0, len(config.tasks)))
    runner.prepare(config.tasks)
    benches = [Bench(source.load(name), config.calibration, config.seed) for name in config.tasks]
    progress(Progress("tasks", len(benches), len(benches)))
    return benches


def _run(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    benches: list[Bench],
    evaluator: Evaluator,
    journal: Journal[AnyOutcome],
    progress: Callable[[Progress], None],
) -> Result:
    published = reference_metrics(primitives)
    seeds = [metric for metric in published if metric.expression.axes is config.root]
    search = Search(config, primitives, benches, seeds, evaluator, journal)
    finished = (folder / COMPARISON).exists()
    for generation in search.generations():
        if not finished:
            with writing(folder):
                write_front_so_far(folder, generation.front)
        progress(Progress("search", generation.number, generation.of, generation))
    entered = contenders(config, search.archive, published)
    found = compare(
        config, benches, entered, evaluator,
        lambda done, of: progress(Progress("compare", done, of)),
    )  # fmt: skip
    kinds = {bench.task.name: bench.task.kind for bench in benches}
    result = assemble(config, folder, primitives, search.archive, entered, found, kinds)
    with writing(folder):
        write(result)
    progress(Progress("done", 1, 1))
    return result


def reference_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """The published metrics, in order of name.

    Evolved ones are left out: a run would otherwise change with every metric that is added.
    """
    return [Metric.load(name, primitives) for name in bundled_metrics("reference")]
