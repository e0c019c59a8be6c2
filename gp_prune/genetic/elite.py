"""Score what the genes of a retrained network remove, by every metric that guides a mutation.

What is pruned already keeps the score that it had when it was last alive; it is restored by that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.genetic.plan import CHANNELS, WEIGHTS, GeneLayout, GeneticPlan, KeptShares, Masks
from gp_prune.genetic.retraining import cut_network
from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric
from gp_prune.pruning import ChannelGroup, DegenerateScores, consumers, trace
from gp_prune.pruning.graph.architecture import DEPTHWISE_SIDE, OUT
from gp_prune.pruning.modules import find_module
from gp_prune.pruning.select.scores import Scores, join_member_scores
from gp_prune.pruning.select.weights import select_existing
from gp_prune.pruning.surgery import channel_masks
from gp_prune.statistics import Batch, Loss, collect

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
    _scores: MetricScores | None = field(default=None, repr=False)

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
    ) -> None:
        """Score what is alive in the network of a plan.

        Args:
            model: the dense network with the weights that the plan is for.
            plan: what is removed.
            batches: the samples to measure on.
            loss: mean loss of a batch.
            example_inputs: what the network can be called with.
            seed: of sampled positions and of noise.

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
            needs=needs,
            loss=loss,
            seed=seed,
            example_inputs=example_inputs,
            outgoing=outgoing,
        )
        places = _DensePlaces(model, plan, self._layout)
        for name, metric in self._metrics.items():
            for layer in layers[name]:
                self._score_layer(metric, records[layer], find_module(smaller, layer), places)
            self._score_genes(metric)

    def _layers_of(self, metric: Metric) -> list[str]:
        """List the layers that a metric scores."""
        if metric.granularity == "weight":
            return list(self._layout.shapes)
        by_name = self._layout.architecture.by_name
        groups = [by_name[gene.name] for gene in self._layout.genes if gene.kind == CHANNELS]
        return list(dict.fromkeys(name for group in groups for name in group.producers))

    def _score_layer(
        self, metric: Metric, record: LayerRecord, module: nn.Module, places: _DensePlaces
    ) -> None:
        """Put the scores of a layer into their places among those of the dense one."""
        values = metric.scores(record).detach().cpu().numpy()
        if metric.granularity == "weight":
            alive, size = places.weights(record.name)
            values = select_existing(values, module)[places.alive_weights(record.name)]
        else:
            alive, size = places.outputs(record.name)
        scores = self._layers.setdefault((metric.name, record.name), np.zeros(size))
        scores[alive] = values

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


class _DensePlaces:
    """Finds the numbers of the network of a plan in the dense one."""

    def __init__(self, model: nn.Module, plan: GeneticPlan, layout: GeneLayout) -> None:
        self._model = model
        self._entries = layout.architecture.entries(dict(plan.removed))
        self._stays = channel_masks(model, self._entries)
        self._marks = plan.marks()

    def outputs(self, layer: str) -> tuple[NDArray[np.intp], int]:
        """Return the output entries that stay, and the number of all."""
        module = find_module(self._model, layer)
        width = getattr(module, "out_channels", None) or module.out_features
        assert isinstance(width, int)
        keep = np.ones(width, dtype=bool)
        for side in (OUT, DEPTHWISE_SIDE):
            removed = self._entries.get((layer, side))
            if removed is not None:
                keep[removed] = False
        return np.flatnonzero(keep), width

    def weights(self, layer: str) -> tuple[NDArray[np.intp], int]:
        """Return the places of the weights that are alive, and the number of all."""
        marks = self._marks[layer].ravel()
        return np.flatnonzero(marks), marks.size

    def alive_weights(self, layer: str) -> NDArray[np.bool_]:
        """Mark the weights of the smaller network that are alive."""
        marks = self._marks[layer].ravel()
        keep = self._stays.get((layer, "weight"))
        return marks if keep is None else marks[keep.cpu().numpy().ravel()]
