"""Prune a pair once: the operator measures, draws units of every layer, and they are cut.

A unit is a node of a hidden layer (its incoming weights, its bias and the weights that read it) or
a single weight. Nodes of the code and of the output always stay. The units of each layer are drawn
apart, so every operator removes the same number of units from every layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gp_prune.autoencoder.data import FlatData, FlatSamples
from gp_prune.autoencoder.networks import SIDES, AutoencoderLayout, Half, Pair, module
from gp_prune.autoencoder.settings import NODE, NONE, RANDOM, WEIGHT, AutoencodeSettings
from gp_prune.autoencoder.training import Reconstruction
from gp_prune.errors import UserError
from gp_prune.language.primitive import primitive_set
from gp_prune.metric.file import check_ranks
from gp_prune.metric.metric import Metric
from gp_prune.metric.mutation import MetricMutation, random_mutation
from gp_prune.pruning import DegenerateScores, consumers, trace
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.coverage import coverage_of, describe_limit
from gp_prune.statistics.recording import LABEL_NEEDS

PAPER = {"conjunctive": "conjunctive_activation", "variance": "activation_variance"}
"""The operators of the paper by its names, and the metrics that they are."""

_UNITS = {"channel": NODE, "weight": WEIGHT}


def load_metric(settings: AutoencodeSettings) -> Metric | None:
    """Load the metric of the settings' operator; return None for random and none.

    Raises:
        MetricError: there is no such metric, or its file is not valid.
    """
    if settings.operator in (RANDOM, NONE):
        return None
    name = PAPER.get(settings.operator, settings.operator)
    metric = Metric.load(name, primitive_set(*settings.primitives))
    check_ranks(metric)
    return metric


def choose_unit(settings: AutoencodeSettings, metric: Metric | None) -> str:
    """Return what the operator prunes, ``"node"`` or ``"weight"``.

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


def check_labels(metric: Metric | None, data: FlatData) -> None:
    """Raise UserError where a metric needs class labels and the data has none."""
    if metric is not None and metric.needs & LABEL_NEEDS and data.train.labels is None:
        raise UserError(
            f"metric {metric.name!r} needs class labels, and the data {data.name!r} has none; add "
            "an array 'labels' to it, or choose another metric"
        )


class PruningOperator(NamedTuple):
    """How a pair is pruned.

    Attributes:
        mutation: what draws the units.
        unit: ``"node"`` or ``"weight"``.
        samples: number of training samples that it measures on.
        regrow: whether what is pruned may grow again.
        max_memory: most bytes for what it measures; None means the default.
    """

    mutation: MetricMutation
    unit: str
    samples: int
    regrow: bool
    max_memory: int | None = None

    @classmethod
    def of(cls, settings: AutoencodeSettings, metric: Metric | None) -> PruningOperator:
        """Return the operator of the settings."""
        if metric is None:
            mutation = random_mutation(settings.amount)
        else:
            mutation = MetricMutation(metric, settings.temperature, settings.amount)
        unit, count, memory = choose_unit(settings, metric), settings.samples, settings.memory
        return cls(mutation, unit, count, settings.regrow, memory)

    def draw(
        self, layer: str, scores: Tensor | None, alive: Tensor, left: int, random: torch.Generator
    ) -> Tensor:
        """Draw the indices of the units to cut so that ``left`` of those that are alive stay.

        Raises:
            UserError: the scores are of no use; the sentence names metric and layer.
        """
        flat, size = None if scores is None else scores.flatten(), alive.numel()
        count = max(0, int(alive.sum()) - left)
        if self.regrow:
            count = size - round_share(size, 1 - self.mutation.amount)
        try:
            return self.mutation.to_prune(flat, alive, count, random)
        except DegenerateScores as error:
            raise UserError(
                f"metric {self.mutation.name!r} does not rank the units of layer {layer!r} "
                f"({error.detail}); choose another operator"
            ) from None


