"""Score the layers of a network, and choose what goes in one of several steps.

Every step scores what the step before left. A plan is always in the channels or weights of the
whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import length_hint
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gp_prune.apply.options import (
    LATENCY,
    PruneOptions,
    match_layers,
    missing_data,
    needs_data,
)
from gp_prune.errors import UserError
from gp_prune.language.primitive import Operand
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Achieved,
    Architecture,
    Budget,
    ChannelPlan,
    WeightPlan,
    consumers,
    select_channels,
    select_weights,
)
from gp_prune.pruning.select.channels import least_width
from gp_prune.pruning.select.scores import as_array, guard, normalise
from gp_prune.statistics import Batch, Forward, Loss, Progress, collect_each
from gp_prune.statistics.batches import as_batch
from gp_prune.statistics.layers import to_dense
from gp_prune.statistics.running import to_device
from gp_prune.training.samples import as_data, in_order

_BATCH = 32
"""Samples in a batch of a data set; what comes in batches stays in them."""
_SAME_WITHOUT_NORM = frozenset({"W", "b"})
"""Operands that are the same whether a batch norm follows or not."""
_ROUNDS = 8  # of bisection: 1/256 of the MACs
_CLOSE = 0.01  # a difference of shares below which the search stops
_LEAST = 1e-9  # a share of the MACs that no network can meet: the smallest one is taken

TimeShare = Callable[[ChannelPlan], float]
"""Time of the network after a cut of the present one, as a share of the whole network's time."""


def example_batch(example_inputs: Any, device: torch.device) -> Any:
    """Return the example inputs on a device, contiguous; a list of arguments becomes a tuple."""
    moved = to_device(example_inputs, device)
    return tuple(moved) if isinstance(moved, list) else moved


def calibration_batches(metric: Metric, data: Any, *, passes: int) -> Iterable[Batch]:
    """Return the calibration data that a person gives as batches.

    Args:
        metric: what measures on the data; one that measures nothing gets no batches.
        data: see :func:`gp_prune.prune`; one batch alone becomes a list of it.
        passes: how often the batches are iterated; what can be read only once is kept in memory
            for several.

    Raises:
        UserError: the metric measures something and there is nothing to measure, or the data
            yields no batches.
    """
    if not needs_data(metric):
        return ()
    if data is None or (isinstance(data, list | tuple) and not data):
        raise missing_data(metric)
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(p, Tensor) for p in data)
    if isinstance(data, Batch | Mapping) or pair:
        return [as_batch(data)]
    if isinstance(data, Iterator):
        batches = map(as_batch, data)
        return list(batches) if passes > 1 else batches
    if isinstance(data, Dataset):
        return _Batches(as_data(data))
    if isinstance(data, Tensor | str | bytes) or not isinstance(data, Iterable):
        raise UserError(
            f"the data is a {type(data).__name__}; give a list of batches, a data loader, a data "
            "set, or one pair (inputs, target) of tensors"
        )
    return _Batches(data)


class _Batches:
    """The batches of data that can be iterated again."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        return in_order(self._data, _BATCH)

    def __length_hint__(self) -> int:
        """Return how many there are; 0 where the data does not tell."""
        if isinstance(self._data, Dataset):
            return -(-length_hint(self._data, 0) // _BATCH)
        return length_hint(self._data, 0)


def score_layers(
    model: nn.Module,
    metric: Metric,
    batches: Iterable[Batch],
    *,
    layers: Sequence[str] | None = None,
    architecture: Architecture | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    example_inputs: Any = None,
    forward_fn: Forward | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Return layer name -> scores (o,) or (o, i, k) of a network as it is now.

    Args:
        model: the network; it stays as it is.
        metric: what scores.
        batches: what it measures on.
        layers: names of the layers to score; all by default.
        architecture: the channel groups, for metrics that read the outgoing weights.
        loss: mean loss of a batch, for metrics that need gradients.
        seed: seed of everything random.
        example_inputs: a batch that the network can be called with.
        forward_fn: runs the network on inputs.
        progress: is told of every batch that was measured.
    """
    operands = {n.name for n in metric.expression.nodes() if isinstance(n.head, Operand)}
    outgoing = None
    if "outgoing" in metric.needs:
        assert architecture is not None
        outgoing = consumers(architecture)
    records = collect_each(
        model,
        layers,
        batches,
        needs=metric.needs,
        loss=loss,
        seed=seed,
        example_inputs=example_inputs,
        outgoing=outgoing,
        forward_fn=forward_fn,
        progress=progress,
        norms=not operands <= _SAME_WITHOUT_NORM,
    )
    # One record after the other: together they are several times the network.
    return {name: metric.scores(record) for name, record in records}


