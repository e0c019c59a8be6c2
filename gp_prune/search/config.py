"""The settings of a search."""

from __future__ import annotations

from dataclasses import dataclass

from gp_prune._sizes import MAX_MEMORY
from gp_prune.errors import SEED, UserError, check_fields, number, one_of, whole
from gp_prune.language.axes import CHANNEL, WEIGHT, Axes
from gp_prune.language.expression import MAX_HEIGHT, MAX_NODES
from gp_prune.metric.file import Conventions
from gp_prune.runs.folder import Settings
from gp_prune.runs.processes import ResourceLimits

ROOTS = {"channel": CHANNEL, "weight": WEIGHT}

STRATEGIES = ("evolve", "random")

DEFAULT_TASKS = ("lenet-digits", "cnn-digits", "autoencoder-digits")
DEFAULT_LADDERS = {"channel": (0.5, 0.3), "weight": (0.3, 0.15)}
DEFAULT_BUDGETS = {"channel": (0.5, 0.3), "weight": (0.3, 0.2)}

_SHARE = number(above=0, most=1)
_RULES = {
    "granularity": one_of(*ROOTS),
    "population": whole(4, 100_000),
    "generations": whole(0, 1_000_000),
    "seed": SEED,
    "ladder": _SHARE,
    "budgets": _SHARE,
    "fine_tune_steps": whole(0),
    "rung_steps": whole(0),
    "rung_samples": whole(0),
    "promote": _SHARE,
    "strategy": one_of(*STRATEGIES),
    "restart": whole(0),
    "max_evaluations": whole(0),
    "time_limit": number(least=0),
    "stall": whole(0),
    "stack": whole(0, 10_000),
    "final_steps": whole(0),
    "final_seeds": whole(1, 10_000),
    "front_size": whole(1, 100_000),
    "recommended_size": whole(1),
    "size_limit": whole(3, MAX_NODES),
    "height_limit": whole(2, MAX_HEIGHT),
    "crossover": number(least=0, most=1),
    "calibration": whole(1),
}


