"""Compare rankings: which bundled metrics a formula ranks like, and what its terms contribute.

Everything is measured on the layers of the probe networks that come with the package (see
:mod:`gp_prune.tasks.probe_networks`), so it is a statement about small networks for digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gp_prune.formula.matching import OperatorPatterns
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.interpreter import Interpreter
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning.select.scores import ROUNDING, normalise
from gp_prune.tasks.probe_networks import ProbeNetwork, measure_probe_networks

Scores = NDArray[np.float64]

NEAREST = 3
"""Bundled metrics that are named, unless more are asked for."""

_BINARY = {"add": "add", "subtract": "add", "multiply": "multiply", "divide": "multiply"}
"""Role -> role of the chain that a node is part of."""


@dataclass(frozen=True)
class Likeness:
    """What a formula ranks like.

    Attributes:
        taus: Kendall's tau-b with every bundled metric of the granularity, nearest first: 1 for
            equal rankings, 0 for unrelated ones, -1 for opposite ones.
        parts: those of the outermost sum or product, each with the share of the variance of the
            scores that is lost without it; shares of parts that depend on each other may come to
            more than 1.
        kind: ``"terms"`` of a sum, ``"factors"`` of a product, empty if it is neither.
    """

    taus: tuple[tuple[str, float], ...]
    parts: tuple[tuple[str, float], ...]
    kind: str

    @property
    def nearest(self) -> tuple[tuple[str, float], ...]:
        """Return the nearest bundled metrics."""
        return self.taus[:NEAREST]


def likeness(metric: Metric) -> Likeness:
    """Compare a metric with all bundled metrics of its granularity, under its own conventions.

    Scores are divided by the normaliser and ranked within the scope; the tau of several layers or
    networks is the mean, weighted by the number of scores.

    Args:
        metric: the metric; its name is left out of the comparison if it is bundled.

    Raises:
        MissingMeasurement: an operand of the formula cannot be measured on the probe networks.
    """
    others = [
        other
        for other in map(Metric.load, bundled_metrics())
        if other.expression.axes is metric.expression.axes and other.name != metric.name
    ]
    needs = metric.needs.union(*(other.needs for other in others))
    probes = Probes(measure_probe_networks(needs))
    taus = {
        other.name: probes.tau(metric.expression, other.expression, metric.conventions)
        for other in others
        if "noise" not in other.needs
    }
    ordered = sorted(taus.items(), key=lambda item: (-item[1], item[0]))
    kind, parts = leave_one_out(metric.expression, OperatorPatterns(metric.primitives))
    shares = tuple(
        (str(part), probes.lost_variance(metric.expression, rest, metric.conventions))
        for part, rest in parts
    )
    return Likeness(tuple(ordered), shares, kind)


class Probes:
    """Scores of formulas on measured networks.

    Args:
        networks: the networks.
    """

    def __init__(self, networks: Sequence[ProbeNetwork]) -> None:
        self._networks = networks
        self._interpreters = [
            {name: Interpreter(layer) for name, layer in network.layers.items()}
            for network in networks
        ]

    def ranked(self, expression: Expression, conventions: Conventions) -> list[Scores]:
        """Return the scores that are ranked together, flattened: one array for each ranking.

        With scope ``"global"`` and ``"isomorphic"`` these are the layers of a network together,
        with ``"layer"`` each layer, with ``"row"`` each output channel.
        """
        parts: list[Scores] = []
        for network, interpreters in zip(self._networks, self._interpreters, strict=True):
            names = network.layers if "i" in expression.axes else network.ranked
            layers = []
            for name in names:
                values = interpreters[name].evaluate(expression).detach().numpy()
                layers.append(normalise(values.astype(np.float64), conventions.normaliser))
            if conventions.scope == "row":
                parts += [row.ravel() for values in layers for row in values]
            elif conventions.scope == "layer":
                parts += [values.ravel() for values in layers]
            else:
                parts.append(np.concatenate([values.ravel() for values in layers]))
        return parts

    def tau(self, one: Expression, other: Expression, conventions: Conventions) -> float:
        """Return Kendall's tau-b of two formulas, the mean over all rankings of several scores.

        A ranking in which a formula gives equal scores alone counts 0.
        """
        from scipy import stats  # slow to import

        total, weight = 0.0, 0
        pairs = zip(self.ranked(one, conventions), self.ranked(other, conventions), strict=True)
        for x, y in pairs:
            if x.size < 2:
                continue
            tau = float(stats.kendalltau(_round_off(x), _round_off(y)).statistic)
            total += x.size * (tau if math.isfinite(tau) else 0.0)
            weight += x.size
        return total / weight if weight else 0.0

    def rank_alike(self, one: Expression, other: Expression, conventions: Conventions) -> bool:
        """Return whether two formulas rank everything alike, but for rounding."""
        pairs = zip(self.ranked(one, conventions), self.ranked(other, conventions), strict=True)
        return all(_ascends_with(x, y) and _ascends_with(y, x) for x, y in pairs)

    def lost_variance(
        self, whole: Expression, rest: Expression | None, conventions: Conventions
    ) -> float:
        """Return the share of the variance of the scores that the rest does not explain.

        It is 1 - r^2 with the correlation r of both, the mean over all rankings; 1 where the rest
        ranks nothing. What is constant itself has no variance to lose and is left out.
        """
        if rest is None or rest.axes is not whole.axes:
            return 1.0
        total, weight = 0.0, 0
        pairs = zip(self.ranked(whole, conventions), self.ranked(rest, conventions), strict=True)
        for x, y in pairs:
            spread, left = float(np.std(x)), float(np.std(y))
            if x.size < 2 or spread <= ROUNDING * float(np.abs(x).max(initial=0.0)):
                continue
            share = 1.0
            if left > ROUNDING * float(np.abs(y).max()):
                products = ((x - x.mean()) / spread) * ((y - y.mean()) / left)
                share = min(1.0, max(0.0, 1.0 - float(products.mean()) ** 2))
            total += x.size * share
            weight += x.size
        return total / weight if weight else 0.0


def _round_off(values: Scores) -> Scores:
    """Make numbers equal that differ by rounding alone, where they are not small beside others."""
    largest = float(np.abs(values).max())
    if largest == 0 or not math.isfinite(largest):
        return values
    return np.asarray(np.round(values / largest, 12))


def _ascends_with(x: Scores, y: Scores) -> bool:
    """Return whether y never falls, but for rounding, where x rises."""
    ordered = y[np.argsort(x, kind="stable")]
    if not ordered.size:
        return True
    # A cancellation on the way rounds by more than one operation does.
    slack = 1e-9 * float(np.abs(y).max())
    return bool((ordered >= np.maximum.accumulate(ordered) - slack).all())


def leave_one_out(
    expression: Expression, patterns: OperatorPatterns
) -> tuple[str, list[tuple[Expression, Expression | None]]]:
    """Return the parts of the outermost sum or product, each with the formula without it.

    Functions of one argument around the sum or product stay around what is left. What is left is
    None where nothing would be, or nothing of a type that the functions accept.

    Returns:
        ``"terms"``, ``"factors"`` or an empty text, and the pairs.
    """
    outer: list[Expression] = []
    core = expression
    while len(core.arguments) == 1:
        outer.append(core)
        (core,) = core.arguments
    chain = _BINARY.get(patterns.traits(core).role, "")
    if not chain:
        return "", []
    pairs = [(part, _wrapped(rest, outer)) for part, rest in _without_one(core, chain, patterns)]
    return ("terms" if chain == "add" else "factors"), pairs


def _without_one(
    tree: Expression, chain: str, patterns: OperatorPatterns
) -> Iterator[tuple[Expression, Expression | None]]:
    """Yield each part of a chain, with the chain without it."""
    if _BINARY.get(patterns.traits(tree).role) != chain:
        yield tree, None
        return
    first, second = tree.arguments
    neutral = Expression.constant(0.0 if chain == "add" else 1.0)
    inverse = patterns.traits(tree).role in ("subtract", "divide")
    for part, rest in _without_one(first, chain, patterns):
        if rest is None and not inverse:
            yield part, second
        else:
            yield part, _apply(tree, (neutral if rest is None else rest, second))
    for part, rest in _without_one(second, chain, patterns):
        yield part, first if rest is None else _apply(tree, (first, rest))


def _apply(tree: Expression, arguments: Sequence[Expression]) -> Expression | None:
    try:
        return Expression(tree.head, tree.over, arguments)
    except ExpressionError:  # what is left lacks axes
        return None


def _wrapped(rest: Expression | None, outer: Sequence[Expression]) -> Expression | None:
    for node in reversed([*outer]):
        if rest is None:
            return None
        rest = _apply(node, (rest,))
    return rest
