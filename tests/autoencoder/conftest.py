"""Small data and settings of the autoencoder trainer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from gp_prune import AutoencodeSettings

# What tests compare of run folders is there.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runs"))


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 60 samples with 12 bits in three classes."""
    random = np.random.RandomState(0)
    labels = np.arange(60) % 3
    inputs = (random.rand(3, 12) < 0.6)[labels] ^ (random.rand(60, 12) < 0.05)
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, inputs=inputs.astype(np.float32), labels=labels)
    return str(path)


@pytest.fixture
def small(clusters: str) -> AutoencodeSettings:
    """Settings of a run of the autoencoder trainer that takes a moment."""
    return AutoencodeSettings(
        data=clusters, loss="l1", epochs=4, batch_size=9, learning_rate=0.05, probability=0.8,
        amount=0.2, samples=20, cells=4, selection_samples=15, temperature=0.2,
    )  # fmt: skip
