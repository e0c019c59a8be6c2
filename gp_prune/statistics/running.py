"""One pass over the data, with everything attached to the model that measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.statistics.batches import Batch, Loss, batch_size, call_model, small
from gp_prune.statistics.following import Follower
from gp_prune.statistics.gradients import Gradients
from gp_prune.statistics.recording import Recorder


def run_model(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    stream: Iterable[Batch],
    recorder: Recorder | None,
    gradients: Gradients | None,
    loss: Loss | None,
    most: int | None = None,
) -> None:
    """Run the model forward over the data, and backward where gradients are wanted.

    Args:
        model: the model, in evaluation mode.
        layers: the layers that the recorder measures.
        stream: the data.
        recorder: measures in forward passes, if given.
        gradients: measures in backward passes, if given.
        loss: mean loss over a batch, for gradients.
        most: largest number of samples per pass; larger batches are cut.

    Raises:
        UserError: gradients are wanted and the data has no targets, or a measurement fails.
    """
    follower = None if recorder is None else Follower(model, layers, recorder)
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(gradients is not None))
        if gradients is not None:  # before the follower, which must see the rescaled batch norms
            stack.enter_context(gradients.attached())
        if follower is not None:
            stack.enter_context(follower.attached())
        for batch in stream if most is None else small(stream, most):
            samples = batch_size(batch.inputs)
            if recorder is None or follower is None:
                output = call_model(model, batch.inputs)
            else:
                recorder.start(samples, batch.labels)
                with follower.run():
                    output = call_model(model, batch.inputs)
                recorder.finish()
            if gradients is not None and loss is not None:
                if batch.target is None:
                    raise UserError("the data has no targets; yield Batch(inputs, target)")
                gradients.add(loss(output, batch.target), samples)
