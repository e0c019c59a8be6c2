"""Guard pruning against scores that rank nothing, and join them to one score per channel.

A ranking of scores that are not finite or all equal says nothing, yet it would cut something (or
nothing at all) without a word; such scores are refused here by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gp_prune.errors import DegenerateScores, UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning.graph.architecture import Architecture, Member

Scores = NDArray[np.float64]

UNRANKED = "all scores are equal"
"""Why the channels stay that a metric does not rank."""

MOST_TIES = 0.5
"""Share of equal scores above which a ranking is mostly one of positions."""

ROUNDING = 1e-12
"""Scores that differ by less than this share of the largest magnitude differ by rounding alone."""


def group_scores(
    architecture: Architecture, layer_scores: Mapping[str, Any], conventions: Conventions
) -> dict[str, Tensor]:
    """Return one score per channel of every group that may be cut.

    The scores of each layer are guarded, divided by the normaliser and then joined over the layers
    that produce the channels. A layer whose scores are all equal says nothing of its channels, and
    does not count where others of the group rank them. Where one layer has several entries per
    channel (a linear layer before an unflattened map), these are joined in the same way first; with
    ``"first"`` averaged.

    Args:
        architecture: the traced network.
        layer_scores: layer name -> scores (o,), higher = keep. Layers of fixed groups need none.
        conventions: ``normaliser`` and ``join`` are used.

    Returns:
        group name -> float64 tensor (channels,).

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: a layer that may be cut has no scores.
    """
    joined = join_scores(architecture, layer_scores, conventions)
    names = (group.name for group in architecture.free)
    return {name: torch.from_numpy(values) for name, values in zip(names, joined, strict=True)}


def join_scores(
    architecture: Architecture, layer_scores: Mapping[str, Any], conventions: Conventions
) -> list[Scores]:
    """Return :func:`group_scores` as arrays in the order of ``architecture.free``."""
    ready: dict[str, Scores] = {}
    return [
        join_member_scores(group.members, group.size, group.name, layer_scores, conventions, ready)
        for group in architecture.free
    ]


def join_member_scores(
    parts: Sequence[Member],
    size: int,
    name: str,
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    ready: dict[str, Scores],
) -> Scores:
    """Return one score per channel (size,) from the layers that produce the channels.

    Args:
        parts: the producers, in module order.
        size: number of channels.
        name: what the group is called in an error.
        layer_scores: layer name -> scores (o,).
        conventions: ``normaliser`` and ``join`` are used.
        ready: normalised scores of layers, filled here, for layers that are in several groups.

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: a layer has no scores.
    """
    used: list[Member] = []
    for member in parts:
        if member.layer not in ready:
            values = read_scores(layer_scores, member.layer, (member.width,))
            _guard_finite(values, member.layer)
            ready[member.layer] = normalise(values, conventions.normaliser)
        used.append(member)
        ranks_all = member.counts.all() and not is_constant(ready[member.layer])
        if conventions.join == "first" and ranks_all:
            break  # the others would add nothing
    parts = _those_that_rank(used, ready, layer_scores)
    joined = _join([(part, ready[part.layer]) for part in parts], size, conventions.join)
    if len(parts) > 1 and is_constant(joined):
        raise DegenerateScores("constant", name, "the joined scores are all equal")
    return joined


def _those_that_rank(
    parts: Sequence[Member], ready: Mapping[str, Scores], layer_scores: Mapping[str, Any]
) -> Sequence[Member]:
    """Return the layers whose scores differ; DegenerateScores if these miss a channel."""
    silent = {member.layer for member in parts if is_constant(ready[member.layer])}
    ranking = [member for member in parts if member.layer not in silent]
    if silent and not (ranking and np.any([m.counts for m in ranking], axis=0).all()):
        first = next(member for member in parts if member.layer in silent)
        guard(read_scores(layer_scores, first.layer, (first.width,)), first.layer)
    return ranking


def keep_unranked(
    architecture: Architecture,
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    but: Collection[str] = (),
) -> Architecture:
    """Keep the groups whole in which every channel has the same score, if others are ranked.

    Args:
        architecture: the traced network.
        layer_scores: layer name -> scores (o,), as for :func:`group_scores`.
        conventions: ``normaliser`` and ``join`` are used.
        but: names of groups that must be ranked.

    Returns:
        The architecture, where :data:`UNRANKED` is why these groups are fixed.

    Raises:
        DegenerateScores: no group is ranked, a group of ``but`` is not, or scores are not finite.
        UserError: a layer that may be cut has no scores.
    """
    kept: dict[str, DegenerateScores] = {}
    ready: dict[str, Scores] = {}
    for group in architecture.free:
        try:
            join_member_scores(
                group.members, group.size, group.name, layer_scores, conventions, ready
            )
        except DegenerateScores as error:
            if error.reason != "constant" or group.name in but:
                raise
            kept[group.name] = error
    if kept and len(kept) == len(architecture.free):
        raise next(iter(kept.values()))
    groups = [replace(g, fixed=UNRANKED) if g.name in kept else g for g in architecture.groups]
    return replace(architecture, groups=tuple(groups))


def as_array(scores: Any, layer: str) -> Scores:
    """Return scores as a float64 array; accept tensors, arrays and (nested) lists of real numbers.

    Raises:
        DegenerateScores: they are no numbers, or complex ones, which have no order.
    """
    if isinstance(scores, Tensor):
        _refuse_complex(scores.is_complex(), layer)
        return scores.detach().to("cpu", torch.float64).numpy()
    try:
        values = np.asarray(scores)
        _refuse_complex(values.dtype.kind == "c", layer)
        if values.dtype.kind in "biufO":
            return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DegenerateScores):
            raise
    raise DegenerateScores("wrong-shape", layer, f"{type(scores).__name__} is no tensor of numbers")


def _refuse_complex(is_complex: bool, layer: str) -> None:
    if is_complex:
        detail = "complex numbers have no order; take their magnitude or their real part"
        raise DegenerateScores("complex", layer, detail)


def is_constant(values: Scores) -> bool:
    """Return whether several values are all equal up to rounding, so that they rank nothing."""
    if values.size < 2:
        return False
    largest = np.abs(values).max()
    # Divided first: the distance of two huge values may be too big for a number.
    return bool(largest == 0 or values.max() / largest - values.min() / largest <= ROUNDING)


def guard(values: Scores, layer: str) -> None:
    """Raise DegenerateScores unless the values (any,) are finite and not all equal."""
    _guard_finite(values, layer)
    if is_constant(values):
        raise DegenerateScores("constant", layer, f"all {values.size} values are {values[0]}")


def _guard_finite(values: Scores, layer: str) -> None:
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise DegenerateScores(
            "non-finite", layer, f"{bad} of {values.size} values are NaN or infinite"
        )


def read_scores(layer_scores: Mapping[str, Any], layer: str, shape: tuple[int, ...]) -> Scores:
    """Return the scores of a layer as an array of this shape.

    Raises:
        DegenerateScores: they have another shape.
        UserError: the layer has no scores.
    """
    if layer not in layer_scores:
        raise UserError(
            f"layer {layer!r} has no scores; score every layer that may be cut or name it as "
            "interface"
        )
    values = as_array(layer_scores[layer], layer)
    if values.shape != shape:
        detail = f"shape {tuple(values.shape)} where {shape} is needed"
        raise DegenerateScores("wrong-shape", layer, detail)
    return values


def normalise(values: Scores, normaliser: str) -> Scores:
    """Divide values by the sum, mean or maximum of their absolute values, or by nothing."""
    if normaliser == "none":
        return values
    magnitude = np.abs(values)
    largest = magnitude.max()
    if largest == 0:
        return values
    with np.errstate(over="ignore"):
        divisor = _NORMS[normaliser](magnitude)
    if not np.isfinite(divisor):
        values = values / largest
        divisor = _NORMS[normaliser](np.abs(values))
    return np.asarray(values / divisor)


_NORMS: dict[str, Any] = {"sum": np.sum, "mean": np.mean, "max": np.max}


def _join(parts: Sequence[tuple[Member, Scores]], size: int, join: str) -> Scores:
    if len(parts) == 1 and parts[0][0].entries is None:
        return parts[0][1]
    total = np.zeros(size)
    covered = np.zeros(size)
    if join == "max":
        total -= np.inf
    for member, values in parts:
        channel_scores = _per_channel(member, values, size, join)
        has = member.counts > 0
        if join == "max":
            total = np.where(has, np.maximum(total, channel_scores), total)
        elif join == "first":
            total = np.where(has & (covered == 0), channel_scores, total)
        else:
            total += np.where(has, channel_scores, 0.0)
        covered += has
    return total / covered if join == "mean" else total


def _per_channel(member: Member, values: Scores, size: int, join: str) -> Scores:
    if member.entries is None:
        return values
    taken = values[member.entries]
    if join == "max":
        largest = np.full(size, -np.inf)
        np.maximum.at(largest, member.channels, taken)
        return largest
    total: Scores = np.bincount(member.channels, weights=taken, minlength=size)  # type: ignore[assignment]
    return total if join == "sum" else total / np.maximum(member.counts, 1)
