"""Canonical training: one autoencoder, a learning rate that falls in steps."""

from __future__ import annotations

from gp_prune.guided.autoencode.settings import AutoencodeSettings

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
