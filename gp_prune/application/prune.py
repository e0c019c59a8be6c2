"""Pruning any model by a metric, to a budget."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.application.data import as_batches
from gp_prune.application.result import PrunedModel
from gp_prune.application.rows import layer_rows
from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.layer import NEEDS
from gp_prune.metric import Metric
from gp_prune.primitive import Operand
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    Cost,
    DegenerateScores,
    WeightPlan,
    compact,
    mask,
    measure,
    predict,
    readers,
    select_channels,
    select_weights,
    trace,
)
from gp_prune.pruning.modules import map_tensors, tensors_of
from gp_prune.statistics import Loss, collect
from gp_prune.statistics.state import device_of

MODES = ("compact", "mask")
_DATA_NEEDS = frozenset(NEEDS) - {"noise", "outgoing", "synflow"}


def prune(
    model: nn.Module,
    metric: Metric | str,
    example_inputs: Any,
    *,
    data: Iterable[Any] = (),
    loss: Loss | None = None,
    channels: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    interface: Sequence[str] = (),
    mode: str | None = None,
    conventions: Conventions | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[str], None] | None = None,
) -> PrunedModel:
    """A pruned copy of a network; the network itself is not changed.

    Exactly one of ``channels``, ``macs`` and ``params`` says which share is kept. A metric of
    single weights takes ``params``, the share of the weights of all layers, or ``macs``, the share
    that is left when zeros cost nothing.

    Args:
        model: any network that ``copy.deepcopy`` can copy.
        metric: a metric, or what :meth:`Metric.load` takes.
        example_inputs: a batch that the model can be called with: a tensor (samples, ...), a tuple
            of arguments or a dictionary of named ones.
        data: calibration batches, for metrics that measure something: items of
            :class:`~gp_prune.statistics.Batch`, pairs (inputs, target), or inputs alone.
        loss: ``loss(output, target)``, a mean over the batch, for metrics that need gradients.
        channels: share of the channels that may be cut.
        macs: share of the MACs of the network.
        params: share of the parameters of the network.
        interface: layers whose output channels are kept; the network's output always is.
        mode: ``"compact"`` removes channels, ``"mask"`` holds them (or single weights) at zero;
            by default compact for channels and mask for weights.
        conventions: in place of those of the metric.
        seed: seed of everything random: sampled positions, a metric's own noise.
        device: where to work, and where the pruned network then is; by default the model's device.
        progress: called with a line for a person before each step.

    Raises:
        UserError: an argument is not valid, the metric lacks its data, or the network cannot be
            run or pruned.
        DegenerateScores: the metric does not rank the channels or weights of a layer.
    """
    started = time.perf_counter()
    tell = progress or _say_nothing
    metric = Metric.load(metric) if isinstance(metric, str) else metric
    budget, mode = _budget(metric, channels, macs, params), _mode(metric, mode)
    _check_data(metric, data)
    if device is not None and torch.device(device) != device_of(model):
        model = copy.deepcopy(model).to(device)
    inputs = _inputs(example_inputs, device_of(model))
    tell("counting the network")
    before = _first_cost(model, inputs)
    tell("finding the channels that belong together")
    architecture = trace(model, inputs, interface=interface)
    tell(f"scoring {len(_scored(architecture, metric))} layers with {metric.name}")
    scores = _scores(model, architecture, metric, inputs, data, loss, seed)
    used = conventions or metric.conventions
    plan = _selected(model, architecture, metric, scores, used, budget)
    tell("removing channels" if mode == "compact" else "setting masks")
    pruned, after = _apply(model, plan, architecture, mode, inputs, before)
    return PrunedModel(
        model=pruned,
        plan=plan,
        mode=mode,
        before=before,
        after=after,
        rows=layer_rows(architecture, plan, scores, before, after),
        seconds=time.perf_counter() - started,
        metric=metric.name,
        metric_digest=metric.digest,
        conventions=used,
        interface=tuple(interface),
        input_shapes=tuple(tuple(tensor.shape) for tensor in tensors_of(inputs)),
        architecture=architecture,
    )


def _say_nothing(line: str) -> None:
    """Swallow a line of progress."""


def _budget(
    metric: Metric, channels: float | None, macs: float | None, params: float | None
) -> Budget:
    given = {"channels": channels, "macs": macs, "params": params}
    named = {kind: keep for kind, keep in given.items() if keep is not None}
    if len(named) != 1:
        said = " and ".join(named) or "none"
        raise UserError(f"give exactly one of channels, macs and params to keep, not {said}")
    kind, keep = named.popitem()
    if metric.granularity == "weight" and kind == "channels":
        raise UserError(
            f"metric {metric.name!r} ranks single weights, of which no share of channels can be "
            "kept; give params or macs (--params, --macs), the share to keep"
        )
    return Budget(kind, keep)


def _mode(metric: Metric, mode: str | None) -> str:
    weights = metric.granularity == "weight"
    if mode is None:
        return "mask" if weights else "compact"
    if mode not in MODES:
        raise UserError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    if weights and mode == "compact":
        raise UserError(
            f"metric {metric.name!r} ranks single weights, which cannot be taken out of a network "
            "one by one; use mode 'mask', or a metric of channels"
        )
    return mode


def needs_data(metric: Metric) -> bool:
    """Whether the metric measures anything on calibration data."""
    return bool(metric.needs & _DATA_NEEDS)


def _check_data(metric: Metric, data: Iterable[Any] | None) -> None:
    """Raise UserError if the metric measures something and there is nothing to measure."""
    lacking = metric.needs & _DATA_NEEDS
    if not lacking or (data is not None and data != () and data != []):
        return
    operands = {
        node.name: None
        for node in metric.expression.nodes()
        if isinstance(node.head, Operand) and node.head.needs & lacking
    }
    what = " and ".join(NEEDS[need] for need in NEEDS if need in lacking)
    raise UserError(
        f"metric {metric.name!r} needs {what} (for {', '.join(operands)}); give calibration data "
        "with --data (data=...)"
    )


def _inputs(example_inputs: Any, device: torch.device) -> Any:
    moved = map_tensors(lambda tensor: tensor.to(device), example_inputs)
    return tuple(moved) if isinstance(moved, list) else moved


def _first_cost(model: nn.Module, inputs: Any) -> Cost:
    try:
        return measure(model, inputs)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the network does not run on inputs of shape {shapes} ({reason}); give the shape of "
            "its inputs with --input-shape (example_inputs)"
        ) from error


def _scored(architecture: Architecture, metric: Metric) -> tuple[str, ...]:
    by_channel = metric.granularity == "channel"
    return architecture.scored_layers if by_channel else architecture.prunable_layers


def _scores(
    model: nn.Module,
    architecture: Architecture,
    metric: Metric,
    inputs: Any,
    data: Iterable[Any],
    loss: Loss | None,
    seed: int,
) -> dict[str, Tensor]:
    """Layer name -> scores (o,) or (o, i, k) of the layers that may be cut."""
    records = collect(
        model,
        _scored(architecture, metric),
        as_batches(data),
        needs=metric.needs,
        loss=loss,
        seed=seed,
        example_inputs=inputs,
        outgoing=readers(architecture) if "outgoing" in metric.needs else None,
    )
    # Each record is let go as soon as it is scored: together they are twice the network.
    return {name: metric.scores(records.pop(name)) for name in list(records)}


def _selected(
    model: nn.Module,
    architecture: Architecture,
    metric: Metric,
    scores: dict[str, Tensor],
    conventions: Conventions,
    budget: Budget,
) -> ChannelPlan | WeightPlan:
    try:
        if metric.granularity == "channel":
            return select_channels(architecture, scores, conventions, budget)
        return select_weights(model, architecture, scores, conventions, budget)
    except DegenerateScores as error:
        advice = f"metric {metric.name!r} cannot rank it, use trained weights or another metric"
        detail = f"{error.detail}; {advice}"
        raise DegenerateScores(error.reason, error.layer, detail) from error


def _apply(
    model: nn.Module,
    plan: ChannelPlan | WeightPlan,
    architecture: Architecture,
    mode: str,
    inputs: Any,
    before: Cost,
) -> tuple[nn.Module, Cost]:
    """The pruned copy and its cost."""
    if mode == "compact":
        assert isinstance(plan, ChannelPlan)
        smaller = compact(model, plan, architecture)
        after = measure(smaller, inputs)
        predicted = predict(architecture, plan.kept(architecture))
        if (after.macs, after.params) != predicted:
            raise UserError(
                f"the pruned network has {after.macs} MACs and {after.params} parameters where "
                f"{predicted[0]} and {predicted[1]} were planned; use mode 'mask' for this network"
            )
        return smaller, after
    masked = copy.deepcopy(model)
    mask(masked, plan, architecture)
    nonzero = measure(masked, inputs).nonzero
    if isinstance(plan, ChannelPlan):
        macs, params = predict(architecture, plan.kept(architecture))
        return masked, Cost(macs, params, nonzero)
    gone = sum(int((~kept.unpack()).sum()) for kept in plan.kept.values())
    share = 1.0 if plan.achieved.macs is None else plan.achieved.macs
    return masked, Cost(round(share * before.macs), before.params - gone, nonzero)
