"""The settings of a search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from gp_prune.apply.options import check_sequential
from gp_prune.apply.own_task import TaskOptions, check_granularity, full_name, may_need_data
from gp_prune.base.files import resolve_path
from gp_prune.base.sizes import MAX_MEMORY
from gp_prune.errors import SEED, UserError, brief, check_fields, number, one_of, whole
from gp_prune.language.axes import CHANNEL, SCALAR, WEIGHT, Axes
from gp_prune.language.expression import MAX_HEIGHT, MAX_NODES
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.file import Conventions
from gp_prune.pruning.plan.channels import BUDGET_KINDS, Budget
from gp_prune.pruning.plan.weights import Pattern, Target
from gp_prune.runs.processes import ResourceLimits
from gp_prune.runs.settings import Settings
from gp_prune.search.objectives import (
    AGGREGATES,
    COSTS,
    ERRORS,
    LATENCY,
    SIZE,
    WORST_ERROR,
    Objective,
    Objectives,
    parse_objectives,
)
from gp_prune.search.start_formulas import SELECT, expand_names, load_formula, store_metric
from gp_prune.search.validation_tasks import are_language_models, choose_validation_tasks
from gp_prune.tasks.data import DATA_SETS
from gp_prune.tasks.models import KINDS, PREDICTED

ROOTS = {"channel": CHANNEL, "weight": WEIGHT, "layer": SCALAR}

STRATEGIES = ("evolve", "random")

DEFAULT_TASKS = ("lenet-digits", "caffe_lenet-digits", "resnet-digits", "resnet-digits@1")
DEFAULT_BUDGET_KINDS = {"channel": ("macs",), "weight": ("params",), "layer": ("macs",)}
DEFAULT_OBJECTIVES = ("error", "size")
"""Besides the costs that the budgets of the ladder leave free."""
DEFAULT_LADDERS = {"channel": (0.5, 0.3), "weight": (0.3, 0.15), "layer": (0.5, 0.3)}
DEFAULT_BUDGETS = {"channel": (0.5, 0.15), "weight": (0.3, 0.2), "layer": (0.5, 0.15)}
"""Few of the networks that keep a third or more differ after fine-tuning, so one keeps less."""

_TASKS = ("tasks", "validate_on", "report_on")
_OF_NETWORKS = ("data", "kind", "model_weights", "input_shape", "most")
"""Settings of the networks that bring no data."""

AUTO = "auto"
"""In the place of names: the default."""

_SIZE_LIMITS = {"channel": 75, "weight": 75, "layer": 9}
_LANGUAGE_LADDER = (0.5, 0.4)
_LANGUAGE_BUDGETS = (0.5, 0.4, 0.3)
"""For the weights of language models: without training, with fewer weights all formulas fail."""
_LANGUAGE_EVALUATIONS = 500
"""Behaviours that a search on one small language model tries within ten minutes on two cores."""
_FINAL_STEPS = 30

_SHARE = number(above=0, most=1)
_RULES = {
    "granularity": one_of(*ROOTS),
    "population": whole(4, 100_000),
    "generations": whole(0, 1_000_000),
    "seed": SEED,
    "ladder": _SHARE,
    "budget_kind": one_of(*BUDGET_KINDS),
    "aggregate": one_of(*AGGREGATES),
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
    "final_steps": whole(-1),
    "final_seeds": whole(1, 10_000),
    "finalists": whole(0),
    "front_size": whole(1, 100_000),
    "recommended_size": whole(1),
    "size_limit": whole(3, MAX_NODES),
    "height_limit": whole(2, MAX_HEIGHT),
    "crossover": number(least=0, most=1),
    "factors": one_of("auto", "on", "off"),
    "calibration": whole(1),
    "kind": one_of("", *KINDS),
    "input_shape": whole(1),
    "most": whole(0),
}
_DEFAULTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "ladder": DEFAULT_LADDERS, "budgets": DEFAULT_BUDGETS, "budget_kind": DEFAULT_BUDGET_KINDS
}  # fmt: skip
_OF_LANGUAGE = {"ladder": _LANGUAGE_LADDER, "budgets": _LANGUAGE_BUDGETS}
_LISTS = ("budget_kind", "pattern", "objectives", "operands", "operators", "exclude")
"""Settings that may be given as one text, with commas."""


def _option(name: str) -> str:
    """Return the option of the command line that gives a setting."""
    return "--" + {"model_weights": "weights"}.get(name, name).replace("_", "-")


def split_names(text: str, setting: str) -> tuple[str, ...]:
    """Return the names in a list that is separated by commas.

    Args:
        text: the list.
        setting: what it is, for the message.

    Raises:
        UserError: one of them is empty.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UserError(
            f"{setting} is {brief(text)}, where a name is empty; write names separated by commas"
        )
    return names