class Bounds(NamedTuple):
    """What channel groups keep whatever their scores.

    Attributes:
        least: group name -> fewest channels that it keeps.
        shares: group name -> share of its channels that it keeps.
    """

    least: Mapping[str, int]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, options: PruneOptions, architecture: Architecture) -> Bounds:
        """Return the bounds that options set for a network.

        A layer that several patterns match has the share of its own name, else of the last
        pattern. Of layers whose channels are tied together the largest share counts.

        Raises:
            UserError: a name or pattern matches no layer, or none that may be cut.
        """
        layers = dict.fromkeys(layer for group in architecture.groups for layer in group.producers)
        fixed = {layer: g.fixed for g in architecture.groups if g.fixed for layer in g.producers}
        wanted: dict[str, float] = {}
        exact: dict[str, float] = {}
        for name, share in options.keep_share.items():
            matched = match_layers([name], layers, "layer with a share to keep")
            if all(layer in fixed for layer in matched):
                raise UserError(
                    f"the share to keep of {name!r} means nothing, because {matched[0]!r} is kept "
                    f"whole ({fixed[matched[0]]}); leave it out"
                )
            (exact if name in layers else wanted).update(dict.fromkeys(matched, share))
        wanted.update(exact)
        shares = {}
        for group in architecture.free:
            given = [wanted[layer] for layer in group.producers if layer in wanted]
            if given:
                shares[group.name] = max(given)
        least = {group.name: least_width(group.size, options.floor) for group in architecture.free}
        return cls(least, shares)

    def step(self, number: int, steps: int) -> Bounds:
        """Return the bounds after a step; shares fall as that of the budget does."""
        shares = {name: share ** (number / steps) for name, share in self.shares.items()}
        return self._replace(shares=shares)


def select_next_channels(
    now: Architecture,
    whole: Architecture,
    scores: Mapping[str, Tensor],
    share: float,
    earlier: ChannelPlan | None,
    options: PruneOptions,
    time_share: TimeShare,
    bounds: Bounds,
) -> tuple[ChannelPlan, float | None]:
    """Choose the channels that go in one step.

    Args:
        now: the groups that the earlier steps left.
        whole: the groups of the whole network.
        scores: layer name -> scores (o,) of the present channels.
        share: how much of the whole network to keep.
        earlier: what went in the earlier steps; None in the first.
        options: the budget and the ranking.
        time_share: measures a cut, for a budget of latency.
        bounds: what the groups keep whatever their scores.

    Returns:
        The plan, and for a budget of latency the share of time that the smallest network takes.
    """
    shares = {
        group.name: min(
            1.0, bounds.shares[group.name] * whole.by_name[group.name].size / group.size
        )
        for group in now.free
        if group.name in bounds.shares
    }

    def select(kind: str, keep: float) -> ChannelPlan:
        return select_channels(
            now,
            scores,
            options.ranking,
            Budget(kind, keep),
            round_to=options.round_to,
            least=bounds.least,
            keep_shares=shares,
        )

    floor = None
    if options.kind == LATENCY:
        smallest = describe_smallest(options.floor)
        plan, floor = _search_latency(
            lambda keep: select("macs", keep), time_share, share, smallest
        )
    else:
        plan = select(options.kind, _relative_share(options.kind, whole, now, share))
    if earlier is None:
        return plan, floor
    removed = whole.join_cuts(earlier.removed, plan.removed)
    achieved = Achieved.of(whole, whole.widths(removed))
    # A plan knows no latency, only the MACs that came to it.
    asked = Budget("macs", achieved.macs) if floor is not None else Budget(options.kind, share)
    return replace(plan, removed=removed, asked=asked, achieved=achieved), floor


