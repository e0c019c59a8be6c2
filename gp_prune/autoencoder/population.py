"""Spatial cooperative coevolution: cells on a grid, each an encoder and a decoder.

A cell takes an encoder and a decoder from its neighbourhood, trains them together for an epoch,
prunes them, and they take its place (Lipi-AE: Jorgensen et al., GECCO 2025; Hemberg et al., 2024).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from deap import tools

from gp_prune.autoencoder.cells import Bench, CellResult, CellStep, LossFitness, Parent
from gp_prune.autoencoder.networks import FOLDER, first_pair, place, write_pair
from gp_prune.autoencoder.schedule import Events
from gp_prune.autoencoder.settings import AutoencodeSettings, waves
from gp_prune.runs.executors import Runner, run_with_journal
from gp_prune.runs.journal import Journal
from gp_prune.statistics.running import derive_seed


class Cut(NamedTuple):
    """Digests of a pair before and behind a pruning event."""

    before: str
    after: str


class Cell:
    """A place on the grid and the pair that lives there.

    Attributes:
        state: digest of its pair.
        learning_rate: of its next epoch.
        fitness: its validation loss, as DEAP compares it.
        sparsity: share of the weights of its pair that are zero.
        behind: whether its pair, or a part of it, was spared by a pruning event because the
            worker was lost.
        cut: the last pruning that the encoder of its pair went through; None before the first.
    """

    def __init__(self, state: str, learning_rate: float, loss: float) -> None:
        self.state = state
        self.cut: Cut | None = None
        self.learning_rate = learning_rate
        self.fitness = LossFitness((loss,))
        self.sparsity = 0.0
        self.behind = False

    @property
    def loss(self) -> float:
        """Its validation loss."""
        value: float = self.fitness.values[0]
        return value

    @property
    def states(self) -> set[str]:
        """The states that it refers to."""
        return {self.state, *(self.cut or ())}


class Row(NamedTuple):
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
class Generation:
    """What is reported after every generation (in canonical training: after every epoch).

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


class Mode(Protocol):
    """What makes canonical training and coevolution differ."""

    def order(self, generation: int) -> list[list[int]]:
        """The cells of a generation in waves; those of one wave are updated at the same time."""

    def next_rate(self, rate: float, generation: int, cell: int) -> float:
        """The learning rate of a cell after a generation."""


