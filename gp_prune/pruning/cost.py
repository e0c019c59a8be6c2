"""What a network costs: MACs, parameters, non-zero parameters, latency.

One MAC is one multiplication with its addition in a convolution, a transposed convolution or a
matrix product: half of what :class:`torch.utils.flop_counter.FlopCounterMode` counts. Biases,
normalisations and activation functions have none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import Architecture
from gp_prune.pruning.modules import evaluation, masked_parameters, run, sample_count, tensors_of


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


def measure(model: nn.Module, example_inputs: Any) -> Cost:
    """Cost of a network, measured on one forward pass in evaluation mode.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch: a tensor (samples, ...), a list of arguments or a mapping.

    Returns:
        MACs per sample, parameters and non-zero parameters.
    """
    samples = sample_count(example_inputs)
    with evaluation(model):
        macs = count_macs(model, example_inputs)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(macs // samples, params, _count_nonzero(model))


def count_macs(model: nn.Module, example_inputs: Any) -> int:
    """MACs of one forward pass over the whole batch, in the mode in which the model is."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(model, example_inputs)
    return int(counter.get_total_flops()) // 2


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


def latency(model: nn.Module, example_inputs: Any, *, repeats: int = 30) -> Latency:
    """Time of a forward pass in evaluation mode, without gradients, after one warm-up pass.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch, on the device of the model.
        repeats: number of timed passes, at least 1.

    Raises:
        UserError: ``repeats`` is less than 1.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; it must be at least 1")
    batch = sample_count(example_inputs)
    device = tensors_of(example_inputs)[0].device
    seconds = []
    with evaluation(model), torch.no_grad():
        for _ in range(repeats + 1):
            _wait_for(device)
            start = time.perf_counter()
            run(model, example_inputs)
            _wait_for(device)
            seconds.append(time.perf_counter() - start)
    lower, median, upper = (float(q) for q in np.quantile(seconds[1:], (0.25, 0.5, 0.75)))
    return Latency(median, lower, upper, repeats, batch, torch.get_num_threads(), str(device))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
