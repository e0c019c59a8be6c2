"""Train the networks of tasks from a seed: one by one, or several pruned copies at once.

A small network leaves most of a GPU idle, and on a CPU most of a step is spent on calling
operators. Stacked, the same layer of all copies is one operator: a grouped convolution or a batched
matrix product. Copies of different widths are padded with channels of zeros, which do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gp_prune.errors import UserError
from gp_prune.pruning.modules import renew_masked
from gp_prune.statistics import Loss
from gp_prune.statistics.running import preserve_gradients, random_state, training_mode
from gp_prune.tasks.models import Residual
from gp_prune.training.settings import schedule
from gp_prune.training.shares import report_share


def random_batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield mini-batches of indices without end: each pass is a new seeded permutation.

    The samples that do not fill a last batch of a pass are left out of that pass, so that every
    batch has the same size.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


@dataclass(frozen=True)
class Descent:
    """AdamW with a learning rate that rises linearly and falls as a cosine.

    Attributes:
        steps: number of mini-batches; 0 changes nothing.
        learning_rate: highest learning rate.
        batch_size: samples per mini-batch; of fewer samples all are taken.
        seed: decides the order of the samples.
        warm_up: share of the steps during which the learning rate rises.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019).

    Raises:
        ValueError: ``steps`` is negative or ``batch_size`` is not positive.
    """

    steps: int
    learning_rate: float
    batch_size: int
    seed: int
    warm_up: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(
                f"steps is {self.steps} and batch_size {self.batch_size}; use >= 0 and >= 1"
            )

    def run(
        self,
        parameters: Sequence[Tensor],
        inputs: Tensor,
        target: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Go down the loss of the parameters.

        Args:
            parameters: what is changed, in place, on the device of ``inputs``.
            inputs: (n, ...) all training inputs.
            target: (n, ...) what belongs to them.
            loss: from the inputs and the target of a mini-batch to the loss that is minimised.
            after_step: called after each change.
        """
        optimiser = torch.optim.AdamW(parameters, weight_decay=self.weight_decay, fused=True)
        group = optimiser.param_groups[0]
        chunks = random_batches(len(inputs), self.batch_size, self.seed)
        for step in range(self.steps):
            chosen = next(chunks).to(inputs.device)
            group["lr"] = self.learning_rate * schedule(step / self.steps, self.warm_up)
            optimiser.zero_grad()
            loss(inputs[chosen], target[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            after_step()
            report_share((step + 1) / self.steps)


def optimise(
    model: nn.Module, inputs: Tensor, target: Tensor, loss: Loss, descent: Descent
) -> None:
    """Train ``model`` in place.

    The model is in training mode meanwhile; training flags and stored gradients come back as they
    were, and torch's global random state, which starts from the seed of the descent for a dropout,
    is left alone.

    Args:
        model: the network, on the device of ``inputs``; frozen parameters stay frozen.
        inputs: (n, ...) all training inputs.
        target: (n, ...) what the loss compares the outputs with.
        loss: mean loss of a batch from its output and target.
        descent: how it is trained.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if descent.steps == 0 or not parameters:
        return
    with random_state(descent.seed), training_mode(model), preserve_gradients(parameters):
        descent.run(parameters, inputs, target, lambda x, y: loss(model(x), y))


_STACKABLE = (
    nn.Sequential, nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.Sigmoid, nn.MaxPool2d,
    nn.AdaptiveAvgPool2d, nn.Flatten, nn.Unflatten, Residual,
)  # fmt: skip
"""Layers in which additional channels of zeros change nothing in the others."""


def can_stack(model: nn.Module) -> bool:
    """Return whether :func:`optimise_stacked` takes copies of a network."""
    return all(map(_can_be_padded, model.modules()))


def _can_be_padded(module: nn.Module) -> bool:
    return type(module) in _STACKABLE and getattr(module, "groups", 1) == 1


def optimise_stacked(
    models: Sequence[nn.Module], inputs: Tensor, target: Tensor, loss: Loss, descent: Descent
) -> None:
    """Train networks in place, each as :func:`optimise` would alone.

    All see the same mini-batches. The weights are those of separate training but for the order in
    which numbers are added up: the last bits depend on the number of networks, on the greatest
    width of each layer and on the position of a network among them, not on the other networks.

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
    stacks = {name: _stack([state[name] for state in tensors]) for name in tensors[0]}
    paddings = {name: _padding([state[name] for state in tensors]) for name in names}

    def one_loss(state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(models[0], state, (x,)), y)

    losses = vmap(one_loss, in_dims=(0, None, None))

    @torch.no_grad()
    def clear_padding() -> None:
        for name, padding in paddings.items():
            if padding is not None:
                stacks[name].masked_fill_(padding, 0.0)

    trained = [stacks[name].requires_grad_() for name in names]
    try:
        with random_state(descent.seed), training_mode(models[0]):
            # No parameter is in two losses, so the gradient of the sum is that of each.
            descent.run(
                trained, inputs, target, lambda x, y: losses(stacks, x, y).sum(), clear_padding
            )
        _copy_back(tensors, stacks)
    finally:
        for model in models:
            renew_masked(model)


def _check(models: Sequence[nn.Module]) -> None:
    """Raise UserError unless the networks differ in widths alone and can be padded."""
    for layers in zip(*(model.named_modules() for model in models), strict=False):
        (name, module), *others = layers
        if not _can_be_padded(module):
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
    """Return what must be equal in layers of different widths: settings, parameters, masks."""
    settings = {
        name: value
        for name, value in vars(module).items()
        if name[0] != "_" and name not in (*_WIDTHS, "training") and not isinstance(value, Tensor)
    }
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    forms = sorted((name, str(tensor.dtype), tensor.requires_grad) for name, tensor in tensors)
    return type(module), settings, forms


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """(...) each -> (stack, ...) with zeros after the numbers of the smaller ones."""
    sizes = [max(axis) for axis in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stack = tensors[0].new_zeros(len(tensors), *sizes)
    for padded, tensor in zip(stack, tensors, strict=True):
        _corner(padded, tensor).copy_(tensor.detach())
    return stack


def _padding(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return a mask (stack, ...) of the padding; None where there is none."""
    if len({tensor.shape for tensor in tensors}) == 1:
        return None
    return ~_stack([torch.ones_like(tensor, dtype=torch.bool) for tensor in tensors])


def _corner(padded: Tensor, tensor: Tensor) -> Tensor:
    """Return the part of a padded tensor that holds the numbers of the smaller one."""
    return padded[tuple(slice(size) for size in tensor.shape)]


@torch.no_grad()
def _copy_back(tensors: Sequence[dict[str, Tensor]], stacks: dict[str, Tensor]) -> None:
    for number, state in enumerate(tensors):
        for name, tensor in state.items():
            tensor.copy_(_corner(stacks[name][number], tensor))