def _relative_share(kind: str, whole: Architecture, now: Architecture, share: float) -> float:
    """Return the share of the present network that is ``share`` of the whole one; at most 1."""
    counts = {
        "channels": (int(whole.sizes.sum()), int(now.sizes.sum())),
        "macs": (whole.dense_costs[0], now.dense_costs[0]),
        "params": (whole.dense_costs[1], now.dense_costs[1]),
    }
    first, present = counts[kind]
    return min(1.0, share * (first / present)) if present else 1.0


def describe_smallest(floor: float) -> str:
    """Say what is left in the smallest network when every layer keeps this share at least."""
    if not floor:
        return "one channel or block per group"
    return f"{100 * floor:g} % of the channels of each layer, as --min-share (min_share) says"


def _search_latency(
    select: Callable[[float], ChannelPlan], time_share: TimeShare, share: float, smallest: str
) -> tuple[ChannelPlan, float]:
    """Find the cut whose measured time is nearest to a share, by bisection over shares of MACs.

    Returns:
        The plan, and the share of time that the smallest network takes.
    """
    best = select(_LEAST)
    floor = reached = time_share(best)
    if floor > share + _CLOSE:
        raise UserError(
            f"{share:.3f} of the latency cannot be reached: the smallest network of this kind "
            f"({smallest}) still takes {floor:.3f} of the time; ask for more, "
            "time larger example inputs, or give keep_macs or keep_params"
        )
    low, high = 0.0, 1.0
    tried = {best.digest()}
    keep = share  # time is about proportional to MACs
    for _ in range(_ROUNDS):
        plan = select(keep)
        time = time_share(plan)
        if abs(time - share) < abs(reached - share):
            best, reached = plan, time
        if abs(time - share) <= _CLOSE or (plan.digest() in tried and high - low < _CLOSE):
            break
        tried.add(plan.digest())
        low, high = (keep, high) if time < share else (low, keep)
        keep = (low + high) / 2
    return best, floor


def select_next_weights(
    model: nn.Module,
    whole: Architecture,
    scores: Mapping[str, Tensor],
    share: float,
    earlier: WeightPlan | None,
    options: PruneOptions,
    ignore: Sequence[str],
) -> WeightPlan:
    """Choose the weights that go in one step.

    Args:
        model: the whole network.
        whole: its layers and what they cost.
        scores: layer name -> scores (o, i, k) of all weights, measured after the earlier steps.
        share: how much of the whole network to keep.
        earlier: what went in the earlier steps; None in the first.
        options: the budget and the ranking.
        ignore: layers whose weights all stay.
    """
    ranking = options.ranking
    if earlier is not None:
        scores = _rank_removed_last(model, earlier, scores, ranking.normaliser)
        ranking = replace(ranking, normaliser="none")
    budget = Budget(options.kind, share) if options.pattern is None else None
    return select_weights(
        model, whole, scores, ranking, budget, pattern=options.pattern, ignore=ignore
    )


def _rank_removed_last(
    model: nn.Module, earlier: WeightPlan, scores: Mapping[str, Tensor], normaliser: str
) -> dict[str, Tensor]:
    """Return normalised scores in which the weights that are removed already are the lowest.

    A metric may well give a weight of zero more than another; it must not grow again.
    """
    ranked: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for name, values in scores.items():
        ranked[name] = values.detach().to("cpu", torch.float64).clone()
        if name not in earlier.kept:
            continue
        stays = torch.from_numpy(earlier.kept[name].unpack())
        present[name] = to_dense(stays, model.get_submodule(name)) > 0
        inside = as_array(ranked[name][present[name]], name)
        guard(inside, name)
        ranked[name][present[name]] = torch.from_numpy(normalise(inside, normaliser).copy())
    lowest = min(float(ranked[name][stays].min()) for name, stays in present.items())
    for name, stays in present.items():
        ranked[name][~stays] = lowest - max(1.0, abs(lowest))
    return ranked
