"""Choose exactly which single weights stay, from scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning.graph.architecture import Architecture
from gp_prune.pruning.modules import Conv, find_module, is_transposed, refuse_masked, weight_of
from gp_prune.pruning.plan.channels import Budget
from gp_prune.pruning.plan.weights import AchievedWeights, PackedMask, Pattern, WeightPlan
from gp_prune.pruning.select.channels import count_removed, count_ties, find_nearest_step
from gp_prune.pruning.select.scores import MOST_TIES, Scores, guard, normalise, read_scores
from gp_prune.pruning.select.shared import find_shared, join_shared_scores

Marks = NDArray[np.bool_]

_AT_ONCE = 1 << 22  # scores that are sorted at a time, where there are many short rows


def select_weights(
    model: nn.Module,
    architecture_or_layers: Architecture | Sequence[str],
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    budget: Budget | None = None,
    *,
    pattern: Pattern | None = None,
    ignore: Collection[str] = (),
) -> WeightPlan:
    """Choose the weights that stay: those with the highest scores, in exact number.

    Only weights that exist are ranked: the off-group zeros of a grouped layer's dense form are
    left out. Equal scores are ordered by layer, then by position in the weight tensor: the earlier
    goes first. At least one weight of every layer stays, with scope ``"row"`` one of every output
    channel.

    A pattern takes the place of the budget and of the scope: in every block of m weights the n
    with the highest scores stay. Layers that cannot be divided into blocks keep all weights and
    are named in ``plan.whole`` with the reason; they need no scores.

    A weight that several layers share is ranked once, by the mean of their scores, under the name
    of the first of them. One that a module of another kind uses as well, such as an embedding that
    is tied to the last layer, stays whole and counts for nothing, as if it was ignored.

    Args:
        model: the network; it is only read.
        architecture_or_layers: the traced network (all its layers are ranked, MACs are reported)
            or the names of the layers to rank.
        layer_scores: layer name -> scores (o, i, k), higher = keep.
        conventions: scope and normaliser.
        budget: ``"params"`` is the share of the ranked weights to keep, ``"macs"`` that of the
            network's MACs when zeros cost nothing (for a traced network).
        pattern: an N:M pattern in place of a budget.
        ignore: layers that are not ranked and count for nothing in ``"params"``; they keep all
            their weights and need no scores.

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: another kind of budget, none or both of budget and pattern, a layer without
            scores or weights, no layer that can have the pattern, or a masked model.
    """
    traced = architecture_or_layers if isinstance(architecture_or_layers, Architecture) else None
    budget = _check_budget(budget, pattern, traced)
    refuse_masked(model)
    named = traced.prunable_layers if traced else tuple(architecture_or_layers)  # type: ignore[arg-type]
    layers = tuple(name for name in named if name not in ignore)
    owners, tied = find_shared(model, layers, ignore)
    layers = tuple(name for name in layers if name not in owners and name not in tied)
    if not layers:
        raise UserError("there is no layer whose weights could be pruned; name at least one")
    whole = find_whole(model, layers, pattern)
    ranked = [name for name in layers if name not in whole]
    scores = join_shared_scores(model, layer_scores) if owners else layer_scores
    ranking = _Ranking(model, ranked, scores, conventions, pattern)
    total = sum(weight_of(model, name).numel() for name in layers)

    def achieve(stays: Sequence[Marks]) -> AchievedWeights:
        removed = {name: int((~kept).sum()) for name, kept in zip(ranked, stays, strict=True)}
        return achieved_weights(removed, total, traced, owners)

    def macs(removed: int) -> float:
        return achieve(ranking.choose(1 - removed / total)).macs or 0.0

    share = budget.keep
    if budget.kind == "macs":
        share = 1 - find_nearest_step(macs, total - 1, budget.keep) / total
    stays = ranking.choose(share)
    kept = ranking.pack(model, stays)
    ties = ranking.ties
    undecided = ranking.undecided(model, stays) if ties > MOST_TIES else 0.0
    return WeightPlan(kept, budget, achieve(stays), ties, pattern, whole | tied, undecided)


def achieved_weights(
    removed: Mapping[str, int],
    total: int,
    traced: Architecture | None,
    owners: Mapping[str, str],
) -> AchievedWeights:
    """Return the shares that are kept.

    Args:
        removed: layer name -> weights that go.
        total: number of weights of all ranked layers, and of those that cannot have a pattern.
        traced: the traced network; None leaves out the MACs.
        owners: layer name -> the layer whose weight it shares.
    """
    params = (total - sum(removed.values())) / total
    if traced is None:
        return AchievedWeights(params, None)
    saved = sum(
        layer.positions * removed.get(owners.get(layer.name, layer.name), 0)
        for layer in traced.layers
    )
    dense = traced.dense_costs[0] * traced.samples
    return AchievedWeights(params, (dense - saved) / dense if dense else 1.0)


def _check_budget(
    budget: Budget | None, pattern: Pattern | None, traced: Architecture | None
) -> Budget:
    if pattern is not None:
        if budget not in (None, pattern.budget):
            raise UserError(
                f"pattern {pattern} says by itself how many weights stay; leave the budget out"
            )
        return pattern.budget
    if budget is None:
        raise UserError("give a budget, the share to keep, or a pattern such as 2:4")
    allowed = ("params", "macs") if traced else ("params",)
    if budget.kind not in allowed:
        raise UserError(
            f"a weight plan cannot keep a share of {budget.kind!r} here; "
            f"give a budget of kind {' or '.join(map(repr, allowed))}"
        )
    return budget


def find_whole(model: nn.Module, layers: Sequence[str], pattern: Pattern | None) -> dict[str, str]:
    """Return why layers cannot have the pattern; UserError if no layer can."""
    if pattern is None:
        return {}
    reasons = {name: pattern.obstacle(find_module(model, name)) for name in layers}
    if all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        raise UserError(
            f"no layer can have the pattern {pattern} (layer {name!r}: {reason}); use another "
            "pattern, or a budget of params"
        )
    return {name: reason for name, reason in reasons.items() if reason}


class _Ranking:
    """Scores of layers, arranged in rows of which each is ranked by itself.

    A row is a layer, an output channel or a block of a pattern; with scope ``"global"`` all layers
    together are one.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        layer_scores: Mapping[str, Any],
        conventions: Conventions,
        pattern: Pattern | None,
    ) -> None:
        self.layers = layers
        self.scope = conventions.scope if pattern is None else "block"
        self.rows: list[Scores] = []
        for name in layers:
            scores = flatten_scores(model, name, layer_scores, conventions)
            view = self._by_row(scores, model, name)
            width = pattern.m if pattern else math.prod(view.shape[2:])
            self.rows.append(view.reshape(-1, width))

    def choose(self, share: float) -> list[Marks]:
        """Mark what stays of each layer, in its rows, when ``share`` of every row stays."""
        if self.scope == "global":
            return _choose_globally(self.rows, share)
        return [~mark_lowest(rows, count_removed(rows.shape[1], share)) for rows in self.rows]

    def pack(self, model: nn.Module, stays: Sequence[Marks]) -> dict[str, PackedMask]:
        """Return the marks in the layout of the weights."""
        masks = {}
        for name, marks in zip(self.layers, stays, strict=True):
            flat = np.empty(marks.size, dtype=bool)
            view = self._by_row(flat, model, name)
            view[...] = marks.reshape(view.shape)
            masks[name] = PackedMask.pack(flat.reshape(tuple(weight_of(model, name).shape)))
        return masks

    def _by_row(self, flat: NDArray[Any], model: nn.Module, name: str) -> NDArray[Any]:
        if self.scope in ("layer", "global"):
            return flat.reshape(1, 1, -1)
        shape = tuple(weight_of(model, name).shape)
        view = view_by_output(flat.reshape(shape), transposed_groups(find_module(model, name)))
        return view.swapaxes(2, 3) if self.scope == "block" else view

    @property
    def ties(self) -> float:
        """Return the share of the scores that equal another one of their row."""
        rows = [np.concatenate(self.rows, axis=1)] if self.scope == "global" else self.rows
        return sum(count_ties(part) for part in rows) / sum(part.size for part in rows)

    def undecided(self, model: nn.Module, stays: Sequence[Marks]) -> float:
        """Return the share of the scores that equal one of the other fate; zero weights aside.

        It does not matter which weights of zero are held at zero.
        """
        alive = []
        for name, rows in zip(self.layers, self.rows, strict=True):
            flat = (weight_of(model, name).detach() != 0).cpu().numpy().ravel()
            alive.append(self._by_row(flat, model, name).reshape(rows.shape))
        columns: list[Sequence[NDArray[Any]]] = [self.rows, stays, alive]
        if self.scope == "global":
            columns = [[np.concatenate([x.reshape(1, -1) for x in c], axis=1)] for c in columns]
        total = sum(rows.size for rows in self.rows)
        return sum(_count_undecided(*part) for part in zip(*columns, strict=True)) / total


