"""Measure gradients by weights: of the loss, along the gradient (GraSP), of SynFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from gp_prune.errors import UserError
from gp_prune.statistics.layers import is_batch_norm, prunable_layers, sum_by_output
from gp_prune.statistics.running import (
    CalledModel,
    Forward,
    Inputs,
    call_model,
    map_tensors,
    tensors_of,
)
from gp_prune.statistics.sample_gradients import SampleSquares

_Key = tuple[int, str]  # identity of the module, "weight" or "bias"

MINI_BATCH = 32
"""Samples over which a gradient is averaged before it is squared."""


class _Used(NamedTuple):
    """A tensor that the forward pass used as ``weight`` or ``bias`` of a module."""

    module: nn.Module
    field: str
    tensor: Tensor

    @property
    def key(self) -> _Key:
        """Tell the module and the field from others."""
        return id(self.module), self.field


class Gradients:
    """Sums gradients over batches, weighted by batch size, leaving every ``.grad`` alone.

    The gradient is taken by the tensor that the forward pass really uses, so it is also right for
    masked (``torch.nn.utils.prune``) and reparametrised weights. A batch norm without learned
    scale and shift gets a scale of one and a shift of zero to take the gradient by.
    """

    fields: tuple[str, ...] = ("weight", "bias")

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        *,
        norms: bool = True,
        squares: bool = False,
        sample_squares: bool = False,
    ) -> None:
        """Prepare.

        Args:
            model: the model that will run.
            layers: name -> module of ``model``; those whose gradients are wanted.
            norms: whether gradients by batch norms are wanted, too.
            squares: whether the squared gradient of each mini-batch is summed, too.
            sample_squares: whether that of each sample is.
        """
        self._modules = [
            module
            for name, module in model.named_modules()
            if name in layers or (norms and is_batch_norm(module))
        ]
        self._with_squares = squares
        layers_alone = [module for module in self._modules if not is_batch_norm(module)]
        self._samples_apart = SampleSquares(layers_alone) if sample_squares else None
        self._used: dict[tuple[_Key, int], _Used] = {}  # by identity of the tensor, too
        self._sums: dict[_Key, Tensor] = {}
        self._squares: dict[_Key, Tensor] = {}
        self._products: dict[_Key, Tensor] = {}
        self._weights: dict[int, Tensor] = {}  # by identity of the module
        self._open: dict[_Key, Tensor] = {}  # summed over the parts of the present mini-batch
        self._open_samples = 0
        self._samples = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep hooks on the model, and set ``requires_grad``, which the caller restores."""
        with ExitStack() as stack:
            stack.enter_context(parametrize.cached())
            if self._samples_apart is not None:
                stack.enter_context(self._samples_apart.attached())
            for module in self._modules:
                for parameter in module.parameters():
                    parameter.requires_grad_(True)
                if is_batch_norm(module) and getattr(module, "weight", None) is None:
                    stack.callback(module.register_forward_hook(self._rescale).remove)
                else:
                    stack.callback(module.register_forward_pre_hook(self._remember).remove)
            yield

    def _remember(self, module: nn.Module, args: Any) -> None:
        for field in self.fields:
            tensor = getattr(module, field, None)
            if isinstance(tensor, Tensor):
                self._keep(_Used(module, field, tensor))

    def _keep(self, used: _Used) -> None:
        self._used[used.key, id(used.tensor)] = used

    def _rescale(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        shape = (1, output.shape[1]) + (1,) * (output.dim() - 2)
        scale = torch.ones_like(output[0].reshape(output.shape[1], -1)[:, 0]).requires_grad_()
        shift = torch.zeros_like(scale).requires_grad_()
        for field, tensor in (("weight", scale), ("bias", shift)):
            self._keep(_Used(module, field, tensor))
        return output * scale.reshape(shape) + shift.reshape(shape)

    def add(self, value: Tensor, samples: int, *, last: bool = True) -> None:
        """Differentiate the mean loss of the samples whose forward pass has just run.

        Args:
            value: the mean loss over a mini-batch, or over a part of it.
            samples: size of the mini-batch, or of the part.
            last: whether the mini-batch ends here; the last one also ends with the data.

        Raises:
            UserError: the loss is not one finite number, or does not depend on any layer.
        """
        _check_loss(value)
        used = list(self._used.values())
        totals: dict[_Key, Tensor] = {}
        for item, grad in zip(used, self._differentiate(value.reshape(()), used), strict=True):
            part = (torch.zeros_like(item.tensor) if grad is None else grad).to(torch.float64)
            totals[item.key] = totals[item.key] + part if item.key in totals else part
        for key, total in totals.items():
            self._add(self._sums, key, samples * total)
            if self._with_squares:
                self._add(self._open, key, samples * total)
        self._samples += samples
        if self._samples_apart is not None:
            self._samples_apart.close(samples)
        if self._with_squares:
            self._weights.update(
                {id(u.module): u.tensor.detach() for u in used if u.field == "weight"}
            )
            self._open_samples += samples
            if last:
                self._close_batch()
        self._used.clear()

    def _close_batch(self) -> None:
        """Square the gradient of the mini-batch; it counts by its samples."""
        for key, total in self._open.items():
            self._add(self._squares, key, total.square() / self._open_samples)
        for module in self._modules:
            scale, shift = self._open_by_channel(module)
            if scale is not None:
                for name, product in (("scale", scale.square()), ("both", scale * shift)):
                    self._add(self._products, (id(module), name), product / self._open_samples)
        self._open.clear()
        self._open_samples = 0

    def _open_by_channel(self, module: nn.Module) -> tuple[Tensor | None, Tensor | float]:
        """Return the gradients by scale and shift of each channel; of a layer, by its filters'."""
        scale, shift = (self._open.get((id(module), field)) for field in ("weight", "bias"))
        if scale is not None and not is_batch_norm(module):
            scale = sum_by_output(self._weights[id(module)] * scale, module)
        return scale, 0.0 if shift is None else shift

    def _differentiate(self, value: Tensor, used: Sequence[_Used]) -> Sequence[Tensor | None]:
        """Return what is summed for each of the tensors: the gradient of ``value`` by it."""
        return torch.autograd.grad(value, [item.tensor for item in used], allow_unused=True)

    @staticmethod
    def _add(sums: dict[_Key, Tensor], key: _Key, value: Tensor) -> None:
        if key in sums:
            sums[key] += value
        else:
            sums[key] = value

    def mean(self, module: nn.Module, field: str) -> Tensor | None:
        """Return the gradient of the mean loss over all samples by a module's weight or bias.

        It is float64; None if the module has no such tensor or did not run.
        """
        total = self._sums.get((id(module), field))
        return None if total is None else total / self._samples

    def mean_square(self, module: nn.Module, field: str) -> Tensor | None:
        """Return the squared gradient of a mini-batch's mean loss, mean over the samples."""
        return self._mean_over_batches(self._squares, (id(module), field))

    def mean_sample_square(self, module: nn.Module) -> Tensor | None:
        """Return the mean over samples of the squared gradient of its loss by a module's weight."""
        total = None if self._samples_apart is None else self._samples_apart.total(module)
        return None if total is None else total / self._samples

    def mean_scale_square(self, module: nn.Module) -> Tensor | None:
        """Return the squared gradient by each channel's scale (o,), as :meth:`mean_square`.

        The scale of a layer's channel is a common factor of its weights, which is 1.
        """
        return self._mean_over_batches(self._products, (id(module), "scale"))

    def mean_scale_times_shift(self, module: nn.Module) -> Tensor | None:
        """Return the gradient by a channel's scale times that by its shift or bias (o,), likewise.

        Where there is no bias, that is 0.
        """
        return self._mean_over_batches(self._products, (id(module), "both"))

    def _mean_over_batches(self, sums: dict[_Key, Tensor], key: _Key) -> Tensor | None:
        if self._open_samples:
            self._close_batch()
        total = sums.get(key)
        return None if total is None else total / self._samples


def _check_loss(value: Any) -> None:
    """Raise UserError unless the loss is one finite number that depends on the weights."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UserError("the loss did not return a single number; return the mean over the batch")
    if not bool(torch.isfinite(value)):
        raise UserError(
            f"the loss is {float(value.detach())} on a batch; check the data and the model"
        )
    if not value.requires_grad:
        raise UserError(
            "the loss does not depend on the model's weights; check that neither the model "
            "nor the loss switches gradients off"
        )


class HessianGradients(Gradients):
    """The derivative along the gradient of the gradient by all layer weights.

    The weights are those of all prunable layers of the model, as in GraSP (Wang et al., ICLR 2020),
    so the result for a layer does not depend on which other layers are asked for. Biases and batch
    norms are not changed along it. H is the Hessian of the mean loss itself; GraSP's own code
    divides the logits by a temperature of 200 first, and a loss that does so gives that variant.
    An operation whose own backward pass torch cannot differentiate raises an error, but for a
    custom one marked ``once_differentiable``, through which torch passes nothing.
    """

    fields = ("weight",)

    def __init__(self, model: nn.Module, gradients: Gradients) -> None:
        """Prepare; ``gradients`` has seen all of the data."""
        super().__init__(model, prunable_layers(model), norms=False)
        self._direction = gradients

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach as the base does; of torch's attention only the plain one differentiates twice."""
        with super().attached(), sdpa_kernel(SDPBackend.MATH):
            yield

    def _differentiate(self, value: Tensor, used: Sequence[_Used]) -> list[Tensor | None]:
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

    def _along(self, item: _Used) -> Tensor:
        direction = self._direction.mean(item.module, item.field)
        assert direction is not None
        return direction.to(item.tensor)


def synaptic_flow(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    example_inputs: Inputs,
    forward: Forward = call_model,
) -> Gradients:
    """Measure the gradient by weights of R, the sum of the outputs of the positive network.

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
        ones = map_tensors(_one, example_inputs)
        try:
            output = functional_call(CalledModel(model, forward), tensors, (ones,))
        except RuntimeError as error:
            raise UserError(
                "the model does not run in float64 on an input of ones "
                f"({str(error).splitlines()[0]}); leave out what needs SynFlow (R)"
            ) from error
        floats = [part for part in tensors_of(output) if part.is_floating_point()]
        flow = sum((part.sum() for part in floats), torch.zeros(()))
        if not bool(torch.isfinite(flow)):
            raise UserError(
                f"the sum of the positive network's outputs is {float(flow.detach())}; "
                "leave out what needs SynFlow (R)"
            )
        gradients.add(flow, 1)
    return gradients


def _positive(model: nn.Module) -> dict[str, Tensor]:
    """Return the absolute parameters, and the buffers, by their names in :class:`CalledModel`."""
    running = {
        f"{name}.{field}".lstrip(".")
        for name, module in model.named_modules()
        if is_batch_norm(module)
        for field in ("running_mean", "running_var")
    }
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            tensors[f"model.{name}"] = parameter.detach().to(torch.float64).abs().requires_grad_()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            value = buffer.detach().to(torch.float64)
            tensors[f"model.{name}"] = value.abs() if name in running else value
    return tensors


def _one(value: Tensor) -> Tensor:
    """Return one sample of ones in place of an input."""
    first = value[:1]
    return torch.ones_like(first, dtype=torch.float64) if value.is_floating_point() else first