@dataclass(frozen=True)
class SearchConfig(Settings):
    """What decides the result of a search; two runs with equal settings give equal results.

    Attributes:
        tasks: names of the tasks on which every candidate is tried: a built-in task,
            ``FILE.py:FUNCTION``, ``torchvision:NAME``, ``timm:NAME`` or, for single weights,
            ``hf:FOLDER``.
        validate_on: names of tasks, none of them in the search, on which the formulas of the front
            are compared at the end; they choose the winner. ``("auto",)`` means two built-in
            networks of families that are not in the search, see :meth:`validation_tasks`.
        report_on: names of tasks on which the front is measured at the end, too, and which decide
            nothing.
        leave_one_out: whether there is one search for each task left out, see
            :func:`~gp_prune.search.leave_one_out.leave_one_out`.
        granularity: ``"channel"`` or ``"weight"``, or ``"layer"`` for formulas of the share of each
            layer, see :mod:`gp_prune.pruning.select.allocation`.
        select: the metric of channels that chooses the channels of each layer where the formulas
            give the shares: a bundled one, a start formula, a file or a text; empty means FLAP. The
            winner is saved as a pair with it.
        population: number of candidates that survive a generation, and of its new candidates.
        generations: number of generations after the first population.
        seed: the source of all randomness.
        ladder: shares of channels (or weights) kept at which a candidate is tried; empty means
            the default of the granularity, or patterns alone.
        budget_kind: what the shares of the ladder count: ``"macs"``, ``"params"`` or
            ``"channels"``; a candidate is tried at every share of every kind. Empty means the
            default of the granularity.
        objectives: what is minimised, as ``"NAME"`` or ``"NAME:WEIGHT"``, see
            :data:`~gp_prune.search.objectives.MEANINGS`; empty means the default, with the MACs
            and the parameters as far as the budgets leave them free.
        aggregate: how the errors on all tasks and budgets become one, see
            :data:`~gp_prune.search.objectives.AGGREGATES`.
        budgets: shares of MACs, and of parameters, kept in the final comparison; empty means the
            default of the granularity.
        pattern: patterns N:M at which a candidate is tried, and compared in the end, on single
            weights alone; the blocks decide what is ranked together, not ``scope``. Where neither
            ``ladder`` nor ``budgets`` is given beside them, there are no shares.
        sequential: whether each block of a network is scored on the outputs of the pruned blocks
            before it, where single weights are ranked by row or layer, or in a pattern.
        scope: ``"global"``, ``"layer"``, ``"isomorphic"`` or ``"row"`` ranking, see
            :class:`~gp_prune.metric.file.Conventions`.
        normaliser: what the scores of a layer are divided by before a global ranking.
        join: how the scores of coupled layers become one.
        fine_tune_steps: mini-batches of fine-tuning of a candidate that was promoted to the top,
            where ``tuned_error`` is an objective.
        rung_steps: mini-batches of such fine-tuning on the cheaper rungs, lowest first, on which
            new candidates must prove themselves; empty means that all go to the top at once. They
            pay where fine-tuning is long: of 30 steps they save half of the time, but with a
            quarter that rises right after pruning a search on ``cnn-digits`` finds hardly more
            than as many random formulas.
        rung_samples: most validation samples that the cheaper rungs judge on; 0 means all. The top
            rung and the comparison judge on all.
        promote: for every cheaper rung, the share of its candidates that rises to the next one.
        strategy: ``"evolve"``, or ``"random"`` for random trees in every generation: the baseline.
        adaptive: whether variation operators whose offspring survive are used more often.
        factors: ``"on"`` or ``"off"``: whether half of the random trees, and a further mutation,
            are products or ratios of two parts that read different measurements. ``"auto"`` means
            on for the weights of language models, where searches without start formulas then find
            products such as Wanda's.
        restart: generations without growth of the front after which random trees take the place
            of most of the population; 0 means never.
        max_evaluations: distinct behaviours after which the search ends; 0 means the default: any
            number, and 500 for the weights of language models.
        time_limit: seconds of search after which no new generation begins; 0 means any time. The
            one rule that may make two runs with equal settings differ.
        stall: generations without growth of the front after which the search ends; 0 means never.
        stack: networks of a task that are fine-tuned as one, at most; 1 means each by itself, 0
            means 1 on a CPU and 16 on a GPU. The rounding of the errors depends on it, and of
            stacks another run can reuse those alone that it puts together alike.
        final_steps: mini-batches of fine-tuning in the final comparison; -1 means the default: 30,
            and none for the weights of language models.
        final_seeds: fine-tuning runs per network in the final comparison.
        finalists: formulas of the front, the best right after pruning, that are fine-tuned before
            one of them is recommended; 0 means that the error right after pruning decides alone.
            Where the search minimises ``tuned_error`` alone, this error decides, and none are.
        comparison: whether the front is compared with baselines at the end; otherwise the formula
            with the least error in the search is recommended.
        reduce_within_noise: whether formulas of the front are shortened further before the final
            comparison, as long as the validation error stays within one standard deviation over the
            fine-tuning runs, see :mod:`gp_prune.search.noise_reduction`.
        front_size: most formulas on the front.
        recommended_size: most nodes of the recommended formula.
        size_limit: most nodes of any tree; 0 means the default: 75, and 9 for shares of layers.
        height_limit: greatest height of any tree.
        crossover: share of offspring made by crossover; the others by mutation.
        calibration: samples from which the statistics of the layers are measured.
        max_memory: most memory, with its unit, for what is measured of the layers; what does not
            fit is measured in part, and the run says so.
        operands: names of the operands that are searched; empty for all.
        operators: names of the operators that are searched; empty for all.
        exclude: what is left out of these: names, or families of operands such as ``"labels"`` and
            ``"gradients"``, see :data:`~gp_prune.language.record.FAMILIES`.
        start_formulas: formulas that the first population holds: texts, names of bundled metrics or
            of :mod:`~gp_prune.search.start_formulas`, or paths of metric files. A run keeps their
            texts.
        no_start_formulas: whether the first population has no published metrics, two-factor
            formulas and evolved metrics.
        max_cost: operators with a greater declared cost are left out.
        primitives: users' files with further primitives.
        data: a data set or a folder of images for the networks of ``tasks`` that bring none; for
            ``hf:FOLDER`` of a language model a text file, or a ``.npy`` file of tokens.
        kind: what those networks do: ``"classification"`` (the default) or ``"reconstruction"``;
            a regression needs a :class:`~gp_prune.tasks.Task` with its data.
        model_weights: a state dict, or DEFAULT, for those networks.
        input_shape: sizes of one input of those networks; empty for what they say.
        most: most samples that those networks take of each part of the data; 0 for all.
        candidate_timeout: seconds that one evaluation of a candidate may take; 0 means any time.
            A limit, like the next, makes the result depend on the speed of the machine. A stack
            may use as much as its networks together; one that exceeds that is taken apart.
        candidate_memory: megabytes that one evaluation may take; 0 means any amount.

    Raises:
        UserError: a value is out of range.
    """

    ADJUSTABLE = frozenset(
        {
            "generations", "max_evaluations", "time_limit", "stall", "final_steps", "final_seeds",
            "finalists", "comparison", "reduce_within_noise", "recommended_size",
        }
    )  # fmt: skip

    tasks: tuple[str, ...] = DEFAULT_TASKS
    validate_on: tuple[str, ...] = (AUTO,)
    report_on: tuple[str, ...] = ()
    leave_one_out: bool = False
    granularity: str = "channel"
    select: str = ""
    population: int = 40
    generations: int = 24
    seed: int = 0
    ladder: tuple[float, ...] = ()
    budget_kind: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    aggregate: str = "log"
    budgets: tuple[float, ...] = ()
    pattern: tuple[str, ...] = ()
    sequential: bool = False
    scope: str = "global"
    normaliser: str = "mean"
    join: str = "mean"
    fine_tune_steps: int = 30
    rung_steps: tuple[int, ...] = ()
    rung_samples: int = 1000
    promote: tuple[float, ...] = ()
    strategy: str = "evolve"
    adaptive: bool = True
    factors: str = "auto"
    restart: int = 5
    max_evaluations: int = 0
    time_limit: float = 0.0
    stall: int = 0
    stack: int = 0
    final_steps: int = -1
    final_seeds: int = 3
    finalists: int = 3
    comparison: bool = True
    reduce_within_noise: bool = False
    front_size: int = 12
    recommended_size: int = 25
    size_limit: int = 0
    height_limit: int = 12
    crossover: float = 0.5
    calibration: int = 512
    max_memory: str = MAX_MEMORY
    operands: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    start_formulas: tuple[str, ...] = ()
    no_start_formulas: bool = False
    max_cost: float = 1000.0
    primitives: tuple[str, ...] = ()
    data: str = ""
    kind: str = ""
    model_weights: str = ""
    input_shape: tuple[int, ...] = ()
    most: int = 0
    candidate_timeout: float = 0.0
    candidate_memory: float = 0.0

    def __post_init__(self) -> None:
        """Fill in the defaults of the granularity and check the fields."""
        if isinstance(self.start_formulas, str):
            object.__setattr__(self, "start_formulas", (self.start_formulas,))
        for name in _LISTS:
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, split_names(value, name))
        if not self.size_limit and self.granularity in ROOTS:
            object.__setattr__(self, "size_limit", _SIZE_LIMITS[self.granularity])
        check_fields(self, _RULES)
        self._check_select()
        self.normalise_memory()
        self._check_pattern()
        patterns_alone = self.pattern and not (self.ladder or self.budgets)
        language = self.granularity == "weight" and are_language_models(self.tasks)
        for name, default in _DEFAULTS.items():
            chosen = _OF_LANGUAGE.get(name) if language else None
            if not getattr(self, name) and not (patterns_alone and name in _OF_LANGUAGE):
                object.__setattr__(self, name, chosen or default[self.granularity])
        if self.final_steps < 0:
            object.__setattr__(self, "final_steps", 0 if language else _FINAL_STEPS)
        if self.factors == "auto":
            object.__setattr__(self, "factors", "on" if language else "off")
        if language and not self.max_evaluations:
            object.__setattr__(self, "max_evaluations", _LANGUAGE_EVALUATIONS)
        if self.sequential:
            ranked = (self.scope, self.budget_kind) if self.ladder or self.budgets else None
            check_sequential("the search", self.granularity, ranked)
        self._check_objectives()
        if len(self.promote) != len(self.rung_steps):
            raise UserError(
                f"promote has {len(self.promote)} shares and rung_steps {len(self.rung_steps)} "
                "numbers; give one of each for every cheaper rung"
            )
        if self.reduce_within_noise:
            self._check_noise()
        self.conventions.check_granularity(self.granularity)
        check_granularity((*self.tasks, *self.validate_on, *self.report_on), self.granularity)
        if self.data and self.kind in PREDICTED:
            raise UserError(
                f"data is {brief(self.data)} and kind {self.kind!r}, but images have no "
                f"{PREDICTED[self.kind]} to predict; let a function return a gp_prune.Task with "
                "its data"
            )
        ResourceLimits(self.candidate_timeout, self.candidate_memory)
        for name in _TASKS:
            object.__setattr__(self, name, tuple(map(full_name, getattr(self, name))))
        object.__setattr__(self, "data", resolve_path(self.data, DATA_SETS))
        object.__setattr__(self, "model_weights", resolve_path(self.model_weights))
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise UserError(f"tasks are {list(self.tasks)}; name at least one, each once")
        self._check_options()
        others = [*self.validation_tasks, *self.report_on]
        for name in others:
            if name in self.tasks or others.count(name) > 1:
                raise UserError(
                    f"{name!r} is to choose or report on formulas (validate_on, --validate-on), "
                    "but is there twice or among the tasks of the search; leave it out of one"
                )

    def _check_select(self) -> None:
        """Fill in what chooses channels; raise UserError where the formulas do so themselves."""
        if self.granularity == "layer":
            object.__setattr__(self, "select", self.select or SELECT)
        elif self.select:
            raise UserError(
                f"select (--select) is {brief(self.select)}, which chooses channels where formulas "
                f"give shares of layers, and these rank {self.granularity}s; leave it out, or "
                "search with granularity 'layer'"
            )

    def _check_pattern(self) -> None:
        """Write patterns in one form; raise UserError for what is none, or cannot be asked for."""
        patterns = tuple(str(Pattern.parse(text)) for text in self.pattern)
        object.__setattr__(self, "pattern", patterns)
        if len(set(patterns)) != len(patterns):
            raise UserError(f"pattern is {', '.join(patterns)}; name each pattern once")
        if patterns and self.granularity != "weight":
            raise UserError(
                f"pattern (--pattern) is {', '.join(patterns)}, which is one of single weights, "
                f"and the formulas rank {self.granularity}s; take formulas of weights (granularity "
                "'weight'), or leave the pattern out"
            )

    def _check_options(self) -> None:
        """Raise UserError for data and weights that no network needs."""
        names = (*self.tasks, *self.validate_on, *self.report_on)
        given = [name for name in _OF_NETWORKS if getattr(self, name)]
        if given and not any(map(may_need_data, names)):
            options = " and ".join(map(_option, given))
            raise UserError(
                f"{options} {'is' if len(given) == 1 else 'are'} for networks that bring no data, "
                f"and {', '.join(self.tasks)} need none; name your network, such as "
                "torchvision:resnet18, or leave out what is not used"
            )

    @property
    def validation_tasks(self) -> tuple[str, ...]:
        """Return the tasks, none of them in the search, that choose the winner.

        By default they are those of :func:`choose_validation_tasks`.
        """
        if self.validate_on != (AUTO,):
            return self.validate_on
        return choose_validation_tasks(self.tasks, self.report_on)

    def _check_objectives(self) -> None:
        """Fill in the default objectives, write them in one form, and check them."""
        if len(set(self.budget_kind)) != len(self.budget_kind):
            raise UserError(f"budget_kind is {', '.join(self.budget_kind)}; name each kind once")
        free = [name for name in COSTS if set(self.budget_kind) != {name}]
        objectives = parse_objectives(self.objectives or (*DEFAULT_OBJECTIVES, *free))
        object.__setattr__(self, "objectives", tuple(map(str, objectives)))
        for name in set(COSTS).difference(free).intersection(self.names):
            raise UserError(
                f"{name!r} is an objective, but all candidates keep the same {name} where "
                f"budget_kind is {name}; leave the objective out or add another kind of budget"
            )
        if LATENCY in self.names and self.granularity == "weight":
            raise UserError(
                "'latency' is an objective, but a network whose weights are masked is not faster; "
                "leave it out or search for metrics of channels"
            )
        if any(self.rung_steps) and "tuned_error" not in self.names:
            raise UserError(
                f"rung_steps is {list(self.rung_steps)}, but nothing is fine-tuned where "
                "'tuned_error' is no objective; add it, or give 0 for each rung"
            )

    def _check_noise(self) -> None:
        """Raise UserError where the final comparison gives no standard deviation."""
        for name, value in (("comparison", self.comparison), ("final_steps", self.final_steps)):
            if not value:
                raise UserError(
                    f"reduce_within_noise needs networks that are fine-tuned in the final "
                    f"comparison, but {name} is {value}; change one of the two"
                )
        if self.final_seeds < 2:
            raise UserError(
                "reduce_within_noise needs a standard deviation over fine-tuning runs, but "
                f"final_seeds is {self.final_seeds}; make it 2 or more"
            )

    def with_texts(self, primitives: PrimitiveSet) -> SearchConfig:
        """Return the settings with the texts of formulas in the place of names and files.

        Args:
            primitives: the vocabulary.

        Raises:
            UserError: one is no metric in any form.
        """
        names = expand_names(self.start_formulas)
        metrics = (load_formula(text, primitives) for text in names)
        texts = dict.fromkeys(str(metric.expression) for metric in metrics)
        select = self.select and store_metric(self.select, primitives)
        return replace(self, start_formulas=tuple(texts), select=select)

    @cached_property
    def parsed_objectives(self) -> tuple[Objective, ...]:
        """Return the objectives with their weights."""
        return parse_objectives(self.objectives)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the objectives, in their order."""
        return tuple(objective.name for objective in self.parsed_objectives)

    @property
    def errors(self) -> tuple[str, ...]:
        """Return the names of those objectives that are errors; there is at least one."""
        return tuple(name for name in self.names if name in ERRORS)

    @property
    def judged_repeats(self) -> int:
        """Return the repeats of the error by which the formulas of the front are compared."""
        return self.final_seeds if self.errors[0] == "tuned_error" and self.final_steps else 1

    @property
    def deciding_errors(self) -> tuple[str, ...]:
        """Return the errors that the recommended formula is chosen by.

        The first one is of all formulas of the front; a second one, that after fine-tuning, is of
        the finalists alone.
        """
        both = self.comparison and self.finalists and self.final_steps
        return ERRORS if both and self.errors[0] == ERRORS[0] else self.errors[:1]

    @property
    def weights(self) -> tuple[float, ...]:
        """Return the weights of the objectives, in their order."""
        return tuple(objective.weight for objective in self.parsed_objectives)

    @property
    def worst(self) -> Objectives:
        """Return the worst value of each objective: what a candidate gets that ranks nothing."""
        worst = dict.fromkeys(ERRORS, WORST_ERROR) | {SIZE: float(self.size_limit + 1)}
        return tuple(worst.get(name, 1.0) for name in self.names)

    @property
    def task_options(self) -> TaskOptions:
        """Return what the networks get that bring no data."""
        return TaskOptions(self.data, self.kind, self.model_weights, self.input_shape, self.most)

    @property
    def root(self) -> Axes:
        """Return the type of the trees."""
        return ROOTS[self.granularity]

    @property
    def top_rung(self) -> int:
        """Return the rung of candidates tried in full; only they reach the front."""
        return len(self.rung_steps)

    def steps(self, rung: int) -> int:
        """Return the mini-batches of fine-tuning on a rung; 0 where nothing is fine-tuned."""
        if "tuned_error" not in self.errors:
            return 0
        return (*self.rung_steps, self.fine_tune_steps)[rung]

    @property
    def cells(self) -> tuple[Target, ...]:
        """Return the budgets at which a candidate is tried on each task."""
        shares = [Budget(kind, keep) for kind in self.budget_kind for keep in self.ladder]
        return (*shares, *map(Pattern.parse, self.pattern))

    @property
    def limits(self) -> ResourceLimits:
        """Return what one evaluation may use."""
        return ResourceLimits(self.candidate_timeout, self.candidate_memory)

    @property
    def conventions(self) -> Conventions:
        """Return how the scores of every candidate are used."""
        return Conventions(self.scope, self.normaliser, self.join)
