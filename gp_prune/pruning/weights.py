"""From scores per weight to a weight plan (unstructured pruning)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.pruning.architecture import Architecture
from gp_prune.pruning.modules import Conv, find_module, is_transposed, refuse_masked, weight_of
from gp_prune.pruning.plan import Budget
from gp_prune.pruning.scores import (
    DegenerateScores,
    Scores,
    as_array,
    find_scores,
    guard,
    normalised,
)
from gp_prune.pruning.selection import nearest_step, removed_count, tie_share
from gp_prune.pruning.weight_plan import AchievedWeights, PackedMask, WeightPlan


def select_weights(
    model: nn.Module,
    architecture_or_layers: Architecture | Sequence[str],
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    budget: Budget,
) -> WeightPlan:
    """Choose the weights that stay: those with the highest scores, in exact number.

    Only weights that exist are ranked: the off-group zeros of a grouped layer's dense form are
    left out. Equal scores are ordered by layer, then by position in the weight tensor: the earlier
    goes first. At least one weight of every layer stays.

    Args:
        model: the network; it is only read.
        architecture_or_layers: the traced network (all its layers are ranked, MACs are reported)
            or the names of the layers to rank.
        layer_scores: layer name -> scores (o, i, k), higher = keep.
        conventions: scope and normaliser.
        budget: ``"params"`` is the share of the ranked weights to keep, ``"macs"`` that of the
            network's MACs when zeros cost nothing (for a traced network).

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: another kind of budget, a layer without scores or weights, or a masked model.
    """
    traced = architecture_or_layers if isinstance(architecture_or_layers, Architecture) else None
    allowed = ("params", "macs") if traced else ("params",)
    if budget.kind not in allowed:
        raise UserError(
            f"a weight plan cannot keep a share of {budget.kind!r} here; "
            f"give a budget of kind {' or '.join(map(repr, allowed))}"
        )
    refuse_masked(model)
    layers = traced.prunable_layers if traced else tuple(architecture_or_layers)  # type: ignore[arg-type]
    if not layers:
        raise UserError("there is no layer whose weights could be pruned; name at least one")
    scores = [_weight_scores(model, name, layer_scores, conventions) for name in layers]
    if conventions.scope == "global":
        everywhere = np.concatenate(scores)
        ties = tie_share(everywhere)
    else:
        ties = sum(tie_share(v) * v.size for v in scores) / sum(v.size for v in scores)
    keep = _kept(scores, conventions.scope, traced, layers, budget)
    kept = {
        name: PackedMask.pack(stays.reshape(tuple(weight_of(model, name).shape)))
        for name, stays in zip(layers, keep, strict=True)
    }
    return WeightPlan(kept, budget, _achieved(traced, layers, keep), float(ties))


def _kept(
    scores: Sequence[Scores],
    scope: str,
    traced: Architecture | None,
    layers: Sequence[str],
    budget: Budget,
) -> list[NDArray[np.bool_]]:
    """Marks what stays of each layer."""

    def at(share: float) -> list[NDArray[np.bool_]]:
        if scope == "global":
            return _kept_globally(scores, share)
        return [~lowest(values, removed_count(values.size, share)) for values in scores]

    if budget.kind == "params":
        return at(budget.keep)
    total = sum(values.size for values in scores)

    def macs(removed: int) -> float:
        share = _achieved(traced, layers, at(1 - removed / total)).macs
        assert share is not None
        return share

    return at(1 - nearest_step(macs, total - 1, budget.keep) / total)


def lowest(values: Scores, count: int) -> NDArray[np.bool_]:
    """Marks the ``count`` lowest values (any,), of equal ones the earlier; linear time."""
    if count == 0:
        return np.zeros(values.size, dtype=bool)
    border = np.partition(values, count - 1)[count - 1]
    marked: NDArray[np.bool_] = values < border
    equal = np.flatnonzero(values == border)
    marked[equal[: count - int(marked.sum())]] = True
    return marked


def _kept_globally(scores: Sequence[Scores], share: float) -> list[NDArray[np.bool_]]:
    sizes = [values.size for values in scores]
    starts = np.cumsum([0, *sizes[:-1]])
    # The last of the best weights of every layer stays, as it would in a stable ranking.
    best = [
        int(start) + values.size - 1 - int(np.argmax(values[::-1]))
        for start, values in zip(starts, scores, strict=True)
    ]
    pool = np.delete(np.arange(sum(sizes)), best)
    count = min(removed_count(sum(sizes), share), pool.size)
    keep = np.ones(sum(sizes), dtype=bool)
    keep[pool[lowest(np.concatenate(scores)[pool], count)]] = False
    return np.split(keep, starts[1:])


def _weight_scores(
    model: nn.Module, name: str, layer_scores: Mapping[str, Any], conventions: Conventions
) -> Scores:
    """Normalised scores of the weights that exist, flat, in the order of the weight tensor."""
    weight = weight_of(model, name)
    module = find_module(model, name)
    values = as_array(find_scores(layer_scores, name), name)
    shape = dense_shape(module)
    if values.shape != shape:
        raise DegenerateScores(
            "wrong-shape", name, f"shape {tuple(values.shape)} where {shape} is needed"
        )
    flat = existing(values, module)
    assert flat.size == weight.numel()
    guard(flat, name)
    return normalised(flat, conventions.normaliser)


def dense_shape(module: Any) -> tuple[int, int, int]:
    """Shape (o, i, k) of a layer's weights with all groups spelled out."""
    if isinstance(module, Conv):
        return module.out_channels, module.in_channels, math.prod(module.kernel_size)
    return module.out_features, module.in_features, 1


def existing(dense: NDArray[Any], module: Any) -> NDArray[Any]:
    """The entries of a dense (o, i, k) array that are weights of the layer, flat.

    They come in the order of the layer's own weight tensor, which is (in, out, ...) for transposed
    convolutions and holds only the diagonal blocks of grouped ones.
    """
    o, i, k = dense.shape
    groups = module.groups if isinstance(module, Conv) else 1
    blocks = dense.reshape(groups, o // groups, groups, i // groups, k)
    index = np.arange(groups)
    diagonal = blocks[index, :, index]  # (groups, o/groups, i/groups, k)
    if is_transposed(module):
        diagonal = diagonal.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(diagonal).ravel()


def _achieved(
    traced: Architecture | None, layers: Sequence[str], keep: Sequence[NDArray[np.bool_]]
) -> AchievedWeights:
    gone = {name: int((~stays).sum()) for name, stays in zip(layers, keep, strict=True)}
    total = sum(stays.size for stays in keep)
    params = (total - sum(gone.values())) / total
    if traced is None:
        return AchievedWeights(params, None)
    saved = sum(layer.positions * gone.get(layer.name, 0) for layer in traced.layers)
    dense = traced.dense_costs[0] * traced.samples
    return AchievedWeights(params, (dense - saved) / dense if dense else 1.0)
