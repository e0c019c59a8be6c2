"""Operators by name: random, the paper's two, and every saved metric."""

from __future__ import annotations

from typing import Any

from gp_prune.discovery import primitive_set
from gp_prune.errors import UserError
from gp_prune.guided.autoencode.data import Data
from gp_prune.guided.autoencode.pruning import Operator
from gp_prune.guided.autoencode.settings import NODE, NONE, WEIGHT, AutoencodeSettings
from gp_prune.guided.mutation import MetricMutation, random_mutation
from gp_prune.metric import Metric
from gp_prune.statistics.recording import LABEL_NEEDS

PAPER = {"conjunctive": "conjunctive_activation", "variance": "activation_variance"}
"""The operators of the paper by its names, and the metrics that they are."""

RANDOM = "random"
_UNITS = {"channel": NODE, "weight": WEIGHT}


def chosen_metric(settings: AutoencodeSettings) -> Metric | None:
    """The metric of the settings' operator; None for random and none.

    Raises:
        MetricError: there is no such metric, or its file is not valid.
    """
    if settings.operator in (RANDOM, NONE):
        return None
    name = PAPER.get(settings.operator, settings.operator)
    return Metric.load(name, primitive_set(*settings.primitives))


def chosen_unit(settings: AutoencodeSettings, metric: Metric | None) -> str:
    """What the operator prunes, ``"node"`` or ``"weight"``.

    Raises:
        UserError: the metric does not score what was asked for.
    """
    scored = NODE if metric is None else _UNITS[metric.granularity]
    if settings.unit == "auto":
        return scored
    if metric is not None and settings.unit != scored:
        raise UserError(
            f"metric {metric.name!r} scores a {scored}, not a {settings.unit}; leave out unit"
        )
    return settings.unit


def check_labels(metric: Metric | None, data: Data) -> None:
    """UserError where a metric needs class labels and the data has none."""
    if metric is not None and metric.needs & LABEL_NEEDS and data.train.labels is None:
        raise UserError(
            f"metric {metric.name!r} needs class labels, and the data {data.name!r} has none; add "
            "an array 'labels' to it, or choose another metric"
        )


def made(settings: AutoencodeSettings, metric: Metric | None) -> Operator:
    """The operator of the settings."""
    mutation = (
        random_mutation(settings.amount)
        if metric is None
        else MetricMutation(metric, settings.temperature, settings.amount)
    )
    unit = chosen_unit(settings, metric)
    return Operator(mutation, unit, settings.samples, settings.regrow)


def identity(metric: Metric | None) -> dict[str, Any] | None:
    """What decides the draws of a metric, as JSON."""
    if metric is None:
        return None
    return {"name": metric.name, "digest": metric.digest}
