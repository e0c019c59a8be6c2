"""Time a pruned network and the original in turns.

A machine's speed drifts while it is measured. So two networks always run in turns, and what is
reported is the median of the ratios of neighbouring turns, from which the drift cancels.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning import Latency
from gp_prune.pruning.cost import summary, timed_pass
from gp_prune.statistics.running import Forward, evaluation_mode

SEARCH_TURNS = 11
"""Turns in which a candidate is compared with the original while a cut is searched."""
FINAL_TURNS = 31
"""Turns in which the pruned network is compared with the original at the end."""
_TURN_SECONDS = 0.3  # networks that take less run more often
_MOST_TURNS = 201


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
        """The times as a JSON object."""
        return {
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "share": {"median": self.share, "lower": self.lower, "upper": self.upper},
        }


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
    neither always runs behind the other.

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
    times: dict[bool, list[float]] = {False: [], True: []}
    with ExitStack() as stack:
        for model in (original, pruned):
            stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        for model in (original, pruned):
            timed_pass(model, inputs, forward_fn)
        first = timed_pass(original, inputs, forward_fn)
        count = max(turns, min(_MOST_TURNS, math.ceil(_TURN_SECONDS / max(first, 1e-9))))
        for turn in range(count):
            for second in (False, True) if turn % 2 == 0 else (True, False):
                model = pruned if second else original
                times[second].append(timed_pass(model, inputs, forward_fn))
    ratios = np.array(times[True]) / np.array(times[False])
    lower, median, upper = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Turns(summary(times[False], inputs), summary(times[True], inputs), median, lower, upper)
