"""Remember what was cut out of a network, so that pruning it once more can be saved as one cut."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from gp_prune.apply.options import IGNORED
from gp_prune.pruning import Achieved, Architecture, Budget, ChannelGroup, ChannelPlan
from gp_prune.pruning.graph.architecture import Removed


class Cut(NamedTuple):
    """What was cut out of the network that a person had first.

    Attributes:
        architecture: of that first network.
        removed: group name -> channels that are gone.
    """

    architecture: Architecture
    removed: Removed


_cuts: WeakKeyDictionary[nn.Module, Cut] = WeakKeyDictionary()


def remember_cut(model: nn.Module, cut: Cut | None) -> None:
    """Note how a network was cut; it is forgotten with the network, and by copies of it."""
    if cut is not None:
        _cuts[model] = cut


def find_cut(model: nn.Module) -> Cut | None:
    """Return how a network was cut, where that is known."""
    return _cuts.get(model)


def join_plans(
    earlier: Cut, plan: ChannelPlan, architecture: Architecture
) -> tuple[ChannelPlan, Architecture] | None:
    """Return the plan that makes of the first network what two cuts, one after the other, made.

    Args:
        earlier: the first cut.
        plan: the second one, of the network that the first left.
        architecture: of that network.

    Returns:
        The plan and the architecture of the first network; None where the second cut is of channels
        that the first network does not have in this form, as after a change by hand.
    """
    left = earlier.architecture.after_cut(earlier.removed).by_name
    for name in plan.removed:
        group = left.get(name)
        if group is None or group.fixed not in ("", IGNORED):
            return None
        if _sides(group) != _sides(architecture.by_name[name]):
            return None
    removed = earlier.architecture.join_cuts(earlier.removed, plan.removed)
    groups = tuple(
        replace(group, fixed="") if group.name in removed else group
        for group in earlier.architecture.groups
    )
    whole = replace(earlier.architecture, groups=groups)
    achieved = Achieved.of(whole, whole.widths(removed))
    asked = Budget(plan.asked.kind, getattr(achieved, plan.asked.kind))
    return replace(plan, removed=removed, asked=asked, achieved=achieved), whole


def _sides(group: ChannelGroup) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(slot.module, slot.side, slot.channels) for slot in group.slots}
