"""What a person should know about a pruned network besides its numbers, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune.pruning import ChannelPlan, WeightPlan
from gp_prune.pruning.graph.grouping import CUT_ON_DEMAND

if TYPE_CHECKING:
    from gp_prune.apply.result import PrunedModel


_HOLLOW = 0.1
"""Share of its channels below which little is left of a layer."""
_NEAR = 0.1
"""How near to the least latency a share of it lies, as a part of all that can be saved."""


def remarks(pruned: PrunedModel) -> tuple[str, ...]:
    """Where the budget is missed and why, what is hollowed out, and what is no gain."""
    found = (_missed(pruned), _near_the_floor(pruned), _hollow(pruned), _not_faster(pruned))
    return tuple(sentence for sentence in found if sentence)


def _missed(pruned: PrunedModel) -> str:
    if pruned.met:
        return ""
    points = 100 * abs(pruned.achieved_share - pruned.asked_share)
    return f"The budget is missed by {points:.1f} percentage points: {_why_missed(pruned)}."


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
    if isinstance(plan, ChannelPlan) and not any(kept > 1 for kept in _kept(pruned, plan).values()):
        return "nothing is left to cut but what the table says is kept whole"
    return "no cut comes nearer with this ranking and with what the table says is kept whole"


def _kept(pruned: PrunedModel, plan: ChannelPlan) -> dict[str, int]:
    """The channels that each group that may be cut keeps."""
    kept = plan.kept(pruned.architecture)
    return {group.name: kept[group.name] for group in pruned.architecture.free}


def _near_the_floor(pruned: PrunedModel) -> str:
    floor, asked = pruned.latency_floor, pruned.latency
    if floor is None or asked is None or asked - floor > _NEAR * (1 - floor):
        return ""
    achieved = pruned.achieved
    assert achieved.channels is not None
    return (
        f"The smallest network of this kind, one channel or block per group, takes "
        f"{100 * floor:.1f} % of the time, so {100 * asked:.1f} % leaves little of this one: "
        f"{100 * achieved.channels:.1f} % of the channels that may be cut and "
        f"{100 * achieved.macs:.1f} % of the MACs; ask for more, or time larger example inputs."
    )


def _hollow(pruned: PrunedModel) -> str:
    """Which layers give what a residual stream does not, where it could give something, too."""
    plan, architecture = pruned.plan, pruned.architecture
    if not isinstance(plan, ChannelPlan) or pruned.cut_residual:
        return ""
    if not any(group.fixed in CUT_ON_DEMAND for group in architecture.groups):
        return ""
    kept = _kept(pruned, plan)
    hollow = [group for group in architecture.free if kept[group.name] < _HOLLOW * group.size]
    if not hollow:
        return ""
    worst = min(hollow, key=lambda group: kept[group.name] / group.size)
    others = f", and {len(hollow) - 1} more keep less than a tenth" if len(hollow) > 1 else ""
    return (
        f"Layer {worst.producers[0]!r} keeps {kept[worst.name]} of {worst.size} "
        f"{'heads' if worst.has_heads else 'channels'}{others}: what a normalisation spans stays "
        "whole, so other layers give what the budget asks for; ask for more, or let those channels "
        "go, too, with --cut-residual (cut_residual=True)."
    )


def _not_faster(pruned: PrunedModel) -> str:
    if pruned.mode == "compact":
        return ""
    by_weight = isinstance(pruned.plan, WeightPlan)
    held = "zeros among the weights" if by_weight else "channels at zero"
    return f"The masked network itself is not faster: it holds {held} and still computes them."


def _named(names: list[str], most: int = 3) -> str:
    """``layer 'a'``, ``layers 'a', 'b' and 4 more``."""
    shown = ", ".join(map(repr, names[:most]))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'layer' if len(names) == 1 else 'layers'} {shown}{more}"
