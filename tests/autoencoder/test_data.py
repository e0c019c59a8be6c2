from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as sized
from hypothesis import strategies as st

from gp_prune.autoencoder.data import RECIPES, SPLITS, ClusterRecipe, load
from gp_prune.autoencoder.networks import choose_layout
from gp_prune.errors import UserError
from gp_prune.runs.jobs import TaskSource


@sized(max_examples=25)
@given(clusters=st.integers(1, 12), samples=st.integers(12, 60), seed=st.integers(0, 99))
def test_samples_are_centroids_with_some_bits_flipped(
    clusters: int, samples: int, seed: int
) -> None:
    recipe = ClusterRecipe(clusters, samples, 200)
    splits = {name: recipe.draw(name, seed) for name in SPLITS}
    for split in splits.values():
        inputs, labels = split.inputs, split.labels
        assert labels is not None
        assert inputs.shape == (samples, 200)
        assert set(torch.unique(inputs).tolist()) <= {0.0, 1.0}
        sizes = labels.bincount(minlength=clusters)
        assert sizes.max() - sizes.min() <= 1
    # Splits share the centroids: samples of a cluster differ in about 2 * 0.05 * 0.95 of the bits.
    train, test = splits["train"], splits["test"]
    assert train.labels is not None and test.labels is not None
    same = train.labels[:, None] == test.labels[None, :]
    apart = torch.cdist(train.inputs, test.inputs, p=1) / 200
    assert float(apart[same].mean()) == pytest.approx(0.095, abs=0.03)
    assert torch.equal(recipe.draw("train", seed).inputs, train.inputs)
    assert not torch.equal(train.inputs, test.inputs)


def test_the_papers_clusters() -> None:
    data = load("binary-clusters", 3, TaskSource())
    assert data.train.inputs.shape == data.validation.inputs.shape == (1000, 1000)
    assert data.test().inputs.shape == (1000, 1000)
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [100] * 10
    ones = float(data.train.inputs.mean())
    assert ones == pytest.approx(0.75 * 0.95 + 0.25 * 0.05, abs=0.03)
    centroids = torch.stack(
        [data.train.inputs[data.train.labels == c].median(0).values for c in range(10)]
    )
    flipped = data.test().inputs != centroids[data.test().labels]
    assert float(flipped.float().mean()) == pytest.approx(0.05, abs=0.002)
    assert choose_layout(data).parameters == 61_670
    assert choose_layout(data, 2).parameters == 61_182


def test_no_two_samples_share_their_noise() -> None:
    split = RECIPES["binary-clusters"].draw("test", 0)
    inputs, labels = split.inputs, split.labels
    assert labels is not None
    assert len(torch.unique(inputs, dim=0)) == 1000
    centroids = torch.stack([inputs[labels == c].median(0).values for c in range(10)])
    assert len(torch.unique(inputs != centroids[labels], dim=0)) == 1000


def test_the_second_recipe() -> None:
    recipe = RECIPES["binary-clusters-50"]
    assert (recipe.clusters, recipe.dimensions, recipe.samples) == (50, 4000, 5000)


def test_images_are_those_of_the_tasks() -> None:
    data = load("digits", 0, TaskSource(), limit=100)
    assert data.shape == (1, 8, 8)
    assert data.train.inputs.shape == (100, 64)
    assert len(data.validation.inputs) == 100
    assert len(data.test().inputs) == 360
    layout = choose_layout(data)
    assert layout.encoder == (64, 48, 24, 12)
    assert layout.decoder == (12, 24, 48, 64)
    assert not layout.code_relu
    assert choose_layout(data, 3).encoder == (64, 48, 24, 3)


def own(folder: Path, **arrays: Any) -> str:
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return str(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    inputs = np.random.RandomState(0).rand(50, 2, 3)
    data = load(own(tmp_path, inputs=inputs, labels=np.arange(50) % 4), 0, TaskSource())
    parts = [data.train, data.validation, data.test()]
    assert [len(part.inputs) for part in parts] == [30, 10, 10]
    assert sorted(torch.cat([p.inputs for p in parts]).flatten().tolist()) == pytest.approx(
        sorted(inputs.flatten().tolist())
    )
    assert data.train.labels is not None and data.train.labels.dtype == torch.int64
    assert load(own(tmp_path, inputs=inputs), 0, TaskSource()).train.labels is None


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.zeros((20, 3))}, "no array 'inputs'"),
        ({"inputs": np.zeros(20)}, r"the shape \(20,\)"),
        ({"inputs": np.zeros((3, 3))}, "at least 10 samples"),
        ({"inputs": np.full((20, 3), 2.0)}, r"must lie in \[0, 1\]"),
        ({"inputs": np.full((20, 3), np.nan)}, "holds NaN or infinity"),
        ({"inputs": np.full((20, 3), 1 + 1j)}, "the type complex128"),
        ({"inputs": np.full((20, 3), "text")}, "the type <U4"),
        ({"inputs": np.zeros((20, 0))}, "and one feature"),
        ({"inputs": np.zeros((20, 3)), "labels": np.full(20, -1)}, "at least 0"),
        ({"inputs": np.zeros((20, 3)), "labels": np.zeros(3)}, "one whole number"),
    ],
)
def test_a_file_that_is_of_no_use_is_refused(
    tmp_path: Path, arrays: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        load(own(tmp_path, **arrays), 0, TaskSource())


def test_other_arrays_of_a_file_do_not_matter(tmp_path: Path) -> None:
    other = np.array([object()])
    path = own(tmp_path, inputs=np.zeros((20, 3), bool), names=other)
    assert len(load(path, 0, TaskSource()).train.inputs) == 12


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "objects.npz", inputs=np.array([object()] * 20))
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, np.zeros((20, 3)))
    np.savez_compressed(tmp_path / "damaged.npz", inputs=np.random.RandomState(0).rand(200, 9))
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[300:330] = b"\xff" * 30
    (tmp_path / "damaged.npz").write_bytes(content)
    for name in ("text.npz", "objects.npz", "single.npz", "damaged.npz", "missing.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            load(str(tmp_path / name), 0, TaskSource())
    with pytest.raises(UserError, match="unknown data 'imagenet'"):
        load("imagenet", 0, TaskSource())


def test_pipes_devices_and_bombs_are_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.npz", tmp_path / "zero.npz"):
        with pytest.raises(UserError, match="it is a pipe or a device, not a regular file"):
            load(str(path), 0, TaskSource())
    np.savez_compressed(tmp_path / "bomb.npz", inputs=np.zeros((20, 2**20 * 10), np.uint8))
    with pytest.raises(UserError, match=r"'inputs.npy' in it unpacks to 209,715,"):
        load(str(tmp_path / "bomb.npz"), 0, TaskSource())
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
    lie = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("inputs.npy", lie)
    with pytest.raises(UserError, match=r"lie.npz' cannot be read"):
        load(str(tmp_path / "lie.npz"), 0, TaskSource())
