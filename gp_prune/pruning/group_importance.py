"""Scores of layers as an importance of Torch-Pruning's own pruners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.pruning.architecture import Member
from gp_prune.pruning.modules import Prunable, is_depthwise
from gp_prune.pruning.scores import joined_members


class GroupImportance:
    """One score per channel of a ``torch_pruning.Group``, as ``BasePruner`` asks for it.

    The scores of the layers that produce the channels of the group are joined as the conventions
    say; layers that only read them do not count. Whether groups are ranked by themselves or all
    together is for the pruner to say (``global_pruning``).

    Args:
        model: the network that the pruner cuts.
        layer_scores: gives layer name -> scores (o,) for the network as it is now.
        conventions: ``normaliser`` and ``join`` are used.
    """

    def __init__(
        self,
        model: nn.Module,
        layer_scores: Callable[[], Mapping[str, Tensor]],
        conventions: Conventions,
    ) -> None:
        self._model = model
        self._layer_scores = layer_scores
        self._conventions = conventions

    def __call__(self, group: Any) -> Tensor | None:
        """The scores (channels of the group's root,), float64; higher = keep.

        Returns:
            None, which tells the pruner to leave the group alone, if no layer with scores of its
            own produces the channels.

        Raises:
            DegenerateScores: scores are not finite or all equal.
            UserError: the group is of another network, or no layer produces one of its channels.
        """
        size = len(group[0].idxs)
        members = self._members(group, size)
        if not members:
            return None
        if not np.any([member.counts for member in members], axis=0).all():
            raise UserError(
                f"some channels of the group of layer {members[0].layer!r} are produced by no "
                "layer with scores; name it in ignored_layers"
            )
        scores = joined_members(
            members, size, members[0].layer, self._layer_scores(), self._conventions, {}
        )
        return torch.from_numpy(np.array(scores))

    def _members(self, group: Any, size: int) -> list[Member]:
        """The layers that produce the channels of a group, in module order."""
        position = {root: channel for channel, root in enumerate(group[0].idxs)}
        names: dict[nn.Module, str] = {}
        for name, module in self._model.named_modules():
            names.setdefault(module, name)
        pairs: dict[str, dict[tuple[int, int], None]] = {}
        for item in group:
            if not _produces(item):
                continue
            layer = item.dep.target.module
            if layer not in names:
                raise UserError(
                    f"the group holds a {type(layer).__name__} that the scored network does not "
                    "have; make the importance from the network that the pruner cuts"
                )
            # A root of None says that Torch-Pruning has lost the way back to the root's channels.
            if position.keys() >= set(item.root_idxs):
                found = zip(item.idxs, (position[root] for root in item.root_idxs), strict=True)
                pairs.setdefault(names[layer], {}).update(dict.fromkeys(found))
        order = {name: place for place, name in enumerate(names.values())}
        return [
            _member(self._model.get_submodule(layer), layer, np.array(list(pairs[layer])), size)
            for layer in sorted(pairs, key=order.__getitem__)
        ]


def _produces(item: Any) -> bool:
    """Whether an item of a group is the output side of a layer that has scores."""
    module = item.dep.target.module
    if not isinstance(module, Prunable):
        return False
    return is_depthwise(module) or item.dep.handler.__name__ != "prune_in_channels"


def _member(module: Any, layer: str, pairs: Any, size: int) -> Member:
    """A layer's part in a group from its pairs (output entry, channel of the group)."""
    entries, channels = pairs[:, 0], pairs[:, 1]
    width = int(getattr(module, "out_channels", 0) or module.out_features)
    everything = np.arange(size)
    plain = width == size and (entries == everything).all() and (channels == everything).all()
    counts = np.bincount(channels, minlength=size)
    return Member(layer, width, None if plain else entries, channels, counts)
