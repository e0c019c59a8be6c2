"""Spatial cooperative coevolution: cells on a grid, each an encoder and a decoder.

A cell takes an encoder and a decoder from its neighbourhood, trains them together for an epoch,
prunes them, and they take its place (Lipi-AE: Jorgensen et al., GECCO 2025; Hemberg et al., 2024).
"""

from __future__ import annotations

import random

from gp_prune.evolution.seeds import derived_seed
from gp_prune.guided.autoencode.grid import waves
from gp_prune.guided.autoencode.settings import AutoencodeSettings

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
        return random.Random(derived_seed(self._settings.seed, *parts))
