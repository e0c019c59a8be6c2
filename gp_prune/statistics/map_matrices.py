"""Whole activation maps as matrices: their ranks, and what each adds to the nuclear norm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gp_prune.statistics.meters import Seen
from gp_prune.statistics.sampling import Sampled

_LOWEST, _STEP, _GRID = -36.0, 0.3, 214
"""Grid of the integral in :func:`nuclear_losses`, in the logarithm of t: up to 28."""

_MOST_AT_ONCE = 2**16
"""Values that are worked on at a time: 0.5 MB in float64, which a processor's cache holds."""


class MapRanks:
    """Rank of the map of each sampled sample and channel (HRank, Lin et al., CVPR 2020).

    A map of two spatial axes is a matrix of rows and columns; of three, the first two axes count as
    rows; a map of one axis, tokens or a single number is one row, whose rank is 1 unless all of it
    is 0. The rank is counted in the precision of the network (at least float32), with the default
    tolerance of ``torch.linalg.matrix_rank``: the largest singular value times the longer side
    times the machine epsilon.
    """

    def __init__(self) -> None:
        """No sample yet."""
        self._ranks = Sampled()

    def add(self, seen: Seen) -> None:
        """Count the ranks of the sampled maps of a batch."""
        maps = seen.maps[seen.picks.rows]
        if maps.dtype not in (torch.float32, torch.float64):
            maps = maps.to(torch.float32)
        matrices = maps.reshape(*maps.shape[:2], maps.shape[2] // seen.width, seen.width)
        if 1 in matrices.shape[2:]:
            ranks = (matrices != 0).flatten(2).any(2)
        else:
            ranks = torch.linalg.matrix_rank(matrices)
        self._ranks.put(ranks.to(torch.float64), seen.picks.slots)

    def result(self, classes: int) -> dict[str, Tensor]:
        """``map_rank`` (o, n)."""
        ranks = self._ranks.result()
        return {} if ranks is None else {"map_rank": ranks.T.contiguous()}


class NuclearLosses:
    """What the nuclear norm of a sample's maps loses without each channel (CHIP).

    The maps of a sample are one matrix (o, positions) with a row per channel (Sui et al., NeurIPS
    2021). Computed in float64.
    """

    def __init__(self) -> None:
        """No sample yet."""
        self._losses = Sampled()

    def add(self, seen: Seen) -> None:
        """Measure the sampled samples of a batch, a few at a time."""
        step = max(1, _MOST_AT_ONCE // (seen.maps.shape[1] * max(_GRID, seen.maps.shape[2])))
        maps = torch.split(seen.maps[seen.picks.rows], step)
        self._losses.put(torch.cat([nuclear_losses(some) for some in maps]), seen.picks.slots)

    def result(self, classes: int) -> dict[str, Tensor]:
        """``nuclear_loss`` (o, n)."""
        losses = self._losses.result()
        return {} if losses is None else {"nuclear_loss": losses.T.contiguous()}


def nuclear_losses(matrices: Tensor) -> Tensor:
    r"""Nuclear norm of each matrix, less its nuclear norm without each of its rows.

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
    # Of 1 - gone, both parts are sums of positive terms: neither end loses digits by cancelling.
    gone = share @ (energy / (energy + scale.square()))  # (n, o, grid)
    kept = share @ (scale.square() / (energy + scale.square())) + outside
    logarithm = torch.where(gone < 0.5, gone.clamp(max=0.5).neg().log1p(), kept.clamp(max=1).log())
    losses: Tensor = -(logarithm @ scale) * (_STEP / math.pi) * largest.unsqueeze(1)
    return losses
