"""Prune any model by a metric, to a budget; :mod:`gp_prune.apply.pipeline` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import nn

from gp_prune.apply.lineage import Cut, find_cut, join_plans, remember_cut
from gp_prune.apply.options import (
    OldBudgets,
    PruneOptions,
    as_allocation,
    needs_data,
    rename_old_budgets,
)
from gp_prune.apply.pipeline import Pruner
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.scoring import LayerScores, as_metric, move, warn_of_limit
from gp_prune.base.names import KEEP
from gp_prune.errors import UserError
from gp_prune.metric.file import OWN, Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import ChannelPlan, Pattern
from gp_prune.statistics import Loss, Progress
from gp_prune.statistics.running import Forward
from gp_prune.training.network import check_model
from gp_prune.training.samples import Data


def prune(
    model: nn.Module,
    metric: Metric | LayerScores | str,
    example_inputs: Any,
    *,
    data: Data = (),
    loss: Loss | None = None,
    samples: int | None = None,
    max_memory: int | str | None = None,
    pruning_ratio: float | None = None,
    keep_channels: float | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
    pattern: Pattern | str | None = None,
    steps: int = 1,
    sequential: bool = False,
    in_place: bool = False,
    interface: Sequence[str] = (),
    ignore: Sequence[str] = (),
    round_to: int = 1,
    min_share: float | None = None,
    keep_share: Mapping[str, float] | None = None,
    unranked: str = KEEP,
    allow_ties: bool = False,
    cut_residual: bool = False,
    mode: str | None = None,
    conventions: Conventions | None = None,
    allocation: str | Metric = OWN,
    forward_fn: Forward | None = None,
    time_it: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[str], None] | None = None,
    batch_progress: Progress | None = None,
    **old_names: Unpack[OldBudgets],
) -> PrunedModel:
    """Return a pruned copy of a network; the network itself is not changed but with ``in_place``.

    Exactly one of ``keep_channels``, ``keep_macs``, ``keep_params`` and ``keep_latency`` says which
    share is kept, or ``pruning_ratio`` which share of the channels or weights is removed. A metric
    of single weights takes ``keep_params``, the share of the weights of all layers, or
    ``keep_macs``, the share that is left when zeros cost nothing, or a ``pattern`` in place of a
    budget.

    Args:
        model: any network that ``copy.deepcopy`` can copy.
        metric: a metric, what :meth:`Metric.load` takes, or the scores of this network from
            :func:`gp_prune.score_layers`, which then are not measured again.
        example_inputs: a batch that the model can be called with: a tensor (samples, ...), a tuple
            of arguments or a dictionary of named ones.
        data: calibration data, for metrics that measure something: a data set of torch, a data
            loader, or batches: items of :class:`~gp_prune.statistics.Batch`, pairs (inputs,
            target), dictionaries of named arguments (which the loss gets, too), or inputs alone.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        samples: how many of the calibration samples are used: of a data set a choice by ``seed``,
            of batches and loaders the first ones; by default all.
        max_memory: most memory for what is measured, beside the passes of the network themselves:
            a size with its unit, such as ``"500MB"``, or bytes; by default 2 GB. Where a layer does
            not fit, some of its samples and positions are measured, and a warning says so.
        pruning_ratio: share to remove, of the channels that may be cut, or of the weights.
        keep_channels: share to keep of the channels that may be cut.
        keep_macs: share to keep of the MACs of the network.
        keep_params: share to keep of the parameters of the network.
        keep_latency: share to keep of the time of a forward pass over ``example_inputs``, which is
            measured in turns with the network itself.
        pattern: how many of consecutive weights stay: ``"2:4"`` keeps two of every four.
        steps: number of times that the network is scored and cut; each step scores what the one
            before left and takes the same share of it.
        sequential: score each block of a network, such as those of a transformer, on the outputs
            of the pruned blocks before it, as the published code of Wanda and SparseGPT does. Of a
            network without blocks it is layer after layer. For single weights, with scope
            ``"row"`` or ``"layer"`` or a pattern. Where the metric measures weights, inputs and
            outputs alone, what is measured of a block is let go before the next one.
        in_place: write zeros into the weights of ``model`` itself, which is returned, without a
            copy and without masks; for single weights of networks that fill the memory.
        interface: layers whose output channels are kept; the network's output always is.
        ignore: names or patterns (``layer4.*``) of further layers whose channels, or single
            weights, are all kept.
        round_to: every group keeps a multiple of this number of channels.
        min_share: share of its channels that every layer keeps at least, a tenth by default; 0
            keeps at least one channel. It is of no meaning for single weights.
        keep_share: names or patterns of layers -> the share of their channels to keep, whatever
            their scores; the other layers give the rest of the budget.
        unranked: what happens to layers whose channels all have the same score, as those without
            batch norm by ``bn_scale``: ``"keep"`` keeps them whole, named in the remarks, and
            ``"refuse"`` refuses the network. Where other layers of a group rank its channels, these
            decide; where no group is ranked, the network is always refused.
        allow_ties: cut also where more than half of the scores are tied and their positions alone
            decide what goes, which is refused by default.
        cut_residual: also cut channels that a layer or group norm spans; masked and compact
            networks then differ.
        mode: ``"compact"`` removes channels, ``"mask"`` holds them (or single weights) at zero;
            by default compact for channels and mask for weights.
        conventions: in place of those of the metric, and of the metric that gives its shares.
        allocation: how the budget is divided among the layers, whatever the scope: ``"own"`` by the
            metric that the metric has its shares from (:meth:`Metric.with_shares`), or as the
            conventions say, ``"global"`` by one ranking of all channels, ``"uniform"`` the same
            share of every layer, ``"residual-whole"`` likewise, but channels that several layers
            make together (residual streams) stay; or a metric (what ``metric`` takes): each layer
            loses as many channels as the global ranking of that metric says, or its values, where
            it is a formula of layers, and ``metric`` chooses which.
        forward_fn: ``forward_fn(model, inputs)`` runs the network on the example inputs, and on
            the inputs of each batch, where calling it with them is not the way.
        time_it: whether to measure the latency before and after.
        seed: seed of everything random: a metric's own noise and, where the limit of memory is
            met, the samples and positions that are measured.
        device: where to work, and where the pruned network then is; by default the model's device.
        progress: called with a line for a person before each step.
        batch_progress: ``batch_progress(done, total)``, called after each batch that is measured.
        old_names: ``ratio``, ``channels``, ``macs``, ``params`` and ``latency``, the earlier names
            of the budgets; they work until 0.2 with a DeprecationWarning.

    Raises:
        UserError: an argument is not valid, the metric lacks its data, the network cannot be run
            or pruned, or the latency cannot be reached.
        DegenerateScores: the metric does not rank the channels or weights of a layer.

    Warns:
        CoverageWarning: a layer does not fit ``max_memory`` and was measured in part.
    """
    budgets = {
        "pruning_ratio": pruning_ratio, "keep_channels": keep_channels, "keep_macs": keep_macs,
        "keep_params": keep_params, "keep_latency": keep_latency,
    }  # fmt: skip
    check_model(model, copied=False)  # the pruner tries that, where the network then is
    allocation = as_allocation(allocation)
    scores = metric if isinstance(metric, LayerScores) else None
    if scores is not None:
        scores.check_use(model, data, loss=loss, samples=samples, memory=max_memory, steps=steps)
    options = PruneOptions(
        metric=as_metric(metric) if scores is None else scores.metric,
        **rename_old_budgets(budgets, **old_names),
        pattern=Pattern.parse(pattern) if isinstance(pattern, str) else pattern,
        steps=steps,
        sequential=sequential,
        in_place=in_place,
        interface=interface,
        ignore=ignore,
        round_to=round_to,
        min_share=min_share,
        keep_share={} if keep_share is None else keep_share,
        unranked=unranked,
        allow_ties=allow_ties,
        cut_residual=cut_residual,
        mode=mode,
        conventions=conventions,
        allocation=allocation,
        time_it=time_it,
        seed=seed,
        samples=samples,
        max_memory=max_memory,
    )
    divides = options.allocation
    if scores is not None and not isinstance(divides, str) and needs_data(divides):
        raise UserError(
            f"allocation by metric {divides.name!r} measures on data, and scores come without "
            "any; give the metric itself in place of its scores"
        )
    earlier = find_cut(model)
    model = move(model, device)
    pruner = Pruner(
        model, options, example_inputs, data, loss, forward_fn, progress, batch_progress, scores
    )
    pruned = pruner.prune()
    if scores is None and pruner.scored is not None:
        warn_of_limit(pruner.scored)
    return _with_lineage(pruned, earlier)


def _with_lineage(pruned: PrunedModel, earlier: Cut | None) -> PrunedModel:
    """Return the result with the plan that makes it of the network before an earlier cut."""
    if pruned.mode != "compact" or not isinstance(pruned.plan, ChannelPlan):
        return pruned
    cut = Cut(pruned.architecture, pruned.plan.removed)
    if earlier is not None:
        joined = join_plans(earlier, pruned.plan, pruned.architecture)
        if joined is not None:
            pruned = replace(pruned, from_first=joined)
            cut = Cut(joined[1], joined[0].removed)
    remember_cut(pruned.model, cut)
    return pruned
