"""The result of pruning: the network, the plan, what it cost before and after, and remarks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import nn

from gp_prune._sizes import remark_on_size
from gp_prune.apply.options import IGNORED
from gp_prune.apply.selection import describe_smallest
from gp_prune.metric.file import Conventions
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
from gp_prune.pruning.graph.grouping import CUT_ON_DEMAND
from gp_prune.pruning.plan.channels import BUDGET_TOLERANCE
from gp_prune.pruning.select.channels import least_width, measure_ties
from gp_prune.pruning.select.scores import UNRANKED, as_array
from gp_prune.pruning.timing import Turns
from gp_prune.statistics.coverage import (
    LayerCoverage,
    coverage_json,
    describe_coverage,
    describe_limit,
)
from gp_prune.statistics.sampling import MAX_MEMORY

if TYPE_CHECKING:
    from gp_prune.apply.tuning import Quality

OTHER = "(normalisations and the rest)"
ITSELF = "(the network itself)"
"""Stands for the name of the network where it holds weights that are in no layer of it."""
_HOLLOW = 0.1
"""Share of its channels below which little is left of a layer."""
_UNEVEN = 0.5
"""A layer has collapsed when it keeps less than this part of the share that all keep together."""
_NEAR = 0.1
"""How near to the least latency a share of it lies, as a part of all that can be saved."""


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
        model: the pruned network; the original is not changed.
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
        notes: what is to be said of the network and the data, in sentences.
        pattern: the pattern of single weights, such as ``"2:4"``, or None.
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
    notes: tuple[str, ...] = ()
    pattern: str | None = None
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
        sentences = (
            _missed(self),
            _near_the_floor(self),
            _collapsed(self),
            _unranked(self),
            *self.notes,
            _at_chance(self),
            _diverged(self),
            _not_faster(self),
            _not_counted(self),
            describe_limit(self.coverage, self.max_memory),
            remark_on_size(self.max_memory),
        )
        return tuple(sentence for sentence in sentences if sentence)

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
            "pattern": self.pattern,
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


def _missed(pruned: PrunedModel) -> str:
    if pruned.met:
        return ""
    points = 100 * abs(pruned.achieved_share - pruned.asked_share)
    return f"The budget is missed by {points:.1f} percentage points: {_why_missed(pruned)}."


def _not_counted(pruned: PrunedModel) -> str:
    names = pruned.architecture.uncounted
    if not names:
        return ""
    return f"The MACs do not count what these operators of torch do: {', '.join(names)}."


def _why_missed(pruned: PrunedModel) -> str:
    plan = pruned.plan
    if isinstance(plan, WeightPlan) and pruned.pattern is not None and plan.whole:
        names = _named(list(plan.whole))
        return (
            f"{names} cannot have the pattern {pruned.pattern} and stay whole, as the table says; "
            "a budget of parameters needs no pattern"
        )
    if pruned.round_to > 1:
        return (
            f"no widths that are multiples of {pruned.round_to} come nearer; a smaller --round-to "
            "(round_to) may"
        )
    if pruned.latency is not None:
        return (
            "times vary from one measurement to the next; time larger example inputs, or on a "
            "machine with nothing else to do"
        )
    if isinstance(plan, ChannelPlan):
        kept, groups = _kept(pruned, plan), pruned.architecture.free
        if not any(width > 1 for width in kept.values()):
            return "nothing is left to cut but what the table says is kept whole"
        if all(kept[g.name] <= least_width(g.size, pruned.min_share) for g in groups):
            ones = np.ones(len(groups), dtype=np.int64)
            kind = plan.asked.kind
            left = getattr(Achieved.of(pruned.architecture, ones), kind)
            if left > pruned.asked_share + BUDGET_TOLERANCE:
                what = {"macs": "MACs", "params": "parameters"}.get(kind, kind)
                return (
                    f"with one channel in every layer that may be cut, {100 * left:.1f} % of the "
                    f"{what} would still be left, for the rest is kept whole, as the table says"
                )
            return (
                f"every layer keeps the {100 * pruned.min_share:g} % of its channels that it must; "
                "a smaller --min-share (min_share) lets more go, 0 all but one"
            )
    return "no cut comes nearer with this ranking and with what the table says is kept whole"


def _kept(pruned: PrunedModel, plan: ChannelPlan) -> dict[str, int]:
    """Return the number of channels that each group that may be cut keeps."""
    kept = plan.kept(pruned.architecture)
    return {group.name: kept[group.name] for group in pruned.architecture.free}


def _near_the_floor(pruned: PrunedModel) -> str:
    floor, asked = pruned.latency_floor, pruned.latency
    if floor is None or asked is None or asked - floor > _NEAR * (1 - floor):
        return ""
    achieved = pruned.achieved
    assert achieved.channels is not None
    return (
        f"The smallest network of this kind ({describe_smallest(pruned.min_share)}) takes "
        f"{100 * floor:.1f} % of the time, so {100 * asked:.1f} % leaves little of this one: "
        f"{100 * achieved.channels:.1f} % of the channels that may be cut and "
        f"{100 * achieved.macs:.1f} % of the MACs; ask for more, or time larger example inputs."
    )


def _collapsed(pruned: PrunedModel) -> str:
    """Name the layer that keeps the least, where that is little, and say why and what helps."""
    plan, architecture = pruned.plan, pruned.architecture
    if not isinstance(plan, ChannelPlan):
        return ""
    kept = _kept(pruned, plan)
    blocked = not pruned.cut_residual and any(
        group.fixed in CUT_ON_DEMAND for group in architecture.groups
    )
    limit = 1.0 if blocked else _UNEVEN * plan.achieved.channels
    thin = [
        group
        for group in architecture.free
        if _is_thin(kept[group.name], group.size) and kept[group.name] < limit * group.size
    ]
    if not thin:
        return ""
    worst = min(thin, key=lambda group: kept[group.name] / group.size)
    others = f", and {len(thin) - 1} more keep little more than a tenth" if len(thin) > 1 else ""
    keeps = (
        f"Layer {worst.producers[0]!r} keeps {kept[worst.name]} of {worst.size} "
        f"{'heads' if worst.has_heads else 'channels'}{others}"
    )
    if blocked:
        return (
            f"{keeps}: what a normalisation spans stays whole, so other layers give what the "
            "budget asks for; ask for more, or let those channels go, too, with --cut-residual "
            "(cut_residual=True)."
        )
    of_all = f"where {100 * plan.achieved.channels:.1f} % of all channels that may be cut stay"
    if pruned.min_share < _HOLLOW:
        return (
            f"{keeps}, {of_all}: a network seldom recovers from that; a larger --min-share "
            "(min_share) keeps more of every layer."
        )
    return (
        f"{keeps}, {of_all}: the metric would take even more, but for --min-share (min_share) "
        f"{pruned.min_share:g}; look at the layer, or rank each layer alone with --scope layer."
    )


def _unranked(pruned: PrunedModel) -> str:
    """Name the layers in which the metric ranks nothing."""
    groups = [group for group in pruned.architecture.groups if group.fixed == UNRANKED]
    names = [layer for group in groups for layer in group.producers]
    if not names:
        return ""
    stay, their = ("stays", "its") if len(names) == 1 else ("stay", "their")
    named = _named(names)
    return (
        f"{named[0].upper()}{named[1:]} {stay} whole: metric {pruned.metric!r} gives all "
        f"of {their} channels the same score; --unranked refuse (unranked) refuses such a network."
    )


def _is_thin(kept: int, size: int) -> bool:
    """Return whether about a tenth of the channels are left, or fewer."""
    floor = least_width(size, _HOLLOW)
    return kept < _HOLLOW * size or (kept == floor and size >= 1 / _HOLLOW)


def _at_chance(pruned: PrunedModel) -> str:
    """Say that the network knew nothing before it was pruned, so that no error means anything."""
    quality = pruned.quality
    if quality is None or quality.chance is None or not quality.dense >= quality.chance:
        return ""
    error = "error" if quality.kind == "error" else "mean squared error"
    return (
        f"The network was at chance level before it was pruned: its {error} is "
        f"{quality.dense:.3g}, and always giving the same answer has {quality.constant:.3g}; "
        "give trained weights (--weights), or look at the data."
    )


def _diverged(pruned: PrunedModel) -> str:
    """Say that fine-tuning made the network worse."""
    quality = pruned.quality
    if quality is None or quality.history is None or not quality.history.diverged:
        return ""
    assert quality.settings is not None and quality.history.start_loss is not None
    kept = "; the network has the state before it" if quality.history.best == 0 else ""
    return (
        f"Fine-tuning diverged: the training loss rose from {quality.history.start_loss:.3g} to "
        f"{quality.history.epochs[-1].loss:.3g}{kept}; lower the learning rate (--lr), which is "
        f"{quality.settings.rate:g} at its highest."
    )


def _not_faster(pruned: PrunedModel) -> str:
    if pruned.mode == "compact":
        return ""
    by_weight = isinstance(pruned.plan, WeightPlan)
    held = "zeros among the weights" if by_weight else "channels at zero"
    return f"The masked network itself is not faster: it holds {held} and still computes them."


def _named(names: list[str], most: int = 3) -> str:
    """Return a text such as ``layer 'a'`` or ``layers 'a', 'b' and 4 more``."""
    shown = ", ".join(map(repr, names[:most]))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'layer' if len(names) == 1 else 'layers'} {shown}{more}"
