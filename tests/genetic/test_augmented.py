"""Training images that change whenever they are taken."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gp_prune.errors import UserError
from gp_prune.genetic.augmented import AugmentedImages
from gp_prune.training import Samples
from gp_prune.training.samples import take


def test_shifted_images_are_the_images_moved() -> None:
    images = torch.arange(1.0, 5 * 9 + 1).reshape(5, 1, 3, 3)
    data = AugmentedImages(Samples(images, torch.arange(5)), 1)
    assert len(data) == 5
    seen = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            batch = take(data, torch.tensor([3, 1]))
            assert batch.target.tolist() == [3, 1]
            assert isinstance(batch.inputs, Tensor)
            place = (batch.inputs[0, 0] == images[3, 0, 1, 1]).nonzero()[0]
            down, right = (place - 1).tolist()
            seen.add((down, right))
            rolled = images[[3, 1]].roll((down, right), (2, 3))
            same = batch.inputs.eq(rolled)
            assert bool((same | batch.inputs.eq(0)).all())
            assert int((batch.inputs[0] != 0).sum()) == (3 - abs(down)) * (3 - abs(right))
    assert len(seen) == 9
    with pytest.raises(UserError, match="the training data are no images"):
        AugmentedImages(Samples(torch.zeros(4, 3), torch.zeros(4)), 1)
    with pytest.raises(UserError, match="shift is 3, but the training images have 3 x 3 pixels"):
        AugmentedImages(Samples(images, torch.arange(5)), 3)
    with pytest.raises(UserError, match=r"distort is 0\.5, but the training data are no images"):
        AugmentedImages(Samples(torch.zeros(4, 3), torch.zeros(4)), distort=0.5)


def blobs(count: int, size: int = 41) -> Tensor:
    """Images with two bright points, right of the middle and above it."""
    place = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(place, place, indexing="ij")
    right = (-((x - 0.5) ** 2 + y**2) / 0.005).exp()
    above = (-(x**2 + (y + 0.5) ** 2) / 0.005).exp()
    return torch.stack([right, above]).expand(count, 2, size, size)


def centres(images: Tensor) -> Tensor:
    """The centre of each channel in coordinates from -1 to 1: (n, channels, 2)."""
    place = torch.linspace(-1, 1, images.shape[-1])
    weight = images / images.sum((2, 3), keepdim=True)
    return torch.stack([(weight.sum(2) * place).sum(-1), (weight.sum(3) * place).sum(-1)], -1)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_each_image_is_mapped_by_an_affine_map_within_its_bounds(strength: float) -> None:
    images = blobs(200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        data = AugmentedImages(Samples(images, torch.arange(200)), distort=strength)
        batch = take(data, torch.arange(200))
        assert isinstance(batch.inputs, Tensor)
        again = take(data, torch.arange(200))
    assert batch.target.tolist() == list(range(200))
    assert isinstance(again.inputs, Tensor) and not torch.equal(batch.inputs, again.inputs)
    right, above = centres(batch.inputs).unbind(1)
    # The two points move apart only by the turn, the scale and the shear; the move is of both.
    lengths = (right - above).norm(dim=1) / math.sqrt(0.5)
    angles = torch.atan2(right[:, 1] - above[:, 1], right[:, 0] - above[:, 0]) - math.pi / 4
    assert lengths.max() < 1 + 0.25 * strength and lengths.min() > 1 - 0.25 * strength
    assert 0.1 * strength < angles.abs().max() < 0.35 * strength
    moves = ((right + above) / 2 - torch.tensor([0.25, -0.25])).abs()
    assert 0.1 * strength < moves.max() < (2 / 14 + 0.25 * 0.5) * strength + 0.02


def test_a_strength_of_nothing_changes_nothing() -> None:
    images = blobs(3)
    batch = take(AugmentedImages(Samples(images, torch.arange(3))), torch.tensor([2, 0]))
    assert torch.equal(torch.as_tensor(batch.inputs), images[[2, 0]])
