"""Products of what the taps of a layer read, and the Cholesky factor that SparseGPT divides by."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.layers import spatial_axes
from gp_prune.statistics.unfolding import unfolded

MOST_COLUMNS = 9216
"""Largest number of inputs times taps (of one group) whose Gram matrix is kept: 0.7 GB. So large
are 3 x 3 convolutions over 1024 channels, and the first linear layer of AlexNet."""

DAMPING = 0.01
"""What is added to the diagonal, as a share of its mean."""

_MOST_AT_ONCE = 2**22
"""Unfolded values that are held at a time: 32 MB in float64."""


class SecondMoments:
    """Gram matrix X X^T of the unfolded input of one layer, summed over all samples and positions.

    A row of X is one input channel and tap, a column one sample and output position. Channels of
    different groups never meet in a product with the weights, so a grouped layer has one matrix
    per group.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        """Nothing summed yet.

        Raises:
            UserError: the matrix would be too large.
        """
        self._module = module
        self._taps, self._groups = 1, 1
        if isinstance(module, nn.Linear):
            inputs = module.in_features
        else:
            self._taps = math.prod(cast(tuple[int, ...], module.kernel_size))
            self._groups = cast(int, module.groups)
            inputs = cast(int, module.in_channels)
        self._columns = inputs // self._groups * self._taps
        if self._columns > MOST_COLUMNS:
            raise UserError(
                f"layer {name!r} reads {self._columns} inputs times taps, too many for its second "
                f"moments (at most {MOST_COLUMNS}); leave it out, or the operand Hd"
            )
        self._sum: Tensor | None = None  # (groups, columns, columns)

    def add(self, inputs: Tensor, output: Tensor) -> None:
        """Add one use of the layer.

        Args:
            inputs: what the layer was called with.
            output: what it returned.
        """
        if isinstance(self._module, nn.Linear):
            parts = [(inputs, output)]
        else:  # a few samples at a time: every input value stands in up to k columns
            axes = spatial_axes(self._module) + 1
            inputs = inputs.unsqueeze(0) if inputs.dim() == axes else inputs
            output = output.unsqueeze(0) if output.dim() == axes else output
            each = self._taps * inputs.shape[1] * output[0, 0].numel()
            step = max(1, _MOST_AT_ONCE // max(1, each))
            parts = list(zip(torch.split(inputs, step), torch.split(output, step), strict=True))
        for some, result in parts:
            columns = unfolded(self._module, some, result)
            rows = columns.reshape(self._groups, -1, columns.shape[2])
            if self._sum is None:
                self._sum = rows.new_zeros(self._groups, self._columns, self._columns)
            self._sum.baddbmm_(rows, rows.mT)

    def result(self) -> Tensor | None:
        """Diagonal of the upper Cholesky factor of the inverse of the damped Gram matrix.

        The matrix is damped by :data:`DAMPING` times the mean of its diagonal (of all groups);
        a layer whose input is 0 throughout has the unit matrix. SparseGPT (Frantar and Alistarh,
        ICML 2023) has the same up to its factor of 2 / samples, which changes no ranking in a
        layer.

        Returns:
            (i, k), positive; None if the layer did not run.
        """
        if self._sum is None:
            return None
        mean = self._sum.diagonal(dim1=1, dim2=2).mean()
        damping = DAMPING * mean if bool(mean > 0) else torch.ones_like(mean)
        eye = torch.eye(self._columns, dtype=torch.float64, device=self._sum.device)
        # H^-1 = U^T U with U upper means H = (U^-1) (U^-1)^T: the Cholesky factor of H from its
        # last row upward, without inverting anything.
        lower = torch.linalg.cholesky((self._sum + damping * eye).flip(1, 2))
        factor: Tensor = 1 / lower.diagonal(dim1=1, dim2=2).flip(1)  # (groups, i / groups * k)
        return factor.reshape(-1, self._taps)
