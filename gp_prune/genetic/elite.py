"""Score what the genes of a retrained network remove, by every metric that guides a mutation.

What is pruned already keeps the score that it had when it was last alive; it is restored by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune.genetic.plan import (
    CHANNELS,
    WEIGHTS,
    GeneLayout,
    GeneticPlan,
    KeptShares,
    Marks,
    Masks,
)
from gp_prune.genetic.weights import cut_network
from gp_prune.metric.metric import Metric
from gp_prune.pruning import ChannelGroup, DegenerateScores, consumers, trace
from gp_prune.pruning.graph.architecture import DEPTHWISE_SIDE, OUT
from gp_prune.pruning.modules import find_module
from gp_prune.pruning.select.scores import Scores, join_member_scores
from gp_prune.pruning.select.weights import select_existing
from gp_prune.pruning.surgery import channel_masks
from gp_prune.statistics import Batch, Loss, collect
from gp_prune.statistics.coverage import LayerCoverage, coverage_of

GENE_KINDS = {"channel": CHANNELS, "weight": WEIGHTS}
"""The kind of gene that a metric of each granularity ranks."""


def _refuse_scoring(elite: Elite) -> MetricScores:
    raise AssertionError(f"network {elite.number} has nothing that scores its genes")


@dataclass(eq=False)
class Elite:
    """A network of a run that was retrained, or the dense one.

    Attributes:
        number: 0 for the dense network.
        round: in which it was retrained; 0 for the dense network.
        masks: the genome.
        plan: what it removes.
        shares: what it keeps.
        weights: digest of its weights.
        error: validation error, on all samples.
        trial_error: that on the samples on which plans are tried; ``error`` until it is evaluated
            as a plan itself.
        epochs: of retraining that it and its ancestors have had.
        parent: from which it was pruned.
        score: scores its genes, when they are first needed.
    """

    number: int
    round: int
    masks: Masks
    plan: GeneticPlan
    shares: KeptShares
    weights: str
    error: float
    epochs: int = 0
    parent: Elite | None = None
    score: Callable[[Elite], MetricScores] = field(default=_refuse_scoring, repr=False)
    trial_error: float = field(init=False)
    _scores: MetricScores | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Begin with the error on all samples."""
        self.trial_error = self.error

    @property
    def scores(self) -> MetricScores:
        """Return the scores of its genes by all metrics."""
        if self._scores is None:
            self._scores = self.score(self)
        return self._scores

    def forget_scores(self) -> None:
        """Drop the scores, which are large; they are measured again when they are needed."""
        self._scores = None


