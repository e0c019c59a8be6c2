"""What the final comparison compares: the formulas of the front by their names, and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gp_prune.language.expression import Expression, canonical
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.search.archive import Archive, Candidate
from gp_prune.search.config import SearchConfig
from gp_prune.search.objectives import SIZE
from gp_prune.search.reduction import Reducer, Reduction
from gp_prune.search.start_formulas import share_metrics

BASELINES = {
    "channel": ("random", "l1"),
    "weight": ("random_weight", "magnitude"),
    "layer": ("uniform", "l1", "gecco_2"),
}
"""What always takes part. Of shares of layers they are the same share of each, and those that the
global rankings of metrics of channels give; the first one is what a formula must beat."""


@dataclass(frozen=True)
class Contender:
    """A formula with the conventions of its use.

    Attributes:
        name: unique in the comparison.
        expression: the formula.
        conventions: how its scores are used.
        candidate: its results in the search; None for a baseline.
        published: the source of a formula of the front that is a published one.
        reduction: how a formula of the front became shorter; None for a baseline, and where a
            result is read from its files (its metrics say it under ``provenance``).
    """

    name: str
    expression: Expression
    conventions: Conventions
    candidate: Candidate | None = None
    published: str = ""
    reduction: Reduction | None = field(default=None, compare=False)


def contenders(
    config: SearchConfig, archive: Archive, published: Sequence[Metric], reducer: Reducer
) -> list[Contender]:
    """Return the formulas to compare: the front, then the baselines.

    The formulas of the front are reduced, and those that become equal are one. One that is a
    published metric, or prunes and ranks like one, is shown as that metric under its name. The
    baselines are random, L1 (or magnitude), and the published metric that did best in the search,
    each under the conventions of this run; random and L1 also as published. Where formulas give
    shares of layers, they are those of :data:`BASELINES`.

    Without a comparison there are no baselines.

    Args:
        config: the settings.
        archive: all candidates of the run.
        published: the reference metrics.
        reducer: shortens the formulas.
    """
    known = find_published(config, published)
    shortlist = archive.shortlist(config.front_size, config.recommended_size, config.weights)
    unique: dict[str, Contender] = {}
    for candidate in shortlist:
        reduction = reducer.reduce(candidate.expression)
        contender = shown_as(config, candidate, reduction, known, reducer)
        unique.setdefault(contender.name, contender)  # others may have become equal to it
    if not config.comparison:
        return [*unique.values()]
    entries: list[Contender] = []
    for baseline in BASELINES[config.granularity]:
        metric = baseline_metric(config, baseline, published)
        # Block after block, all layers cannot be ranked together, as both are published, and for
        # shares of layers the join alone plays a part.
        alike = config.sequential or config.granularity == "layer"
        own = config.conventions if alike else metric.conventions
        entries.append(Contender(baseline, metric.expression, own))
        if own != config.conventions:
            entries.append(_under_conventions(config, metric))
    tried = [(archive.get(expression), metric) for expression, metric in known.items()]
    # Errors compare within a rung only, and the better ones have risen.
    scored = [
        (-c.rung, c.objectives[0], m.name, m) for c, m in tried if c is not None and not c.reason
    ]
    if scored:
        entries.append(_under_conventions(config, min(scored)[-1]))
    for contender in entries:
        unique.setdefault(contender.name, contender)
    return list(unique.values())


def baseline_metric(config: SearchConfig, name: str, published: Sequence[Metric]) -> Metric:
    """Return one of :data:`BASELINES` by its name.

    Args:
        config: the settings.
        name: the name.
        published: the reference metrics.
    """
    primitives = published[0].primitives
    known = share_metrics(primitives) if config.granularity == "layer" else []
    return next(metric for metric in (*known, *published) if metric.name == name)


def find_published(config: SearchConfig, published: Sequence[Metric]) -> dict[Expression, Metric]:
    """Return the published metrics of the granularity by their formula in canonical form."""
    return {canonical(m.expression): m for m in published if m.expression.axes is config.root}


def name_candidate(
    config: SearchConfig, known: Mapping[Expression, Metric], candidate: Candidate
) -> Contender:
    """Return a formula of the front with its name; a published one keeps its own.

    Args:
        config: the settings.
        known: the published metrics, see :func:`find_published`.
        candidate: the formula with its results.
    """
    metric = known.get(candidate.expression)
    name = f"{metric.name}_{config.scope}" if metric else metric_name(config, candidate)
    source = metric.source or metric.name if metric else ""
    return Contender(name, candidate.expression, config.conventions, candidate, source)


def shown_as(
    config: SearchConfig,
    candidate: Candidate,
    reduction: Reduction,
    known: Mapping[Expression, Metric],
    reducer: Reducer,
) -> Contender:
    """Return a formula of the front as its reduction, or as the metric that this is.

    Args:
        config: the settings.
        candidate: the results of the reduction; its formula may be a longer one.
        reduction: how the formula became shorter.
        known: the published metrics, see :func:`find_published`.
        reducer: compares the plans.
    """
    expression = reduction.expression
    metric = known.get(expression) or reducer.find_published(expression, [*known.values()])
    if metric is not None:
        expression = canonical(metric.expression)
    sizes = {SIZE: float(expression.size)}
    values = zip(config.names, candidate.objectives, strict=True)
    objectives = tuple(sizes.get(name, value) for name, value in values)
    shown = replace(candidate, expression=expression, objectives=objectives)
    return replace(name_candidate(config, known, shown), reduction=reduction)


def _under_conventions(config: SearchConfig, metric: Metric) -> Contender:
    """Return a published metric under the conventions of the run."""
    return Contender(f"{metric.name}_{config.scope}", metric.expression, config.conventions)


def metric_name(config: SearchConfig, candidate: Candidate) -> str:
    """Return a name that depends on the meaning of the metric alone."""
    metric = Metric("m", candidate.expression, config.conventions)
    return f"{config.granularity}_{metric.digest.removeprefix('sha256:')[:8]}"
