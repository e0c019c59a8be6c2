from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.base.files import DamagedFileError
from gp_prune.base.json_fields import canonical_digest
from gp_prune.errors import UserError
from gp_prune.tasks import cache
from gp_prune.tasks.cache import Entry

IDENTITY = {"task": "lenet-digits", "seed": 3, "recipe": {"epochs": 2, "rate": 0.1}}


def entry(value: float = 1.0) -> Entry:
    weights = {"conv.weight": torch.full((2, 3), value), "norm.count": torch.tensor(4)}
    return Entry(weights, 0.25)


def only(folder: Path, pattern: str) -> Path:
    [path] = folder.glob(pattern)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "entry"
    assert cache.read(folder, IDENTITY) is None
    cache.write(folder, IDENTITY, entry())
    found = cache.read(folder, IDENTITY)
    assert found is not None
    assert found.dense_error == 0.25
    assert set(found.weights) == {"conv.weight", "norm.count"}
    for name, tensor in entry().weights.items():
        assert torch.equal(found.weights[name], tensor)
        assert found.weights[name].dtype == tensor.dtype


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    cache.write(tmp_path, IDENTITY, entry())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


@given(st.permutations(sorted(IDENTITY)))
def test_the_key_depends_on_what_is_said_and_not_on_the_order(names: list[str]) -> None:
    assert canonical_digest({name: IDENTITY[name] for name in names}) == canonical_digest(IDENTITY)
    assert canonical_digest({**IDENTITY, "seed": 4}) != canonical_digest(IDENTITY)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_weights_are_noticed(tmp_path: Path, length: int) -> None:
    cache.write(tmp_path, IDENTITY, entry())
    path = only(tmp_path, "*.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFileError, match=path.name):
        cache.read(tmp_path, IDENTITY)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache.write(tmp_path, IDENTITY, entry())
    path = only(tmp_path, "*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=path.name):
        cache.read(tmp_path, IDENTITY)


def test_missing_weights_are_noticed(tmp_path: Path) -> None:
    cache.write(tmp_path, IDENTITY, entry())
    only(tmp_path, "*.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="is missing"):
        cache.read(tmp_path, IDENTITY)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"weights": 3}', "\udcff"])
def test_a_broken_meta_file_is_noticed(tmp_path: Path, text: str) -> None:
    cache.write(tmp_path, IDENTITY, entry())
    (tmp_path / "meta.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DamagedFileError, match=r"meta\.json"):
        cache.read(tmp_path, IDENTITY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", "../../elsewhere.safetensors"),
        ("weights_sha256", 5),
        ("dense_error", None),
        ("dense_error", "low"),
        ("identity", {"task": "another"}),
    ],
)
def test_a_changed_meta_file_is_noticed(tmp_path: Path, field: str, value: object) -> None:
    cache.write(tmp_path, IDENTITY, entry())
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(DamagedFileError, match=r"meta\.json"):
        cache.read(tmp_path, IDENTITY)


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(UserError, match="--cache-dir"):
        cache.write(blocked / "entry", IDENTITY, entry())
    with pytest.raises(UserError, match="--cache-dir"):
        cache.read(blocked / "entry", IDENTITY)


def test_writers_and_readers_at_the_same_time_always_meet_a_whole_entry(tmp_path: Path) -> None:
    cache.write(tmp_path, IDENTITY, entry(0.0))

    def work(number: int) -> float:
        cache.write(tmp_path, IDENTITY, entry(float(number % 4)))
        found = cache.read(tmp_path, IDENTITY)
        assert found is not None
        return float(found.weights["conv.weight"][0, 0])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(64))) <= {0.0, 1.0, 2.0, 3.0}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
