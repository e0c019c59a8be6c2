"""Whether a network is in the cache is known without training it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.tasks import is_trained, load_task


def test_a_network_is_known_once_it_was_trained(task_cache: Path, tmp_path: Path) -> None:
    load_task("lenet-digits", cache_dir=task_cache)
    assert is_trained("lenet-digits", cache_dir=task_cache)
    assert not is_trained("lenet-digits", cache_dir=task_cache, seed=1)
    assert not is_trained("lenet-digits", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_network_is_none(task_cache: Path, tmp_path: Path) -> None:
    load_task("lenet-digits", cache_dir=task_cache)
    folder = next(p.parent for p in task_cache.glob("lenet-digits-*/meta.json"))
    copied = tmp_path / folder.name
    copied.mkdir()
    (copied / "meta.json").write_bytes((folder / "meta.json").read_bytes())
    assert not is_trained("lenet-digits", cache_dir=tmp_path)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="unknown task 'lenet-digit'"):
        is_trained("lenet-digit")
