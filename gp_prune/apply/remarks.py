"""Say what a person should know of a pruned network besides the numbers, in sentences."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from gp_prune.apply.selection import describe_smallest
from gp_prune.base.sizes import remark_on_size
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Achieved, ChannelPlan, WeightPlan
from gp_prune.pruning.graph.grouping import CUT_ON_DEMAND
from gp_prune.pruning.plan.channels import BUDGET_TOLERANCE
from gp_prune.pruning.select.channels import least_width
from gp_prune.pruning.select.scores import UNRANKED
from gp_prune.statistics.coverage import describe_limit
from gp_prune.statistics.layers import is_batch_norm

if TYPE_CHECKING:
    from gp_prune.apply.result import PrunedModel

_OF_BATCH_NORM = frozenset({"gamma", "beta", "Ggamma", "Gbeta"})
"""Operands that are parameters of a batch norm, and of the layer itself where there is none."""
_HOLLOW = 0.1
"""Share of its channels below which little is left of a layer."""
_UNEVEN = 0.5
"""A layer has collapsed when it keeps less than this part of the share that all keep together."""
_NEAR = 0.1
"""How near to the least latency a share of it lies, as a part of all that can be saved."""


def find_remarks(pruned: PrunedModel) -> tuple[str, ...]:
    """Return the remarks on a result, those that count most first; often none."""
    sentences = (
        _missed(pruned),
        _near_the_floor(pruned),
        _collapsed(pruned),
        _unranked(pruned),
        *pruned.notes,
        _at_chance(pruned),
        _diverged(pruned),
        _not_faster(pruned),
        _not_counted(pruned),
        describe_limit(pruned.coverage, pruned.max_memory),
        remark_on_size(pruned.max_memory),
    )
    return tuple(sentence for sentence in sentences if sentence)


def note_missing_norms(model: nn.Module, metric: Metric) -> tuple[str, ...]:
    """Say that a metric reads batch norms where the network has none."""
    read = [n.name for n in metric.expression.nodes() if n.name in _OF_BATCH_NORM]
    if not read or any(is_batch_norm(module) for module in model.modules()):
        return ()
    return (
        f"Metric {metric.name!r} reads batch norms ({', '.join(dict.fromkeys(read))}), and the "
        "network has none: their scale counts as 1 and the bias as their shift.",
    )


def note_embeddings(
    model: nn.Module, plan: ChannelPlan | WeightPlan, looked_up: Collection[int]
) -> tuple[str, ...]:
    """Name the layers whose pruned weights are those of an embedding, too.

    Args:
        model: the whole network.
        plan: what goes.
        looked_up: ids of the tensors whose rows the network looks up.
    """
    if isinstance(plan, ChannelPlan):
        return ()
    names = [
        repr(name)
        for name in plan.kept
        if id(model.get_submodule(name)._parameters.get("weight")) in looked_up
    ]
    if not names:
        return ()
    which = f"layer {names[0]}" if len(names) == 1 else f"layers {', '.join(names)}"
    return (
        f"The weights of {which} are looked up as an embedding, too, which loses the same "
        "numbers; keep them whole with --ignore (ignore).",
    )


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
    names = {"mse": "mean squared error", "nats": "cross-entropy in nats per token"}
    error = names.get(quality.kind, "error")
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
