"""Pruning any model by a metric, to a budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn

from gp_prune.apply.latency import ToLatency, compare
from gp_prune.apply.options import (
    LATENCY,
    MODES,
    OldBudgets,
    Request,
    checked_budget,
    checked_data,
    checked_mode,
    checked_options,
    checked_steps,
    example_batch,
    ignoring,
    matching_layers,
    needs_data,
    say_nothing,
    with_old_names,
)
from gp_prune.apply.result import PrunedModel, layer_rows
from gp_prune.apply.steps import StepSequence, planned, to_budget
from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.metric.ranking import Conventions
from gp_prune.pruning import (
    Architecture,
    ChannelPlan,
    Cost,
    Pattern,
    WeightPlan,
    compact,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.graph.trace import find_violation
from gp_prune.pruning.graph.trial import FORWARD_ERRORS
from gp_prune.pruning.surgery import set_to_zero
from gp_prune.statistics import Loss, Progress
from gp_prune.statistics.running import (
    Forward,
    call_model,
    device_of,
    evaluation_mode,
    seed_generators,
    tensors_of,
)


class Made(NamedTuple):
    """A pruned network and what it was made by.

    Attributes:
        architecture: the channel groups of the whole network.
        sequence: the plan and how it came about.
        model: the pruned network.
        after: its cost.
        floor: share of the time that the smallest network takes, where that was measured.
    """

    architecture: Architecture
    sequence: StepSequence
    model: nn.Module
    after: Cost
    floor: float | None


def made(model: nn.Module, request: Request, before: Cost) -> Made:
    """The pruned network.

    Args:
        model: the network; it stays as it is.
        request: what is asked.
        before: its cost.

    Raises:
        UserError: the network cannot be pruned as it is asked.
    """
    if _may_be_tried_later(request):
        found = _proved(model, request, before)
        if found is not None:
            return found
    return _made(model, request, before, try_out=True)


def _may_be_tried_later(request: Request) -> bool:
    """Whether nothing is lost if the network is cut first, and the cut then tried out."""
    return (
        request.mode == "compact"
        and request.kind != LATENCY
        and request.steps == 1
        and not needs_data(request.metric)
    )


def _proved(model: nn.Module, request: Request, before: Cost) -> Made | None:
    """The pruned network, if the cut that is made computes what it should.

    Trying out the one cut takes the place of trying out any, before there is a plan. If it does
    not pass, tracing finds out what cannot be cut, and gives the errors that there are.
    """
    try:
        found = _made(model, request, before, try_out=False)
    except (UserError, *FORWARD_ERRORS):
        return None
    plan = found.sequence.plan
    assert isinstance(plan, ChannelPlan)
    architecture, forward_fn = found.architecture, request.forward_fn
    why = find_violation(model, request.inputs, architecture, plan.removed, forward_fn=forward_fn)
    return None if why else found


def _made(model: nn.Module, request: Request, before: Cost, *, try_out: bool) -> Made:
    request.tell("finding the channels that belong together")
    architecture = trace(
        model,
        request.inputs,
        interface=request.interface,
        cut_residual=request.cut_residual,
        forward_fn=request.forward_fn,
        try_out=try_out,
    )
    if not request.by_weight:
        architecture = ignoring(architecture, request.ignore)
    to_latency = ToLatency(model, request) if request.kind == LATENCY else None
    sequence = planned(model, architecture, request, to_latency or to_budget(request))
    request.tell("removing channels" if request.mode == "compact" else "setting masks")
    smaller, after = apply(model, sequence.plan, architecture, request, before)
    floor = None if to_latency is None else to_latency.floor
    return Made(architecture, sequence, smaller, after, floor)


_TOLERANCE = 1e-3
"""Largest difference of masked and compact outputs, as a share of the largest output."""


def first_cost(model: nn.Module, inputs: Any, forward_fn: Forward | None) -> Cost:
    """Cost of the network as it is given.

    Raises:
        UserError: it does not run on the inputs.
    """
    try:
        return measure(model, inputs, forward_fn=forward_fn)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "give the shape of its inputs with --input-shape (example_inputs)"
        if forward_fn is not None:
            remedy = "give example_inputs that forward_fn can run it on"
        elif not isinstance(inputs, Tensor):
            remedy = (
                "give example_inputs that it can be called with, or forward_fn, which runs it on "
                "them, to gp_prune.prune()"
            )
        raise UserError(
            f"the network does not run on inputs of shape {shapes} ({reason}); {remedy}"
        ) from error


def apply(
    model: nn.Module,
    plan: ChannelPlan | WeightPlan,
    architecture: Architecture,
    request: Request,
    before: Cost,
) -> tuple[nn.Module, Cost]:
    """The pruned copy and its cost.

    Raises:
        UserError: the network costs or computes something else than was planned.
    """
    inputs, forward_fn = request.inputs, request.forward_fn
    if request.mode == "compact":
        assert isinstance(plan, ChannelPlan)
        smaller = compact(model, plan, architecture)
        after = measure(smaller, inputs, forward_fn=forward_fn)
        predicted = predict(architecture, plan.kept(architecture))
        if (after.macs, after.params) != predicted:
            raise UserError(
                f"the pruned network has {after.macs} MACs and {after.params} parameters where "
                f"{predicted[0]} and {predicted[1]} were planned; use mode 'mask' for this network"
            )
        if not any(architecture.by_name[name].crosses_normalisation for name in plan.removed):
            _check_equal(_zeroed(model, plan, architecture), smaller, request)
        return smaller, after
    masked = _masked(model, plan, architecture)
    nonzero = measure(masked, inputs, forward_fn=forward_fn).nonzero
    if isinstance(plan, ChannelPlan):
        macs, params = predict(architecture, plan.kept(architecture))
        return masked, Cost(macs, params, nonzero)
    gone = sum(int((~kept.unpack()).sum()) for kept in plan.kept.values())
    share = 1.0 if plan.achieved.macs is None else plan.achieved.macs
    return masked, Cost(round(share * before.macs), before.params - gone, nonzero)


def _masked(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture
) -> nn.Module:
    masked = copy.deepcopy(model)
    mask(masked, plan, architecture)
    return masked


def _zeroed(model: nn.Module, plan: ChannelPlan, architecture: Architecture) -> nn.Module:
    """What a masked network computes, without the memory that masks take."""
    zeroed = copy.deepcopy(model)
    set_to_zero(zeroed, architecture.entries(plan.removed))
    return zeroed


def _check_equal(masked: nn.Module, smaller: nn.Module, request: Request) -> None:
    """Raise UserError unless removing the channels did what holding them at zero does.

    Tracing tries this on one cut with random weights; this is the cut that is made.
    """
    outputs = []
    for network in (masked, smaller):
        with evaluation_mode(network), torch.no_grad():
            seed_generators(request.seed)
            found = tensors_of(call_model(network, request.inputs, request.forward_fn))
        outputs.append([tensor for tensor in found if tensor.is_floating_point()])
    for one, other in zip(*outputs, strict=True):
        if not one.numel() or not bool(one.isfinite().all()):
            continue
        scale = float(one.abs().amax()) or 1.0
        share = float((one - other).abs().amax()) / scale if one.shape == other.shape else math.inf
        if not share <= _TOLERANCE:
            raise UserError(
                "the network without the channels gives other outputs than with the channels at "
                f"zero (they differ by {share:.2g} of the largest); it uses them in a way that "
                "cannot be followed, so use mode 'mask', or ignore the layers concerned"
            )


__all__ = ["MODES", "needs_data", "prune"]


def prune(
    model: nn.Module,
    metric: Metric | str,
    example_inputs: Any,
    *,
    data: Iterable[Any] = (),
    loss: Loss | None = None,
    pruning_ratio: float | None = None,
    keep_channels: float | None = None,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
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
    **old_names: Unpack[OldBudgets],
) -> PrunedModel:
    """A pruned copy of a network; the network itself is not changed.

    Exactly one of ``keep_channels``, ``keep_macs``, ``keep_params`` and ``keep_latency`` says which
    share is kept, or ``pruning_ratio`` which share of the channels or weights is removed. A metric
    of single weights takes ``keep_params``, the share of the weights of all layers, or
    ``keep_macs``, the share that is left when zeros cost nothing, or a ``pattern`` in place of a
    budget.

    Args:
        model: any network that ``copy.deepcopy`` can copy.
        metric: a metric, or what :meth:`Metric.load` takes.
        example_inputs: a batch that the model can be called with: a tensor (samples, ...), a tuple
            of arguments or a dictionary of named ones.
        data: calibration batches, for metrics that measure something: items of
            :class:`~gp_prune.statistics.Batch`, pairs (inputs, target), dictionaries of named
            arguments (which the loss gets, too), or inputs alone.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        pruning_ratio: share to remove, of the channels that may be cut, or of the weights.
        keep_channels: share to keep of the channels that may be cut.
        keep_macs: share to keep of the MACs of the network.
        keep_params: share to keep of the parameters of the network.
        keep_latency: share to keep of the time of a forward pass over ``example_inputs``, which is
            measured in turns with the network itself.
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
        old_names: ``ratio``, ``channels``, ``macs``, ``params`` and ``latency``, the earlier names
            of the budgets; they work until 0.2 with a DeprecationWarning.

    Raises:
        UserError: an argument is not valid, the metric lacks its data, the network cannot be run
            or pruned, or the latency cannot be reached.
        DegenerateScores: the metric does not rank the channels or weights of a layer.
    """
    metric = Metric.load(metric) if isinstance(metric, str) else metric
    pattern = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
    budgets = {
        "pruning_ratio": pruning_ratio, "keep_channels": keep_channels, "keep_macs": keep_macs,
        "keep_params": keep_params, "keep_latency": keep_latency,
    }  # fmt: skip
    kind, keep = checked_budget(metric, with_old_names(budgets, **old_names), pattern)
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
