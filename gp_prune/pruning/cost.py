"""What a network costs: MACs, parameters, non-zero parameters, latency.

One MAC is one multiplication with its addition in a convolution, a transposed convolution or a
matrix product: half of what :class:`torch.utils.flop_counter.FlopCounterMode` counts. Biases,
normalisations and activation functions have none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import Architecture
from gp_prune.pruning.flops import flop_counter
from gp_prune.pruning.modules import (
    Forward,
    evaluation,
    masked_parameters,
    run,
    sample_count,
    tensors_of,
)


class Cost(NamedTuple):
    """Cost of a network.

    Attributes:
        macs: multiply-accumulates per sample.
        params: number of parameters, zeros included.
        nonzero: number of parameters that are not zero, masks applied.
    """

    macs: int
    params: int
    nonzero: int


class Latency(NamedTuple):
    """Time of one forward pass over a batch.

    Attributes:
        median_s: median over the repeats, in seconds.
        lower_s: lower quartile, in seconds.
        upper_s: upper quartile, in seconds.
        repeats: number of timed passes.
        batch: number of samples in the batch.
        threads: number of threads that torch used.
        device: where the inputs were.
    """

    median_s: float
    lower_s: float
    upper_s: float
    repeats: int
    batch: int
    threads: int
    device: str


def predict(architecture: Architecture, kept: Mapping[str, int]) -> tuple[int, int]:
    """MACs per sample and parameters of a pruned network, without running anything.

    Args:
        architecture: the traced network.
        kept: group name -> number of channels kept; groups left out are whole.

    Returns:
        ``(macs, params)``, exactly what :func:`measure` finds on the compact network.

    Raises:
        UserError: a group is unknown, or fixed and not whole, or a width is outside [1, size].
    """
    widths = {group.name: group.size for group in architecture.groups}
    for name, width in kept.items():
        if name not in widths:
            raise UserError(f"the network has no channel group {name!r}; it has {list(widths)}")
        group = architecture.by_name[name]
        if not 1 <= width <= group.size or (group.fixed and width != group.size):
            fixed = f" and is fixed ({group.fixed})" if group.fixed else ""
            raise UserError(
                f"group {name!r} cannot keep {width} channels; it has {group.size}{fixed}"
            )
        widths[name] = width
    free = [widths[group.name] for group in architecture.free]
    return architecture.costs(np.array(free, dtype=np.int64))


def measure(model: nn.Module, example_inputs: Any, *, forward_fn: Forward | None = None) -> Cost:
    """Cost of a network, measured on one forward pass in evaluation mode.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch: a tensor (samples, ...), a list of arguments or a mapping.
        forward_fn: runs the network on them, in place of :func:`gp_prune.pruning.modules.run`.

    Returns:
        MACs per sample, parameters and non-zero parameters.
    """
    samples = sample_count(example_inputs)
    with evaluation(model):
        macs = count_macs(model, example_inputs, forward_fn)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(macs // samples, params, _count_nonzero(model))


def count_macs(model: nn.Module, example_inputs: Any, forward_fn: Forward | None = None) -> int:
    """MACs of one forward pass over the whole batch, in the mode in which the model is."""
    with torch.no_grad(), flop_counter(model) as counter:
        run(model, example_inputs, forward_fn)
    return counter.total // 2


def _count_nonzero(model: nn.Module) -> int:
    masks = {
        id(getattr(module, f"{name}_orig")): getattr(module, f"{name}_mask")
        for _, module, name in masked_parameters(model)
    }
    total = 0
    for parameter in model.parameters():
        values = parameter.detach()
        if id(parameter) in masks:
            values = values * masks[id(parameter)]
        total += int(torch.count_nonzero(values))
    return total


def latency(
    model: nn.Module,
    example_inputs: Any,
    *,
    repeats: int = 30,
    forward_fn: Forward | None = None,
) -> Latency:
    """Time of a forward pass in evaluation mode, without gradients, after one warm-up pass.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch, on the device of the model.
        repeats: number of timed passes, at least 1.
        forward_fn: runs the network on the inputs, in place of
            :func:`gp_prune.pruning.modules.run`.

    Raises:
        UserError: ``repeats`` is less than 1.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; it must be at least 1")
    with evaluation(model), torch.no_grad():
        seconds = [timed_pass(model, example_inputs, forward_fn) for _ in range(repeats + 1)]
    return summary(seconds[1:], example_inputs)


def timed_pass(model: nn.Module, example_inputs: Any, forward_fn: Forward | None = None) -> float:
    """Seconds of one forward pass, in the mode in which the model and autograd are."""
    device = tensors_of(example_inputs)[0].device
    _wait_for(device)
    start = time.perf_counter()
    run(model, example_inputs, forward_fn)
    _wait_for(device)
    return time.perf_counter() - start


def summary(seconds: Sequence[float], example_inputs: Any) -> Latency:
    """Median and quartiles of the times of passes over ``example_inputs``."""
    lower, median, upper = (float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return Latency(
        median,
        lower,
        upper,
        repeats=len(seconds),
        batch=sample_count(example_inputs),
        threads=torch.get_num_threads(),
        device=str(tensors_of(example_inputs)[0].device),
    )


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
