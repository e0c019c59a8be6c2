"""Learning from the dense network: its outputs as the target of the pruned one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from gp_prune.errors import UserError


def main_output(output: Any) -> Tensor:
    """The tensor by which a network is judged.

    That is the output itself, its ``logits`` (an attribute or an entry, also of what torchvision's
    networks with auxiliary heads give in training), or the first tensor of a tuple or list.

    Raises:
        UserError: there is no such tensor.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list):
        found = next((item for item in output if isinstance(item, Tensor)), None)
    if isinstance(found, Tensor):
        return found
    raise UserError(
        f"the network gives a {type(output).__name__} without 'logits', so there is no tensor to "
        "judge it by; give forward_fn(model, inputs), which returns one"
    )


def distance(output: Any, taught: Any, target: Any, temperature: float) -> Tensor:
    """How far an output is from that of the dense network, as a mean over the samples.

    Where the target is class numbers: ``temperature**2`` times the Kullback-Leibler divergence of
    the softened classes, in nats, summed over the classes (Hinton et al. 2015, "Distilling the
    Knowledge in a Neural Network"). For every other target: the mean squared difference.

    Args:
        output: (n, classes, ...) logits, or an output of any shape (see :func:`main_output`).
        taught: the output of the dense network, of the same shape.
        target: what the loss compares ``output`` with.
        temperature: what logits are divided by.

    Raises:
        UserError: an output holds no tensor, or their shapes differ.
    """
    found, aim = main_output(output), main_output(taught)
    if found.shape != aim.shape:
        raise UserError(
            f"the pruned network gives {tuple(found.shape)}, the dense one {tuple(aim.shape)}; "
            "distillation needs the same shape, give the network that was pruned"
        )
    if not _is_classes(target):
        return functional.mse_loss(found, aim)
    classes, aims = (functional.log_softmax(x / temperature, 1) for x in (found, aim))
    divergence = functional.kl_div(classes, aims, reduction="sum", log_target=True)
    return divergence * temperature * temperature / (found.numel() / found.shape[1])


def _is_classes(target: Any) -> bool:
    return isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())
