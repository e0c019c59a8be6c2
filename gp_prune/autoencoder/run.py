"""Run the trainer: load data, train with pruning events, choose by validation, read the test."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from gp_prune.autoencoder.cells import RunContext, result_reader
from gp_prune.autoencoder.networks import (
    FOLDER,
    SIDES,
    AutoencoderLayout,
    Pair,
    module,
    read_pair,
    reconstruct,
)
from gp_prune.autoencoder.population import (
    EpochProgress,
    GenerationReport,
    HistoryRow,
    Population,
)
from gp_prune.autoencoder.pruning import (
    check_labels,
    choose_unit,
    find_live_nodes,
    load_metric,
    measure_sparsity,
)
from gp_prune.autoencoder.schedule import (
    PruningEvents,
    Schedule,
    draw_events,
    draw_events_to,
    evaluate_schedule,
    named_schedule,
)
from gp_prune.autoencoder.settings import NONE, AutoencodeSettings
from gp_prune.autoencoder.training import evaluate
from gp_prune.base.artifacts import write_tensors
from gp_prune.base.files import write_text
from gp_prune.base.html import table_html
from gp_prune.base.json_fields import write_json
from gp_prune.metric.metric import Metric
from gp_prune.runs.callbacks import DONE, AnyCallback, Callbacks, RunEnd, RunStart, RunStep
from gp_prune.runs.executors import make_runner
from gp_prune.runs.folder import (
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.inside import InsideStep
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.runs.spent import record_spent
from gp_prune.runs.statistics import warn_of_limits
from gp_prune.statistics.running import one_thread

HISTORY = "history.csv"
RESULT = "result.json"
NETWORK = "autoencoder.safetensors"

_PICTURES = 8


@dataclass(frozen=True, eq=False, repr=False)
class AutoencodeResult:
    """The result of a run.

    Attributes:
        settings: its settings, with ``loss`` and ``unit`` decided.
        folder: its run folder.
        layout: widths of the network.
        shape: of one sample.
        history: a row for every step of every cell.
        probabilities: of a pruning event after each epoch.
        best_cell: the cell with the least validation loss, whose pair this is.
        best: the best pair.
        cut: the pair before and after the last pruning event that the best encoder went through;
            None where it was never pruned.
        validation_loss: of the best pair.
        test_loss: of the best pair.
        test_l1: its mean absolute error on the test split.
        trivial_l1: mean absolute error there of the best constant picture, the training median.
        sparsity: share of its weights that are zero.
        pictures: some samples of the validation split, (n, features).
        limits: sentences on what the operator measured in part, because all does not fit.
    """

    settings: AutoencodeSettings
    folder: Path
    layout: AutoencoderLayout
    shape: tuple[int, ...]
    history: list[HistoryRow]
    probabilities: tuple[float, ...]
    best_cell: int
    best: Pair
    cut: tuple[Pair, Pair] | None
    validation_loss: float
    test_loss: float
    test_l1: float
    trivial_l1: float
    sparsity: float
    pictures: Tensor
    limits: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the folder, the losses and the sparsity, without the network."""
        return (
            f"<AutoencodeResult in {str(self.folder)!r}: validation loss "
            f"{self.validation_loss:.4g}, test loss {self.test_loss:.4g}, "
            f"{self.sparsity:.1%} of the weights zero>"
        )

    def _repr_html_(self) -> str:
        """Return the cells for a notebook; all text is escaped."""
        rows = [
            (cell["cell"], f"{cell['validation_loss']:.4g}", f"{cell['sparsity']:.1%}")
            for cell in self._cells()
        ]
        return table_html(repr(self)[1:-1], ("cell", "validation loss", "weights zero"), rows)

    def module(self) -> nn.Sequential:
        """Return the best autoencoder as a network of torch; pruned weights are 0 in it."""
        return module(self.best.clone(), self.layout)

    def reconstructions(self) -> list[tuple[str, Tensor]]:
        """Return titled pictures: the samples, and what the network makes of them."""
        pairs = [("at the end", self.best)]
        if self.cut is not None:
            before, after = self.cut
            pairs = [("before the last pruning", before), ("after it", after), *pairs]
        relu = self.layout.code_relu
        made = [(title, reconstruct(pair, self.pictures, relu)) for title, pair in pairs]
        return [("input", self.pictures), *made]

    def nodes(self) -> dict[str, tuple[int, int]]:
        """Return for every hidden layer the number of nodes that are alive, and of all nodes."""
        return {
            name: (int(alive.sum()), alive.numel())
            for side, half in zip(SIDES, self.best, strict=True)
            for name, alive in zip(self.layout.names(side), find_live_nodes(half), strict=False)
        }

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "folder": str(self.folder),
            "settings": self.settings.to_json(),
            "best_cell": self.best_cell,
            "validation_loss": self.validation_loss,
            "test_loss": self.test_loss,
            "test_l1": self.test_l1,
            "trivial_l1": self.trivial_l1,
            "sparsity": self.sparsity,
            "nodes": {name: list(counts) for name, counts in self.nodes().items()},
            "parameters": self.layout.parameters,
            "widths": [*self.layout.encoder, *self.layout.decoder[1:]],
            "cells": self._cells(),
            "pruning_events": sum(row.pruned for row in self.history),
            "limits": list(self.limits),
            "failures": [
                f"generation {row.generation}, cell {row.cell}: {row.failure}"
                for row in self.history
                if row.failure
            ],
        }

    def _cells(self) -> list[dict[str, Any]]:
        """Return every cell at the end."""
        last = [row for row in self.history if row.generation == self.settings.epochs]
        return [
            {
                "cell": row.cell,
                "validation_loss": row.validation_loss,
                "sparsity": row.sparsity,
                "pruned": sum(r.pruned for r in self.history if r.cell == row.cell),
                "learning_rate": row.learning_rate,
            }
            for row in sorted(last, key=lambda row: row.cell)
        ]

    def write(self) -> None:
        """Write history, result and network into the run folder."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HistoryRow._fields)
        writer.writerows(self.history)
        write_text(self.folder / HISTORY, text.getvalue())
        state = self.module().state_dict().items()
        write_tensors(self.folder, NETWORK, {name: tensor.detach().cpu() for name, tensor in state})
        content = {**self.to_json(), "versions": versions()}
        del content["folder"]  # so that the file is the same wherever the run was
        write_json(self.folder / RESULT, content)


def autoencode(
    settings: AutoencodeSettings | None = None,
    folder: str | Path = "runs/autoencode",
    *,
    schedule: Schedule | None = None,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    trust: Sequence[str | Path] = (),
    skip_lost: bool = False,
    progress: Callable[[GenerationReport], None] = lambda _: None,
    inside: Callable[[EpochProgress], None] = lambda _: None,
    callbacks: Sequence[AnyCallback] = (),
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
        resume: continue the run in ``folder``.
        trust: with ``resume``, the Python files that the stored settings may run; see SECURITY.md.
        skip_lost: whether a job whose workers die again and again is set aside for good, with the
            worst result, in the place of ending the run.
        progress: called with the report of every generation.
        inside: called with how far the present epoch is, a few times per second.
        callbacks: follow the run, see :class:`gp_prune.Callback`; a function is called with each
            :class:`~gp_prune.autoencoder.population.GenerationReport`.

    Raises:
        UserError: a setting, the data, the operator, the folder or the journal is not usable; the
            sentence says which.
    """
    folder = Path(folder).absolute()
    settings = load_or_check_settings(
        AutoencodeSettings, settings, folder, resume=resume, trust=trust
    )
    source = source or TaskSource()
    told = Callbacks(callbacks, RunStart("autoencoder", folder, settings.to_json()))
    step = InsideStep()
    runner = make_runner(source, workers, cluster=cluster, skip_lost=skip_lost, inside=step)
    try:
        with (
            one_thread(),
            open_run_folder(folder, result_reader(), settings) as journal,
            record_spent(folder, runner),
            told,
        ):
            metric = load_metric(settings)
            unit = choose_unit(settings, metric)
            decided = replace(settings, loss=_choose_loss(settings), unit=unit)
            context = RunContext.of(decided, Workbench(source))
            check_labels(metric, context.data)
            chances = _probabilities(settings, schedule)
            facts = {
                **_describe(settings, metric, context, chances),
                "loss": decided.loss,
                "device": source.device,
            }
            digested = {
                "metric": f"the metric {settings.operator!r}",
                "probabilities": "the schedule",
                "samples_digest": f"the data {settings.data!r}",
            }
            write_run_header(folder, settings, journal, facts, resume=resume, digested=digested)
            with writing(folder):
                text = "" if metric is None else json.dumps(metric.to_json())
                events = _draw_events(settings, chances)
                population = Population(
                    decided, text, events, context, runner, journal, folder, step
                )
                population.hear, population.evaluated = inside, told.evaluated
                for generation in population.generations():
                    progress(generation)
                    told.step(_step_of(generation))
            result = _conclude(decided, folder, chances, context, population)
            warn_of_limits(settings, result.limits)
            with writing(folder):
                result.write()
            told.done(_end_of(result))
            return result
    finally:
        runner.close()


