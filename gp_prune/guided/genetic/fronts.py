"""Fronts of networks that no other one dominates, and the volume that they dominate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gp_prune.evolution.fronts import hypervolume
from gp_prune.guided.genetic.elite import Elite
from gp_prune.guided.genetic.selection import kept, weights

REFERENCE = (1.0, 1.0, 1.0)
"""What a front is measured from: a guess that looks at no input, with nothing pruned."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Turn:
    """Where a run stands after a generation or a retraining.

    Attributes:
        round: from 1.
        of: most rounds.
        generation: of the round; None after the retraining of the round.
        evaluations: distinct plans tried so far.
        hypervolume: of all that was tried and retrained, in error by the trivial error, MACs and
            parameters kept.
        front: retrained networks that no other one dominates, the least error first.
        kind: what the errors are: ``"error"`` (rate) or ``"mse"``.
    """

    round: int
    of: int
    generation: int | None
    evaluations: int
    hypervolume: float
    front: tuple[Elite, ...]
    kind: str


class Volume:
    """The volume that all networks so far dominate.

    Attributes:
        size: between 0 and 1.
    """

    def __init__(self) -> None:
        self._points: list[Vector] = []
        self.size = 0.0

    def see(self, point: Vector) -> None:
        """Take in error by the trivial error, MACs kept and parameters kept of one more network."""
        if any(_no_worse(old, point) for old in self._points):
            return
        self._points = [old for old in self._points if not _no_worse(point, old)] + [point]
        self.size = hypervolume(self._points, REFERENCE)


def _no_worse(one: Vector, other: Vector) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def objectives_of(elite: Elite) -> tuple[float, float, float]:
    """Error, MACs kept, parameters kept."""
    return elite.error, elite.shares.macs, elite.shares.params


def nondominated(elites: Sequence[Elite]) -> list[Elite]:
    """Those that no other one dominates, the least error first; of equal ones the first."""
    front: list[Elite] = []
    for elite in sorted(elites, key=objectives_of):
        mine = objectives_of(elite)
        if not any(_no_worse(objectives_of(other), mine) for other in front):
            front.append(elite)
    return front


def compromises(elites: Sequence[Elite], count: int) -> list[Elite]:
    """The best of so many compromises between MACs kept and parameters kept, each once."""
    left = list({id(elite): elite for elite in elites}.values())
    chosen: list[Elite] = []
    for weight in weights(min(count, len(left))):
        order = {elite.number: (kept(elite.shares, weight), elite.error) for elite in left}
        best = min(left, key=lambda elite: order[elite.number])
        chosen.append(best)
        left.remove(best)
    return chosen
