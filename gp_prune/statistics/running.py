"""One pass over the data, with everything attached to the model that measures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.batches import Batch, Forward, Loss, batch_size, call_model, in_parts
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
    forward: Forward = call_model,
    most: int | None = None,
    at_once: int | None = None,
) -> None:
    """Run the model forward over the data, and backward where gradients are wanted.

    Args:
        model: the model, in evaluation mode.
        layers: the layers that the recorder measures.
        stream: the data.
        recorder: measures in forward passes, if given.
        gradients: measures in backward passes, if given.
        loss: mean loss over a batch, for gradients.
        forward: runs the model on the inputs of a batch.
        most: largest number of samples in a batch; larger ones are cut into several.
        at_once: largest number of samples that run together; the rest of a batch follows.

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
        for batch, last in in_parts(stream, most, at_once):
            samples = batch_size(batch.inputs)
            if recorder is None or follower is None:
                output = forward(model, batch.inputs)
            else:
                recorder.start(samples, batch.labels)
                with follower.run():
                    output = forward(model, batch.inputs)
                recorder.finish()
            if gradients is not None and loss is not None:
                if batch.target is None:
                    raise UserError("the data has no targets; yield Batch(inputs, target)")
                gradients.add(loss(output, batch.target), samples, last=last)
            del output  # and with it what autograd keeps, before the next part runs


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Adds up, about, what autograd would keep of the passes inside: the outputs of all modules."""
    total = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            total[0] += output.numel() * output.element_size()

    with ExitStack() as stack:
        for module in model.modules():
            if next(module.children(), None) is None:
                stack.callback(module.register_forward_hook(note).remove)
        yield total
