"""The pruning events of a run, drawn before it begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gp_prune.errors import UserError
from gp_prune.evolution.seeds import derived_seed


@dataclass(frozen=True)
class Events:
    """When each cell prunes, and what then stays.

    Attributes:
        happens: for every epoch, for every cell, whether it prunes after it.
        stays: for every epoch, the share of the units of the dense network that pruning after it
            leaves; None where an event removes a share of what is alive.
    """

    happens: tuple[tuple[bool, ...], ...]
    stays: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        """Number of events of all cells."""
        return sum(map(sum, self.happens))


def no_events(epochs: int, cells: int) -> Events:
    """Nothing is ever pruned."""
    return Events(((False,) * cells,) * epochs)


def draw_events(probabilities: tuple[float, ...], cells: int, seed: int) -> Events:
    """Independent events of all cells.

    Args:
        probabilities: of an event after each epoch.
        cells: number of cells.
        seed: of the draws.
    """
    drawn = torch.rand(len(probabilities), cells, generator=_generator(seed), dtype=torch.float64)
    return Events(
        tuple(
            tuple(bool(value < p) for value in row)
            for row, p in zip(drawn.tolist(), probabilities, strict=True)
        )
    )


def draw_events_to(
    target: float, probabilities: tuple[float, ...], cells: int, seed: int
) -> Events:
    """Events that end at the same sparsity for every schedule, operator and mode.

    All cells prune after the same epochs, because pairs move between cells. The last of k events
    leaves the share ``1 - target`` of the units, the j-th ``(1 - target) ** (j / k)``, so each
    removes the same share of what it finds. If chance has it that there would be no event, there
    is one after the epoch with the greatest probability, the last of these.

    Args:
        target: share of the units that are gone at the end, in (0, 1).
        probabilities: of an event after each epoch.
        cells: number of cells.
        seed: of the draws.

    Raises:
        UserError: the schedule never prunes.
    """
    if not any(probabilities):
        raise UserError(
            "the schedule never prunes, so no sparsity can be reached; raise its probability, or "
            "take more epochs or another schedule"
        )
    drawn = torch.rand(len(probabilities), generator=_generator(seed), dtype=torch.float64)
    happens = [value < p for value, p in zip(drawn.tolist(), probabilities, strict=True)]
    if not any(happens):
        last = max(range(len(happens)), key=lambda place: (probabilities[place], place))
        happens[last] = True
    total, done, stays = sum(happens), 0, []
    for event in happens:
        done += event
        stays.append((1 - target) ** (done / total))
    return Events(tuple((event,) * cells for event in happens), tuple(stays))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed("events", seed))
