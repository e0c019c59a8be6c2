"""Pruning any model by a metric, to a budget."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from gp_prune.application.applying import first_cost
from gp_prune.application.latency import compare
from gp_prune.application.making import made
from gp_prune.application.request import (
    LATENCY,
    MODES,
    RATIO,
    Request,
    checked_budget,
    checked_data,
    checked_mode,
    checked_options,
    checked_steps,
    example_batch,
    matching_layers,
    needs_data,
    say_nothing,
)
from gp_prune.application.result import PrunedModel
from gp_prune.application.rows import layer_rows
from gp_prune.conventions import Conventions
from gp_prune.metric import Metric
from gp_prune.pruning import Pattern
from gp_prune.pruning.attention import open_attention
from gp_prune.pruning.modules import Forward, tensors_of
from gp_prune.statistics import Loss, Progress
from gp_prune.statistics.state import device_of

__all__ = ["MODES", "needs_data", "prune"]


def prune(
    model: nn.Module,
    metric: Metric | str,
    example_inputs: Any,
    *,
    data: Iterable[Any] = (),
    loss: Loss | None = None,
    ratio: float | None = None,
    channels: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    latency: float | None = None,
    pattern: Pattern | str | None = None,
    steps: int = 1,
    interface: Sequence[str] = (),
    ignore: Sequence[str] = (),
    round_to: int = 1,
    cut_residual: bool = False,
    mode: str | None = None,
    conventions: Conventions | None = None,
    forward_fn: Forward | None = None,
    time_it: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[str], None] | None = None,
    batch_progress: Progress | None = None,
) -> PrunedModel:
    """A pruned copy of a network; the network itself is not changed.

    Exactly one of ``channels``, ``macs``, ``params`` and ``latency`` says which share is kept, or
    ``ratio`` which share of the channels or weights goes. A metric of single weights takes
    ``params``, the share of the weights of all layers, or ``macs``, the share that is left when
    zeros cost nothing, or a ``pattern`` in place of a budget.

    Args:
        model: any network that ``copy.deepcopy`` can copy.
        metric: a metric, or what :meth:`Metric.load` takes.
        example_inputs: a batch that the model can be called with: a tensor (samples, ...), a tuple
            of arguments or a dictionary of named ones.
        data: calibration batches, for metrics that measure something: items of
            :class:`~gp_prune.statistics.Batch`, pairs (inputs, target), dictionaries of named
            arguments (which the loss gets, too), or inputs alone.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        ratio: share that is removed, of the channels that may be cut, or of the weights.
        channels: share of the channels that may be cut.
        macs: share of the MACs of the network.
        params: share of the parameters of the network.
        latency: share of the time of a forward pass over ``example_inputs``, which is measured in
            turns with the network itself.
        pattern: of every so many consecutive weights so many stay, as in ``"2:4"``.
        steps: number of times that the network is scored and cut; each step scores what the one
            before left and takes the same share of it.
        interface: layers whose output channels are kept; the network's output always is.
        ignore: names or patterns (``layer4.*``) of further layers whose channels, or single
            weights, are all kept.
        round_to: every group keeps a multiple of so many channels.
        cut_residual: also cut channels that a layer or group norm spans; masked and compact
            networks then differ.
        mode: ``"compact"`` removes channels, ``"mask"`` holds them (or single weights) at zero;
            by default compact for channels and mask for weights.
        conventions: in place of those of the metric.
        forward_fn: ``forward_fn(model, inputs)`` runs the network on the example inputs, and on
            the inputs of each batch, where calling it with them is not the way.
        time_it: whether to measure the latency before and after.
        seed: seed of everything random: sampled positions, a metric's own noise.
        device: where to work, and where the pruned network then is; by default the model's device.
        progress: called with a line for a person before each step.
        batch_progress: ``batch_progress(done, total)``, called after each batch that is measured.

    Raises:
        UserError: an argument is not valid, the metric lacks its data, the network cannot be run
            or pruned, or the latency cannot be reached.
        DegenerateScores: the metric does not rank the channels or weights of a layer.
    """
    metric = Metric.load(metric) if isinstance(metric, str) else metric
    pattern = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
    shares = {
        RATIO: ratio, "channels": channels, "macs": macs, "params": params, LATENCY: latency
    }  # fmt: skip
    kind, keep = checked_budget(metric, shares, pattern)
    checked_steps(steps, pattern)
    conventions = conventions or metric.conventions
    conventions.check_granularity(metric.granularity)
    if device is not None and torch.device(device) != device_of(model):
        model = copy.deepcopy(model).to(device)
    model = open_attention(model)
    request = Request(
        metric=metric,
        mode=checked_mode(metric, mode, kind),
        kind=kind,
        keep=keep,
        steps=steps,
        inputs=example_batch(example_inputs, device_of(model)),
        data=checked_data(metric, data, steps),
        loss=loss,
        conventions=conventions,
        interface=tuple(interface),
        ignore=matching_layers(model, ignore),
        round_to=checked_options(metric, round_to, cut_residual=cut_residual),
        cut_residual=cut_residual,
        pattern=pattern,
        forward_fn=forward_fn,
        seed=seed,
        tell=progress or say_nothing,
        batch_progress=batch_progress,
    )
    return _pruned(model, request, time_it=time_it)


def _pruned(model: nn.Module, request: Request, *, time_it: bool) -> PrunedModel:
    started = time.perf_counter()
    request.tell("counting the network")
    before = first_cost(model, request.inputs, request.forward_fn)
    found = made(model, request, before)
    architecture, (plan, scores, steps) = found.architecture, found.sequence
    times = None
    timed = request.kind == LATENCY
    if timed or time_it:
        request.tell("timing the network before and after")
        times = compare(model, found.model, request.inputs, forward_fn=request.forward_fn)
    return PrunedModel(
        model=found.model,
        plan=plan,
        mode=request.mode,
        before=before,
        after=found.after,
        rows=layer_rows(architecture, plan, scores, before, found.after, request.ignore),
        seconds=time.perf_counter() - started,
        metric=request.metric.name,
        metric_digest=request.metric.digest,
        conventions=request.conventions,
        interface=request.interface,
        input_shapes=tuple(tuple(tensor.shape) for tensor in tensors_of(request.inputs)),
        architecture=architecture,
        ignore=request.ignore,
        round_to=request.round_to,
        cut_residual=request.cut_residual,
        pattern=None if request.pattern is None else str(request.pattern),
        steps=steps,
        times=times,
        latency=request.keep if timed else None,
        latency_floor=found.floor,
    )
