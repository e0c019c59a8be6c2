"""Atomic writes: the old file or the new one, never a piece."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gp_prune.base.artifacts import (
    ArtifactNames,
    read_artifact,
    read_tensors,
    write_artifact,
    write_tensors,
)
from gp_prune.base.files import (
    DamagedFileError,
    read_file,
    remove_temporary_files,
    write_bytes,
    write_text,
)
from gp_prune.base.json_fields import check_type, parse_json, read_object, write_json
from gp_prune.errors import UserError


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


@pytest.mark.skipif(os.name != "posix", reason="there is no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_says_who_may_read_the_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        for _ in range(2):  # a new file, and one that is replaced
            write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced there")
def test_the_folder_is_synced_after_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a crash of the machine may bring the old file back after the program went on."""
    steps: list[str] = []
    sync, replace = os.fsync, os.replace

    def record(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def rename(*paths: Path) -> None:
        steps.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", rename)
    write_text(tmp_path / "file", "x")
    assert steps == ["file", "replace", "folder"]


def test_an_error_names_the_file_and_not_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(tmp_path / "file", "x")
    assert caught.value.filename == str(tmp_path / "file")
    assert names(tmp_path) == []


def test_temporary_files_are_told_from_those_of_the_user(tmp_path: Path) -> None:
    old = [".a.json.0123abcd", ".b.safetensors.ab12_xyz", ".result.json.q1w2e3r4"]
    mine = ["a.json.0123abcd", ".notes.markdown", ".a.json.0123", ".env.json", ".git"]
    for name in (*old, *mine):
        (tmp_path / name).touch()
    (tmp_path / ".c.json.0123abcd").symlink_to(tmp_path / "a.json.0123abcd")
    (tmp_path / ".d.json.0123abcd").mkdir()
    kept = [*mine, ".c.json.0123abcd", ".d.json.0123abcd"]
    remove_temporary_files(tmp_path, seconds=60)
    assert names(tmp_path) == sorted([*old, *kept])
    remove_temporary_files(tmp_path)
    assert names(tmp_path) == sorted(kept)
    remove_temporary_files(tmp_path / "none")


@pytest.mark.parametrize("step", ["replace", "fsync"])
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


NAMES = ArtifactNames("facts.json", "part-{:.16}.safetensors", "part")


def some_tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor([True, False])}


def read_number(facts: dict[str, object]) -> int:
    number = facts["number"]
    assert isinstance(number, int)
    if number < 0:
        raise UserError("the number is negative; give another")
    return number


def test_tensors_are_read_by_their_digest_or_its_first_digits(tmp_path: Path) -> None:
    digest = write_tensors(tmp_path / "new", "{:.32}.safetensors", some_tensors(), {"x": "y"})
    path = tmp_path / "new" / f"{digest[:32]}.safetensors"
    for known in (digest, digest[:32]):
        loaded = read_tensors(path, known)
        assert all(torch.equal(loaded[name], t) for name, t in some_tensors().items())
    for wrong in ("", digest[::-1], digest + "0"):
        with pytest.raises(DamagedFileError, match="SHA-256"):
            read_tensors(path, wrong)


def test_an_artifact_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_artifact(tmp_path, NAMES, read_number) is None
    for number in (3, 4):
        name = write_artifact(tmp_path, NAMES, {"number": number}, some_tensors())
        artifact = read_artifact(tmp_path, NAMES, read_number)
        assert artifact is not None
        assert artifact[0] == number
        assert torch.equal(artifact[1]["a"], some_tensors()["a"])
        assert names(tmp_path) == ["facts.json", name]


def test_an_artifact_that_its_reader_refuses_is_not_called_damaged(tmp_path: Path) -> None:
    write_artifact(tmp_path, NAMES, {"number": -1}, some_tensors())
    with pytest.raises(UserError, match="negative"):
        read_artifact(tmp_path, NAMES, read_number)


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"number": 1}', "[" * 100_000])
def test_facts_that_are_not_what_was_written_are_damage(tmp_path: Path, text: str) -> None:
    write_artifact(tmp_path, NAMES, {"number": 1}, some_tensors())
    write_text(tmp_path / "facts.json", text)
    with pytest.raises(DamagedFileError, match=r"facts\.json"):
        read_artifact(tmp_path, NAMES, read_number)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (True, int, "x is True; it must be a whole number"),
        (1, bool, "x is 1; it must be true or false"),
        (False, float, "x is False; it must be a number"),
        ("1", list, "x is '1'; it must be a list"),
    ],
)
def test_a_wrong_type_is_named(value: Any, kind: type, words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}$"):
        check_type(value, kind, "x")


def test_a_number_may_be_whole_and_an_object_anything() -> None:
    check_type(1, float, "x")
    check_type(True, object, "x")


@pytest.mark.parametrize("kind", [int, float])
def test_a_number_fits_64_bits(kind: type) -> None:
    check_type(2**63 - 1, kind, "x")
    for value in (2**63, -(10**400), 10**5000):
        with pytest.raises(UserError, match=r"^x is .*; it must be between -2\^63 and 2\^63$"):
            check_type(value, kind, "x")


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    assert read_file(path, 100) == bytes(100)
    assert read_file("/proc/self/status", 2**20).startswith(b"Name:")
    for most in (0, 99):
        with pytest.raises(OSError, match="it has more than the 0 MB"):
            read_file(path, most)
    with pytest.raises(OSError, match="it has more than the 0 MB"):
        read_file("/proc/self/status", 10)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for odd in ("/dev/zero", "/dev/null", tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(OSError, match="it is a pipe or a device, not a regular file"):
            read_file(odd, 100)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 100)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "NaN", "[-Infinity]", "1" * 5000, '{"a": 1', "\x00", b"\xff\xfe\x00"]
)
def test_json_is_read_strictly(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_number_of_an_object_is_finite() -> None:
    assert read_object({"a": 1}, "it", {"a": float}) == {"a": 1.0}
    with pytest.raises(UserError, match="field 'a' of it is inf; it must be finite"):
        read_object({"a": json.loads("1e999")}, "it", {"a": float})
