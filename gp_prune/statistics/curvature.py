"""The Hessian of the mean loss times its gradient, by differentiating twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gp_prune.errors import UserError
from gp_prune.statistics.batches import Batch, Forward, Loss, batch_size, call_model, in_parts
from gp_prune.statistics.gradients import Gradients, Used
from gp_prune.statistics.layers import prunable_layers


class HessianGradients(Gradients):
    """The derivative along the gradient of the gradient by all layer weights.

    The weights are those of all prunable layers of the model, as in GraSP (Wang et al., ICLR 2020),
    so the result for a layer does not depend on which other layers are asked for. Biases and batch
    norms stay put. An operation whose own backward pass torch cannot differentiate raises an error,
    but for a custom one marked ``once_differentiable``, through which torch passes nothing.
    """

    def __init__(self, model: nn.Module, gradients: Gradients) -> None:
        """Nothing summed yet; ``gradients`` has seen all of the data."""
        super().__init__(model, prunable_layers(model), norms=False)
        self._direction = gradients

    def _remember(self, module: nn.Module, args: Any) -> None:
        self._note(module, "weight")

    def _differentiate(self, value: Tensor, used: Sequence[Used]) -> list[Tensor | None]:
        tensors = [item.tensor for item in used]
        try:
            first = torch.autograd.grad(value, tensors, allow_unused=True, create_graph=True)
            along = {
                id(item.tensor): (grad * self._along(item)).sum()  # a shared tensor counts once
                for item, grad in zip(used, first, strict=True)
                if grad is not None and grad.requires_grad
            }
            if not along:
                return [None] * len(tensors)
            slope = torch.stack(list(along.values())).sum()
            return list(torch.autograd.grad(slope, tensors, allow_unused=True))
        except RuntimeError as error:
            raise UserError(
                "the loss cannot be differentiated twice by the weights of this model "
                f"({str(error).splitlines()[0]}); leave out what needs the Hessian (Hg)"
            ) from error

    def _along(self, item: Used) -> Tensor:
        direction = self._direction.mean(item.module, item.field)
        assert direction is not None
        return direction.to(item.tensor)


def hessian_gradients(
    model: nn.Module,
    gradients: Gradients,
    batches: Iterable[Batch],
    loss: Loss,
    forward: Forward = call_model,
    at_once: int | None = None,
) -> HessianGradients:
    """H g over the data, where g is the gradient of the mean loss over all samples.

    H is the Hessian of the mean loss itself. GraSP's own code divides the logits by a temperature
    of 200 first; a loss that does so gives that variant.

    Args:
        model: the model, in evaluation mode.
        gradients: g.
        batches: the same data again, in any order.
        loss: mean loss over a batch.
        forward: runs the model on the inputs of a batch.
        at_once: largest number of samples that run together.

    Raises:
        UserError: an operation of the model has no second derivative.
    """
    products = HessianGradients(model, gradients)
    # Of torch's kernels for attention only the plain one can be differentiated twice.
    with torch.enable_grad(), products.attached(), sdpa_kernel(SDPBackend.MATH):
        for batch, _ in in_parts(batches, None, at_once):
            assert batch.target is not None  # the first pass has checked it
            output = forward(model, batch.inputs)
            products.add(loss(output, batch.target), batch_size(batch.inputs))
    return products
