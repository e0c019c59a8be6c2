from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset

from gp_prune._compat import import_torchvision
from gp_prune.apply.data import (
    LEAST_SAMPLES,
    NO_DATA,
    calibration,
    check_labels,
    own_data,
    split_indices,
    tuning_data,
)
from gp_prune.apply.images import open_images
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.statistics.batches import as_batch
from gp_prune.tasks import Split
from gp_prune.tasks.data import load_data
from gp_prune.tasks.images import fit_image
from gp_prune.training import Samples
from gp_prune.training.samples import gather, take

SIDES = st.integers(1, 20)


def loaded(
    shape: tuple[int, ...] = (3, 12, 10), outputs: int = 10, *, imagenet: bool = False
) -> LoadedModel:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], outputs))
    return LoadedModel("mine", model.eval(), torch.zeros(1, *shape), imagenet=imagenet)


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
    data: Any = calibration(loaded(), "digits", samples=70, seed=1)
    assert sum(len(batch.labels) for batch in data.batches) == 70
    first = data.batches[0]
    assert first.inputs.shape == (32, 3, 12, 10)
    assert torch.equal(first.target, first.labels)
    assert torch.equal(first.inputs[:, 0], first.inputs[:, 2])
    again: Any = calibration(loaded(), "digits", samples=70, seed=1)
    other: Any = calibration(loaded(), "digits", samples=70, seed=2)
    assert torch.equal(first.inputs, again.batches[0].inputs)
    assert not torch.equal(first.inputs, other.batches[0].inputs)


def test_digits_of_the_right_shape_are_the_training_samples() -> None:
    data: Any = calibration(loaded((1, 8, 8)), "digits", samples=10**6)
    train = load_data("digits", Path()).train
    found = torch.cat([batch.inputs for batch in data.batches])
    assert found.shape == train.inputs.shape
    key = [tuple(image.flatten().tolist()) for image in (*found, *train.inputs)]
    assert sorted(key[: len(found)]) == sorted(key[len(found) :])


def test_imagenet_normalisation() -> None:
    plain: Any = calibration(loaded(), "digits", samples=4).batches[0].inputs
    normalised: Any = calibration(loaded(imagenet=True), "digits", samples=4).batches[0].inputs
    torch.testing.assert_close(normalised[:, 1], (plain[:, 1] - 0.456) / 0.224)


def test_folder_of_images(folder: Path) -> None:
    data: Any = calibration(loaded((3, 16, 8)), str(folder))
    (batch,) = data.batches
    assert batch.inputs.shape == (5, 3, 16, 8)
    assert sorted(batch.labels.tolist()) == [0, 0, 0, 1, 1]
    assert batch.inputs.max() <= 1
    fewer: Any = calibration(loaded(), str(folder), samples=2)
    assert len(fewer.batches[0].labels) == 2


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
    data: Any = calibration(loaded(), "digits")
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


@given(
    count=st.integers(1, 200),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
    labelled=st.booleans(),
    most=st.none() | st.integers(1, 250),
)
def test_parts_are_disjoint_and_large_enough_or_refused(
    count: int, share: float, seed: int, labelled: bool, most: int | None
) -> None:
    labels = torch.arange(count) % 3 if labelled else None
    used = count if most is None else min(most, count)
    try:
        train, validation = split_indices(count, share, seed, labels, most=most)
    except UserError as error:
        held = round(used * share)
        assert min(held, used - held) < LEAST_SAMPLES
        assert "give more samples" in str(error)
        return
    assert len(train) >= LEAST_SAMPLES and len(validation) >= LEAST_SAMPLES
    together = torch.cat([train, validation]).tolist()
    assert len(set(together)) == len(together) == used
    assert set(together) <= set(range(count))
    assert abs(len(validation) - used * share) <= 0.5
    again = split_indices(count, share, seed, labels, most=most)
    assert torch.equal(again[0], train) and torch.equal(again[1], validation)
    if labels is not None and most is None:
        for part, of in ((train, 1 - share), (validation, share)):
            counts = labels[part].bincount(minlength=3)
            assert (counts - labels.bincount(minlength=3) * of).abs().max() <= 2


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(UserError, match="validation share is"):
        split_indices(100, share, 0)


def test_a_task_brings_its_splits_and_its_test_samples_are_read_last(task_cache: Path) -> None:
    loaded = load_model("cnn-digits", cache_dir=task_cache)
    task = loaded.task
    assert task is not None
    reads: list[int] = []

    def read() -> Split:
        reads.append(1)
        return task.read_test()

    spied = replace(loaded, task=copy.copy(task))
    assert spied.task is not None
    spied.task.read_test = read
    data: Any = tuning_data(spied)
    assert (data.split, data.kind, len(data.train)) == ("test", "error", len(task.train.inputs))
    assert torch.equal(data.validation.inputs, task.validation.inputs)
    assert not reads
    assert len(data.read_report()) == 360 and reads == [1]
    fewer: Any = tuning_data(spied, samples=50, seed=1)
    assert len(fewer.train) == 50
    assert not torch.equal(fewer.train.inputs, task.train.inputs[:50])


