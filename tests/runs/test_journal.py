"""The journal: what was written is known again; a torn last line is cut off; damage is named."""

from __future__ import annotations

import errno
import os
import sys
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from gp_prune.errors import UserError
from gp_prune.runs import journal as journals
from gp_prune.runs.journal import NAME, Journal, reader
from gp_prune.search.evaluation import Evaluation, Outcome


def evaluation(number: int) -> Evaluation:
    return Evaluation("lenet-digits", {"digest": f"d{number}"}, 20, 7)


def evaluated(key: str = '"k"', validation: str = "0.5") -> bytes:
    """A line of a journal."""
    text = f'"key": {key}, "validation": {validation}, "test": null, "raw": 0.1'
    return f'{{"event": "evaluation", {text}}}\n'.encode()


def test_of_two_lines_with_one_key_the_last_one_counts(tmp_path: Path) -> None:
    key = f'"{evaluation(1).key}"'
    (tmp_path / NAME).write_bytes(evaluated(key, validation="0.9") + evaluated(key))
    with Journal(tmp_path, reader(Outcome)) as journal:
        assert journal.known(evaluation(1).key) == Outcome(0.5, None, 0.1)


def test_outcomes_are_known_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path, reader(Outcome)) as journal:
        journal.outcome(evaluation(1), Outcome(0.25, None, 0.1))
        journal.outcome(evaluation(2), Outcome(0.1 + 0.2, 1 / 3, 0.7))
        journal.event({"event": "generation", "number": 0})
    with Journal(tmp_path, reader(Outcome)) as again:
        assert again.known(evaluation(1).key) == Outcome(0.25, None, 0.1)
        assert again.known(evaluation(2).key) == Outcome(0.1 + 0.2, 1 / 3, 0.7)
        assert again.known(evaluation(3).key) is None


def test_events_are_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        with Journal(tmp_path, reader(Outcome)) as journal:
            journal.event({"event": "generation", "number": 0})
    assert (tmp_path / NAME).read_text().count("\n") == 1


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path, reader(Outcome)) as journal:
        for number in range(3):
            journal.outcome(evaluation(number), Outcome(float(number), None, 0.0))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path, reader(Outcome)) as again:
        assert again.known(evaluation(1).key) is not None
        assert again.known(evaluation(2).key) is None
        again.outcome(evaluation(2), Outcome(2.0, None, 0.0))
    with Journal(tmp_path, reader(Outcome)) as last:
        assert last.known(evaluation(2).key) == Outcome(2.0, None, 0.0)


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1]\n",
        b'{"event": "evaluation"}\n',
        b"\xff\n",
        evaluated(key='["list"]'),
        evaluated(key="1" * 400),
        evaluated(key='"\\ud800"'),
        evaluated(validation="NaN"),
        evaluated(validation="1e999"),
    ],
)
def test_damage_inside_is_refused(tmp_path: Path, line: bytes) -> None:
    with Journal(tmp_path, reader(Outcome)) as journal:
        journal.outcome(evaluation(1), Outcome(0.5, None, 0.0))
    path = tmp_path / NAME
    content = path.read_bytes()
    path.write_bytes(line + content)
    with pytest.raises(UserError, match="damaged in line 1"):
        Journal(tmp_path, reader(Outcome))
    assert path.read_bytes() == line + content


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, reader(Outcome)) as journal,
        pytest.raises(ValueError, match="not JSON compliant"),
    ):
        journal.outcome(evaluation(1), Outcome(float("nan"), None, 0.0))


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, reader(Outcome)),
        pytest.raises(UserError, match="another run is writing"),
    ):
        Journal(tmp_path, reader(Outcome))
    Journal(tmp_path, reader(Outcome)).close()


def test_on_windows_every_run_locks_the_same_byte_and_lines_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a lock is on bytes from the position of the file on, and refuses to read them."""
    locked: list[int] = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        locked.append(os.lseek(descriptor, 0, os.SEEK_CUR))

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    lock = journals._lock

    def lock_as_on_windows(file: FileIO, path: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "win32")
            lock(file, path)

    monkeypatch.setattr(journals, "_lock", lock_as_on_windows)
    for number in (1, 2):
        with Journal(tmp_path, reader(Outcome)) as journal:
            journal.outcome(evaluation(number), Outcome(0.5, None, 0.1))
            assert all(journal.known(evaluation(n).key) for n in range(1, number + 1))
    assert len(set(locked)) == 1 and len(locked) == 2
    assert locked[0] > (tmp_path / NAME).stat().st_size + 2**20


def test_a_run_goes_on_only_with_what_it_was_begun_with(tmp_path: Path) -> None:
    with Journal(tmp_path, reader(Outcome)) as journal:
        journal.write_header({"seed": 3, "device": "cpu"})
    with Journal(tmp_path, reader(Outcome)) as journal:
        journal.write_header({"seed": 3, "device": "cpu"})
        with pytest.raises(UserError, match="begun with seed = 3, not 4"):
            journal.write_header({"seed": 4, "device": "cpu"})


def test_what_says_nothing_to_a_person_is_named_instead(tmp_path: Path) -> None:
    words = {"samples": "the data 'digits'"}
    with Journal(tmp_path, reader(Outcome)) as journal:
        journal.write_header({"samples": "2f1a", "versions": {"python": "3", "torch": "2"}}, words)
        with pytest.raises(
            UserError,
            match=r"^the data 'digits' changed since the run was begun; put back what it was or "
            r"start a new run in another folder$",
        ):
            journal.write_header(
                {"samples": "9b0c", "versions": {"python": "3", "torch": "2"}}, words
            )
        with pytest.raises(UserError, match=r"begun with versions\.torch = '2', not None; put"):
            journal.write_header({"samples": "2f1a", "versions": {"python": "3"}}, words)


def test_a_full_disk_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path, reader(Outcome)) as journal:
        journal.outcome(evaluation(1), Outcome(0.5, None, 0.0))
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(UserError, match=r"No space left on device; .* --resume"):
                journal.sync()
