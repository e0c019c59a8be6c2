from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset

from gp_prune.apply.data import (
    LEAST_SAMPLES,
    calibration,
    own_data,
    split_indices,
    tuning_data,
)
from gp_prune.apply.images import open_images
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.tasks import Split
from gp_prune.training import Samples
from gp_prune.training.samples import gather, take


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

    spied = replace(loaded, task=replace(task, read_test=read))
    data = tuning_data(spied)
    assert (data.split, data.kind, len(data.train)) == ("test", "error", len(task.train.inputs))
    assert torch.equal(data.validation.inputs, task.validation.inputs)
    assert not reads
    assert len(data.read_report()) == 360 and reads == [1]
    fewer = tuning_data(spied, samples=50, seed=1)
    assert len(fewer.train) == 50
    assert not torch.equal(fewer.train.inputs, task.train.inputs[:50])


def test_images_are_split_and_read_as_calibration_reads_them() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
    loaded = LoadedModel("mine", model, torch.zeros(1, 3, 9, 9), imagenet=True)
    data = tuning_data(loaded, "digits", share=0.25, samples=80, seed=3)
    assert isinstance(data.train, Dataset) and isinstance(data.validation, Dataset)
    assert (len(data.train), len(data.validation)) == (60, 20)
    assert (data.name, data.split) == ("digits", "validation")
    assert data.read_report() is data.validation
    batch = take(data.train, torch.tensor([5, 0]))
    assert torch.equal(batch.target, batch.labels)
    everything = calibration(loaded, "digits", samples=10**6)
    images = torch.cat([part.inputs for part in everything.batches])
    labels = torch.cat([part.labels for part in everything.batches])
    for image, label in zip(batch.inputs, batch.labels, strict=True):
        same = (images == image).flatten(1).all(1)
        assert same.any() and (labels[same] == label).all()


def test_images_for_an_autoencoder_are_their_own_target(task_cache: Path) -> None:
    loaded = load_model("cnn-digits", cache_dir=task_cache)
    assert loaded.task is not None
    repeating = replace(loaded, task=replace(loaded.task, kind="reconstruction"))
    data = tuning_data(repeating, "digits")
    batch = take(data.validation, torch.arange(3))
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
    cut = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
    for data in (cut, [Batch((x, {"more": x}), y, y) for x, y in cut], (inputs, labels)):
        whole = gather(data)
        first = whole.inputs if isinstance(whole.inputs, torch.Tensor) else whole.inputs[0]
        assert torch.equal(first, inputs)
        assert torch.equal(whole.target, labels) and torch.equal(whole.labels, labels)


def test_own_data_by_default() -> None:
    inputs, labels = torch.rand(60, 3), torch.arange(60) % 2
    data = own_data((inputs, labels), share=0.5, name="mine")
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
    data = tuning_data(loaded, "digits", samples=200, seed=3)
    assert data.train_images is not None
    found = calibration(loaded, "digits", samples=100, seed=3, among=data.train_images)
    images = take(open_images(loaded, "digits"), data.train_images).inputs
    trained = {image.numpy().tobytes() for image in images}
    seen = [image.numpy().tobytes() for batch in found.batches for image in batch.inputs]
    assert len(seen) == 100
    assert set(seen) <= trained
    assert len(trained) >= 150  # digits are hardly ever the same


def test_own_data_that_does_not_fit_together_is_one_sentence() -> None:
    x, y = torch.zeros(30, 4), torch.zeros(30, dtype=torch.int64)
    cases = [
        ((x, y[:20]), "batch 1 of the data has 30 samples, but one of its tensors has 20"),
        ([(x, y), ({"a": x}, y)], "cannot be put together"),
        ([(x, y), (x[:, :2], y)], "cannot be put together"),
        ([{"a": x, "b": y}, {"a": x}], "cannot be put together"),
        ([{"a": x, "b": y[:1]}], "has 30 samples, but one of its tensors has 1"),
        ([((x, x), y), ((x,), y)], "cannot be put together"),
        (7, "the data is a int"),
        (None, "the data is a NoneType"),
        ([], "has no batch"),
        ([3], "yields int"),
    ]
    for data, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            own_data(data)
        assert "\n" not in str(caught.value)
