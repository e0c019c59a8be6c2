"""The settings of a genetic pruning, as one object that is written into the run folder."""

from __future__ import annotations

from dataclasses import dataclass

from gp_prune.base.names import HF
from gp_prune.base.sizes import MAX_MEMORY
from gp_prune.errors import SEED, SHARE, UserError, brief, check_fields, number, one_of, whole
from gp_prune.runs.settings import Settings
from gp_prune.training import FineTuning

_RATE = number(least=0, most=1)
_NOT_NEGATIVE = number(least=0)

_RULES = {
    "population": whole(2, 100_000),
    "generations": whole(1, 1_000_000),
    "stall": whole(0),
    "rounds": whole(1, 100_000),
    "patience": whole(0),
    "elites": whole(1),
    "epochs": whole(0),
    "final_epochs": whole(0),
    "removal_epochs": whole(1),
    "dense_epochs": whole(0),
    "final_params": number(above=0, most=1),
    "points": whole(1, 100_000),
    "batch_size": whole(1),
    "shift": whole(0),
    "samples": whole(1),
    "calibration": whole(1),
    "seed": SEED,
    "model_seed": SEED,
    "most": whole(0),
    "input_shape": whole(1, 1_000_000),
    "validation_share": number(above=0, below=1),
    "max_evaluations": whole(0),
    "temperature": _NOT_NEGATIVE,
    "amount": SHARE,
    "restore": number(least=0, below=1),
    "crossover_rate": _RATE,
    "reach": SHARE,
    "distort": number(least=0, most=5),
    "softening": number(above=0),
    "tolerance": _NOT_NEGATIVE,
    "limit": _NOT_NEGATIVE,
    "distill": _RATE,
    "learning_rate": number(above=0),
    "weight_decay": _NOT_NEGATIVE,
    "averaging": number(least=0, below=1),
    "granularity": one_of("auto", "channel", "weight"),
    "selection": one_of("auto", "nsga2", "truncation", "tournament", "roulette"),
    "crossover": one_of("microbial", "uniform"),
    "macs": one_of("auto", "conv", "all"),
    "goal_macs": number(least=0, below=1),
    "goal_params": number(least=0, below=1),
    "lambdas": _NOT_NEGATIVE,
}


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
        goal_macs: share of the MACs that is small enough: a network that keeps less gains nothing
            by it, so that among those the error decides. 0: fewer are always better.
        goal_params: likewise of the parameters.
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
        dense_epochs: of training of the dense network before the first round, on its own; the run
            starts from the network that has the least validation error, and the others learn from
            its outputs. What is reported is compared with the network as it was given.
        rounds: most turns of genetic algorithm and retraining.
        patience: rounds without a better network within the tolerance after which the run ends;
            0 = never.
        elites: plans that are retrained in a round.
        epochs: of retraining after each round.
        points: networks that are retrained to the end, compared and judged; with ``lambdas`` half
            of them close in on the fittest within the limit.
        final_epochs: of that retraining.
        final_params: share of the parameters that those networks keep at most; before the
            retraining at the end single weights are removed step by step while the networks
            train, fast at first and slowly at the end. 1 removes none.
        removal_epochs: of the training during which these weights are removed.
        distill: share of the loss that compares with the dense network.
        softening: temperature by which the outputs are divided where they are compared.
        shift: pixels by which training images are moved at most, at random.
        distort: strength of the random turns, moves, scales and shears of each training image;
            at 1 up to 0.2 radians, 1/14 of the side, and 10 %.
        learning_rate: highest learning rate of retraining (AdamW).
        weight_decay: of retraining.
        averaging: share of the moving average of the weights that stays in a step of retraining
            (see :class:`gp_prune.FineTuning`); the averaged networks are judged and kept. 0
            averages nothing.
        batch_size: of retraining.
        reach: how far the error may rise before retraining, as a share of the way from the dense
            network to a guess that looks at no input.
        tolerance: how much more error than the dense network's, in its own unit, a retrained
            network may have to be pruned further; the retraining at the end mends some of it.
        limit: how much more error than the dense network's the recommended one may have.
        samples: most validation samples on which a plan is tried before retraining.
        calibration: training samples on which the metrics measure.
        max_memory: most memory, with its unit, for what is measured of the layers; what does not
            fit is measured in part, and the run says so.
        max_evaluations: plans that are tried at most; 0 for any number.
        baselines: whether random and L1 pruning to the same sizes are retrained, too.
        read_test: whether the networks at the end are judged on test samples; without, on the
            validation samples, so that settings can still be changed.
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
    goal_macs: float = 0.0
    goal_params: float = 0.0
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
    dense_epochs: int = 0
    rounds: int = 8
    patience: int = 4
    elites: int = 4
    epochs: int = 6
    points: int = 6
    final_epochs: int = 16
    final_params: float = 1.0
    removal_epochs: int = 12
    distill: float = 0.5
    softening: float = 4.0
    shift: int = 0
    distort: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    averaging: float = 0.0
    batch_size: int = 64
    reach: float = 0.3
    tolerance: float = 0.02
    limit: float = 0.005
    samples: int = 1000
    calibration: int = 256
    max_memory: str = MAX_MEMORY
    max_evaluations: int = 0
    baselines: bool = True
    read_test: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, _RULES)
        self.normalise_memory()
        if self.model.startswith(HF):
            raise UserError(
                f"the model is {brief(self.model)}, but the genetic pruner does not take a network "
                "of transformers; prune it with 'gp-prune apply', or search a metric for it with "
                "'gp-prune evolve --granularity weight'"
            )
        if self.lambdas and (len(self.lambdas) != 3 or not any(self.lambdas)):
            raise UserError(
                f"lambdas are {self.lambdas}; give three numbers of at least 0, for error, MACs "
                "and parameters, not all of them 0"
            )
        if self.final_params < 1 and (self.granularity == "channel" or not self.final_epochs):
            raise UserError(
                f"final_params is {self.final_params}, which removes single weights and retrains "
                "after it; use granularity 'auto' or 'weight', and final_epochs of at least 1"
            )
        if (self.selects == "nsga2") == bool(self.lambdas):
            raise UserError(
                f"selection is {self.selection!r}; nsga2 is for the Pareto front, and truncation, "
                "tournament and roulette are for one fitness, so give lambdas with these alone"
            )

    @property
    def selects(self) -> str:
        """Return the selection that is used."""
        if self.selection != "auto":
            return self.selection
        return "truncation" if self.lambdas else "nsga2"

    @property
    def pareto(self) -> bool:
        """Return whether there are three objectives."""
        return not self.lambdas

    def tuning(self, epochs: int, seed: int, *, decay: bool = True) -> FineTuning:
        """Return how a plan is retrained; distillation is left to the caller.

        Args:
            epochs: of retraining.
            seed: of the order of the samples.
            decay: whether the learning rate falls; while weights are removed it stays high, because
                what is left needs larger steps to take over.
        """
        return FineTuning(
            epochs=epochs,
            optimiser="adamw",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            warm_up=0.1,
            decay=decay,
            averaging=self.averaging,
            seed=seed,
        )
