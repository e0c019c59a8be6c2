"""Run the genetic pruner: load, prune and retrain in turns, compare, write the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from gp_prune.apply.data import ErrorKind, TuningData, own_data
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import UserError
from gp_prune.genetic.convolution_times import ConvolutionTimes
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import Engine, RoundStatus
from gp_prune.genetic.finalists import retrain_baselines, retrain_finalists
from gp_prune.genetic.front import FrontEntry, GeneticResult, measure_entries
from gp_prune.genetic.retraining import outcome_reader
from gp_prune.genetic.selection import select_nondominated
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.source import (
    InMemoryModel,
    ModelSource,
    NamedModel,
    PreparedModel,
)
from gp_prune.genetic.stored import read_report, read_times
from gp_prune.language.primitive import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import RANDOM, MetricMutation, random_mutation
from gp_prune.runs.callbacks import DONE, AnyCallback, Callbacks, RunEnd, RunStart, RunStep
from gp_prune.runs.executors import make_runner
from gp_prune.runs.folder import (
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.inside import Inside, InsideStep
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.spent import record_spent
from gp_prune.runs.statistics import StatisticsFile
from gp_prune.statistics import Loss
from gp_prune.statistics.running import device_of, one_thread
from gp_prune.training.samples import draw

WEIGHTS = "weights"
"""The folder of a run in which retrained weights are kept."""

CHANNEL_POOL = ("l1", "group_taylor", "taylor_gate")
WEIGHT_POOL = ("magnitude", "taylor_weight", "obd_weight", "wanda_weight")
"""The metrics that guide mutations where none are named.

