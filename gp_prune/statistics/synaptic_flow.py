"""The gradient of SynFlow: how much each weight carries when all weights are made positive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gp_prune.errors import UserError
from gp_prune.statistics.batches import Forward, Inputs, call_model, mapped
from gp_prune.statistics.gradients import Gradients
from gp_prune.statistics.layers import is_batch_norm


class _Called(nn.Module):
    """A model whose forward pass is a function of the model and its inputs."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self._function = forward

    def forward(self, inputs: Any) -> Any:
        return self._function(self.model, inputs)


def synaptic_flow(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    example_inputs: Inputs,
    forward: Forward = call_model,
) -> Gradients:
    """Gradient by the layers' weights of R, the sum of the outputs of the positive network.

    As in the code of Tanaka et al. (NeurIPS 2020), every parameter is replaced by its absolute
    value, and so are the running mean and variance of batch norms, which stay in evaluation mode:
    they subtract the absolute mean. The input is one sample of ones; inputs of whole numbers, such
    as tokens, keep the first example, and so does a boolean mask. Everything runs in float64,
    because R grows with the product of all widths. In a network of convolutions, linear layers,
    ReLU and pooling R is linear in each layer's weights; other activations are left as they are.

    Args:
        model: the model, in evaluation mode; it is not changed.
        layers: the layers whose gradients are wanted.
        example_inputs: what the model can be called with.
        forward: runs the model on them.

    Raises:
        UserError: the model does not run in float64, or R is not finite.
    """
    tensors = _positive(model)
    gradients = Gradients(model, layers)
    with torch.enable_grad(), gradients.attached():
        ones = mapped(_one, example_inputs)
        try:
            output = functional_call(_Called(model, forward), tensors, (ones,))
        except RuntimeError as error:
            raise UserError(
                "the model does not run in float64 on an input of ones "
                f"({str(error).splitlines()[0]}); leave out what needs SynFlow (R)"
            ) from error
        flow = sum((part.sum() for part in _floats(output)), torch.zeros(()))
        if not bool(torch.isfinite(flow)):
            raise UserError(
                f"the sum of the positive network's outputs is {float(flow.detach())}; "
                "leave out what needs SynFlow (R)"
            )
        gradients.add(flow, 1)
    return gradients


def _positive(model: nn.Module) -> dict[str, Tensor]:
    """Name in :class:`_Called` -> absolute value of every parameter; all buffers of floats, too."""
    running = {
        f"{name}.{field}".lstrip(".")
        for name, module in model.named_modules()
        if is_batch_norm(module)
        for field in ("running_mean", "running_var")
    }
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            found[f"model.{name}"] = parameter.detach().to(torch.float64).abs().requires_grad_()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            value = buffer.detach().to(torch.float64)
            found[f"model.{name}"] = value.abs() if name in running else value
    return found


def _one(value: Tensor) -> Tensor:
    """One sample of ones in place of an input."""
    first = value[:1]
    return torch.ones_like(first, dtype=torch.float64) if value.is_floating_point() else first


def _floats(output: Any) -> list[Tensor]:
    """The tensors of floats in what a model returned."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [part for item in output for part in _floats(item)]
    return []