def _step_of(generation: GenerationReport) -> RunStep:
    """Return a generation for the callbacks."""
    figures = {
        "validation_loss/best": generation.best,
        "validation_loss/mean": generation.mean,
        "sparsity": generation.sparsity,
        "pruned": generation.pruned,
    }
    return RunStep(generation.number, figures, state=generation)


def _end_of(result: AutoencodeResult) -> RunEnd:
    """Return the result for the callbacks."""
    figures = {
        "validation_loss": result.validation_loss,
        "test_loss": result.test_loss,
        "test_l1": result.test_l1,
        "sparsity": result.sparsity,
    }
    return RunEnd(DONE, figures, result=result)


def _describe(
    settings: AutoencodeSettings,
    metric: Metric | None,
    context: RunContext,
    chances: tuple[float, ...],
) -> dict[str, Any]:
    """Return all that decides the result, as JSON."""
    return {
        **settings.to_json(),
        "metric": None if metric is None else {"name": metric.name, "digest": metric.digest},
        "probabilities": list(chances),
        "samples_digest": context.data.fingerprint(),
        "versions": versions(),
    }


def _choose_loss(settings: AutoencodeSettings) -> str:
    if settings.loss != "auto":
        return settings.loss
    return "l1" if settings.data.startswith("binary-clusters") else "bce"


