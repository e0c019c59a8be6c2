"""The settings of a genetic pruning, as one object that is written into the run folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gp_prune.errors import UserError
from gp_prune.runs.config import MOST_SEED, Settings
from gp_prune.training import FineTuning

GRANULARITIES = ("auto", "channel", "weight")
SELECTIONS = ("auto", "nsga2", "truncation", "tournament", "roulette")
CROSSOVERS = ("microbial", "uniform")
COUNTED = ("auto", "conv", "all")

_Rule = tuple[Callable[[Any], bool], str]


def _whole(least: int) -> _Rule:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"a whole number, at least {least}",
    )


def _seed() -> _Rule:
    fits, _ = _whole(0)
    return (
        lambda value: fits(value) and value <= MOST_SEED,
        f"a whole number from 0 to {MOST_SEED}",
    )


def _number(fits: Callable[[float], bool], words: str) -> _Rule:
    def check(value: Any) -> bool:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        return real and math.isfinite(value) and fits(value)

    return check, words


_SHARE = _number(lambda value: 0 <= value <= 1, "a share between 0 and 1")
_PART = _number(lambda value: 0 < value <= 1, "a share greater than 0 and at most 1")
_POSITIVE = _number(lambda value: value >= 0, "a number, at least 0")

_RULES: dict[str, _Rule] = {
    "population": _whole(2),
    "generations": _whole(1),
    "stall": _whole(0),
    "rounds": _whole(1),
    "patience": _whole(0),
    "elites": _whole(1),
    "epochs": _whole(0),
    "final_epochs": _whole(0),
    "points": _whole(1),
    "batch_size": _whole(1),
    "shift": _whole(0),
    "samples": _whole(1),
    "calibration": _whole(1),
    "seed": _seed(),
    "model_seed": _seed(),
    "most": _whole(0),
    "max_evaluations": _whole(0),
    "temperature": _POSITIVE,
    "amount": _PART,
    "restore": _number(lambda value: 0 <= value < 1, "a share of at least 0 and less than 1"),
    "crossover_rate": _SHARE,
    "reach": _PART,
    "tolerance": _POSITIVE,
    "limit": _POSITIVE,
    "distill": _SHARE,
    "learning_rate": _number(lambda value: value > 0, "a number greater than 0"),
    "weight_decay": _POSITIVE,
}
_LISTS = {
    "granularity": GRANULARITIES, "selection": SELECTIONS, "crossover": CROSSOVERS,
    "macs": COUNTED,
}  # fmt: skip


@dataclass(frozen=True)
class GeneticSettings(Settings):
    """How one network is pruned.

    Attributes:
        model: a task, ``torchvision:NAME``, ``timm:NAME`` or ``FILE.py:FUNCTION``; empty for a
            network in memory.
        data: data set or folder of images; empty for the data of a task.
        weights: file with a state dict for a network that is not a task's.
        input_shape: sizes of one input sample.
        model_seed: of random weights, and of a task's training.
        validation_share: share of the images to judge on, where a data set brings no split.
        most: largest number of samples; 0 for all.
        primitives: files with operands and operators of the metrics.
        lambdas: weights of error, MACs kept and parameters kept in one fitness, as in the paper;
            empty for the Pareto front of the three.
        granularity: what a gene removes: ``"auto"``: channels of convolutions and single weights
            of linear layers, ``"channel"``, ``"weight"``.
        macs: which MACs count: ``"conv"`` (those of the convolutions), ``"all"``, or ``"auto"``:
            of the convolutions where there are any.
        mutations: names or files of the metrics that guide the mutations, and ``"random"``; empty
            for the default pool.
        temperature: of every metric's mutation (see :class:`gp_prune.metric.mutation`).
        amount: mean share of what is alive that a mutation removes from a layer.
        restore: share of the mutations that bring something back.
        adaptive: whether the mutations that succeed are drawn more often.
        selection: ``"nsga2"`` for the front; with ``lambdas`` ``"truncation"``, ``"tournament"``
            or ``"roulette"``; ``"auto"`` is the first that fits.
        crossover: ``"microbial"`` (Harvey; the loser takes over genes of the winner) or
            ``"uniform"`` (each gene from either parent).
        crossover_rate: share of the offspring that have two parents.
        population: plans per generation.
        generations: most generations of a round.
        stall: generations without progress after which a round has converged; 0 = never.
        rounds: most turns of genetic algorithm and retraining.
        patience: rounds without a better network within the tolerance after which the run ends;
            0 = never.
        elites: plans that are retrained in a round.
        epochs: of retraining after each round.
        points: networks that are retrained to the end, compared and judged; with ``lambdas`` half
            of them close in on the fittest within the limit.
        final_epochs: of that retraining.
        distill: share of the loss that compares with the dense network.
        shift: pixels by which training images are moved at most, at random.
        learning_rate: highest learning rate of retraining (AdamW).
        weight_decay: of retraining.
        batch_size: of retraining.
        reach: how far the error may rise before retraining, as a share of the way from the dense
            network to a guess that looks at no input.
        tolerance: how much more error than the dense network's, in its own unit, a retrained
            network may have to be pruned further; the retraining at the end mends some of it.
        limit: how much more error than the dense network's the recommended one may have.
        samples: most validation samples on which a plan is tried before retraining.
        calibration: training samples on which the metrics measure.
        max_evaluations: plans that are tried at most; 0 for any number.
        baselines: whether random and L1 pruning to the same sizes are retrained, too.
        seed: of everything random.

    Raises:
        UserError: a value is out of range, or two do not fit together.
    """

    model: str = "lenet-digits"
    data: str = ""
    weights: str = ""
    input_shape: tuple[int, ...] = ()
    model_seed: int = 0
    validation_share: float = 0.2
    most: int = 0
    primitives: tuple[str, ...] = ()
    lambdas: tuple[float, ...] = ()
    granularity: str = "auto"
    macs: str = "auto"
    mutations: tuple[str, ...] = ()
    temperature: float = 0.1
    amount: float = 0.1
    restore: float = 0.1
    adaptive: bool = True
    selection: str = "auto"
    crossover: str = "microbial"
    crossover_rate: float = 0.5
    population: int = 32
    generations: int = 12
    stall: int = 4
    rounds: int = 8
    patience: int = 4
    elites: int = 4
    epochs: int = 6
    points: int = 6
    final_epochs: int = 16
    distill: float = 0.5
    shift: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    batch_size: int = 64
    reach: float = 0.3
    tolerance: float = 0.02
    limit: float = 0.005
    samples: int = 1000
    calibration: int = 256
    max_evaluations: int = 0
    baselines: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, (fits, rule) in _RULES.items():
            if not fits(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be {rule}")
        for name, allowed in _LISTS.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(allowed)
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        self._check_lambdas()
        if (self.selects == "nsga2") == bool(self.lambdas):
            raise UserError(
                f"selection is {self.selection!r}; nsga2 is for the Pareto front, and truncation, "
                "tournament and roulette are for one fitness, so give lambdas with these alone"
            )

    def _check_lambdas(self) -> None:
        if not self.lambdas:
            return
        fits = len(self.lambdas) == 3 and all(map(_POSITIVE[0], self.lambdas))
        if not fits or not any(self.lambdas):
            raise UserError(
                f"lambdas are {self.lambdas}; give three numbers of at least 0, for error, MACs "
                "and parameters, not all of them 0"
            )

    @property
    def selects(self) -> str:
        """The selection that is used."""
        if self.selection != "auto":
            return self.selection
        return "truncation" if self.lambdas else "nsga2"

    @property
    def pareto(self) -> bool:
        """Whether the objectives stay three."""
        return not self.lambdas

    def tuning(self, epochs: int, seed: int) -> FineTuning:
        """How a plan is retrained for so many epochs; distillation is left to the caller."""
        return FineTuning(
            epochs=epochs,
            optimiser="adamw",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            warm_up=0.1,
            seed=seed,
        )
