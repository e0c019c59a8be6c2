"""A whole run: load, prune and retrain in turns, polish the front, compare, write the folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gp_prune.errors import UserError
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import Engine
from gp_prune.genetic.points import baselines, finished, measured
from gp_prune.genetic.result import Result, write
from gp_prune.genetic.retraining import Outcome
from gp_prune.genetic.selection import Turn, nondominated
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.subject import InMemoryModel, ModelSource, NamedModel, Prepared
from gp_prune.language.registry import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import RANDOM, MetricMutation, random_mutation
from gp_prune.runs.dask import DaskCluster
from gp_prune.runs.executors import Runner, make_runner
from gp_prune.runs.folder import (
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.runs.journal import reader
from gp_prune.statistics.running import device_of
from gp_prune.training.context import one_thread

WEIGHTS = "weights"
"""The folder of a run in which retrained weights are kept."""

CHANNEL_POOL = ("l1", "group_taylor", "taylor_gate")
WEIGHT_POOL = ("magnitude", "taylor_weight", "obd_weight", "wanda_weight")
"""The metrics that guide mutations where none are named.

Random mutations are not among them: on MNIST they slow the others down (benchmarks/results/
genetic_mutation.md), and the temperature of a metric's mutation leaves chance enough.
"""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: ``"load"``, ``"prune"``, ``"polish"``, ``"compare"``, ``"judge"`` or ``"done"``.
        done: steps of the stage that are done.
        of: steps of the stage.
        turn: what the genetic algorithm has come to, in the stage ``"prune"``.
    """

    stage: str
    done: int
    of: int
    turn: Turn | None = None


