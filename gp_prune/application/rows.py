"""What a plan does to each layer, as rows of a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from gp_prune.application.request import IGNORED
from gp_prune.pruning import Architecture, ChannelPlan, Cost, LayerCost, WeightPlan
from gp_prune.pruning.layer_cost import ATTENTION, NORM, CostTable
from gp_prune.pruning.scores import as_array
from gp_prune.pruning.selection import tie_share

OTHER = "(normalisations and the rest)"


class LayerRow(NamedTuple):
    """One layer before and after.

    Attributes:
        layer: dotted name; the last row is what stands outside the layers.
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
    """A row per layer with weights, and one for the rest, so that columns add up to the totals.

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
        if isinstance(plan, WeightPlan) and layer.name in plan.kept:
            gone = int((~plan.kept[layer.name].unpack()).sum())
            macs_kept -= gone * layer.positions // architecture.samples
            params_kept -= gone
        scores = layer_scores.get(layer.name)
        ties = None if scores is None else tie_share(as_array(scores, layer.name).ravel())
        fixed = reasons.get(layer.name, "")
        channels, stay = layer.outputs.width(whole), layer.outputs.width(kept)
        costs = (macs, macs_kept, params, params_kept)
        unit = "heads" if layer.kind == ATTENTION else "channels"
        rows.append(LayerRow(layer.name, channels, stay, *costs, ties, fixed, unit))
    return (*rows, _rest(rows, before, after))


def _reasons(
    architecture: Architecture, plan: ChannelPlan | WeightPlan, ignore: Collection[str]
) -> dict[str, str]:
    """Layer name -> why nothing of it goes."""
    if isinstance(plan, WeightPlan):
        return {**plan.whole, **dict.fromkeys(ignore, IGNORED)}
    reasons = {}
    for group in architecture.groups:
        reason = group.fixed or plan.whole.get(group.name, "")
        if reason:
            reasons.update(dict.fromkeys(group.producers, reason))
    return reasons


def _cost(layer: LayerCost, widths: Mapping[str, int], samples: int) -> tuple[int, int]:
    macs, params = CostTable([layer], [], widths).evaluate(np.zeros(0, dtype=np.int64))
    return macs // samples, params


def _rest(rows: list[LayerRow], before: Cost, after: Cost) -> LayerRow:
    """What the layers leave of the totals."""
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
