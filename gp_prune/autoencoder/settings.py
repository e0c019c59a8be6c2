"""The settings of a run of the autoencoder trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gp_prune.autoencoder.schedule import named_schedule
from gp_prune.autoencoder.training import LOSSES
from gp_prune.base.sizes import MAX_MEMORY
from gp_prune.errors import SEED, Rule, UserError, check_fields, number, one_of, whole
from gp_prune.runs.settings import Settings

CANONICAL, COEVOLVE = "canonical", "coevolve"
NODE, WEIGHT = "node", "weight"
NONE, RANDOM = "none", "random"

# The upper limits keep a typing error from filling the memory.
_RULES = {
    "mode": one_of(CANONICAL, COEVOLVE),
    "topology": one_of("ring", "torus"),
    "updates": one_of("asynchronous", "synchronous"),
    "exchange": one_of("apart", "together"),
    "unit": one_of("auto", NODE, WEIGHT),
    "loss": one_of("auto", *LOSSES),
    "limit": whole(0),
    "code": whole(0, 10_000),
    "epochs": whole(1, 1_000_000),
    "batch_size": whole(1),
    "samples": whole(2),
    "cells": whole(1, 1_000),
    "radius": whole(0, 1_000),
    "tournament": whole(1, 1_000),
    "selection_samples": whole(1),
    "seed": SEED,
    "learning_rate": number(above=0),
    "rate_decay": number(above=0, most=1),
    "rate_step": number(least=0),
    "temperature": Rule(
        lambda value: value == math.inf or number(least=0).accepts(value), "0 or more, or inf"
    ),
    "amount": number(above=0, below=1),
    "target_sparsity": number(least=0, below=1),
}


def torus_shape(cells: int) -> tuple[int, int]:
    """Return rows and columns of the torus with that number of cells that is nearest to a square.

    Raises:
        UserError: the number is a prime, so that there is no torus but a ring.
    """
    for rows in range(math.isqrt(cells), 1, -1):
        if cells % rows == 0:
            return rows, cells // rows
    raise UserError(f"{cells} cells make no torus; take a number such as 4, 6 or 9, or a ring")


def find_neighbours(cell: int, cells: int, topology: str, radius: int) -> tuple[int, ...]:
    """Return the cells that a cell chooses from: itself, then its neighbours by distance, number.

    On a ring these are the ``radius`` cells to either side, on a torus those at most ``radius``
    steps along rows and columns away. Where the grid is so small that one is reached in two ways,
    it is listed once.

    Args:
        cell: its number, from 0; on a torus row by row.
        cells: number of cells.
        topology: ``"ring"`` or ``"torus"``.
        radius: greatest distance; 0 means the cell alone.
    """
    rows, columns = (1, cells) if topology == "ring" else torus_shape(cells)
    row, column = divmod(cell, columns)
    near = []
    for other in range(cells):
        down, right = abs(other // columns - row), abs(other % columns - column)
        distance = min(down, rows - down) + min(right, columns - right)
        if distance <= radius:
            near.append((distance, other))
    return tuple(other for _, other in sorted(near))


@dataclass(frozen=True)
class AutoencodeSettings(Settings):
    """What decides the result of a run; two runs with equal settings give equal results.

    Attributes:
        mode: ``"canonical"`` trains one autoencoder, ``"coevolve"`` a grid of cells.
        operator: ``"none"``, ``"random"``, ``"conjunctive"``, ``"variance"``, or a metric: the
            name of a bundled one or a file.
        schedule: when to prune, see :mod:`gp_prune.autoencoder.schedule`.
        data: see :data:`gp_prune.autoencoder.data.DATA_NAMES`; or a ``.npz`` file.
        limit: training samples and validation samples at most; 0 for all.
        code: width of the code; 0 for that of the published network.
        loss: ``"l1"`` or ``"bce"``; ``"auto"`` is L1 for binary clusters and BCE for other data.
        epochs: epochs of training; of every cell, one in each generation.
        batch_size: samples per training step.
        learning_rate: of Adam, in the first epoch.
        rate_decay: in canonical training the factor on the learning rate after every quarter.
        rate_step: in coevolution the standard deviation of the normal number that is added to
            the learning rate of a cell after each generation, over the first learning rate.
        probability: the p of the schedule.
        amount: share of the units that are alive that one pruning event removes.
        target_sparsity: share of the nodes of every hidden layer that is gone at the end; the
            amount then follows from the number of events. 0 for none.
        temperature: of the draw by rank of the score, see
            :class:`gp_prune.metric.mutation.MetricMutation`.
        unit: what is pruned, ``"node"`` or ``"weight"``; ``"auto"`` is what the metric scores, and
            nodes for random pruning.
        samples: training samples on which an operator measures.
        max_memory: most memory, with its unit, for what an operator measures; what does not fit is
            measured in part, and the run says so.
        regrow: let what was pruned grow again, as the paper's code does.
        cells: number of cells.
        topology: ``"ring"`` or ``"torus"``.
        radius: how far a neighbourhood reaches; from half the grid on it is the whole grid.
        tournament: size of the tournaments in which encoder and decoder are selected.
        exchange: ``"apart"``: encoder and decoder come from tournaments of their own;
            ``"together"``: the encoder's brings its decoder along, as in the paper's code.
        updates: ``"asynchronous"``: cells see those that came before them in a shuffled order;
            ``"synchronous"``: all see the last generation.
        selection_samples: training samples on which a cell compares its candidates.
        seed: the source of all randomness, the clusters included.
        primitives: users' files with primitives of the metric.

    Raises:
        UserError: a value is out of range.
    """

    mode: str = COEVOLVE
    operator: str = "conjunctive"
    schedule: str = "exponential"
    data: str = "digits"
    limit: int = 0
    code: int = 0
    loss: str = "auto"
    epochs: int = 60
    batch_size: int = 20
    learning_rate: float = 2e-3
    rate_decay: float = 0.5
    rate_step: float = 0.1
    probability: float = 0.5
    amount: float = 0.05
    target_sparsity: float = 0.0
    temperature: float = 0.1
    unit: str = "auto"
    samples: int = 100
    max_memory: str = MAX_MEMORY
    regrow: bool = False
    cells: int = 6
    topology: str = "ring"
    radius: int = 1
    tournament: int = 2
    exchange: str = "apart"
    updates: str = "asynchronous"
    selection_samples: int = 100
    seed: int = 0
    primitives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, _RULES)
        self.normalise_memory()
        named_schedule(self.schedule, self.probability)
        if self.topology == "torus" and self.mode == COEVOLVE:
            torus_shape(self.cells)
        if self.regrow and self.target_sparsity:
            raise UserError(
                "target_sparsity needs masks that are held; leave it out, or leave out regrow"
            )
        if self.target_sparsity and self.operator == NONE:
            raise UserError("target_sparsity needs an operator; leave it out, or name one")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON, where an infinite temperature is ``"inf"``."""
        settings = super().to_json()
        if math.isinf(self.temperature):
            settings["temperature"] = "inf"
        return settings

    @property
    def grid(self) -> list[tuple[int, ...]]:
        """Return the neighbourhood of every cell; in canonical training there is one cell."""
        if self.mode == CANONICAL:
            return [(0,)]
        return [
            find_neighbours(cell, self.cells, self.topology, self.radius)
            for cell in range(self.cells)
        ]
