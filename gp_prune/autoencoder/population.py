"""Train by spatial cooperative coevolution: cells on a grid, each an encoder and a decoder.

A cell takes an encoder and a decoder from its neighbourhood, trains them together for an epoch,
prunes them, and they take its place (Lipi-AE: Jorgensen et al., GECCO 2025; Hemberg et al., 2024).
Canonical training is a grid of one cell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gp_prune.autoencoder.cells import CellResult, CellStep, Parent, RunContext
from gp_prune.autoencoder.networks import FOLDER, create_pair, pair_path, write_pair
from gp_prune.autoencoder.schedule import PruningEvents
from gp_prune.autoencoder.settings import CANONICAL, AutoencodeSettings
from gp_prune.errors import UserError
from gp_prune.runs.executors import Runner
from gp_prune.runs.inside import Inside, InsideStep
from gp_prune.runs.job_queue import run_with_journal
from gp_prune.runs.journal import Journal
from gp_prune.statistics.running import derive_seed

LEAST_RATE = 1e-4
MOST_RATE = 1e4
"""Bounds of a learning rate, over the first one; the least is that of the paper."""

_RATE_STEPS = 4


class Cut(NamedTuple):
    """Digests of a pair before and after a pruning event."""

    before: str
    after: str


@dataclass
class Cell:
    """A place on the grid and the pair that lives there.

    Attributes:
        state: digest of its pair.
        learning_rate: of its next epoch.
        loss: its validation loss.
        sparsity: share of the weights of its pair that are zero.
        missed_pruning: whether its pair, or a part of it, was spared by a pruning event because
            the worker was lost.
        cut: the last pruning that the encoder of its pair went through; None before the first.
    """

    state: str
    learning_rate: float
    loss: float
    sparsity: float = 0.0
    missed_pruning: bool = False
    cut: Cut | None = None


class HistoryRow(NamedTuple):
    """One step of one cell, a line of the history."""

    generation: int
    cell: int
    learning_rate: float
    encoder_from: int
    decoder_from: int
    selection_loss: float | None
    train_loss: float | None
    validation_loss: float
    sparsity: float
    pruned: int
    failure: str


@dataclass(frozen=True)
class GenerationReport:
    """The state of a run after a generation (in canonical training: after an epoch).

    Attributes:
        number: from 1.
        of: number of generations.
        best: least validation loss of a cell.
        mean: mean validation loss of the cells.
        sparsity: mean share of the weights that are zero.
        pruned: number of cells that were pruned.
    """

    number: int
    of: int
    best: float
    mean: float
    sparsity: float
    pruned: int


@dataclass(frozen=True)
class EpochProgress:
    """How far an epoch is that is being done.

    Attributes:
        number: of the epoch, from 1.
        of: number of epochs.
        inside: cells whose epoch is done.
    """

    number: int
    of: int
    inside: Inside


class Population:
    """The cells of a run and their history.

    Args:
        settings: of the run, with ``loss`` decided.
        metric: the operator's metric file as text; empty where it has none.
        events: the pruning events.
        context: data, widths, loss.
        runner: runs the steps.
        journal: remembers them.
        folder: the run folder.
        inside: where the runner puts how much of the running steps is done.

    Attributes:
        evaluated: called with the number of an epoch, and how many of how many cells are done.
        hear: called with how far the present epoch is.
    """

    def __init__(
        self,
        settings: AutoencodeSettings,
        metric: str,
        events: PruningEvents,
        context: RunContext,
        runner: Runner,
        journal: Journal[CellResult],
        folder: Path,
        inside: InsideStep | None = None,
    ) -> None:
        self.evaluated: Callable[[int, int, int], None] = lambda number, done, of: None
        self.hear: Callable[[EpochProgress], None] = lambda progress: None
        self._inside = inside or InsideStep()
        self._inside.what = "cells trained"
        self.history: list[HistoryRow] = []
        self.limits: dict[str, None] = {}  # sentences on what was measured in part
        self._settings, self._metric, self._events = settings, metric, events
        self._runner, self._journal = runner, journal
        self._folder, self._grid = folder / FOLDER, settings.grid
        self.cells: list[Cell] = []
        for number in range(len(self._grid)):
            seed = derive_seed(settings.seed, "first pair", number)
            pair = create_pair(context.layout, seed, str(context.data.train.inputs.device))
            state = write_pair(self._folder, pair)
            self.cells.append(Cell(state, settings.learning_rate, context.validation_loss(pair)))

    @property
    def best(self) -> int:
        """Return the cell with the least validation loss, the first of equals.

        With a target sparsity those that missed a pruning event come last: they would win by the
        weights that they should not have.
        """
        aimed = bool(self._settings.target_sparsity)
        order = [(aimed and cell.missed_pruning, cell.loss) for cell in self.cells]
        return order.index(min(order))

    def generations(self) -> Iterator[GenerationReport]:
        """Go through all generations; report each when all its cells are done."""
        for generation in range(1, self._settings.epochs + 1):
            earlier = self._states()
            trained = 0
            for wave in self._order(generation):
                steps = [self._step(generation, cell) for cell in wave]
                self._inside.hear = partial(self._tell_inside, generation, trained)
                results = run_with_journal(
                    steps, self._runner, self._journal, partial(self._tell, generation, trained),
                    self._inside,
                )  # fmt: skip
                trained += len(wave)
                before = [(cell.cut, cell.missed_pruning) for cell in self.cells]
                for step in steps:
                    result = results[step.key]
                    if max(result.encoder_from, result.decoder_from) >= len(self.cells):
                        raise UserError(
                            f"the journal in {str(self._folder.parent)!r} says that cell "
                            f"{step.cell} took its pair from a cell that does not exist; restore "
                            "it or start a new run"
                        )
                    self.limits |= {result.limit: None} if result.limit else {}
                    cut, missed = before[result.encoder_from]
                    self._update(step, result, cut, missed or before[result.decoder_from][1])
                    earlier |= {result.uncut} if result.uncut else set()
            # The journal knows by now all that was made of states that no cell refers to.
            for state in sorted(earlier - self._states()):
                pair_path(self._folder, state).unlink(missing_ok=True)
            yield self._report(generation)

    def _tell(self, generation: int, before: int, done: int, of: int) -> None:
        self.evaluated(generation, before + done, len(self.cells))

    def _tell_inside(self, generation: int, before: int, inside: Inside) -> None:
        whole = inside._replace(done=before + inside.done, of=len(self.cells))
        self.hear(EpochProgress(generation, self._settings.epochs, whole))

    def _states(self) -> set[str]:
        """Return the states that the cells refer to."""
        return {state for cell in self.cells for state in (cell.state, *(cell.cut or ()))}

    def _order(self, generation: int) -> list[list[int]]:
        """Return the cells in waves; those of one wave are updated at the same time.

        In asynchronous updates the cells are visited in an order that is shuffled for every
        generation, and each sees the neighbours that came before it as they are now; in
        synchronous ones all see the last generation.
        """
        order = list(range(len(self._grid)))
        if self._settings.updates == "synchronous" or len(order) == 1:
            return [order]
        self._random("order", generation).shuffle(order)
        return group_into_waves(order, self._grid)

    def _step(self, generation: int, cell: int) -> CellStep:
        happens = self._events.happens[generation - 1][cell]
        stays = self._events.stays[generation - 1] if self._events.stays and happens else None
        return CellStep(
            settings=self._settings,
            metric=self._metric if happens else "",
            folder=str(self._folder),
            generation=generation,
            cell=cell,
            learning_rate=self.cells[cell].learning_rate,
            parents=tuple(Parent(n, self.cells[n].state) for n in self._grid[cell]),
            prunes=happens,
            stays=stays,
        )

    def _update(self, step: CellStep, result: CellResult, cut: Cut | None, missed: bool) -> None:
        """Put the result of a step into its cell and into the history.

        Args:
            step: the step.
            result: of the step.
            cut: of the cell that the encoder came from.
            missed: whether encoder or decoder came from a cell that missed a pruning event.
        """
        cell = self.cells[step.cell]
        if result.failure:
            cell.missed_pruning = missed or step.prunes
        else:
            assert result.validation_loss is not None and result.sparsity is not None
            cell.missed_pruning = missed and not step.prunes
            cell.state, cell.loss, cell.sparsity = (
                result.state, result.validation_loss, result.sparsity
            )  # fmt: skip
            cell.cut = Cut(result.uncut, result.state) if result.uncut else cut
        self.history.append(
            HistoryRow(
                step.generation, step.cell, step.learning_rate,
                result.encoder_from, result.decoder_from,
                result.selection_loss, result.train_loss, cell.loss, cell.sparsity,
                int(step.prunes and not result.failure), result.failure,
            )
        )  # fmt: skip
        cell.learning_rate = self._next_rate(cell.learning_rate, step.generation, step.cell)

    def _next_rate(self, rate: float, generation: int, cell: int) -> float:
        """Return the learning rate of the next epoch.

        In canonical training it is multiplied by ``rate_decay`` after every quarter of the epochs,
        in coevolution a normal number is added.
        """
        settings, first = self._settings, self._settings.learning_rate
        if settings.mode == CANONICAL:
            return first * settings.rate_decay ** (_RATE_STEPS * generation // settings.epochs)
        drawn = self._random("learning rate", generation, cell).gauss(0, 1)
        moved = rate + drawn * settings.rate_step * first
        return min(MOST_RATE * first, max(LEAST_RATE * first, moved))

    def _random(self, *parts: object) -> random.Random:
        return random.Random(derive_seed(self._settings.seed, *parts))

    def _report(self, generation: int) -> GenerationReport:
        losses = [cell.loss for cell in self.cells]
        return GenerationReport(
            number=generation,
            of=self._settings.epochs,
            best=min(losses),
            mean=float(np.mean(losses)),
            sparsity=float(np.mean([cell.sparsity for cell in self.cells])),
            pruned=sum(row.pruned for row in self.history[-len(self.cells) :]),
        )


def group_into_waves(
    order: Sequence[int], neighbours: Sequence[tuple[int, ...]]
) -> list[list[int]]:
    """Group cells that may be updated at the same time although they are visited in turn.

    A cell reads its neighbours as they are when its turn comes, so it comes after those of them
    that are before it in the order, and can go along with any other.

    Args:
        order: the order of the visits.
        neighbours: what every cell reads.
    """
    level: dict[int, int] = {}
    for cell in order:
        earlier = [level[other] for other in neighbours[cell] if other in level]
        level[cell] = 1 + max(earlier, default=-1)
    groups: list[list[int]] = [[] for _ in range(1 + max(level.values(), default=-1))]
    for cell in order:
        groups[level[cell]].append(cell)
    return groups
