"""What a genetic pruning gave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gp_prune.guided.genetic.points import Point
from gp_prune.guided.genetic.settings import GeneticSettings
from gp_prune.guided.genetic.subject import Prepared


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave.

    Attributes:
        folder: the run folder.
        settings: of the run.
        dense: the network that was pruned.
        points: the front, the least error first.
        baselines: name -> networks of the sizes of the points, in their order; None where the
            retraining failed.
        recommended: of the points whose error is within the limit, the one that keeps least, or
            with lambdas the fittest; None where there is none.
        split: what the points were judged on in the end: ``"test"`` or ``"validation"``.
        kind: what the errors are: ``"error"`` (rate) or ``"mse"``.
        evaluations: plans that were tried.
        history: (evaluations, hypervolume) after every generation and every retraining.
        counted: which MACs were an objective: ``"conv"`` or ``"all"``.
        failures: why retrainings gave no network, one reason for each.
        prepared: the network and its data.
    """

    folder: Path
    settings: GeneticSettings
    dense: Point
    points: tuple[Point, ...]
    baselines: dict[str, tuple[Point | None, ...]]
    recommended: Point | None
    split: str
    kind: str
    evaluations: int
    history: tuple[tuple[int, float], ...]
    counted: str
    failures: tuple[str, ...]
    prepared: Prepared
