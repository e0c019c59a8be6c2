"""The gradient of the mean loss by the tensors of each layer and of its batch norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gp_prune.errors import UserError
from gp_prune.statistics.layers import is_batch_norm

_Key = tuple[int, str]  # identity of the module, "weight" or "bias"


class Used(NamedTuple):
    """A tensor that the forward pass used as ``weight`` or ``bias`` of a module."""

    module: nn.Module
    field: str
    tensor: Tensor


class Gradients:
    """Sums gradients over batches, weighted by batch size, leaving every ``.grad`` alone.

    The gradient is taken by the tensor that the forward pass really uses, so it is also right for
    masked (``torch.nn.utils.prune``) and reparametrised weights. A batch norm without learned
    scale and shift gets a scale of one and a shift of zero to take the gradient by.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        *,
        norms: bool = True,
        squares: bool = False,
    ) -> None:
        """Nothing summed yet.

        Args:
            model: the model that will run.
            layers: name -> module of ``model``; those whose gradients are wanted.
            norms: whether gradients by batch norms are wanted, too.
            squares: whether the squared gradient of each batch is summed, too.
        """
        self._modules = [
            module
            for name, module in model.named_modules()
            if name in layers or (norms and is_batch_norm(module))
        ]
        self._with_squares = squares
        self._used: dict[_Key, dict[int, Used]] = {}
        self._sums: dict[_Key, Tensor] = {}
        self._squares: dict[_Key, Tensor] = {}
        self._open: dict[_Key, Tensor] = {}  # summed over the parts of the present batch
        self._open_samples = 0
        self._samples = 0
        self._batches = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the model, and ``requires_grad`` on what is differentiated by.

        The caller restores ``requires_grad``.
        """
        with ExitStack() as stack:
            stack.enter_context(parametrize.cached())
            for module in self._modules:
                for parameter in module.parameters():
                    parameter.requires_grad_(True)
                if is_batch_norm(module) and getattr(module, "weight", None) is None:
                    stack.callback(module.register_forward_hook(self._rescale).remove)
                else:
                    stack.callback(module.register_forward_pre_hook(self._remember).remove)
            yield

    def _remember(self, module: nn.Module, args: Any) -> None:
        for field in ("weight", "bias"):
            self._note(module, field)

    def _note(self, module: nn.Module, field: str) -> None:
        tensor = getattr(module, field, None)
        if isinstance(tensor, Tensor):
            self._keep(Used(module, field, tensor))

    def _keep(self, used: Used) -> None:
        self._used.setdefault((id(used.module), used.field), {})[id(used.tensor)] = used

    def _rescale(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        shape = (1, output.shape[1]) + (1,) * (output.dim() - 2)
        scale = torch.ones_like(output[0].reshape(output.shape[1], -1)[:, 0]).requires_grad_()
        shift = torch.zeros_like(scale).requires_grad_()
        for field, tensor in (("weight", scale), ("bias", shift)):
            self._keep(Used(module, field, tensor))
        return output * scale.reshape(shape) + shift.reshape(shape)

    def add(self, value: Tensor, samples: int, *, last: bool = True) -> None:
        """Differentiate the mean loss of the batch whose forward pass has just run.

        Args:
            value: the mean loss over the batch, or over a part of it.
            samples: size of the batch, or of the part.
            last: whether the batch ends here.

        Raises:
            UserError: the loss is not one finite number, or does not depend on any layer.
        """
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UserError(
                "the loss did not return a single number; return the mean over the batch"
            )
        if not bool(torch.isfinite(value)):
            raise UserError(
                f"the loss is {float(value.detach())} on a batch; check the data and the model"
            )
        if not value.requires_grad:
            raise UserError(
                "the loss does not depend on the model's weights; check that neither the model "
                "nor the loss switches gradients off"
            )
        used = [item for group in self._used.values() for item in group.values()]
        grads = iter(self._differentiate(value.reshape(()), used))
        for key, group in self._used.items():
            total: Tensor | None = None
            for item in group.values():
                grad = next(grads)
                part = torch.zeros_like(item.tensor) if grad is None else grad
                part = part.to(torch.float64)
                total = part if total is None else total + part
            assert total is not None
            self._add(self._sums, key, samples * total)
            if self._with_squares:
                self._add(self._open, key, samples * total)
        self._used.clear()
        self._samples += samples
        self._open_samples += samples
        if last:
            self._close_batch()

    def _close_batch(self) -> None:
        for key, total in self._open.items():
            self._add(self._squares, key, (total / self._open_samples).square())
        self._open.clear()
        self._open_samples = 0
        self._batches += 1

    def _differentiate(self, value: Tensor, used: Sequence[Used]) -> Sequence[Tensor | None]:
        """What is summed for each of the tensors: the gradient of ``value`` by it."""
        return torch.autograd.grad(value, [item.tensor for item in used], allow_unused=True)

    @staticmethod
    def _add(sums: dict[_Key, Tensor], key: _Key, value: Tensor) -> None:
        if key in sums:
            sums[key] += value
        else:
            sums[key] = value

    def mean(self, module: nn.Module, field: str) -> Tensor | None:
        """Gradient of the mean loss over all samples by a module's weight or bias, float64.

        None if the module has no such tensor or did not run.
        """
        total = self._sums.get((id(module), field))
        return None if total is None else total / self._samples

    def mean_square(self, module: nn.Module, field: str) -> Tensor | None:
        """Mean over the batches of the squared gradient of a batch's mean loss, float64."""
        total = self._squares.get((id(module), field))
        return None if total is None else total / self._batches
