"""Scores of what a network's genes remove, by every metric that guides a mutation.

What is pruned already keeps the score that it had when it was last alive, by which it is restored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.genetic import network
from gp_prune.genetic.plan import CHANNELS, Layout, Marks, Masks, Plan, Shares
from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric
from gp_prune.pruning import ChannelGroup, DegenerateScores, consumers, trace
from gp_prune.pruning.graph.architecture import DEPTHWISE_SIDE, OUT
from gp_prune.pruning.modules import find_module
from gp_prune.pruning.select.scores import Scores, join_member_scores
from gp_prune.pruning.select.weights import select_existing
from gp_prune.pruning.surgery import channel_masks
from gp_prune.statistics import Batch, Loss, collect


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
        rate: measures the scores of its sites, when they are first wanted.
    """

    number: int
    round: int
    masks: Masks
    plan: Plan
    shares: Shares
    weights: str
    error: float
    epochs: int = 0
    parent: Elite | None = None
    rate: Callable[[Elite], MetricScores] = field(default=lambda _: _unrated(), repr=False)
    _ratings: MetricScores | None = field(default=None, repr=False)

    @property
    def ratings(self) -> MetricScores:
        """The scores of its sites by all metrics."""
        if self._ratings is None:
            self._ratings = self.rate(self)
        return self._ratings

    def forget(self) -> None:
        """Let the scores go; they are measured again when they are wanted."""
        self._ratings = None

    def scores(self, metric: Metric | None, site: int) -> Tensor | None:
        """The scores (size,) of a site; None where there is no metric."""
        return None if metric is None else self.ratings.of(metric, site)


def _unrated() -> MetricScores:
    raise AssertionError("an elite that is mutated by a metric must know how to rate its sites")


Entries = NDArray[np.intp]

KINDS = {"channel": CHANNELS, "weight": "weights"}
"""The kind of site that a metric of each granularity ranks."""


class MetricScores:
    """The scores of one network.

    Args:
        layout: the sites.
        metrics: what scores them.
        earlier: the scores of the network that this one was pruned from.

    Attributes:
        notes: which metric could not rank which site, and why; it draws uniformly there.
    """

    def __init__(
        self, layout: Layout, metrics: Sequence[Metric], earlier: MetricScores | None = None
    ) -> None:
        self._layout = layout
        self._metrics = {metric.name: metric for metric in metrics}
        self._layers: dict[tuple[str, str], Scores] = {}
        if earlier is not None:
            self._layers = {key: scores.copy() for key, scores in earlier._layers.items()}
        self._sites: dict[tuple[str, int], Tensor] = {}
        self.notes: list[str] = []

    def measure(
        self,
        model: nn.Module,
        plan: Plan,
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
        layout = self._layout
        smaller = network.pruned(model, plan, layout.architecture)
        wanted = {name: self._layers_of(metric) for name, metric in self._metrics.items()}
        needs = frozenset().union(*(metric.needs for metric in self._metrics.values()))
        outgoing = None
        if "outgoing" in needs:
            outgoing = consumers(trace(smaller, example_inputs))
        records = collect(
            smaller,
            list(dict.fromkeys(layer for layers in wanted.values() for layer in layers)),
            batches if needs else (),
            needs=needs,
            loss=loss,
            seed=seed,
            example_inputs=example_inputs,
            outgoing=outgoing,
        )
        places = _Places(model, plan, layout)
        for name, metric in self._metrics.items():
            for layer in wanted[name]:
                self._take(metric, records[layer], find_module(smaller, layer), places)
        self._join()

    def _layers_of(self, metric: Metric) -> list[str]:
        """The layers that a metric scores."""
        if metric.granularity == "weight":
            return list(self._layout.shapes)
        groups = [self._layout.architecture.by_name[s.name] for s in self._layout.sites
                  if s.kind == CHANNELS]  # fmt: skip
        return list(dict.fromkeys(name for group in groups for name in group.producers))

    def _take(
        self, metric: Metric, record: LayerRecord, module: nn.Module, places: _Places
    ) -> None:
        """Put the scores of a layer into their places among those of the dense one."""
        values = metric.scores(record).detach().cpu().numpy()
        by_weight = metric.granularity == "weight"
        flat = select_existing(values, module) if by_weight else values
        where, chosen, size = (places.weights if by_weight else places.outputs)(record.name)
        scores = self._layers.setdefault((metric.name, record.name), np.zeros(size))
        scores[where] = flat if chosen is None else flat[chosen]

    def _join(self) -> None:
        """Make the scores of every site from those of its layers."""
        architecture = self._layout.architecture
        for name, metric in self._metrics.items():
            layers = {layer: s for (metric_name, layer), s in self._layers.items()
                      if metric_name == name}  # fmt: skip
            ready: dict[str, Scores] = {}
            for number, site in enumerate(self._layout.sites):
                if KINDS[metric.granularity] != site.kind:
                    continue
                values = layers.get(site.name)
                if site.kind == CHANNELS:
                    group = architecture.by_name[site.name]
                    values = self._group(metric, group, layers, ready)
                assert values is not None
                if not np.isfinite(values).all():
                    self.notes.append(f"{name} gives no finite scores for {site.name}")
                    values = np.zeros(site.size)
                self._sites[name, number] = torch.from_numpy(np.array(values))

    def _group(
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

    def of(self, metric: Metric | None, site: int) -> Tensor | None:
        """The scores (size,) of a site; None where there is no metric."""
        return None if metric is None else self._sites[metric.name, site]


class _Places:
    """Where the numbers of the network of a plan stand in the dense one."""

    def __init__(self, model: nn.Module, plan: Plan, layout: Layout) -> None:
        self._model = model
        self._entries = layout.architecture.entries(dict(plan.removed))
        self._stays = channel_masks(model, self._entries)
        self._marks = plan.marks()

    def outputs(self, layer: str) -> tuple[Entries, None, int]:
        """Output entries that stay; the number of all."""
        module = find_module(self._model, layer)
        width = getattr(module, "out_channels", None) or module.out_features
        assert isinstance(width, int)
        keep = np.ones(width, dtype=bool)
        for side in (OUT, DEPTHWISE_SIDE):
            gone = self._entries.get((layer, side))
            if gone is not None:
                keep[gone] = False
        return np.flatnonzero(keep), None, width

    def weights(self, layer: str) -> tuple[Entries, Marks, int]:
        """Places of the weights that are alive; which they are in the smaller one; the number."""
        marks = self._marks[layer].ravel()
        keep = self._stays.get((layer, "weight"))
        there = np.ones(marks.size, dtype=bool) if keep is None else keep.cpu().numpy().ravel()
        return np.flatnonzero(marks), marks[there], marks.size
