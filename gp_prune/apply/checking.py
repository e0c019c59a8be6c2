"""Check a cut that was made: the network runs, and computes what it does with zeros instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gp_prune.errors import UserError, brief
from gp_prune.pruning.modules import as_dense, largest_difference
from gp_prune.pruning.surgery import Entries, set_to_zero
from gp_prune.statistics.running import (
    Forward,
    call_model,
    copy_model,
    evaluation_mode,
    seed_generators,
    tensors_of,
)

_TOLERANCE = 1e-3
"""Largest difference of masked and compact outputs, as a share of the largest output."""


@contextmanager
def running_cut() -> Iterator[None]:
    """Say in one sentence that the pruned network does not run, and what helps."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever its code raises
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"the pruned network does not run ({type(error).__name__}: {brief(reason)}): its "
            "code needs widths that the cut does not leave; keep multiples of a number with "
            "--round-to (round_to), keep layers whole with --ignore (ignore), or use mode "
            "'mask'"
        ) from error


class KeptOutput:
    """Runs networks, which draw the same random numbers, and keeps what the last one returned.

    Args:
        forward_fn: runs a network on a batch, where calling it is not the way.
        seed: of the random numbers.

    Attributes:
        output: what came out.
    """

    def __init__(self, forward_fn: Forward | None, seed: int) -> None:
        self._forward_fn, self._seed = forward_fn, seed
        self.output: Any = None

    def __call__(self, network: nn.Module, inputs: Any) -> Any:
        """Run a network in evaluation mode, inside what restores the random state."""
        seed_generators(self._seed)
        self.output = call_model(network, inputs, self._forward_fn)
        return self.output


def check_outputs(
    model: nn.Module, output: Any, entries: Entries, inputs: Any, forward_fn: Forward
) -> None:
    """Raise UserError unless removing the channels did what holding them at zero does.

    Tracing tries this on one cut with random weights; this is the cut that is made.

    Args:
        model: the whole network; it stays as it is.
        output: what the network without the channels returned.
        entries: what went, by module and side.
        inputs: the batch.
        forward_fn: runs a network on the batch, as the smaller one did.
    """
    # Channels set to zero compute what masks do, without the memory that masks take.
    zeroed = copy_model(model)
    set_to_zero(zeroed, entries)
    with evaluation_mode(zeroed), torch.no_grad():
        expected = forward_fn(zeroed, inputs)
    outputs = [
        [tensor for tensor in tensors_of(value) if tensor.is_floating_point()]
        for value in (expected, output)
    ]
    finite = [
        pair for pair in zip(*outputs, strict=True) if bool(as_dense(pair[0]).isfinite().all())
    ]
    share = largest_difference([one for one, _ in finite], [other for _, other in finite])
    if share > _TOLERANCE:
        raise UserError(
            "the network without the channels gives other outputs than with the channels at "
            f"zero (they differ by {share:.2g} of the largest); it uses them in a way that "
            "cannot be followed, so use mode 'mask', or ignore the layers concerned"
        )
