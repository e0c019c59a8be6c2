"""Atomic writes: the old file or the new one, never a piece."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gp_prune._io import write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_arrives(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_bytes(path, b"\x00\xff\n")
    assert path.read_bytes() == b"\x00\xff\n"
    write_text(path, "é\n∑")
    assert path.read_bytes().decode("utf-8") == "é\n∑"
    write_json(path, {"b": 1, "a": [0.1, "∑"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": [0.1, "∑"]}
    assert names(path.parent) == ["file"]


def test_others_may_read_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def interrupted(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(os, step, interrupted)
    with pytest.raises(type(error)):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_json_has_no_nan_and_no_infinity(tmp_path: Path, bad: object) -> None:
    path = tmp_path / "file"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, bad)
    assert path.read_text(encoding="utf-8") == "1\n"