@dataclass(frozen=True)
class SearchConfig(Settings):
    """What decides the result of a search; two runs with equal settings give equal results.

    Attributes:
        tasks: names of the tasks on which every candidate is tried.
        granularity: ``"channel"`` or ``"weight"``.
        population: number of candidates that survive a generation, and of its new candidates.
        generations: number of generations after the first population.
        seed: the source of all randomness.
        ladder: shares of channels (or weights) kept at which a candidate is tried; empty means
            the default of the granularity.
        budgets: shares of MACs, and of parameters, kept in the final comparison; empty means the
            default of the granularity.
        scope: ``"global"``, ``"layer"``, ``"isomorphic"`` or ``"row"`` ranking, see
            :class:`~gp_prune.metric.file.Conventions`.
        normaliser: what the scores of a layer are divided by before a global ranking.
        join: how the scores of coupled layers become one.
        fine_tune_steps: mini-batches of fine-tuning of a candidate that was promoted to the top.
        rung_steps: mini-batches of fine-tuning on the cheaper rungs, lowest first, on which new
            candidates must prove themselves; empty means that all go to the top at once. They pay
            where fine-tuning is long: of 30 steps they save half of the time, but with a quarter
            that rises right after pruning a search on ``cnn-digits`` finds hardly more than as
            many random formulas.
        rung_samples: most validation samples that the cheaper rungs judge on; 0 means all. The top
            rung and the comparison judge on all.
        promote: for every cheaper rung, the share of its candidates that rises to the next one.
        strategy: ``"evolve"``, or ``"random"`` for random trees in every generation: the baseline.
        adaptive: whether variation operators whose offspring survive are used more often.
        restart: generations without growth of the front after which random trees take the place
            of most of the population; 0 means never.
        max_evaluations: distinct behaviours after which the search ends; 0 means any number.
        time_limit: seconds of search after which no new generation begins; 0 means any time. The
            one rule that may make two runs with equal settings differ.
        stall: generations without growth of the front after which the search ends; 0 means never.
        stack: networks of a task that are fine-tuned as one, at most; 1 means each by itself, 0
            means 1 on a CPU and 16 on a GPU. The rounding of the errors depends on it, and of
            stacks another run can reuse those alone that it puts together alike.
        final_steps: mini-batches of fine-tuning in the final comparison.
        final_seeds: fine-tuning runs per network in the final comparison.
        front_size: most formulas on the front.
        recommended_size: most nodes of the recommended formula.
        size_limit: most nodes of any tree.
        height_limit: greatest height of any tree.
        crossover: share of offspring made by crossover; the others by mutation.
        calibration: samples from which the statistics of the layers are measured.
        max_memory: most memory, with its unit, for what is measured of the layers; what does not
            fit is measured in part, and the run says so.
        max_cost: operators with a greater declared cost are left out.
        primitives: users' files with further primitives.
        candidate_timeout: seconds that one evaluation of a candidate may take; 0 means any time.
            A limit, like the next, makes the result depend on the speed of the machine. A stack
            may use as much as its networks together; one that exceeds that is taken apart.
        candidate_memory: megabytes that one evaluation may take; 0 means any amount.

    Raises:
        UserError: a value is out of range.
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    granularity: str = "channel"
    population: int = 40
    generations: int = 24
    seed: int = 0
    ladder: tuple[float, ...] = ()
    budgets: tuple[float, ...] = ()
    scope: str = "global"
    normaliser: str = "mean"
    join: str = "mean"
    fine_tune_steps: int = 30
    rung_steps: tuple[int, ...] = ()
    rung_samples: int = 1000
    promote: tuple[float, ...] = ()
    strategy: str = "evolve"
    adaptive: bool = True
    restart: int = 5
    max_evaluations: int = 0
    time_limit: float = 0.0
    stall: int = 0
    stack: int = 0
    final_steps: int = 60
    final_seeds: int = 3
    front_size: int = 12
    recommended_size: int = 25
    size_limit: int = 75
    height_limit: int = 12
    crossover: float = 0.5
    calibration: int = 512
    max_memory: str = MAX_MEMORY
    max_cost: float = 1000.0
    primitives: tuple[str, ...] = ()
    candidate_timeout: float = 0.0
    candidate_memory: float = 0.0

    def __post_init__(self) -> None:
        """Fill in the defaults of the granularity and check the fields."""
        check_fields(self, _RULES)
        self.normalise_memory()
        for name, default in (("ladder", DEFAULT_LADDERS), ("budgets", DEFAULT_BUDGETS)):
            if not getattr(self, name):
                object.__setattr__(self, name, default[self.granularity])
        if len(self.promote) != len(self.rung_steps):
            raise UserError(
                f"promote has {len(self.promote)} shares and rung_steps {len(self.rung_steps)} "
                "numbers; give one of each for every cheaper rung"
            )
        self.conventions.check_granularity(self.granularity)
        ResourceLimits(self.candidate_timeout, self.candidate_memory)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise UserError(f"tasks are {list(self.tasks)}; name at least one, each once")

    @property
    def root(self) -> Axes:
        """Return the type of the trees."""
        return ROOTS[self.granularity]

    @property
    def top_rung(self) -> int:
        """Return the rung of candidates tried in full; only they reach the front."""
        return len(self.rung_steps)

    def steps(self, rung: int) -> int:
        """Return the mini-batches of fine-tuning on a rung."""
        return (*self.rung_steps, self.fine_tune_steps)[rung]

    @property
    def ladder_kind(self) -> str:
        """Return what the shares of the ladder count, see :class:`~gp_prune.pruning.Budget`."""
        return "channels" if self.granularity == "channel" else "params"

    @property
    def limits(self) -> ResourceLimits:
        """Return what one evaluation may use."""
        return ResourceLimits(self.candidate_timeout, self.candidate_memory)

    @property
    def conventions(self) -> Conventions:
        """Return how the scores of every candidate are used."""
        return Conventions(self.scope, self.normaliser, self.join)