def _probabilities(settings: AutoencodeSettings, schedule: Schedule | None) -> tuple[float, ...]:
    """Return the probability of an event after each epoch."""
    if schedule is None:
        solutions = len(settings.grid[0])
        schedule = named_schedule(settings.schedule, settings.probability, solutions)
    return evaluate_schedule(schedule, settings.epochs)


def _draw_events(settings: AutoencodeSettings, chances: tuple[float, ...]) -> PruningEvents:
    cells, seed = len(settings.grid), settings.seed
    if settings.operator == NONE:
        return draw_events((0.0,) * settings.epochs, cells, seed)
    if settings.target_sparsity:
        return draw_events_to(settings.target_sparsity, chances, cells, seed)
    return draw_events(chances, cells, seed)


def _conclude(
    settings: AutoencodeSettings,
    folder: Path,
    chances: tuple[float, ...],
    context: RunContext,
    population: Population,
) -> AutoencodeResult:
    """Return the result; here alone the test split is read."""
    data, loss, relu = context.data, context.loss, context.layout.code_relu
    number = population.best
    cell = population.cells[number]

    def read(state: str) -> Pair:
        return read_pair(folder / FOLDER, state, str(data.train.inputs.device))

    best, test = read(cell.state), data.test().inputs
    median = data.train.inputs.median(0).values
    return AutoencodeResult(
        settings=settings,
        folder=folder,
        layout=context.layout,
        shape=data.shape,
        history=population.history,
        probabilities=chances,
        best_cell=number,
        best=best,
        cut=None if cell.cut is None else (read(cell.cut.before), read(cell.cut.after)),
        validation_loss=cell.loss,
        test_loss=evaluate(best, test, loss, relu),
        test_l1=float(functional.l1_loss(reconstruct(best, test, relu), test)),
        trivial_l1=float((test - median).abs().double().mean()),
        sparsity=measure_sparsity(best),
        pictures=data.validation.inputs[:_PICTURES],
        limits=tuple(population.limits),
    )