def _count_undecided(rows: Scores, stays: Marks, counts: Marks) -> int:
    """Return how many values (rows, any) equal one of the other fate, of those that count."""
    # Of every row the lowest go, so that only the highest of them can equal one that stays.
    border = np.where(stays, -np.inf, rows).max(axis=1, keepdims=True)
    equal = (rows == border) & counts
    split = (equal & stays).any(axis=1) & (equal & ~stays).any(axis=1)
    return int(equal[split].sum())


def view_by_output(values: NDArray[Any], groups: int) -> NDArray[Any]:
    """Return a view of one number per weight, in the layout of the weight, by output channel.

    Args:
        values: contiguous, of the shape of the weight.
        groups: what :func:`transposed_groups` returns for the layer.

    Returns:
        (groups, o / groups, i / groups, k) for transposed convolutions, else (1, o, i / groups, k).
    """
    first, second, *taps = values.shape
    if groups:
        shape = groups, first // groups, second, math.prod(taps)
        return values.reshape(shape).swapaxes(1, 2)
    return values.reshape(1, first, second, math.prod(taps))


def transposed_groups(module: Any) -> int:
    """Return the number of groups of a transposed convolution; 0 for other layers."""
    return int(module.groups) if is_transposed(module) else 0


def mark_lowest(rows: Scores, count: int) -> Marks:
    """Mark the ``count`` lowest values of each row, of equal ones the earlier; linear time.

    Args:
        rows: (rows, any), finite.
        count: at most the length of a row.
    """
    marked = np.zeros(rows.shape, dtype=bool)
    if count:
        step = max(1, _AT_ONCE // rows.shape[1])
        for start in range(0, len(rows), step):
            _mark_some(rows[start : start + step], count, marked[start : start + step])
    return marked


def _mark_some(rows: Scores, count: int, marked: Marks) -> None:
    border = np.partition(rows, count - 1, axis=1)[:, count - 1 : count]
    np.less(rows, border, out=marked)
    free = count - marked.sum(axis=1)
    row, column = np.nonzero(rows == border)
    first = np.searchsorted(row, np.arange(len(rows)))
    taken = np.arange(row.size) - first[row] < free[row]
    marked[row[taken], column[taken]] = True


def _choose_globally(rows: Sequence[Scores], share: float) -> list[Marks]:
    sizes = [values.size for values in rows]
    starts = np.cumsum([0, *sizes[:-1]])
    # The last of the best weights of every layer stays, as it would in a stable ranking.
    best = [
        int(start) + values.size - 1 - int(np.argmax(values[0, ::-1]))
        for start, values in zip(starts, rows, strict=True)
    ]
    pool = np.delete(np.arange(sum(sizes)), best)
    count = min(count_removed(sum(sizes), share), pool.size)
    keep = np.ones(sum(sizes), dtype=bool)
    keep[pool[mark_lowest(np.concatenate(rows, axis=1)[:, pool], count)[0]]] = False
    return np.split(keep, starts[1:])


def flatten_scores(
    model: nn.Module, name: str, layer_scores: Mapping[str, Any], conventions: Conventions
) -> Scores:
    """Return normalised scores of the weights that exist, flat, in the order of the weight tensor.

    Args:
        model: the network.
        name: one of its layers.
        layer_scores: layer name -> scores (o, i, k).
        conventions: ``normaliser`` is used.

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: the layer has no scores or no weights.
    """
    weight = weight_of(model, name)
    module = find_module(model, name)
    values = read_scores(layer_scores, name, _dense_shape(module))
    flat = select_existing(values, module)
    assert flat.size == weight.numel()
    guard(flat, name)
    return normalise(flat, conventions.normaliser)


def _dense_shape(module: Any) -> tuple[int, int, int]:
    """Return the shape (o, i, k) of a layer's weights with all groups spelled out."""
    if isinstance(module, Conv):
        return module.out_channels, module.in_channels, math.prod(module.kernel_size)
    return module.out_features, module.in_features, 1


def select_existing(dense: NDArray[Any], module: Any) -> NDArray[Any]:
    """Return the entries of a dense (o, i, k) array that are weights of the layer, flat.

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