def test_images_are_split_and_read_as_calibration_reads_them() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    loaded = LoadedModel("mine", model, torch.zeros(1, 3, 9, 9), imagenet=True)
    data: Any = tuning_data(loaded, "digits", share=0.25, samples=80, seed=3)
    assert (len(data.train), len(data.validation)) == (60, 20)
    assert all(isinstance(part, Dataset) for part in (data.train, data.validation))
    assert (data.name, data.split) == ("digits", "validation")
    assert data.read_report() is data.validation
    batch: Any = take(data.train, torch.tensor([5, 0]))
    assert torch.equal(batch.target, batch.labels)
    everything: Any = calibration(loaded, "digits", samples=10**6)
    images = torch.cat([part.inputs for part in everything.batches])
    labels = torch.cat([part.labels for part in everything.batches])
    for image, label in zip(batch.inputs, batch.labels, strict=True):
        same = (images == image).flatten(1).all(1)
        assert same.any() and (labels[same] == label).all()


def test_images_for_an_autoencoder_are_their_own_target(task_cache: Path) -> None:
    loaded = load_model("cnn-digits", cache_dir=task_cache)
    assert loaded.task is not None
    repeating = replace(loaded, task=copy.copy(loaded.task))
    assert repeating.task is not None
    repeating.task.kind = "reconstruction"
    data: Any = tuning_data(repeating, "digits")
    batch: Any = take(data.validation, torch.arange(3))
    assert data.kind == "mse" and torch.equal(batch.inputs, batch.target)


def test_labels_that_the_network_cannot_give_are_refused() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    with pytest.raises(UserError, match="labels up to 9, but 'mine' has 5 outputs"):
        tuning_data(LoadedModel("mine", model, torch.zeros(1, 3, 9, 9)), "digits")


def test_networks_without_data_are_refused() -> None:
    loaded = LoadedModel("mine", nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(UserError, match="--data"):
        tuning_data(loaded)
    with pytest.raises(UserError, match="number of samples is 0"):
        tuning_data(loaded, "digits", samples=0)


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_own_batches_are_joined(sizes: list[int]) -> None:
    inputs, labels = torch.rand(sum(sizes), 4), torch.arange(sum(sizes))
    cut = list(zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True))
    for data in (cut, [Batch((x, {"more": x}), y, y) for x, y in cut], (inputs, labels)):
        whole: Any = gather(data)
        first = whole.inputs if isinstance(whole.inputs, torch.Tensor) else whole.inputs[0]
        assert torch.equal(first, inputs)
        assert torch.equal(whole.target, labels) and torch.equal(whole.labels, labels)


def test_own_data_by_default() -> None:
    inputs, labels = torch.rand(60, 3), torch.arange(60) % 2
    data: Any = own_data((inputs, labels), share=0.5, name="mine")
    assert isinstance(data.train, Samples)
    assert (len(data.train), len(data.validation), data.kind) == (30, 30, "error")
    logits = torch.rand(4, 2)
    assert data.loss({"logits": logits}, labels[:4]) == nn.functional.cross_entropy(
        logits, labels[:4]
    )
    squares = own_data((inputs, inputs), kind="mse")
    assert squares.loss(inputs, inputs + 1).item() == pytest.approx(1)
    with pytest.raises(UserError, match="20 samples"):
        own_data((inputs[:20], labels[:20]))
    with pytest.raises(UserError, match="no batch"):
        own_data([])


def test_images_that_are_judged_on_calibrate_nothing(tmp_path: Path) -> None:
    """Calibration samples come from the images that are trained on."""
    loaded = LoadedModel("own", nn.Flatten(), torch.zeros(1, 1, 8, 8))
    data: Any = tuning_data(loaded, "digits", samples=200, seed=3)
    assert data.train_images is not None
    found: Any = calibration(loaded, "digits", samples=100, seed=3, among=data.train_images)
    images: Any = take(open_images(loaded, "digits"), data.train_images).inputs
    trained = {image.numpy().tobytes() for image in images}
    seen = [image.numpy().tobytes() for batch in found.batches for image in batch.inputs]
    assert len(seen) == 100
    assert set(seen) <= trained
    assert len(trained) >= 150  # digits are hardly ever the same


class Nothing(Dataset[Any]):
    """A data set without samples."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError(index)


def test_own_data_that_does_not_fit_together_is_one_sentence() -> None:
    x, y = torch.zeros(30, 4), torch.zeros(30, dtype=torch.int64)
    cases = [
        ((x, y[:20]), "batch 1 of the data has 30 samples, but one of its tensors has 20"),
        ([(x, y), ({"a": x}, y)], "cannot be put together"),
        ([(x, y), (x[:, :2], y)], "cannot be put together"),
        ([{"a": x, "b": y}, {"a": x}], "cannot be put together"),
        ([{"a": x, "b": y[:1]}], "has 30 samples, but one of its tensors has 1"),
        ([((x, x), y), ((x,), y)], "cannot be put together"),
        (7, "the data is of type int"),
        (None, "the data is of type NoneType"),
        (x, "the data is of type Tensor"),
        ("digits", "the data is of type str"),
        (Nothing(), "the Nothing has no samples"),
        ([], "has no batch"),
        ([3], "yields int"),
    ]
    for data, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            own_data(data)
        assert "\n" not in str(caught.value)
