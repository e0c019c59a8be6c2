"""Time the forward pass of a network, or of two in turns.

A machine's speed drifts while it is measured. So two networks always run in turns, and what is
reported is the median of the ratios of neighbouring turns, from which the drift cancels. That
cannot be had from :class:`torch.utils.benchmark.Timer`: it times one statement in a row, and runs
it twice more before each of its measurements.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.modules import sample_count
from gp_prune.statistics.running import Forward, call_model, evaluation_mode, tensors_of

FINAL_TURNS = 31
"""Turns in which two networks are compared where nothing else is said."""
_TURN_SECONDS = 0.3  # networks that take less run more often
_MOST_TURNS = 201


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


class Turns(NamedTuple):
    """Two networks on the same batch, in turns.

    Attributes:
        before: time of the original.
        after: time of the pruned network.
        share: median over the turns of the pruned network's time by the original's.
        lower: lower quartile of that ratio.
        upper: upper quartile of that ratio.
    """

    before: Latency
    after: Latency
    share: float
    lower: float
    upper: float

    def to_json(self) -> dict[str, Any]:
        """Return the times as a JSON object."""
        return {
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "share": {"median": self.share, "lower": self.lower, "upper": self.upper},
        }


def latency(
    model: nn.Module, example_inputs: Any, *, repeats: int = 30, forward_fn: Forward | None = None
) -> Latency:
    """Time a forward pass in evaluation mode, without gradients, after one warm-up pass.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch, on the device of the model.
        repeats: number of timed passes, at least 1.
        forward_fn: runs the network, see :func:`~gp_prune.statistics.running.call_model`.

    Raises:
        UserError: ``repeats`` is less than 1.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}; it must be at least 1")
    with evaluation_mode(model), torch.no_grad():
        seconds = [timed_pass(model, example_inputs, forward_fn) for _ in range(repeats + 1)]
    return _summarize(seconds[1:], example_inputs)


def compare(
    original: nn.Module,
    pruned: nn.Module,
    inputs: Any,
    *,
    turns: int = FINAL_TURNS,
    forward_fn: Forward | None = None,
) -> Turns:
    """Time two networks in alternating turns, in evaluation mode and without gradients.

    Each runs once before anything counts. The order within a turn alternates, too, so that
    neither always runs after the other.

    Args:
        original: a network; its flags and the random state are as before afterwards.
        pruned: another one; likewise.
        inputs: a batch, on the device of both.
        turns: least number of turns; networks that take milliseconds have more.
        forward_fn: runs a network on the batch.

    Raises:
        UserError: ``turns`` is less than 1.
    """
    if turns < 1:
        raise UserError(f"the number of turns is {turns}; it must be at least 1")
    before: list[float] = []
    after: list[float] = []
    with ExitStack() as stack:
        for model in (original, pruned):
            stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        for model in (original, pruned):
            timed_pass(model, inputs, forward_fn)
        first = timed_pass(original, inputs, forward_fn)
        count = max(turns, min(_MOST_TURNS, math.ceil(_TURN_SECONDS / max(first, 1e-9))))
        both = [(original, before), (pruned, after)]
        for _ in range(count):
            for model, seconds in both:
                seconds.append(timed_pass(model, inputs, forward_fn))
            both.reverse()
    share, lower, upper = _quartiles(np.array(after) / np.array(before))
    return Turns(_summarize(before, inputs), _summarize(after, inputs), share, lower, upper)


def timed_pass(model: nn.Module, example_inputs: Any, forward_fn: Forward | None = None) -> float:
    """Return the seconds of one forward pass, in the mode in which model and autograd are."""
    device = tensors_of(example_inputs)[0].device
    _wait_for(device)
    start = time.perf_counter()
    call_model(model, example_inputs, forward_fn)
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarize(seconds: Sequence[float], example_inputs: Any) -> Latency:
    """Return median and quartiles of the times of passes over ``example_inputs``."""
    return Latency(
        *_quartiles(seconds),
        repeats=len(seconds),
        batch=sample_count(example_inputs),
        threads=torch.get_num_threads(),
        device=str(tensors_of(example_inputs)[0].device),
    )


def _quartiles(values: Any) -> tuple[float, float, float]:
    """Return median, lower and upper quartile."""
    lower, median, upper = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    return median, lower, upper
