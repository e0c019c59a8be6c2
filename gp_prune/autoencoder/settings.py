"""The settings of a run of the autoencoder trainer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gp_prune.autoencoder.schedule import named_schedule
from gp_prune.autoencoder.training import named_loss
from gp_prune.errors import UserError
from gp_prune.runs.folder import MOST_SEED, Settings

TOPOLOGIES = ("ring", "torus")


def torus_shape(cells: int) -> tuple[int, int]:
    """Rows and columns of the torus of so many cells that is nearest to a square.

    Raises:
        UserError: the number is a prime, so that there is no torus but a ring.
    """
    for rows in range(math.isqrt(cells), 1, -1):
        if cells % rows == 0:
            return rows, cells // rows
    raise UserError(f"{cells} cells make no torus; take a number such as 4, 6 or 9, or a ring")


def neighbourhood(cell: int, cells: int, topology: str, radius: int) -> tuple[int, ...]:
    """The cells that a cell chooses from: itself, then its neighbours by distance and number.

    On a ring these are the ``radius`` cells to either side, on a torus those at most ``radius``
    steps along rows and columns away. Where the grid is so small that one is reached in two ways,
    it stands there once.

    Args:
        cell: its number, from 0; on a torus row by row.
        cells: number of cells.
        topology: ``"ring"`` or ``"torus"``.
        radius: greatest distance; 0 means the cell alone.
    """
    rows, columns = (1, cells) if topology == "ring" else torus_shape(cells)
    row, column = divmod(cell, columns)
    found = []
    for other in range(cells):
        down, right = abs(other // columns - row), abs(other % columns - column)
        distance = min(down, rows - down) + min(right, columns - right)
        if distance <= radius:
            found.append((distance, other))
    return tuple(other for _, other in sorted(found))


def waves(order: list[int], neighbours: list[tuple[int, ...]]) -> list[list[int]]:
    """Cells that may be updated at the same time although they are visited one after the other.

    A cell reads its neighbours as they are when its turn comes, so it comes after those of them
    that stand before it in the order, and can go along with any other.

    Args:
        order: the order of the visits.
        neighbours: what every cell reads.
    """
    level: dict[int, int] = {}
    for cell in order:
        earlier = [level[other] for other in neighbours[cell] if other in level]
        level[cell] = 1 + max(earlier, default=-1)
    found: list[list[int]] = [[] for _ in range(1 + max(level.values(), default=-1))]
    for cell in order:
        found[level[cell]].append(cell)
    return found


CANONICAL, COEVOLVE = "canonical", "coevolve"
NODE, WEIGHT = "node", "weight"
NONE = "none"

_CHOICES = {
    "mode": (CANONICAL, COEVOLVE),
    "topology": TOPOLOGIES,
    "updates": ("asynchronous", "synchronous"),
    "exchange": ("apart", "together"),
    "unit": ("auto", NODE, WEIGHT),
}
# A slip of the finger must not fill the memory.
_MOST = {"code": 10_000, "epochs": 1_000_000, "cells": 1_000, "seed": MOST_SEED}


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
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}"
                )
        self._check_whole_numbers()
        self._check_numbers()
        if self.loss != "auto":
            named_loss(self.loss)
        named_schedule(self.schedule, self.probability)
        if self.topology == "torus" and self.mode == COEVOLVE:
            torus_shape(self.cells)
        if self.regrow and self.target_sparsity:
            raise UserError(
                "target_sparsity needs masks that are held; leave it out, or leave out regrow"
            )
        if self.target_sparsity and self.operator == NONE:
            raise UserError("target_sparsity needs an operator; leave it out, or name one")

    def _check_whole_numbers(self) -> None:
        least = {
            "limit": 0, "code": 0, "epochs": 1, "batch_size": 1, "samples": 2, "cells": 1,
            "radius": 0, "tournament": 1, "selection_samples": 1, "seed": 0,
        }  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"{name} is {value!r}; it must be a whole number, at least {low}")
        for name, high in _MOST.items():
            if getattr(self, name) > high:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at most {high}")

    def _check_numbers(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 < self.rate_decay <= 1:
            raise UserError(f"rate_decay is {self.rate_decay}; it must be above 0 and at most 1")
        if not (math.isfinite(self.rate_step) and self.rate_step >= 0):
            raise UserError(f"rate_step is {self.rate_step}; it must be 0 or more")
        if not self.temperature >= 0:
            raise UserError(f"temperature is {self.temperature}; it must be 0 or more, or inf")
        if not 0 < self.amount < 1:
            raise UserError(f"amount is {self.amount}; it must be above 0 and below 1")
        if not 0 <= self.target_sparsity < 1:
            raise UserError(
                f"target_sparsity is {self.target_sparsity}; it must be at least 0 and below 1"
            )

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON, which knows no infinity: that temperature is ``"inf"`` there."""
        settings = super().to_json()
        if math.isinf(self.temperature):
            settings["temperature"] = "inf"
        return settings

    @property
    def grid(self) -> list[tuple[int, ...]]:
        """The neighbourhood of every cell; in canonical training there is one cell."""
        if self.mode == CANONICAL:
            return [(0,)]
        return [
            neighbourhood(cell, self.cells, self.topology, self.radius)
            for cell in range(self.cells)
        ]