class Population:
    """The cells of a run and their history.

    Args:
        settings: of the run, with ``loss`` decided.
        metric: the operator's metric file as text; empty where it has none.
        events: the pruning events.
        bench: data, widths, loss.
        mode: canonical training or coevolution.
        runner: runs the steps.
        journal: remembers them.
        folder: the run folder.
    """

    def __init__(
        self,
        settings: AutoencodeSettings,
        metric: str,
        events: Events,
        bench: Bench,
        mode: Mode,
        runner: Runner,
        journal: Journal[CellResult],
        folder: Path,
    ) -> None:
        self.settings = settings
        self.history: list[Row] = []
        self.logbook = tools.Logbook()
        self._metric = metric
        self._events = events
        self._mode = mode
        self._runner = runner
        self._journal = journal
        self._folder = folder / FOLDER
        self._statistics = tools.Statistics(key=lambda cell: cell.loss)
        for name, function in (("mean", np.mean), ("std", np.std), ("min", np.min)):
            self._statistics.register(name, function)
        self._grid = settings.grid
        self.cells = [self._first(bench, cell) for cell in range(len(self._grid))]

    def _first(self, bench: Bench, cell: int) -> Cell:
        seed = derive_seed(self.settings.seed, "first pair", cell)
        pair = first_pair(bench.layout, seed, str(bench.data.train.inputs.device))
        state = write_pair(self._folder, pair)
        return Cell(state, self.settings.learning_rate, bench.validation_loss(pair))

    @property
    def best(self) -> int:
        """The cell with the least validation loss, the first of equals.

        With a target sparsity those that are behind come last: they would win by the weights
        that they should not have.
        """
        aimed = bool(self.settings.target_sparsity)

        def order(number: int) -> tuple[bool, float, int]:
            cell = self.cells[number]
            return aimed and cell.behind, cell.loss, number

        return min(range(len(self.cells)), key=order)

    def generations(self) -> Iterator[Generation]:
        """Go through all generations; each is reported when all its cells are done."""
        for number in range(1, self.settings.epochs + 1):
            earlier = self._states()
            for wave in self._mode.order(number):
                steps = [self._step(number, cell) for cell in wave]
                results = run_with_journal(steps, self._runner, self._journal)
                before = [(cell.cut, cell.behind) for cell in self.cells]
                for step in steps:
                    result = results[step.key]
                    cut, behind = before[result.encoder_from]
                    self._take(step, result, cut, behind or before[result.decoder_from][1])
                    earlier |= {result.uncut} if result.uncut else set()
            self._forget(earlier)
            yield self._report(number)

    def _step(self, generation: int, cell: int) -> CellStep:
        happens = self._events.happens[generation - 1][cell]
        stays = self._events.stays[generation - 1] if self._events.stays and happens else None
        return CellStep(
            settings=self.settings,
            metric=self._metric if happens else "",
            folder=str(self._folder),
            generation=generation,
            cell=cell,
            learning_rate=self.cells[cell].learning_rate,
            parents=tuple(Parent(n, self.cells[n].state) for n in self._grid[cell]),
            prunes=happens,
            stays=stays,
        )

    def _take(self, step: CellStep, result: CellResult, cut: Cut | None, behind: bool) -> None:
        """Put the result of a step into its cell and into the history.

        Args:
            step: the step.
            result: of the step.
            cut: of the cell that the encoder came from.
            behind: whether encoder or decoder came from a cell that is.
        """
        cell = self.cells[step.cell]
        cell.behind = (behind or step.prunes) if result.failure else (behind and not step.prunes)
        if not result.failure:
            assert result.validation_loss is not None and result.sparsity is not None
            cell.state = result.state
            cell.cut = Cut(result.uncut, result.state) if result.uncut else cut
            cell.fitness.values = (result.validation_loss,)
            cell.sparsity = result.sparsity
        self.history.append(
            Row(
                step.generation, step.cell, step.learning_rate,
                result.encoder_from, result.decoder_from,
                result.selection_loss, result.train_loss, cell.loss, cell.sparsity,
                int(step.prunes and not result.failure), result.failure,
            )
        )  # fmt: skip
        cell.learning_rate = self._mode.next_rate(cell.learning_rate, step.generation, step.cell)

    def _states(self) -> set[str]:
        return set().union(*(cell.states for cell in self.cells))

    def _forget(self, earlier: set[str]) -> None:
        """Delete the states that no cell refers to any more."""
        # The journal knows by now all that was made of them.
        for state in sorted(earlier - self._states()):
            place(self._folder, state).unlink(missing_ok=True)

    def _report(self, number: int) -> Generation:
        record = self._statistics.compile(self.cells)
        self.logbook.record(generation=number, **record)
        rows: Sequence[Row] = self.history[-len(self.cells) :]
        return Generation(
            number=number,
            of=self.settings.epochs,
            best=float(record["min"]),
            mean=float(record["mean"]),
            sparsity=float(np.mean([cell.sparsity for cell in self.cells])),
            pruned=sum(row.pruned for row in rows),
        )


_STEPS = 4


class Canonical:
    """One cell without neighbours.

    The learning rate is multiplied by ``rate_decay`` after every quarter of the epochs.
    """

    def __init__(self, settings: AutoencodeSettings) -> None:
        self._settings = settings

    def order(self, generation: int) -> list[list[int]]:
        """The one cell."""
        return [[0]]

    def next_rate(self, rate: float, generation: int, cell: int) -> float:
        """The rate of the epoch behind this one."""
        steps = _STEPS * generation // self._settings.epochs
        return self._settings.learning_rate * self._settings.rate_decay**steps


LEAST_RATE = 1e-4
MOST_RATE = 1e4
"""Bounds of a learning rate, over the first one; the least is that of the paper."""


class Coevolution:
    """A grid of cells whose learning rates mutate.

    In asynchronous updates the cells are visited in an order that is shuffled anew for every
    generation, and each sees the neighbours that came before it as they are now; in synchronous
    ones all see the last generation.
    """

    def __init__(self, settings: AutoencodeSettings) -> None:
        self._settings = settings
        self._grid = settings.grid

    def order(self, generation: int) -> list[list[int]]:
        """The cells in waves."""
        order = list(range(len(self._grid)))
        if self._settings.updates == "synchronous":
            return [order]
        self._random("order", generation).shuffle(order)
        return waves(order, self._grid)

    def next_rate(self, rate: float, generation: int, cell: int) -> float:
        """The rate plus a normal number."""
        first = self._settings.learning_rate
        drawn = self._random("learning rate", generation, cell).gauss(0, 1)
        moved = rate + drawn * self._settings.rate_step * first
        return min(MOST_RATE * first, max(LEAST_RATE * first, moved))

    def _random(self, *parts: object) -> random.Random:
        return random.Random(derive_seed(self._settings.seed, *parts))
