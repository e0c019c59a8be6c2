"""The result of pruning: the network, the plan, and what it cost before and after."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn

from gp_prune.apply.options import IGNORED
from gp_prune.apply.remarks import find_remarks
from gp_prune.base.html import table_html
from gp_prune.metric.file import OWN, Conventions
from gp_prune.pruning import (
    Achieved,
    Architecture,
    Budget,
    ChannelPlan,
    Cost,
    LayerCost,
    WeightPlan,
)
from gp_prune.pruning.cost import ATTENTION, NORM, CostTable
from gp_prune.pruning.plan.channels import BUDGET_TOLERANCE
from gp_prune.pruning.select.channels import measure_ties
from gp_prune.pruning.select.scores import as_array
from gp_prune.pruning.timing import Turns
from gp_prune.statistics.coverage import (
    LayerCoverage,
    coverage_json,
    describe_coverage,
)
from gp_prune.statistics.sampling import MAX_MEMORY

if TYPE_CHECKING:
    from gp_prune.apply.tuning import Quality

OTHER = "(normalisations and the rest)"
ITSELF = "(the network itself)"
"""Stands for the name of the network where it holds weights that are in no layer of it."""


class LayerRow(NamedTuple):
    """One layer before and after.

    Attributes:
        layer: dotted name; the last row is what is outside the layers.
        channels: output channels before.
        channels_kept: output channels after.
        macs: MACs per sample before.
        macs_kept: MACs per sample after; where single weights are pruned, if zeros cost nothing.
        params: parameters before.
        params_kept: parameters after; where single weights are pruned, those that stay.
        ties: share of the layer's scores that equal another; None where it has no scores.
        fixed: why no channel of it may go; empty where some may.
        unit: what the channels are: ``"channels"``, or ``"heads"`` of an attention layer.
    """

    layer: str
    channels: int
    channels_kept: int
    macs: int
    macs_kept: int
    params: int
    params_kept: int
    ties: float | None
    fixed: str
    unit: str = "channels"


def layer_rows(
    architecture: Architecture,
    plan: ChannelPlan | WeightPlan,
    layer_scores: Mapping[str, Any],
    before: Cost,
    after: Cost,
    ignore: Collection[str] = (),
) -> tuple[LayerRow, ...]:
    """Return a row per layer with weights, and one for the rest, so that columns have the totals.

    Args:
        architecture: the traced network.
        plan: what goes.
        layer_scores: layer name -> scores, of the layers that have any.
        before: cost of the whole network.
        after: cost of the pruned network, without what is masked.
        ignore: layers whose weights were not ranked because they were named.
    """
    whole = {group.name: group.size for group in architecture.groups}
    kept = plan.kept(architecture) if isinstance(plan, ChannelPlan) else whole
    reasons = _reasons(architecture, plan, ignore)
    rows = []
    for layer in architecture.layers:
        if layer.kind == NORM:
            continue
        macs, params = _cost(layer, whole, architecture.samples)
        macs_kept, params_kept = _cost(layer, kept, architecture.samples)
        if isinstance(plan, WeightPlan) and (layer.owner or layer.name) in plan.kept:
            removed = int((~plan.kept[layer.owner or layer.name].unpack()).sum())
            macs_kept -= removed * layer.positions // architecture.samples
            params_kept -= 0 if layer.owner else removed
        scores = layer_scores.get(layer.name)
        ties = None if scores is None else measure_ties(as_array(scores, layer.name).ravel())
        fixed = reasons.get(layer.name, "")
        channels, stay = layer.outputs.width(whole), layer.outputs.width(kept)
        costs = (macs, macs_kept, params, params_kept)
        unit = "heads" if layer.kind == ATTENTION else "channels"
        rows.append(LayerRow(layer.name, channels, stay, *costs, ties, fixed, unit))
    listed = {row.layer for row in rows}
    for module in architecture.whole:
        if module.name not in listed:
            macs = module.macs // architecture.samples
            costs = (macs, macs, module.params, module.params)
            rows.append(LayerRow(module.name or ITSELF, 0, 0, *costs, None, module.reason))
    return (*rows, _rest(rows, before, after))


def _reasons(
    architecture: Architecture, plan: ChannelPlan | WeightPlan, ignore: Collection[str]
) -> dict[str, str]:
    """Return layer name -> why nothing of it is removed."""
    reasons = {module.name: module.reason for module in architecture.whole}
    if isinstance(plan, WeightPlan):
        return {**reasons, **plan.whole, **dict.fromkeys(ignore, IGNORED)}
    for group in architecture.groups:
        reason = group.fixed or plan.whole.get(group.name, "")
        if reason:
            reasons.update(dict.fromkeys(group.producers, reason))
    return reasons


def _cost(layer: LayerCost, widths: Mapping[str, int], samples: int) -> tuple[int, int]:
    macs, params = CostTable([layer], [], widths).evaluate(np.zeros(0, dtype=np.int64))
    return macs // samples, params


def _rest(rows: list[LayerRow], before: Cost, after: Cost) -> LayerRow:
    """Return what the layers leave of the totals."""
    return LayerRow(
        OTHER,
        0,
        0,
        before.macs - sum(row.macs for row in rows),
        after.macs - sum(row.macs_kept for row in rows),
        before.params - sum(row.params for row in rows),
        after.params - sum(row.params_kept for row in rows),
        None,
        "",
    )


REPORT_SCHEMA = 1


class PruneStep(NamedTuple):
    """One step of pruning.

    Attributes:
        asked: share of the budget that the step aims at.
        channels: share of the channels that may be cut, after it; None for single weights.
        weights: share of the ranked weights after it; None for channels.
        macs: share of the MACs after it.
        params: share of the parameters after it; None for single weights.
    """

    asked: float
    channels: float | None
    weights: float | None
    macs: float | None
    params: float | None

    @classmethod
    def of(cls, asked: float, plan: ChannelPlan | WeightPlan) -> PruneStep:
        """Return the step that aimed at a share and came to a plan."""
        achieved = plan.achieved
        if isinstance(achieved, Achieved):
            return cls(asked, achieved.channels, None, achieved.macs, achieved.params)
        return cls(asked, None, achieved.params, achieved.macs, None)


class Shares(NamedTuple):
    """Shares kept.

    Attributes:
        channels: of the channels that may be cut; None where single weights are pruned.
        weights: of the weights that are ranked; None where channels are pruned.
        macs: of all MACs.
        params: of all parameters.
        latency: of the time of a forward pass; None where it was not measured.
    """

    channels: float | None
    weights: float | None
    macs: float
    params: float
    latency: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class PrunedModel:
    """A pruned copy of a network and how it came about.

    Attributes:
        model: the pruned network; the original is not changed, unless this is it (``in_place``).
        plan: what was removed.
        mode: ``"compact"`` (channels are gone) or ``"mask"`` (held at zero: not faster).
        before: cost of the original.
        after: cost of the pruned network. With mode ``"mask"`` MACs and parameters are those of a
            network without what is masked; ``nonzero`` is counted in the masked network itself.
        rows: the same per layer.
        seconds: how long it took, with fine-tuning and judging where they were done.
        metric: name of the metric.
        metric_digest: digest of what the metric means.
        conventions: how the scores were used.
        interface: layers that were kept whole by name.
        input_shapes: shape of each example input.
        architecture: the traced network, from which the pruned one can be made again.
        ignore: further layers that were kept whole by name or pattern.
        round_to: the multiple of channels that every group keeps.
        cut_residual: whether channels were cut across normalisations that span them.
        min_share: share of its channels that every layer keeps at least.
        keep_share: layers or patterns -> the share of their channels that was to be kept.
        allocation: what divided the budget among the layers: one of
            :data:`gp_prune.metric.file.ALLOCATIONS`, or the name of a metric.
        notes: what is to be said of the network and the data, in sentences.
        pattern: the pattern of single weights, such as ``"2:4"``, or None.
        sequential: whether each block was scored on the outputs of the pruned blocks before it.
        steps: what each step aimed at and came to; one where the network was scored once.
        times: latency before and after, where it was measured.
        latency: share of the latency that was to be kept, where that was the budget.
        latency_floor: share of the latency that the smallest network of this kind takes, where
            that was measured.
        quality: how well the networks do their task, set by whoever measured it.
        from_first: where the network had been pruned before, the plan that makes the pruned one of
            the first network, and the architecture of that; this is what is saved.
        coverage: layer name -> field or part of the formula -> how much of the data it saw.
        max_memory: most bytes for what was measured; None means the default.
    """

    model: nn.Module
    plan: ChannelPlan | WeightPlan
    mode: str
    before: Cost
    after: Cost
    rows: tuple[LayerRow, ...]
    seconds: float
    metric: str
    metric_digest: str
    conventions: Conventions
    interface: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    architecture: Architecture
    ignore: tuple[str, ...] = ()
    round_to: int = 1
    cut_residual: bool = False
    min_share: float = 0.0
    keep_share: Mapping[str, float] = field(default_factory=dict)
    allocation: str = OWN
    notes: tuple[str, ...] = ()
    pattern: str | None = None
    sequential: bool = False
    steps: tuple[PruneStep, ...] = ()
    times: Turns | None = None
    latency: float | None = None
    latency_floor: float | None = None
    quality: Quality | None = None
    from_first: tuple[ChannelPlan, Architecture] | None = None
    coverage: LayerCoverage = field(default_factory=dict)
    max_memory: int | None = None

    def __repr__(self) -> str:
        """Return the metric and the shares that are kept, without network and plan."""
        kept = [
            f"{100 * share:.1f} % of the {'MACs' if name == 'macs' else name}"
            for name, share in self.achieved._asdict().items()
            if share is not None
        ]
        return f"<PrunedModel by {self.metric!r} ({self.mode}): {', '.join(kept)} kept>"

    def _repr_html_(self) -> str:
        """Return costs before and after for a notebook; all text is escaped."""
        rows = [
            (
                row.layer,
                f"{row.channels_kept} of {row.channels}",
                f"{row.macs_kept:,} of {row.macs:,}",
                f"{row.params_kept:,} of {row.params:,}",
            )
            for row in self.rows
        ]
        return table_html(repr(self)[1:-1], ("layer", "channels", "MACs", "parameters"), rows)

    @property
    def asked(self) -> Budget:
        """Return the budget of the plan; where latency was asked for, the MACs that came to it."""
        return self.plan.asked

    @property
    def asked_share(self) -> float:
        """Return the share to keep of what was asked for (see :attr:`counted`)."""
        return self.asked.keep if self.latency is None else self.latency

    @property
    def counted(self) -> str:
        """Return what the budget counts: a field of :class:`Shares`."""
        if self.latency is not None:
            return "latency"
        by_weight = isinstance(self.plan, WeightPlan) and self.asked.kind == "params"
        return "weights" if by_weight else self.asked.kind

    @property
    def achieved(self) -> Shares:
        """Return the shares that are really kept."""
        macs = self.after.macs / self.before.macs if self.before.macs else 1.0
        params = self.after.params / self.before.params
        time = None if self.times is None else self.times.share
        if isinstance(self.plan, ChannelPlan):
            return Shares(self.plan.achieved.channels, None, macs, params, time)
        return Shares(None, self.plan.achieved.params, macs, params, time)

    @property
    def achieved_share(self) -> float:
        """Return the share kept of what the budget counts."""
        share: float = getattr(self.achieved, self.counted)
        return share

    @property
    def met(self) -> bool:
        """Return whether the achieved share is within a tenth of the asked one, and 5 % of all."""
        allowed = min(BUDGET_TOLERANCE, self.asked_share / 10)
        return abs(self.achieved_share - self.asked_share) <= allowed

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know besides the numbers, in sentences."""
        return find_remarks(self)

    def report(self, *, model: str = "") -> dict[str, Any]:
        """Return everything but the network and the plan as a JSON object.

        Args:
            model: how the network is called.
        """
        return {
            "schema_version": REPORT_SCHEMA,
            "kind": "pruning report",
            "metric": self.metric,
            "metric_digest": self.metric_digest,
            "conventions": self.conventions.to_json(),
            "model": model,
            "mode": self.mode,
            "faster": self.mode == "compact",
            "interface": list(self.interface),
            "ignore": list(self.ignore),
            "round_to": self.round_to,
            "cut_residual": self.cut_residual,
            "min_share": self.min_share,
            "keep_share": dict(self.keep_share),
            "allocation": self.allocation,
            "pattern": self.pattern,
            "sequential": self.sequential,
            "asked": {"kind": self.counted, "keep": self.asked_share},
            "achieved": self.achieved._asdict(),
            "met": self.met,
            "ties": self.plan.ties,
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "steps": [step._asdict() for step in self.steps],
            "latency_floor": self.latency_floor,
            "remarks": list(self.remarks),
            "latency": None if self.times is None else self.times.to_json(),
            "quality": None if self.quality is None else self.quality.to_json(),
            "layers": [row._asdict() for row in self.rows],
            "max_memory": MAX_MEMORY if self.max_memory is None else self.max_memory,
            "measured": describe_coverage(self.coverage),
            "coverage": coverage_json(self.coverage),
            "plan_digest": self.plan.digest(),
            "seconds": round(self.seconds, 3),
        }
