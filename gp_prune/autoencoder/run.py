"""A whole run: load the data, train with pruning events, choose by validation, read the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.nn import functional

from gp_prune.autoencoder.cells import Bench, CellResult
from gp_prune.autoencoder.networks import FOLDER, Pair, read_pair, reconstruct, sweep
from gp_prune.autoencoder.population import Canonical, Coevolution, Generation, Mode, Population
from gp_prune.autoencoder.pruning import (
    check_labels,
    chosen_metric,
    chosen_unit,
    identity,
    sparsity,
)
from gp_prune.autoencoder.results import AutoencodeResult, write
from gp_prune.autoencoder.schedule import (
    Events,
    Schedule,
    draw_events,
    draw_events_to,
    named_schedule,
    no_events,
    probabilities,
)
from gp_prune.autoencoder.settings import CANONICAL, NONE, AutoencodeSettings
from gp_prune.autoencoder.training import evaluate
from gp_prune.metric.metric import Metric
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
from gp_prune.runs.journal import Journal, reader
from gp_prune.statistics.running import one_thread

_PICTURES = 8


@dataclass(frozen=True)
class Progress:
    """Where a run stands: after so many of all generations, the last of which is reported."""

    done: int
    of: int
    generation: Generation


def autoencode(
    settings: AutoencodeSettings | None = None,
    folder: str | Path = "runs/autoencode",
    *,
    schedule: Schedule | None = None,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> AutoencodeResult:
    """Train an autoencoder, or a grid of them, and prune on the way.

    The result depends on the settings alone (and on ``schedule``): not on the workers, and not on
    whether the run was killed and resumed on the way. The best cell is chosen by the validation
    split; the test split is read once, at the end.

    Args:
        settings: the settings; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        schedule: a function of (t, T) in the place of the settings' schedule; to be given again
            when the run is resumed.
        source: where data sets are, and the device.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers train in the place of ``workers``; they
            must see the run folder under the same path.
        resume: go on with the run in ``folder``.
        progress: hears of every generation.

    Raises:
        UserError: a setting, the data, the operator, the folder or the journal is not usable; the
            sentence says which.
    """
    folder = Path(folder).absolute()
    settings = load_or_check_settings(AutoencodeSettings, settings, folder, resume=resume)
    source = source or TaskSource()
    metric = chosen_metric(settings)
    unit = chosen_unit(settings, metric)
    runner: Runner = (
        make_runner(source, workers) if cluster is None else DaskCluster(source, cluster)
    )
    try:
        with one_thread(), open_run_folder(folder, reader(CellResult)) as journal:
            decided = replace(settings, loss=_loss(settings), unit=unit)
            bench = Bench.of(decided, Workbench(source))
            check_labels(metric, bench.data)
            made = _Made(decided, metric, bench, _chances(settings, schedule))
            facts = {**settings.to_json(), **made.facts(), "device": source.device}
            write_run_header(
                folder, settings, journal, facts, resume=resume, digested=made.digested()
            )
            return _run(made, folder, runner, journal, progress)
    finally:
        runner.close()


@dataclass(frozen=True)
class _Made:
    """What a run is made of."""

    settings: AutoencodeSettings
    metric: Metric | None
    bench: Bench
    chances: tuple[float, ...]

    @property
    def metric_text(self) -> str:
        return "" if self.metric is None else json.dumps(self.metric.to_json())

    def facts(self) -> dict[str, Any]:
        """What decides the result beside the settings, as JSON."""
        return {
            "loss": self.settings.loss,
            "metric": identity(self.metric),
            "probabilities": list(self.chances),
            "samples_digest": self.bench.data.fingerprint(),
            "versions": versions(),
        }

    def digested(self) -> dict[str, str]:
        """What those facts are that say nothing to a person."""
        return {
            "metric": f"the metric {self.settings.operator!r}",
            "probabilities": "the schedule",
            "samples_digest": f"the data {self.settings.data!r}",
        }

    def events(self) -> Events:
        settings, cells = self.settings, len(self.settings.grid)
        if settings.operator == NONE:
            return no_events(settings.epochs, cells)
        if settings.target_sparsity:
            return draw_events_to(settings.target_sparsity, self.chances, cells, settings.seed)
        return draw_events(self.chances, cells, settings.seed)

    def mode(self) -> Mode:
        kind = Canonical if self.settings.mode == CANONICAL else Coevolution
        return kind(self.settings)


def _loss(settings: AutoencodeSettings) -> str:
    if settings.loss != "auto":
        return settings.loss
    return "l1" if settings.data.startswith("binary-clusters") else "bce"


def _chances(settings: AutoencodeSettings, schedule: Schedule | None) -> tuple[float, ...]:
    """The probability of an event after each epoch."""
    if schedule is None:
        solutions = len(settings.grid[0])
        schedule = named_schedule(settings.schedule, settings.probability, solutions)
    return probabilities(schedule, settings.epochs)


def _run(
    made: _Made,
    folder: Path,
    runner: Runner,
    journal: Journal[CellResult],
    progress: Callable[[Progress], None],
) -> AutoencodeResult:
    settings, bench = made.settings, made.bench
    with writing(folder):
        for place in (folder, folder / FOLDER):
            sweep(place)
        population = Population(
            settings, made.metric_text, made.events(), bench, made.mode(), runner, journal, folder
        )
        for generation in population.generations():
            progress(Progress(generation.number, generation.of, generation))
    result = _assembled(made, folder, population)
    with writing(folder):
        write(result)
    return result


def _assembled(made: _Made, folder: Path, population: Population) -> AutoencodeResult:
    """The result; here alone the test split is read."""
    settings, bench = made.settings, made.bench
    relu = bench.layout.code_relu
    number = population.best
    cell = population.cells[number]

    def pair(state: str) -> Pair:
        return read_pair(folder / FOLDER, state, str(bench.data.train.inputs.device))

    best = pair(cell.state)
    test = bench.data.test().inputs
    median = bench.data.train.inputs.median(0).values
    made_of_test = reconstruct(best, test, relu)
    return AutoencodeResult(
        settings=settings,
        folder=folder,
        layout=bench.layout,
        shape=bench.data.shape,
        history=population.history,
        probabilities=made.chances,
        best_cell=number,
        best=best,
        cut=None if cell.cut is None else (pair(cell.cut.before), pair(cell.cut.after)),
        validation_loss=cell.loss,
        test_loss=evaluate(best, test, bench.loss, relu),
        test_l1=float(functional.l1_loss(made_of_test, test)),
        trivial_l1=float((test - median).abs().double().mean()),
        sparsity=sparsity(best),
        pictures=bench.data.validation.inputs[:_PICTURES],
    )
