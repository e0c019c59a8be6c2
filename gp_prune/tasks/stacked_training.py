"""Fine-tuning of several pruned copies of one network at once, as a single stacked network.

A small network leaves most of a GPU idle, and on a CPU most of a step is spent on calling
operators. Stacked, the same layer of all copies is one operator: a grouped convolution or a batched
matrix product. Copies of different widths are padded with channels of zeros, which do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gp_prune.errors import UserError
from gp_prune.statistics import Loss
from gp_prune.statistics.running import random_state, training_mode
from gp_prune.tasks.training import Descent
from gp_prune.training.masks import renew_masked

_STACKABLE = (
    nn.Sequential, nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Sigmoid, nn.MaxPool2d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten,
)  # fmt: skip
"""Layers of which channels of zeros behind the others change nothing in the others."""


def optimise_stacked(
    models: Sequence[nn.Module], inputs: Tensor, target: Tensor, loss: Loss, descent: Descent
) -> None:
    """Train networks in place, each as :func:`~gp_prune.tasks.training.optimise` would alone.

    All see the same mini-batches. The weights are those of separate training but for the order in
    which numbers are added up: the last bits depend on the number of networks, on the greatest
    width of each layer and on the place of a network among them, not on the other networks.

    Args:
        models: copies of one network, of which channels were removed or weights masked, on the
            device of ``inputs``.
        inputs: (n, ...) all training inputs.
        target: (n, ...) what the loss compares the outputs with.
        loss: mean loss of a batch from its output and target.
        descent: how they are trained.

    Raises:
        UserError: the networks are not of one build, or a layer cannot be padded.
    """
    _check(models)
    names = [name for name, p in models[0].named_parameters() if p.requires_grad]
    if descent.steps == 0 or not names:
        return
    tensors = [dict([*m.named_parameters(), *m.named_buffers()]) for m in models]
    stacks = {name: _stacked([own[name] for own in tensors]) for name in tensors[0]}
    trained = [stacks[name].requires_grad_() for name in names]
    padding = [
        (stacks[name], gone) for name in names
        if (gone := _padding([own[name] for own in tensors])) is not None
    ]  # fmt: skip
    first = models[0]

    def one_loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(first, own, (x,)), y)

    losses = vmap(one_loss, in_dims=(0, None, None))

    @torch.no_grad()
    def keep_padding() -> None:
        for stack, gone in padding:
            stack.masked_fill_(gone, 0.0)

    try:
        with random_state(descent.seed), training_mode(first):
            # No parameter is in two losses, so the gradient of the sum is that of each.
            descent.run(
                trained, inputs, target, lambda x, y: losses(stacks, x, y).sum(), keep_padding
            )
        _write_back(tensors, stacks)
    finally:
        for model in models:
            renew_masked(model)


def _check(models: Sequence[nn.Module]) -> None:
    """Raise UserError unless the networks differ in widths alone and can be padded."""
    for own in zip(*(model.named_modules() for model in models), strict=False):
        (name, module), *others = own
        if type(module) not in _STACKABLE or getattr(module, "groups", 1) != 1:
            raise UserError(
                f"networks with the layer {name!r} ({module}) cannot be stacked; fine-tune them "
                "one by one (stack 1)"
            )
        for other_name, other in others:
            if (other_name, _build(other)) != (name, _build(module)):
                raise UserError(
                    f"networks with {module} and {other} in the place of layer {name!r} cannot be "
                    "stacked; give copies of one network"
                )
    if len({len(list(model.modules())) for model in models}) != 1:
        raise UserError("networks of different depth cannot be stacked; give copies of one network")


_WIDTHS = ("in_channels", "out_channels", "in_features", "out_features", "num_features")


def _build(module: nn.Module) -> object:
    """What must be equal in layers of different widths: settings, kinds of parameters, masks."""
    settings = {
        name: value for name, value in vars(module).items()
        if not name.startswith("_") and name not in (*_WIDTHS, "training")
        and not isinstance(value, Tensor)
    }  # fmt: skip
    tensors = [
        (name, tensor.dtype, tensor.requires_grad)
        for name, tensor in [
            *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
        ]
    ]  # fmt: skip
    return type(module), settings, sorted(tensors, key=lambda entry: entry[0])


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(...) each -> (stack, ...) with zeros behind the numbers of the smaller ones."""
    sizes = [max(own) for own in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stack = tensors[0].new_zeros(len(tensors), *sizes)
    for layer, tensor in zip(stack, tensors, strict=True):
        _corner(layer, tensor).copy_(tensor.detach())
    return stack


def _padding(tensors: Sequence[Tensor]) -> Tensor | None:
    """(stack, ...) where the stacked tensors are padded; None where they are nowhere."""
    if len({tensor.shape for tensor in tensors}) == 1:
        return None
    return ~_stacked([torch.ones_like(tensor, dtype=torch.bool) for tensor in tensors])


def _corner(padded: Tensor, tensor: Tensor) -> Tensor:
    """The part of a padded tensor that holds the numbers of the smaller one."""
    return padded[tuple(slice(size) for size in tensor.shape)]


@torch.no_grad()
def _write_back(tensors: Sequence[dict[str, Tensor]], stacks: dict[str, Tensor]) -> None:
    for place, own in enumerate(tensors):
        for name, tensor in own.items():
            tensor.copy_(_corner(stacks[name][place], tensor))