Random mutations are not among them: on MNIST they slow the others down (benchmarks/results/
genetic_mutation.md), and the temperature of a metric's mutation leaves chance enough.
"""


@dataclass(frozen=True)
class GeneticProgress:
    """The progress of a run.

    Attributes:
        stage: ``"load"``, ``"prune"``, ``"polish"``, ``"compare"``, ``"judge"`` or ``"done"``.
        done: steps of the stage that are done.
        of: steps of the stage.
        status: the state of the genetic algorithm, in the stage ``"prune"``.
        inside: how far the step is that is being done, if that is the news.
    """

    stage: str
    done: int
    of: int
    status: RoundStatus | None = None
    inside: Inside | None = None


Report = Callable[[GeneticProgress], None]


def prune_genetically(
    settings: GeneticSettings | None = None,
    folder: str | Path = "runs/genetic",
    *,
    model: InMemoryModel | None = None,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    trust: Sequence[str | Path] = (),
    skip_lost: bool = False,
    timed: bool = True,
    progress: Report = lambda _: None,
    callbacks: Sequence[AnyCallback] = (),
) -> GeneticResult:
    """Prune one network by a genetic algorithm; write everything into a run folder.

    The networks depend on the settings alone: not on the workers, and not on whether the run was
    killed and resumed on the way. Measured times do not count among them; those of a run that has
    ended are kept.

    Args:
        settings: how; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        model: a network in memory in the place of the one that the settings name.
        source: folders of tasks and data sets, and the device.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers work in the place of ``workers``; they
            must see the run folder.
        resume: continue the run in ``folder``.
        trust: with ``resume``, the Python files that the stored settings may run; see SECURITY.md.
        skip_lost: whether a job whose workers die again and again is set aside for good, with the
            worst result, in the place of ending the run.
        timed: whether to measure the time of the convolutions at the end.
        progress: called with the progress of the run.
        callbacks: follow the run, see :class:`gp_prune.Callback`; a function is called with each
            :class:`~gp_prune.genetic.engine.RoundStatus`.

    Raises:
        UserError: a setting, network, folder or journal is not usable; the sentence says which.
    """
    folder = Path(folder)
    settings = load_or_check_settings(GeneticSettings, settings, folder, resume=resume, trust=trust)
    source = source or TaskSource()
    if model is not None and (workers > 1 or cluster is not None or skip_lost):
        raise UserError(
            "a network in memory cannot travel to other processes; use one worker, or name a file "
            "and a function that makes it (FILE.py:FUNCTION)"
        )
    told = Callbacks(callbacks, RunStart("genetic", folder, settings.to_json()))
    inside = InsideStep()
    runner = make_runner(source, workers, cluster=cluster, skip_lost=skip_lost, inside=inside)
    try:
        with (
            one_thread(),
            open_run_folder(folder, outcome_reader(), settings) as journal,
            record_spent(folder, runner),
            told,
        ):
            pool = load_mutations(settings)
            progress(GeneticProgress("load", 0, 1))
            model_source, prepared = _load(settings, model, source)
            weights = str((folder / WEIGHTS).resolve())
            engine = Engine(
                model_source, prepared, settings, pool, weights, runner, journal, inside
            )
            facts, digested = _describe(settings, prepared, pool)
            write_run_header(folder, settings, journal, facts, resume=resume, digested=digested)
            progress(GeneticProgress("load", 1, 1))
            earlier = read_report(folder) if resume else None
            times = None if earlier is None else read_times(earlier)
            result = _prune(engine, folder, progress, told, timed, times)
            if earlier is None:
                coverage = {settings.model or "network": engine.coverage}
                StatisticsFile(folder, settings).write(coverage)
                with writing(folder):
                    result.write()
            progress(GeneticProgress("done", 1, 1))
            told.done(_end_of(result))
            return result
    finally:
        runner.close()


def load_mutations(settings: GeneticSettings) -> list[MetricMutation]:
    """Return the mutations that the settings name.

    Raises:
        UserError: there is no such metric, or it is named twice.
    """
    primitives = primitive_set(*settings.primitives)
    default = {
        "auto": (*CHANNEL_POOL, *WEIGHT_POOL), "channel": CHANNEL_POOL, "weight": WEIGHT_POOL,
    }  # fmt: skip
    pool: dict[str, MetricMutation] = {}
    for name in settings.mutations or default[settings.granularity]:
        mutation = (
            random_mutation(settings.amount)
            if name == RANDOM
            else Metric.load(name, primitives).as_mutation(settings.temperature, settings.amount)
        )
        if mutation.name in pool:
            raise UserError(f"mutation {mutation.name!r} is named twice; name each once")
        pool[mutation.name] = mutation
    return list(pool.values())


def _load(
    settings: GeneticSettings, model: InMemoryModel | None, source: TaskSource
) -> tuple[ModelSource, PreparedModel]:
    """Load the network: what the workers load it by, and it itself."""
    if model is not None:
        return model, model.prepared
    if not settings.model:
        raise UserError(
            "this run prunes a network in memory; go on with it from the program that began it"
        )
    named = NamedModel(settings, source)
    prepared = named.load()
    return replace(named, digest=prepared.digest), prepared


def _describe(
    settings: GeneticSettings, prepared: PreparedModel, pool: Sequence[MetricMutation]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return all that decides the results, and words for the values that are digests.

    The place of the folder does not matter, so a run can be moved and then resumed.
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
    network = repr(settings.model) if settings.model else "the network in memory"
    digested = {
        **{f"metric {metric.name}": f"the metric {metric.name!r}" for metric in metrics},
        "network": f"the weights of {network}",
        "samples_digest": f"the data {prepared.data.name!r}",
    }
    return facts, digested


def _prune(
    engine: Engine,
    folder: Path,
    progress: Report,
    told: Callbacks,
    timed: bool,
    times: Mapping[str, ConvolutionTimes | None] | None,
) -> GeneticResult:
    """Run the rounds, retrain the finalists and their baselines, and measure all of them.

    ``times`` are those of a run that has ended; they are not measured again.
    """
    settings, data = engine.settings, engine.prepared.data
    history: list[tuple[int, float]] = []
    reached = GeneticProgress("prune", 0, settings.rounds)
    engine.evaluated = lambda done, of: told.evaluated(len(history), done, of)
    engine.inside.hear = lambda inside: progress(replace(reached, inside=inside))
    for status in engine.rounds():
        history.append((status.evaluations, status.hypervolume))
        progress(GeneticProgress("prune", status.round, status.of, status))
        told.step(_step_of(len(history) - 1, status))
        # The round of what comes next: after the retraining of one it is another one.
        done = status.round if status.generation is None else status.round - 1
        reached = GeneticProgress("prune", min(done, status.of - 1), status.of)
    reached = GeneticProgress("polish", 0, 1)
    progress(reached)
    finalists = select_nondominated(retrain_finalists(engine))
    names = [f"p{number:02d}" for number in range(1, len(finalists) + 1)]
    baselines: dict[str, list[Elite | None]] = {}
    if settings.baselines:
        reached = GeneticProgress("compare", 0, 1)
        progress(reached)
        baselines = retrain_baselines(engine, finalists)
    named = [("dense", engine.archive[0]), *zip(names, finalists, strict=True)]
    for baseline, elites in baselines.items():
        pairs = zip(names, elites, strict=True)
        named += [(f"{baseline} {name}", elite) for name, elite in pairs if elite is not None]
    entries: dict[str, FrontEntry] = {}
    progress(GeneticProgress("judge", 0, len(named)))
    for entry in measure_entries(engine, named, timed=timed and times is None):
        if times is not None:
            entry = replace(entry, conv_time=times.get(entry.name))
        entries[entry.name] = entry
        progress(GeneticProgress("judge", len(entries), len(named)))
    points = tuple(entries[name] for name in names)
    good = [point for point in points if engine.fitness.is_good(point.elite)]
    return GeneticResult(
        folder=folder,
        settings=settings,
        dense=entries["dense"],
        points=points,
        baselines={b: tuple(entries.get(f"{b} {name}") for name in names) for b in baselines},
        recommended=min(good, key=lambda p: engine.fitness.merit_of(p.elite), default=None),
        split=data.split,
        kind=data.kind,
        evaluations=engine.evaluations,
        history=tuple(history),
        counted=engine.layout.counted,
        failures=tuple(engine.failures),
        prepared=engine.prepared,
    )


def _step_of(number: int, status: RoundStatus) -> RunStep:
    """Return the state after a generation or a retraining for the callbacks."""
    front = status.front
    figures = {
        "round": status.round,
        "evaluations": status.evaluations,
        "hypervolume": status.hypervolume,
        "front": len(front),
        "least/error": min(elite.error for elite in front),
        "least/macs": min(elite.shares.macs for elite in front),
        "least/params": min(elite.shares.params for elite in front),
    }
    return RunStep(number, figures, state=status)


def _end_of(result: GeneticResult) -> RunEnd:
    """Return the recommended network for the callbacks; without one there is no figure."""
    best = result.recommended
    if best is None:
        return RunEnd(DONE, result=result)
    figures = {
        f"{result.split}_error": best.report,
        "macs": best.macs / result.dense.macs,
        "params": best.cost.nonzero / result.dense.cost.nonzero,
    }
    return RunEnd(DONE, figures, {"recommended": best.name}, result)


class GeneticPruner:
    """Prunes networks by a genetic algorithm and retraining in turns.

    ``GeneticPruner(rounds=4).prune(model, (inputs, labels)).recommended.model`` is a smaller
    network; ``.points`` are the whole front.

    Args:
        settings: how; the defaults where none are given.
        workers: processes for networks that can be loaded by name; one torch thread each.
        cluster: address of a Dask scheduler whose workers work in their place.
        source: folders of tasks and data sets, and the device.
        progress: called with the progress of a run.
        callbacks: follow a run, see :class:`gp_prune.Callback`; a function is called with each
            :class:`~gp_prune.genetic.engine.RoundStatus`.
        changes: settings by name that differ from ``settings``.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        settings: GeneticSettings | None = None,
        *,
        workers: int = 1,
        cluster: str | None = None,
        source: TaskSource | None = None,
        progress: Report = lambda _: None,
        callbacks: Sequence[AnyCallback] = (),
        **changes: Any,
    ) -> None:
        known = GeneticSettings.__dataclass_fields__
        for name in changes:
            if name not in known:
                raise UserError(f"unknown setting {name!r}; there are {', '.join(known)}")
        self.settings = replace(settings or GeneticSettings(), **changes)
        self._options: dict[str, Any] = {
            "workers": workers, "cluster": cluster, "source": source, "progress": progress,
            "callbacks": callbacks,
        }  # fmt: skip

    def prune(
        self,
        model: nn.Module | str,
        data: Any = None,
        folder: str | Path = "runs/genetic",
        *,
        example_inputs: Any = None,
        loss: Loss | None = None,
        kind: ErrorKind = "error",
        resume: bool = False,
        timed: bool = True,
    ) -> GeneticResult:
        """Prune a network; return the result, which is also in the run folder.

        Args:
            model: the name of a network (as of ``gp-prune genetic``) or a trained module, which is
                not changed. Modules are pruned in this process.
            data: for a module: a pair (inputs, target) of tensors, batches, or what
                :func:`gp_prune.own_data` returns; for a name a data set or a folder of images, or
                None for a task.
            folder: the run folder; it must be new, unless ``resume``.
            example_inputs: what the module can be called with; by default one sample of the data.
            loss: of training a module; by default cross entropy, or the mean squared error.
            kind: of a module's errors, ``"error"`` (share of wrong classes) or ``"mse"``.
            resume: continue the run in ``folder``, which had the same settings.
            timed: whether to measure the time of the convolutions at the end.

        Raises:
            UserError: an argument does not fit, or the network cannot be pruned.
        """
        in_memory = None
        if isinstance(model, str):
            if example_inputs is not None or loss is not None or kind != "error":
                raise UserError(
                    f"{model!r} has its own inputs, loss and kind of error; leave out "
                    "example_inputs, loss and kind, or give the module itself"
                )
            settings = replace(self.settings, model=model, data=data or "")
        else:
            settings = replace(self.settings, model="")
            for name in ("data", "weights", "input_shape", "model_seed", "most"):
                if getattr(settings, name):
                    raise UserError(
                        f"{name} is for networks that are loaded by name; leave it out for a module"
                    )
            if data is None:
                raise UserError("a network in memory needs data; give a pair (inputs, target)")
            if not isinstance(data, TuningData):
                data = own_data(data, loss=loss, kind=kind, share=settings.validation_share)
            if example_inputs is None:
                example_inputs = draw(data.train, 1, 0).inputs
            in_memory = InMemoryModel(
                PreparedModel(LoadedModel("network", model, example_inputs), data)
            )
        return prune_genetically(
            settings, folder, model=in_memory, resume=resume, timed=timed, **self._options
        )
