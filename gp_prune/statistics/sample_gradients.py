"""Square the gradient of each sample's own loss by the weights, without a pass per sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.layers import TRANSPOSED, as_maps, unfolded, with_samples

_MOST_VALUES_AT_ONCE = 2**22
"""Gradients, or unfolded inputs, that are held at a time: 32 MB in float64."""


class _Use:
    """One use of a layer: what it was called with, and the gradient by what it returned."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self.slope: Tensor | None = None

    def arrived(self, slope: Tensor) -> None:
        """Keep the gradient."""
        self.slope = slope.detach()


class SampleSquares:
    """Sums over the samples the squared gradient of a sample's loss by the weights of layers.

    A sample's gradient is the product of its input, unfolded, and of the gradient by its output;
    a layer that runs several times in a pass adds its uses up before they are squared.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._uses: dict[nn.Module, list[_Use]] = {layer: [] for layer in layers}
        self._sums: dict[nn.Module, Tensor] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep hooks on the layers."""
        with ExitStack() as stack:
            for layer in self._uses:
                hook = layer.register_forward_hook(self._ran, with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _ran(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        use = _Use((args[0] if args else kwargs["input"]).detach())
        self._uses[module].append(use)
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(use.arrived)  # type: ignore[no-untyped-call]

    def close(self, samples: int) -> None:
        """Add what the latest pass came to: forward and backward, of the mean of so many losses."""
        for module, uses in self._uses.items():
            if uses:
                total = self._sums.get(module)
                if total is None:
                    total = torch.zeros_like(module.weight, dtype=torch.float64)  # type: ignore[arg-type]
                    self._sums[module] = total
                reached = [use for use in uses if use.slope is not None]
                total += _sum_of_squares(module, reached, samples) if reached else 0
            uses.clear()

    def total(self, module: nn.Module) -> Tensor | None:
        """Return the sum in the layout of the layer's weight; None if it did not run."""
        return self._sums.get(module)


def _sum_of_squares(module: nn.Module, uses: list[_Use], samples: int) -> Tensor:
    """Return the sum over samples of the squared gradient of each one's loss by the weights."""
    weight: Any = module.weight
    groups, taps = int(getattr(module, "groups", 1)), weight[0, 0].numel()
    largest = max(max(use.inputs.numel() * taps for use in uses) // samples, weight.numel(), 1)
    step = max(1, _MOST_VALUES_AT_ONCE // largest)
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for start in range(0, samples, step):
        some = range(start, min(samples, start + step))
        parts = [_gradients(module, use, some, samples, groups) for use in uses]
        # The loss is a mean; of the summed loss, each sample has its own part.
        total = total + (samples * torch.stack(parts).sum(0)).square().sum(0)
    blocks = total.reshape(groups, -1, total.shape[-1] // taps, taps)  # (groups, o, i, k)
    if isinstance(module, TRANSPOSED):
        blocks = blocks.transpose(1, 2)
    return blocks.reshape(weight.shape)


def _gradients(module: nn.Module, use: _Use, some: range, samples: int, groups: int) -> Tensor:
    """Return the gradients of the mean loss that some samples give: (n, groups, o, i * k)."""
    assert use.slope is not None
    inputs, slope = use.inputs, use.slope
    if not isinstance(module, nn.Linear):
        inputs, slope = with_samples(module, inputs), with_samples(module, slope)
    rows = slope.shape[0] if slope.dim() > 1 else 1
    if rows % samples:
        raise UserError(
            f"a {type(module).__name__} runs on {rows} rows where the batch has {samples} samples; "
            "leave it out of the layers or let the first axis count the samples"
        )
    each = rows // samples
    chosen = slice(some.start * each, some.stop * each)
    inputs, slope = (value[chosen] if value.dim() > 1 else value for value in (inputs, slope))
    count = len(some)
    columns = unfolded(module, inputs, slope)  # (i, k, n * positions)
    columns = columns.reshape(groups, -1, count, columns.shape[2] // count)
    by_output = as_maps(slope, module).to(torch.float64).transpose(0, 1)  # (o, rows, positions)
    by_output = by_output.reshape(groups, -1, count, math.prod(by_output.shape[1:]) // count)
    return torch.einsum("gonp,gcnp->ngoc", by_output, columns)