def prune(
    pair: Pair,
    layout: AutoencoderLayout,
    operator: PruningOperator,
    train: FlatSamples,
    loss: Reconstruction,
    seed: int,
    stays: float | None,
) -> str:
    """Prune encoder and decoder together, in place.

    With ``stays`` both come to that share of their nodes, and single weights to the number that
    this share of the nodes would leave. Without it this is one more event of the operator's
    amount: after the j-th, the share ``(1 - amount) ** j`` of the units is alive, rounded each
    time. With regrowth every event sets the share ``amount`` of all units to 0.

    Args:
        pair: what is pruned.
        layout: its widths.
        operator: what draws the units.
        train: the training split, of which the operator measures samples.
        loss: for operators that need gradients.
        seed: of the samples and the draws.
        stays: share of the units of the dense network that is alive afterwards.

    Returns:
        A sentence where a limit of memory was met, otherwise an empty text.

    Raises:
        UserError: the scores of the metric are not finite, or it needs labels that are missing.
    """
    generator = torch.Generator().manual_seed(seed)
    scores, limit = _score(pair, layout, operator, train, loss, generator, seed)
    for side, half in zip(SIDES, pair, strict=True):
        half.events += 1
        goal = (1 - operator.mutation.amount) ** half.events if stays is None else stays
        names = layout.names(side)
        if operator.unit == NODE:
            _cut_nodes(half, names, scores, goal, operator, generator)
        else:
            matched = count_matched_weights(half.widths, goal) if stays is not None else None
            _cut_weights(half, names, scores, goal, matched, operator, generator)
        half.apply_mask()
        if operator.regrow:
            half.mask.fill_(1)
    return limit


def round_share(size: int, share: float) -> int:
    """Return the whole number of units nearest to a share of them, at least one."""
    return max(1, math.floor(size * share + 0.5))


def count_matched_weights(widths: tuple[int, ...], share: float) -> list[int]:
    """Return the weights that stay in each layer when that share of the hidden nodes does.

    Args:
        widths: of the layers of an encoder or decoder; its input and output stay whole.
        share: of the nodes of every hidden layer.
    """
    left = [widths[0], *(round_share(width, share) for width in widths[1:-1]), widths[-1]]
    return [i * o for i, o in pairwise(left)]


def find_live_nodes(half: Half) -> list[Tensor]:
    """Return for every hidden layer (nodes,) whether each is alive."""
    return [layer.bias.bool() for layer in half.layers(half.mask)[:-1]]


def measure_sparsity(pair: Pair) -> float:
    """Return the share of the weights that are zero, biases not counted."""
    layers = [layer.weight for half in pair for layer in half.layers()]
    zeros = sum(int((weight == 0).sum()) for weight in layers)
    return zeros / sum(weight.numel() for weight in layers)


def _cut_nodes(
    half: Half,
    names: Sequence[str],
    scores: Mapping[str, Tensor],
    goal: float,
    operator: PruningOperator,
    generator: torch.Generator,
) -> None:
    masks = half.layers(half.mask)
    for number, alive in enumerate(find_live_nodes(half)):
        name, left = names[number], round_share(alive.numel(), goal)
        units = operator.draw(name, scores.get(name), alive, left, generator)
        masks[number].weight[units] = 0
        masks[number].bias[units] = 0
        masks[number + 1].weight[:, units] = 0


def _cut_weights(
    half: Half,
    names: Sequence[str],
    scores: Mapping[str, Tensor],
    goal: float,
    matched: list[int] | None,
    operator: PruningOperator,
    generator: torch.Generator,
) -> None:
    for number, (name, layer) in enumerate(zip(names, half.layers(half.mask), strict=True)):
        mask = layer.weight.view(-1)
        left = round_share(mask.numel(), goal) if matched is None else matched[number]
        mask[operator.draw(name, scores.get(name), mask.bool(), left, generator)] = 0


def _score(
    pair: Pair,
    layout: AutoencoderLayout,
    operator: PruningOperator,
    train: FlatSamples,
    loss: Reconstruction,
    generator: torch.Generator,
    seed: int,
) -> tuple[Mapping[str, Tensor], str]:
    """Score every layer that has units; nothing is scored where the operator needs no scores.

    Returns:
        Layer name -> scores, and a sentence where a limit of memory was met.
    """
    metric = operator.mutation.metric
    if metric is None:
        return {}, ""
    network = module(pair, layout)
    count = min(operator.samples, len(train))
    chosen = train.select(torch.randperm(len(train), generator=generator)[:count])
    names = [name for side in SIDES for name in layout.names(side)]
    if operator.unit == NODE:
        names = [name for name in names if name not in ("latent", "output")]
    outgoing = None
    if "outgoing" in metric.needs:
        outgoing = consumers(trace(network, chosen.inputs[:1], interface=("latent",)))
    records = collect(
        network, names, [Batch(chosen.inputs, chosen.inputs, chosen.labels)],
        expressions=[metric.expression], max_memory=operator.max_memory,
        loss=loss.of_outputs, seed=seed,
        example_inputs=chosen.inputs[:1], outgoing=outgoing,
    )  # fmt: skip
    limit = describe_limit(coverage_of(records.values()), operator.max_memory)
    return {name: metric.scores(record) for name, record in records.items()}, limit
