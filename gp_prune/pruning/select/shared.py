"""Weights that several layers share: one tensor is ranked once, and masked wherever it is used."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from gp_prune.pruning.modules import Prunable, find_holders, is_transposed, weight_of


class SharedWeights(NamedTuple):
    """What is known of the layers whose weight others hold as well.

    Attributes:
        owners: further layer -> the first layer with the same weight, with which it is ranked.
        whole: layer -> why its weight is kept whole.
    """

    owners: dict[str, str]
    whole: dict[str, str]


def find_shared(
    model: nn.Module, layers: Sequence[str], ignore: Collection[str] = ()
) -> SharedWeights:
    """Find the weights that several modules hold.

    A weight that a module of another kind uses, such as an embedding that is tied to the last
    layer, is kept whole, and so is one that belongs to a layer that is ignored.

    Args:
        model: the network.
        layers: names of layers with weights.
        ignore: names of layers whose weights all stay.
    """
    holders = find_holders(model)
    owners: dict[str, str] = {}
    whole: dict[str, str] = {}
    first: dict[int, str] = {}
    for name in layers:
        key = id(weight_of(model, name))
        others = [(other, module) for other, module in holders[key] if other != name]
        stranger = next((pair for pair in others if not isinstance(pair[1], Prunable)), None)
        ignored = next((other for other, _ in others if other in ignore), None)
        if stranger is not None:
            kind = type(stranger[1]).__name__
            whole[name] = f"its weight is also that of {stranger[0]!r}, a layer of type {kind}"
        elif ignored is not None:
            whole[name] = f"its weight is also that of {ignored!r}, which is ignored"
        elif first.setdefault(key, name) != name:
            owners[name] = first[key]
    return SharedWeights(owners, whole)


def join_shared_scores(model: nn.Module, layer_scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores with one entry per weight: the mean over the layers that share it.

    Args:
        model: the network.
        layer_scores: layer name -> scores (o, i, k); those of a transposed convolution that shares
            the weight of an ordinary one are in another order and left out.
    """
    owners = find_shared(model, list(layer_scores)).owners
    sharing: dict[str, list[str]] = {name: [name] for name in layer_scores if name not in owners}
    for name, owner in owners.items():
        if is_transposed(model.get_submodule(name)) == is_transposed(model.get_submodule(owner)):
            sharing[owner].append(name)
    return {
        owner: layer_scores[owner] if len(names) == 1 else _mean([layer_scores[n] for n in names])
        for owner, names in sharing.items()
    }


def _mean(scores: Sequence[Any]) -> torch.Tensor:
    return torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in scores]).mean(0)