def prune_genetically(
    settings: GeneticSettings | None = None,
    folder: str | Path = "runs/genetic",
    *,
    subject: InMemoryModel | None = None,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    timed: bool = True,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Prune one network by a genetic algorithm; writes everything into a run folder.

    The networks depend on the settings alone: not on the workers, and not on whether the run was
    killed and resumed on the way. Measured times do not count among them.

    Args:
        settings: how; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        subject: a network in memory in the place of the one that the settings name.
        source: folders of tasks and data sets, and the device.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers work in the place of ``workers``; they
            must see the run folder.
        resume: go on with the run in ``folder``.
        timed: whether to measure the time of the convolutions at the end.
        progress: hears where the run stands.

    Raises:
        UserError: a setting, network, folder or journal is not usable; the sentence says which.
    """
    folder = Path(folder)
    settings = load_or_check_settings(GeneticSettings, settings, folder, resume=resume)
    source = source or TaskSource()
    if subject is not None and (workers > 1 or cluster is not None):
        raise UserError(
            "a network in memory cannot travel to other processes; use one worker, or name a file "
            "and a function that makes it (FILE.py:FUNCTION)"
        )
    pool = mutation_pool(settings)
    runner: Runner
    runner = make_runner(source, workers) if cluster is None else DaskCluster(source, cluster)
    try:
        with one_thread(), open_run_folder(folder, reader(Outcome)) as journal:
            progress(Progress("load", 0, 1))
            found, prepared = _loaded(settings, subject, source)
            weights = str((folder / WEIGHTS).resolve())
            engine = Engine(found, prepared, settings, pool, weights, runner, journal)
            facts, digested = _facts(settings, prepared, pool)
            write_run_header(folder, settings, journal, facts, resume=resume, digested=digested)
            progress(Progress("load", 1, 1))
            return _run(engine, prepared, settings, folder, weights, progress, timed)
    finally:
        runner.close()


def _loaded(
    settings: GeneticSettings, own: InMemoryModel | None, source: TaskSource
) -> tuple[ModelSource, Prepared]:
    """The network, as the workers find it and as it is here."""
    if own is not None:
        return own, own.prepared(Workbench(source))
    if not settings.model:
        raise UserError(
            "this run prunes a network in memory; go on with it from the program that began it"
        )
    named = NamedModel(
        settings.model,
        settings.data or None,
        settings.weights or None,
        settings.input_shape or None,
        settings.model_seed,
        settings.validation_share,
        settings.most or None,
        source,
    )
    prepared = named.load()
    return replace(named, digest=prepared.digest), prepared


def _facts(
    settings: GeneticSettings, prepared: Prepared, pool: Sequence[MetricMutation]
) -> tuple[dict[str, Any], dict[str, str]]:
    """All that decides the results, and what those are that say nothing to a person.

    Where the folder stands does not matter, so a run can be moved and then resumed.
    """
    metrics = [mutation.metric for mutation in pool if mutation.metric]
    facts = {
        **settings.to_json(),
        **{f"metric {metric.name}": metric.digest for metric in metrics},
        "versions": versions(),
        "device": device_of(prepared.model).type,
        "network": prepared.digest,
        "samples_digest": prepared.samples_digest(),
    }
    named = repr(settings.model) if settings.model else "the network in memory"
    digested = {
        **{f"metric {metric.name}": f"the metric {metric.name!r}" for metric in metrics},
        "network": f"the weights of {named}",
        "samples_digest": f"the data {prepared.data.name!r}",
    }
    return facts, digested


def mutation_pool(settings: GeneticSettings) -> list[MetricMutation]:
    """The mutations that the settings name.

    Raises:
        UserError: there is no such metric, or it is named twice.
    """
    primitives = primitive_set(*settings.primitives)
    default = {
        "auto": (*CHANNEL_POOL, *WEIGHT_POOL), "channel": CHANNEL_POOL, "weight": WEIGHT_POOL,
    }  # fmt: skip
    names = settings.mutations or default[settings.granularity]
    pool = [
        random_mutation(settings.amount)
        if name == RANDOM
        else Metric.load(name, primitives).as_mutation(settings.temperature, settings.amount)
        for name in names
    ]
    seen: set[str] = set()
    for mutation in pool:
        if mutation.name in seen:
            raise UserError(f"mutation {mutation.name!r} is named twice; name each once")
        seen.add(mutation.name)
    return pool


def _run(
    engine: Engine,
    prepared: Prepared,
    settings: GeneticSettings,
    folder: Path,
    weights: str,
    progress: Callable[[Progress], None],
    timed: bool,
) -> Result:
    history: list[tuple[int, float]] = []
    for turn in engine.rounds():
        history.append((turn.evaluations, turn.hypervolume))
        progress(Progress("prune", turn.round, turn.of, turn))
    progress(Progress("polish", 0, 1))
    chosen = nondominated(finished(engine))
    compared: dict[str, list[Elite | None]] = {}
    if settings.baselines:
        progress(Progress("compare", 0, 1))
        compared = baselines(engine, chosen)
    names = [f"p{place:02d}" for place in range(1, len(chosen) + 1)]
    named = [("dense", engine.archive[0]), *zip(names, chosen, strict=True)]
    for baseline, elites in compared.items():
        pairs = zip(names, elites, strict=True)
        named += [(f"{baseline} {name}", elite) for name, elite in pairs if elite is not None]
    points = measured(
        engine, prepared, weights, named,
        lambda done, of: progress(Progress("judge", done, of)), timed=timed,
    )  # fmt: skip
    count = len(chosen)
    front = tuple(points[1 : count + 1])
    rest = iter(points[count + 1 :])
    found = {
        name: tuple(None if elite is None else next(rest) for elite in elites)
        for name, elites in compared.items()
    }
    able = [point for point in front if engine.judge.good(point.elite)]
    result = Result(
        folder=folder,
        settings=settings,
        dense=points[0],
        points=front,
        baselines=found,
        recommended=min(able, key=lambda p: engine.judge.merit(p.elite), default=None),
        split=prepared.data.split,
        kind=prepared.data.kind,
        evaluations=engine.evaluations,
        history=tuple(history),
        counted=engine.layout.counted,
        failures=tuple(engine.retraining.failures),
        prepared=prepared,
    )
    with writing(folder):
        write(result)
    progress(Progress("done", 1, 1))
    return result