class MetricScores:
    """The scores of the genes of one network.

    Args:
        layout: the genes.
        metrics: what scores them.
        earlier: the scores of the network that this one was pruned from.

    Attributes:
        coverage: how much of the data each measurement saw.
        notes: which metric could not rank which gene, and why; it draws uniformly there.
    """

    def __init__(
        self, layout: GeneLayout, metrics: Sequence[Metric], earlier: MetricScores | None = None
    ) -> None:
        self._layout = layout
        self._metrics = {metric.name: metric for metric in metrics}
        self._layers: dict[tuple[str, str], Scores] = {}
        if earlier is not None:
            self._layers = {key: scores.copy() for key, scores in earlier._layers.items()}
        self._genes: dict[tuple[str, int], Tensor] = {}
        self.coverage: LayerCoverage = {}
        self.notes: list[str] = []

    def of(self, metric: Metric | None, gene: int) -> Tensor | None:
        """Return the scores (size,) of a gene; None where there is no metric."""
        return None if metric is None else self._genes[metric.name, gene]

    def measure(
        self,
        model: nn.Module,
        plan: GeneticPlan,
        batches: Sequence[Batch],
        loss: Loss,
        example_inputs: Any,
        seed: int,
        max_memory: int | None = None,
    ) -> None:
        """Score what is alive in the network of a plan.

        Args:
            model: the dense network with the weights that the plan is for.
            plan: what is removed.
            batches: the samples to measure on.
            loss: mean loss of a batch.
            example_inputs: what the network can be called with.
            seed: of noise.
            max_memory: most bytes for what is measured; None means the default.

        Raises:
            UserError: a metric lacks what it needs.
        """
        smaller = cut_network(model, plan, self._layout.architecture)
        layers = {name: self._layers_of(metric) for name, metric in self._metrics.items()}
        needs = frozenset().union(*(metric.needs for metric in self._metrics.values()))
        outgoing = consumers(trace(smaller, example_inputs)) if "outgoing" in needs else None
        records = collect(
            smaller,
            list(dict.fromkeys(layer for names in layers.values() for layer in names)),
            batches if needs else (),
            expressions=[metric.expression for metric in self._metrics.values()],
            max_memory=max_memory,
            loss=loss,
            seed=seed,
            example_inputs=example_inputs,
            outgoing=outgoing,
        )
        self.coverage = coverage_of(records.values())
        removed = self._layout.architecture.entries(dict(plan.removed))
        stays, marks = channel_masks(model, removed), plan.marks()
        for name, metric in self._metrics.items():
            for layer in layers[name]:
                values = metric.ranking_scores(records[layer]).detach().cpu().numpy()
                if metric.granularity == "weight":
                    alive = marks[layer].ravel()
                    here = stays.get((layer, "weight"))
                    values = select_existing(values, find_module(smaller, layer))
                    values = values[alive if here is None else alive[here.cpu().numpy().ravel()]]
                else:
                    alive = _alive_outputs(find_module(model, layer), layer, removed)
                scores = self._layers.setdefault((name, layer), np.zeros(alive.size))
                scores[alive] = values  # the others keep theirs
            self._score_genes(metric)

    def _layers_of(self, metric: Metric) -> list[str]:
        """List the layers that a metric scores."""
        if metric.granularity == "weight":
            return list(self._layout.shapes)
        by_name = self._layout.architecture.by_name
        groups = [by_name[gene.name] for gene in self._layout.genes if gene.kind == CHANNELS]
        return list(dict.fromkeys(name for group in groups for name in group.producers))

    def _score_genes(self, metric: Metric) -> None:
        """Join the scores of the layers of every gene that the metric ranks."""
        layers = {layer: s for (name, layer), s in self._layers.items() if name == metric.name}
        ready: dict[str, Scores] = {}
        for number, gene in enumerate(self._layout.genes):
            if GENE_KINDS[metric.granularity] != gene.kind:
                continue
            if gene.kind == CHANNELS:
                group = self._layout.architecture.by_name[gene.name]
                values = self._join_layers(metric, group, layers, ready)
            else:
                values = layers[gene.name]
            if not np.isfinite(values).all():
                self.notes.append(f"{metric.name} gives no finite scores for {gene.name}")
                values = np.zeros(gene.size)
            self._genes[metric.name, number] = torch.from_numpy(np.array(values))

    def _join_layers(
        self,
        metric: Metric,
        group: ChannelGroup,
        layers: Mapping[str, Scores],
        ready: dict[str, Scores],
    ) -> Scores:
        try:
            return join_member_scores(
                group.members, group.size, group.name, layers, metric.conventions, ready
            )
        except DegenerateScores as error:
            if error.reason != "constant":
                self.notes.append(f"{metric.name} does not rank {group.name}: {error.detail}")
            # Equal scores say nothing, so the draw among them is uniform.
            return np.zeros(group.size)


def _alive_outputs(module: Any, layer: str, removed: Mapping[tuple[str, str], Any]) -> Marks:
    """Mark the outputs (o,) of a dense layer that stay."""
    alive = np.ones(getattr(module, "out_channels", None) or module.out_features, dtype=bool)
    for side in (OUT, DEPTHWISE_SIDE):
        alive[removed.get((layer, side), [])] = False
    return alive
