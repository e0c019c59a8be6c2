from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gp_prune._compat import import_torchvision
from gp_prune.apply.data import NO_DATA, calibration, check_labels
from gp_prune.apply.images import fit_image
from gp_prune.apply.models import LoadedModel
from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import as_batch
from gp_prune.tasks.data import load_data

SIDES = st.integers(1, 20)


def loaded(shape: tuple[int, ...] = (3, 12, 10), outputs: int = 10, **more: bool) -> LoadedModel:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], outputs))
    return LoadedModel("mine", model.eval(), torch.zeros(1, *shape), **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 3 and 2 images, of several sizes and kinds."""
    for number, (name, mode) in enumerate(
        [("cat/a", "RGB"), ("cat/b", "L"), ("cat/c", "RGBA"), ("dog/a", "RGB"), ("dog/b", "RGB")]
    ):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.full((len(mode), 16, 8 + number), 40 * number, dtype=torch.uint8)
        import_torchvision().transforms.functional.to_pil_image(pixels, mode).save(path)
    return tmp_path / "images"


@given(height=SIDES, width=SIDES, to_height=SIDES, to_width=SIDES, value=st.floats(0, 1))
def test_fitted_has_the_shape_and_keeps_flat_images(
    height: int, width: int, to_height: int, to_width: int, value: float
) -> None:
    image = torch.full((3, height, width), value)
    result = fit_image(image, (3, to_height, to_width))
    torch.testing.assert_close(result, torch.full((3, to_height, to_width), value))


def test_fitted_leaves_what_fits() -> None:
    image = torch.rand(3, 6, 7)
    assert torch.equal(fit_image(image, (3, 6, 7)), image)


def test_fitted_keeps_proportions() -> None:
    """A wide image is cut at both sides, not squeezed."""
    image = torch.zeros(1, 4, 12)
    image[:, :, 4:8] = 1
    assert torch.equal(fit_image(image, (1, 4, 4)), torch.ones(1, 4, 4))


def test_fitted_matches_channels() -> None:
    grey = torch.rand(1, 4, 4)
    assert torch.equal(fit_image(grey, (5, 4, 4)), grey.repeat(5, 1, 1))
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    assert fit_image(red, (1, 1, 1)).item() == pytest.approx(0.299)
    with pytest.raises(UserError, match="3 channels, the network takes 4"):
        fit_image(red, (4, 1, 1))


def test_digits_for_a_colour_network() -> None:
    data = calibration(loaded(), "digits", samples=70, seed=1)
    assert sum(len(batch.labels) for batch in data.batches) == 70
    first = data.batches[0]
    assert first.inputs.shape == (32, 3, 12, 10)
    assert torch.equal(first.target, first.labels)
    assert torch.equal(first.inputs[:, 0], first.inputs[:, 2])
    again = calibration(loaded(), "digits", samples=70, seed=1)
    other = calibration(loaded(), "digits", samples=70, seed=2)
    assert torch.equal(first.inputs, again.batches[0].inputs)
    assert not torch.equal(first.inputs, other.batches[0].inputs)


def test_digits_of_the_right_shape_are_the_training_samples() -> None:
    data = calibration(loaded((1, 8, 8)), "digits", samples=10**6)
    train = load_data("digits", Path()).train
    found = torch.cat([batch.inputs for batch in data.batches])
    assert found.shape == train.inputs.shape
    key = [tuple(image.flatten().tolist()) for image in (*found, *train.inputs)]
    assert sorted(key[: len(found)]) == sorted(key[len(found) :])


def test_imagenet_normalisation() -> None:
    plain = calibration(loaded(), "digits", samples=4).batches[0].inputs
    normalised = calibration(loaded(imagenet=True), "digits", samples=4).batches[0].inputs
    torch.testing.assert_close(normalised[:, 1], (plain[:, 1] - 0.456) / 0.224)


def test_folder_of_images(folder: Path) -> None:
    data = calibration(loaded((3, 16, 8)), str(folder))
    (batch,) = data.batches
    assert batch.inputs.shape == (5, 3, 16, 8)
    assert sorted(batch.labels.tolist()) == [0, 0, 0, 1, 1]
    assert batch.inputs.max() <= 1
    assert len(calibration(loaded(), str(folder), samples=2).batches[0].labels) == 2


def test_no_source_and_no_task() -> None:
    assert calibration(loaded(), None) is NO_DATA


def test_wrong_sources(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"unknown data 'digitz'.*digits, mnist"):
        calibration(loaded(), "digitz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in folders of classes"):
        calibration(loaded(), str(tmp_path / "empty"))
    (tmp_path / "empty" / "cat").mkdir()
    with pytest.raises(UserError, match="no images in folders of classes"):
        calibration(loaded(), str(tmp_path / "empty"))
    with pytest.raises(UserError, match="--data-root"):
        calibration(loaded(), "mnist", data_root=tmp_path)
    (folder / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken.png' cannot be read"):
        calibration(loaded(), str(folder))
    with pytest.raises(UserError, match="at least 1"):
        calibration(loaded(), "digits", samples=0)
    with pytest.raises(UserError, match="does not take one batch of images"):
        calibration(loaded((3,)), "digits")


def test_labels_must_be_outputs() -> None:
    data = calibration(loaded(), "digits")
    check_labels(loaded(), data)
    check_labels(loaded(), NO_DATA)
    with pytest.raises(UserError, match="labels up to 9, but 'mine' has 4 outputs"):
        check_labels(loaded(outputs=4), data)
    maps = LoadedModel("maps", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 12, 10))
    with pytest.raises(UserError, match=r"\(1, 4, 10, 8\).*labels are compared"):
        check_labels(maps, data)


def test_items_of_data_as_batches() -> None:
    x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    pair, batch, alone, floats = map(as_batch, [(x, y), Batch(x), x, [x, y.float()]])
    assert pair.labels is y
    assert pair.target is y
    assert batch.target is None
    assert alone.target is None
    assert floats.target is not None
    assert floats.labels is None
    with pytest.raises(UserError, match="yields str"):
        as_batch("x")
