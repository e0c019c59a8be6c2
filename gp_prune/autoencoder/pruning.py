"""One pruning event: the operator measures, draws units of every layer, and they are cut.

A unit is a node of a hidden layer (its incoming weights, its bias and the weights that read it) or
a single weight. Nodes of the code and of the output always stay. The units of each layer are drawn
apart, so every operator removes the same number of units from every layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_prune.autoencoder.data import Data, Samples
from gp_prune.autoencoder.networks import SIDES, Half, Layout, Pair, module
from gp_prune.autoencoder.settings import NODE, NONE, WEIGHT, AutoencodeSettings
from gp_prune.autoencoder.training import Reconstruction
from gp_prune.errors import UserError
from gp_prune.language.registry import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import MetricMutation, random_mutation
from gp_prune.pruning import DegenerateScores, consumers, trace
from gp_prune.statistics import Batch, collect
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


class Operator(NamedTuple):
    """How a pair is pruned.

    Attributes:
        mutation: what draws the units.
        unit: ``"node"`` or ``"weight"``.
        samples: number of training samples that it measures on.
        regrow: whether what is pruned may grow again.
    """

    mutation: MetricMutation
    unit: str
    samples: int
    regrow: bool


def prune(
    pair: Pair,
    layout: Layout,
    operator: Operator,
    train: Samples,
    loss: Reconstruction,
    seed: int,
    stays: float | None,
) -> None:
    """Prune encoder and decoder together, in place.

    With ``stays`` both come to that share of their nodes, and single weights to the number that
    so many nodes would leave. Without it this is one more event of the operator's amount: after
    the j-th, the share ``(1 - amount) ** j`` of the units is alive, rounded anew. With regrowth
    every event sets the share ``amount`` of all units to 0.

    Args:
        pair: what is pruned.
        layout: its widths.
        operator: what draws the units.
        train: the training split, of which the operator measures samples.
        loss: for operators that need gradients.
        seed: of the samples and the draws.
        stays: share of the units of the dense network that is alive afterwards.

    Raises:
        UserError: the scores of the metric are not finite, or it needs labels that are missing.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = _scores(pair, layout, operator, train, loss, generator, seed)
    for side, half in zip(SIDES, pair, strict=True):
        half.events += 1
        goal = (1 - operator.mutation.amount) ** half.events if stays is None else stays
        own = [(name, scores.get(name)) for name in layout.names(side)]
        if operator.unit == NODE:
            _cut_nodes(half, own, goal, operator, generator)
        else:
            _cut_weights(half, own, goal, operator, generator, matched=stays is not None)
        half.apply_mask()
        if operator.regrow:
            half.mask.fill_(1)


def kept(size: int, share: float) -> int:
    """The whole number of units nearest to a share of them, at least one."""
    return max(1, math.floor(size * share + 0.5))


def matched_weights(widths: tuple[int, ...], share: float) -> list[int]:
    """The weights that stay in each layer when that share of the hidden nodes does.

    Args:
        widths: of the layers of an encoder or decoder; its input and output stay whole.
        share: of the nodes of every hidden layer.
    """
    left = [widths[0], *(kept(width, share) for width in widths[1:-1]), widths[-1]]
    return [i * o for i, o in pairwise(left)]


def live_nodes(half: Half) -> list[Tensor]:
    """For every hidden layer, (nodes,) whether each is alive."""
    return [layer.bias.bool() for layer in half.layers(half.mask)[:-1]]


def sparsity(pair: Pair) -> float:
    """Share of the weights that are zero, biases not counted."""
    layers = [layer.weight for half in pair for layer in half.layers()]
    zeros = sum(int((weight == 0).sum()) for weight in layers)
    return zeros / sum(weight.numel() for weight in layers)


def _cut_nodes(
    half: Half,
    scores: list[tuple[str, Tensor | None]],
    goal: float,
    operator: Operator,
    generator: torch.Generator,
) -> None:
    layers = half.layers(half.mask)
    for place, alive in enumerate(live_nodes(half)):
        count = _count(alive, kept(alive.numel(), goal), operator)
        gone = _drawn(operator, *scores[place], alive, count, generator)
        layers[place].weight[gone] = 0
        layers[place].bias[gone] = 0
        layers[place + 1].weight[:, gone] = 0


def _cut_weights(
    half: Half,
    scores: list[tuple[str, Tensor | None]],
    goal: float,
    operator: Operator,
    generator: torch.Generator,
    *,
    matched: bool,
) -> None:
    goals = matched_weights(half.widths, goal)
    for place, layer in enumerate(half.layers(half.mask)):
        mask = layer.weight.view(-1)
        left = goals[place] if matched else kept(mask.numel(), goal)
        alive = mask.bool()
        count = _count(alive, left, operator)
        gone = _drawn(operator, *scores[place], alive, count, generator)
        mask[gone] = 0


def _drawn(
    operator: Operator,
    layer: str,
    scores: Tensor | None,
    alive: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Indices of the units that go; what is wrong with the scores is said of metric and layer."""
    flat = None if scores is None else scores.flatten()
    try:
        return operator.mutation.to_prune(flat, alive, count, generator)
    except DegenerateScores as error:
        raise UserError(
            f"metric {operator.mutation.name!r} does not rank the units of layer {layer!r} "
            f"({error.detail}); choose another operator"
        ) from None


def _count(alive: Tensor, left: int, operator: Operator) -> int:
    """How many units go now."""
    if operator.regrow:
        return alive.numel() - kept(alive.numel(), 1 - operator.mutation.amount)
    return max(0, int(alive.sum()) - left)


def _scores(
    pair: Pair,
    layout: Layout,
    operator: Operator,
    train: Samples,
    loss: Reconstruction,
    generator: torch.Generator,
    seed: int,
) -> Mapping[str, Tensor]:
    """The scores of every layer that has units; none where the operator needs none."""
    metric = operator.mutation.metric
    if metric is None:
        return {}
    network = module(pair, layout)
    count = min(operator.samples, len(train.inputs))
    chosen = torch.randperm(len(train.inputs), generator=generator)[:count]
    inputs = train.inputs[chosen]
    labels = None if train.labels is None else train.labels[chosen]
    names = [name for side in SIDES for name in layout.names(side)]
    if operator.unit == NODE:
        names = [name for name in names if name not in ("latent", "output")]
    outgoing = None
    if "outgoing" in metric.needs:
        outgoing = consumers(trace(network, inputs[:1], interface=("latent",)))
    records = collect(
        network, names, [Batch(inputs, inputs, labels)],
        needs=metric.needs, loss=loss.of_outputs, seed=seed, max_samples=count,
        example_inputs=inputs[:1], outgoing=outgoing,
    )  # fmt: skip
    return {name: metric.scores(record) for name, record in records.items()}
