"""Measure activation maps and unfolded inputs as matrices: ranks, nuclear norms, products."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.layers import unfolded, with_samples
from gp_prune.statistics.moments import all_but

_LOWEST, _STEP, _GRID = -36.0, 0.3, 214
"""Grid of the integral in :func:`nuclear_losses`, in the logarithm of t: up to 28."""

_MOST_AT_ONCE = 2**16
"""Values that are worked on at a time: 0.5 MB in float64, which a processor's cache holds."""


def map_ranks(maps: Tensor, width: int) -> Tensor:
    """Return the rank of the map of each sample and channel (HRank, Lin et al., CVPR 2020).

    A map of two spatial axes is a matrix of rows and columns; of three, the first two axes count as
    rows; a map of one axis, tokens or a single number is one row, whose rank is 1 unless all of it
    is 0. The rank is counted in the precision of the network (at least float32), with the default
    tolerance of ``torch.linalg.matrix_rank``: the largest singular value times the longer side
    times the machine epsilon.

    Args:
        maps: (n, o, positions).
        width: number of positions in a row of a map; it divides the number of positions.

    Returns:
        (n, o), float64.
    """
    if maps.dtype not in (torch.float32, torch.float64):
        maps = maps.to(torch.float32)
    matrices = maps.reshape(*maps.shape[:2], maps.shape[2] // width, width)
    if 1 in matrices.shape[2:]:
        ranks = (matrices != 0).flatten(2).any(2)
    else:
        ranks = torch.linalg.matrix_rank(matrices)
    return ranks.to(torch.float64)


def map_nuclear_norms(maps: Tensor, width: int) -> Tensor:
    """Return the nuclear norm of the map of each sample and channel (Yeom et al., 2021).

    It is the sum of the singular values of the matrix of rows and columns that :func:`map_ranks`
    takes; of a map that is one row, its length. Computed in float64.

    Args:
        maps: (n, o, positions).
        width: number of positions in a row of a map; it divides the number of positions.

    Returns:
        (n, o), float64; not a number where a map has an entry that is not finite.
    """
    values = maps.to(torch.float64)
    finite = values.isfinite().all(2)
    values = values.where(finite.unsqueeze(2), 0.0)
    matrices = values.reshape(*maps.shape[:2], maps.shape[2] // width, width)
    if 1 in matrices.shape[2:]:
        norms = values.square().sum(2).sqrt()
    else:
        norms = torch.linalg.svdvals(matrices).sum(2)
    return norms.where(finite, torch.nan)


def map_nuclear_losses(maps: Tensor) -> Tensor:
    """Return what the nuclear norm of a sample's maps loses without each channel (CHIP).

    The maps of a sample are one matrix (o, positions) with a row per channel (Sui et al., NeurIPS
    2021). Computed in float64, a few samples at a time. Of maps of one position it is what the
    length of the vector of all channels loses.

    Args:
        maps: (n, o, positions).

    Returns:
        (n, o), float64.
    """
    if maps.shape[2] == 1:
        squares = maps.squeeze(2).to(torch.float64).square()
        length, shorter = squares.sum(1, keepdim=True).sqrt(), all_but(squares).sqrt()
        return squares / (length + shorter).where(length > 0, 1.0)
    step = max(1, _MOST_AT_ONCE // (maps.shape[1] * max(_GRID, maps.shape[2])))
    return torch.cat([nuclear_losses(some) for some in torch.split(maps, step)])


def nuclear_losses(matrices: Tensor) -> Tensor:
    r"""Return the nuclear norm of each matrix, less that without each of its rows.

    One singular value decomposition serves all rows. With left singular vectors u and singular
    values s, taking row o away is a rank-one change of M M^T, for which

    .. math:: \|M\|_* - \|M_{-o}\|_* = -\frac1\pi \int_0^\infty
              \log\Bigl(1 - \sum_i \frac{u_{oi}^2 s_i^2}{s_i^2 + t^2}\Bigr) dt.

    (From sqrt(a) = 2/pi times the integral of a / (a + t^2), the matrix determinant lemma and
    integration by parts.) In the logarithm of t the integrand is analytic and falls off on both
    sides, so that the trapezoidal rule converges exponentially.

    Args:
        matrices: (n, o, positions).

    Returns:
        (n, o), float64; its error is below 1e-12 of a matrix's largest singular value, but about
        1e-8 where the matrix is nearly singular.
    """
    values = matrices.to(torch.float64)
    left, singular, _ = torch.linalg.svd(values, full_matrices=False)
    largest = singular.amax(1)  # (n,)
    unit = torch.where(largest > 0, largest, 1.0).reshape(-1, 1, 1)
    energy = (singular.unsqueeze(2) / unit).square()  # (n, rank, 1)
    grid = torch.arange(_GRID, dtype=torch.float64, device=values.device)
    scale = (_LOWEST + _STEP * grid).exp()  # (grid,): t, in units of the largest singular value
    share = left.square()  # (n, o, rank)
    outside = (1 - share.sum(2, keepdim=True)).clamp(min=0)
    if left.shape[1] == left.shape[2]:
        outside = torch.zeros_like(outside)  # exactly, where the rows span everything
    # Of 1 - lost, both parts are sums of positive terms: neither end loses digits by cancelling.
    lost = share @ (energy / (energy + scale.square()))  # (n, o, grid)
    kept = share @ (scale.square() / (energy + scale.square())) + outside
    logarithm = torch.where(lost < 0.5, lost.clamp(max=0.5).neg().log1p(), kept.clamp(max=1).log())
    losses: Tensor = -(logarithm @ scale) * (_STEP / math.pi) * largest.unsqueeze(1)
    return losses


MOST_COLUMNS = 9216
"""Largest number of inputs times taps (of one group) whose Gram matrix is kept: 0.7 GB. So large
are 3 x 3 convolutions over 1024 channels, and the first linear layer of AlexNet."""

DAMPING = 0.01
"""What is added to the diagonal, as a share of its mean."""

_MOST_VALUES_AT_ONCE = 2**22
"""Unfolded values that are held at a time: 32 MB in float64."""


class SecondMoments:
    """Gram matrix X X^T of the unfolded input of one layer, summed over all samples and positions.

    A row of X is one input channel and tap, a column one sample and output position. Channels of
    different groups never meet in a product with the weights, so a grouped layer has one matrix
    per group.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        """Prepare.

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
        """Add one use of the layer: what it was called with, and what it returned."""
        if isinstance(self._module, nn.Linear):
            parts = [(inputs, output)]
        else:  # a few samples at a time: every input value is in up to k columns
            inputs, output = (with_samples(self._module, values) for values in (inputs, output))
            each = self._taps * inputs.shape[1] * output[0, 0].numel()
            step = max(1, _MOST_VALUES_AT_ONCE // max(1, each))
            parts = list(zip(torch.split(inputs, step), torch.split(output, step), strict=True))
        for some, result in parts:
            columns = unfolded(self._module, some, result)
            rows = columns.reshape(self._groups, -1, columns.shape[2])
            if self._sum is None:
                self._sum = rows.new_zeros(self._groups, self._columns, self._columns)
            self._sum.baddbmm_(rows, rows.mT)

    def result(self) -> Tensor | None:
        """Return the diagonal of the upper Cholesky factor of the inverse damped Gram matrix.

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
