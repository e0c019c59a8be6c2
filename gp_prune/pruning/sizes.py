"""Numbers of channels that modules keep in attributes, for use in a ``view`` or a ``reshape``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from gp_prune.pruning.architecture import SIZE, Architecture, ChannelGroup, Slot
from gp_prune.pruning.probe import Trial, objection


def with_sizes(trial: Trial, architecture: Architecture, group: ChannelGroup) -> ChannelGroup:
    """The group with the attributes that have to shrink with it, if the network then runs.

    An attribute is taken on trial: it is a whole number equal to the number of channels, in a
    module that is not of torch's own. Each is tried by itself, then all together.

    Args:
        trial: the network.
        architecture: the channel groups.
        group: one without which the network does not run.

    Returns:
        The group with slots of side ``"size"``; as it was if that does not help.
    """
    found = list(_attributes(trial.model, group.size))
    choices = [[name] for name in found] + ([found] if len(found) > 1 else [])
    for names in choices:
        slots = [Slot(name, SIZE, tuple(range(group.size))) for name in names]
        larger = replace(group, slots=(*group.slots, *slots), fixed="")
        others = [larger if other.name == group.name else other for other in architecture.groups]
        if not objection(trial, replace(architecture, groups=tuple(others)), [larger]):
            return larger
    return group


def _attributes(model: nn.Module, size: int) -> Iterator[str]:
    """Dotted names of the attributes of the model's own modules that equal ``size``."""
    for name, module in model.named_modules():
        if type(module).__module__.split(".")[0] in ("torch", "gp_prune"):
            continue
        for attribute, value in vars(module).items():
            if type(value) is int and value == size:
                yield f"{name}.{attribute}" if name else attribute
