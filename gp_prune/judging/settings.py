"""The settings of a comparison of metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from gp_prune.apply.options import as_allocation, check_sequential
from gp_prune.apply.own_task import TaskOptions, check_granularity, full_name, may_need_data
from gp_prune.base.files import resolve_path
from gp_prune.base.sizes import MAX_MEMORY
from gp_prune.errors import SEED, SHARE, UserError, brief, check_fields, one_of, whole
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.file import ALLOCATIONS, RESIDUAL_WHOLE, bundled_metrics, check_ranks
from gp_prune.metric.metric import Metric
from gp_prune.pruning.plan.channels import BUDGET_KINDS, Budget
from gp_prune.pruning.plan.weights import Pattern
from gp_prune.runs.settings import Settings
from gp_prune.search.start_formulas import expand_names, load_formula
from gp_prune.tasks.data import DATA_SETS
from gp_prune.tasks.models import KINDS

SPLITS = ("validation", "test")
SHORT = 60
"""Mini-batches of short fine-tuning, as in the final comparison of a search."""

LEAST_DRAWS = 3
"""Draws of a metric that reads random numbers, at least."""

KEEP = {"channel": (0.75, 0.5, 0.3), "weight": (0.5, 0.2, 0.1, 0.05)}
BUDGETS = {"channel": ("macs", "params"), "weight": ("params",)}
DEFAULT_ALLOCATIONS = ("global", "uniform")
BASELINES = {"channel": ("random", "l1"), "weight": ("random_weight", "magnitude")}
"""What always stands in a comparison; the last one is the default baseline."""

_RULES = {
    "keep": SHARE,
    "budget_kind": one_of(*BUDGET_KINDS),
    "fine_tune": whole(0),
    "seeds": whole(1, 10_000),
    "split": one_of(*SPLITS),
    "seed": SEED,
    "calibration": whole(1),
    "kind": one_of("", *KINDS),
    "input_shape": whole(1),
    "most": whole(0),
}


@dataclass(frozen=True)
class CompareSettings(Settings):
    """What decides the result of a comparison.

    Attributes:
        metrics: what is compared: names of bundled metrics, paths of metric files, texts of
            formulas, ``NAME=FORMULA``, or contents of metric files.
        bundled: whether all bundled metrics of the granularity are compared, too.
        granularity: ``"channel"`` or ``"weight"``; empty for that of the metrics.
        tasks: names of the tasks.
        keep: shares to keep; empty for the default of the granularity.
        budget_kind: what they count; empty for the default of the granularity.
        pattern: patterns N:M of single weights, a table of their own, as they leave nothing to
            divide; without ``keep`` they stand in the place of shares.
        sequential: whether each block of a network is scored on the outputs of the pruned blocks
            before it, for metrics of single weights.
        allocation: how a budget is divided among the layers, each of them a table of its own: names
            of :data:`gp_prune.metric.file.ALLOCATIONS` or metrics. Empty means ``"global"`` and
            ``"uniform"``, as the division alone explains differences of several points; with
            ``sequential``, which ranks no blocks together, ``"uniform"`` alone.
        fine_tune: mini-batches of fine-tuning.
        seeds: orders of fine-tuning samples, and draws of random numbers (at least
            :data:`LEAST_DRAWS`).
        baseline: name of the metric that all others are tested against; empty for L1 or magnitude.
        split: ``"validation"``, or ``"test"`` for a final report.
        seed: seed of everything random.
        calibration: samples that the metrics are measured on.
        max_memory: most memory, with its unit, for what is measured.
        primitives: users' files with further primitives.
        data: a data set or a folder of images for the networks that bring none.
        kind: what those networks do.
        model_weights: a state dict, or DEFAULT, for those networks.
        input_shape: sizes of one input of those networks.
        most: most samples that those networks take of each part of the data; 0 for all.

    Raises:
        UserError: a value is out of range.
    """

    metrics: tuple[str, ...] = ()
    bundled: bool = False
    granularity: str = ""
    tasks: tuple[str, ...] = ()
    keep: tuple[float, ...] = ()
    budget_kind: tuple[str, ...] = ()
    pattern: tuple[str, ...] = ()
    sequential: bool = False
    allocation: tuple[str, ...] = ()
    fine_tune: int = 0
    seeds: int = 1
    baseline: str = ""
    split: str = "validation"
    seed: int = 0
    calibration: int = 512
    max_memory: str = MAX_MEMORY
    primitives: tuple[str, ...] = ()
    data: str = ""
    kind: str = ""
    model_weights: str = ""
    input_shape: tuple[int, ...] = ()
    most: int = 0

    def __post_init__(self) -> None:
        """Check the fields, and write files by their absolute paths."""
        if self.granularity:
            check_fields(self, {"granularity": one_of(*KEEP)})
        check_fields(self, _RULES)
        self.normalise_memory()
        known = {*bundled_metrics(), *ALLOCATIONS}
        for name in ("metrics", "allocation"):
            texts = tuple(resolve_path(text, known) for text in getattr(self, name))
            object.__setattr__(self, name, texts)
        object.__setattr__(self, "tasks", tuple(map(full_name, self.tasks)))
        object.__setattr__(self, "data", resolve_path(self.data, DATA_SETS))
        object.__setattr__(self, "model_weights", resolve_path(self.model_weights))
        patterns = tuple(str(Pattern.parse(text)) for text in self.pattern)
        object.__setattr__(self, "pattern", patterns)
        for name in ("tasks", "keep", "budget_kind", "pattern", "allocation"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise UserError(f"{name} is {', '.join(map(str, values))}; name each once")
        if not self.tasks:
            raise UserError("no task is named; name at least one with --on (tasks)")
        if not self.metrics and not self.bundled:
            raise UserError("no metric is named; name at least one, or all bundled ones")
        options = [n for n in ("data", "kind", "model_weights", "most") if getattr(self, n)]
        if options and not any(map(may_need_data, self.tasks)):
            raise UserError(
                f"{' and '.join(options)}: for networks that bring no data, and "
                f"{', '.join(self.tasks)} need none; leave out what is not used"
            )

    @property
    def task_options(self) -> TaskOptions:
        """Return what the networks get that bring no data."""
        return TaskOptions(self.data, self.kind, self.model_weights, self.input_shape, self.most)

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Return the budgets, from the largest share to the smallest of each kind."""
        keep = sorted(self.keep, reverse=True)
        return tuple(Budget(kind, share) for kind in self.budget_kind for share in keep)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Return the patterns."""
        return tuple(map(Pattern.parse, self.pattern))


class Entered(NamedTuple):
    """What takes part in a comparison.

    Attributes:
        settings: with the defaults of the granularity filled in.
        metrics: in the order in which they were named, then bundled ones, then the baselines.
        allocations: name -> None for one of the named rules, else the metric that gives the shares.
    """

    settings: CompareSettings
    metrics: tuple[Metric, ...]
    allocations: dict[str, Metric | None]

    @property
    def shares(self) -> tuple[Metric, ...]:
        """Return the metrics that give shares of layers."""
        return tuple(metric for metric in self.allocations.values() if metric is not None)


def enter(settings: CompareSettings, primitives: PrimitiveSet) -> Entered:
    """Load the metrics of a comparison and fill in what depends on their granularity.

    Args:
        settings: of the comparison.
        primitives: the vocabulary.

    Raises:
        UserError: a metric cannot be loaded, they rank both channels and single weights, two have
            one name, the baseline is none of them, or an allocation does not fit.
    """
    metrics = [load_metric(text, primitives) for text in expand_names(settings.metrics)]
    for metric in metrics:
        check_ranks(metric)
    granularity = settings.granularity or (metrics[0].granularity if metrics else "channel")
    for metric in metrics:
        if metric.granularity != granularity:
            raise UserError(
                f"metric {metric.name!r} ranks {metric.granularity}s where {granularity}s are "
                "compared; compare metrics of one granularity"
            )
    check_granularity(settings.tasks, granularity)
    names = [*BASELINES[granularity]]
    if settings.bundled:
        names = [*bundled_metrics(), *names]
    bundled = [Metric.load(name, primitives) for name in dict.fromkeys(names)]
    metrics += [metric for metric in bundled if metric.granularity == granularity]
    unique: dict[str, Metric] = {}
    for metric in metrics:
        other = unique.setdefault(metric.name, metric)
        if other.digest != metric.digest:
            raise UserError(
                f"two metrics are called {metric.name!r}; write NAME=FORMULA, or give a file "
                "another name"
            )
    baseline = settings.baseline or BASELINES[granularity][-1]
    if baseline not in unique:
        raise UserError(
            f"the baseline (--baseline) is {brief(baseline)}, which is not compared; choose among "
            f"{', '.join(unique)}"
        )
    if settings.pattern and granularity != "weight":
        raise UserError(
            f"pattern (--pattern) is {', '.join(settings.pattern)}, which is one of single "
            f"weights, and the metrics rank {granularity}s; compare metrics of weights, or leave "
            "the pattern out"
        )
    settings = replace(
        settings,
        granularity=granularity,
        keep=settings.keep or (() if settings.pattern else KEEP[granularity]),
        budget_kind=settings.budget_kind or BUDGETS[granularity],
        allocation=settings.allocation or DEFAULT_ALLOCATIONS[settings.sequential :],
        baseline=baseline,
    )
    if settings.sequential:
        for name in settings.allocation:
            scope = "global" if name == "global" else "layer"  # `own` is that of each metric
            ranked = (scope, settings.budget_kind) if settings.keep else None
            check_sequential("the comparison", granularity, ranked)
    return Entered(settings, tuple(unique.values()), _allocations(settings, primitives))


def load_metric(text: str, primitives: PrimitiveSet) -> Metric:
    """Return a metric by its name, its path, its formula, ``NAME=FORMULA`` or a file's content.

    Raises:
        UserError: it is no metric in any form.
    """
    if text.lstrip().startswith("{"):
        return Metric.from_text(text, "given as text", primitives)
    name, equal, formula = text.partition("=")
    if equal and not text.endswith(".json"):
        return Metric.parse(formula, name=name.strip(), primitives=primitives)
    return load_formula(text, primitives)


def metric_text(metric: Any) -> str:
    """Return a metric, given in any form, as the settings hold it."""
    if not isinstance(metric, Metric):
        return str(metric)
    if metric.name in bundled_metrics() and Metric.load(metric.name).digest == metric.digest:
        return metric.name
    return json.dumps(metric.to_json())


def _allocations(settings: CompareSettings, primitives: PrimitiveSet) -> dict[str, Metric | None]:
    allocations: dict[str, Metric | None] = {}
    for text in settings.allocation:
        known = text if text in ALLOCATIONS else load_metric(text, primitives)
        given = as_allocation(known, primitives)
        if settings.granularity == "weight" and (
            not isinstance(given, str) or given == RESIDUAL_WHOLE
        ):
            raise UserError(
                f"allocation {text!r} divides channels, and single weights are compared; use own, "
                "global or uniform"
            )
        if isinstance(given, Metric) and given.granularity == "weight":
            raise UserError(
                f"allocation {given.name!r} ranks single weights; use a metric of channels"
            )
        name = given if isinstance(given, str) else f"by {given.name}"
        allocations[name] = None if isinstance(given, str) else given
    return allocations
