"""Change training images at random whenever they are taken; their targets stay."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.training.samples import Data, sample_count, take

_ANGLE, _SCALE, _SHEAR, _MOVE = 0.2, 0.1, 0.1, 1 / 14
"""Greatest turn in radians, changes of the size and shear, and move by the side, at strength 1."""


class AugmentedImages(Dataset[Batch]):
    """Training images, moved and distorted at random whenever they are taken; zeros come in.

    The target stays that of the image as it is. The random numbers are torch's, which fine-tuning
    seeds in every epoch.

    Args:
        data: the images (n, channels, height, width).
        shift: most pixels in each direction by which the images of a mini-batch are moved, all
            alike.
        distort: strength of a random affine map of each image; at 1 it is turned by at most 0.2
            radians, scaled and sheared by at most 10 %, and moved by at most 1/14 of its side.

    Raises:
        UserError: the data are not images that can be read in any order, or none would be left.
    """

    def __init__(self, data: Data, shift: int = 0, distort: float = 0.0) -> None:
        what = f"shift is {shift}" if shift else f"distort is {distort}"
        first = take(data, torch.arange(1)).inputs if isinstance(data, Dataset) else None
        if not isinstance(data, Dataset) or not isinstance(first, Tensor) or first.dim() != 4:
            raise UserError(
                f"{what}, but the training data are no images (samples, channels, height, width) "
                f"that can be read in any order; use {what.split()[0]} 0"
            )
        height, width = first.shape[2:]
        if shift >= min(height, width):
            raise UserError(
                f"{what}, but the training images have {height} x {width} pixels, so nothing of "
                "them might be left; use a shift of a few pixels"
            )
        self._data, self._shift, self._distort = data, shift, distort

    def __len__(self) -> int:
        return sample_count(self._data)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the samples with these numbers, their images changed."""
        batch = take(self._data, torch.tensor(indices))
        images = batch.inputs
        assert isinstance(images, Tensor)
        if self._shift:
            images = _move(images, self._shift)
        if self._distort:
            images = _distort(images, self._distort)
        return batch._replace(inputs=images)


def _move(images: Tensor, most: int) -> Tensor:
    """Move all images (n, channels, height, width) alike, by at most ``most`` pixels."""
    down, right = (int(torch.randint(2 * most + 1, ())) for _ in range(2))
    height, width = images.shape[2:]
    padded = functional.pad(images, (most,) * 4)
    return padded[:, :, down : down + height, right : right + width]


def _distort(images: Tensor, strength: float) -> Tensor:
    """Map every image (n, channels, height, width) by an affine map that is drawn for it."""
    count = len(images)

    def draw(most: float) -> Tensor:
        return (2 * torch.rand(count) - 1) * most * strength

    angle, scale, shear = draw(_ANGLE), 1 + draw(_SCALE), draw(_SHEAR)
    # The coordinates run from -1 to 1, so a move by a share of the side counts twice.
    across, down = draw(2 * _MOVE), draw(2 * _MOVE)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cos, shear - sin, across, sin, cos, down], 1).view(count, 2, 3)
    grid = functional.affine_grid(
        rows.to(images.device, images.dtype), list(images.shape), align_corners=False
    )
    return functional.grid_sample(images, grid, align_corners=False)
