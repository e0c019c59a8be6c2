"""The journal: what was written is known again; a torn last line is cut off; damage is named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from io import FileIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from gp_prune.errors import UserError
from gp_prune.runs import journal as journals
from gp_prune.runs import journal_lines
from gp_prune.runs.journal import NAME, Journal
from gp_prune.runs.journal_lines import entries, seal
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.evaluator import outcome_reader


def evaluation(number: int) -> Evaluation:
    return Evaluation("lenet-digits", {"digest": f"d{number}"}, 20, 7)


def evaluated(key: str = '"k"', validation: str = "0.5") -> bytes:
    """A line of a journal whose digest is right, whatever it says."""
    text = f'"key": {key}, "validation": {validation}, "test": null, "raw": 0.1'
    return sealed(f'{{"event": "evaluation", {text}'.encode())


def sealed(body: bytes) -> bytes:
    """A line with the digest of what precedes it; seal() writes sound content alone."""
    return body + journal_lines._tail(journal_lines._identity(body))


def test_of_two_lines_with_one_key_the_last_one_counts(tmp_path: Path) -> None:
    key = f'"{evaluation(1).key}"'
    (tmp_path / NAME).write_bytes(evaluated(key, validation="0.9") + evaluated(key))
    with Journal(tmp_path, outcome_reader()) as journal:
        assert journal.known(evaluation(1).key) == Outcome(0.5, None, 0.1)


def test_outcomes_are_known_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path, outcome_reader()) as journal:
        journal.outcome(evaluation(1), Outcome(0.25, None, 0.1))
        journal.outcome(evaluation(2), Outcome(0.1 + 0.2, 1 / 3, 0.7))
        journal.event({"event": "generation", "number": 0})
    with Journal(tmp_path, outcome_reader()) as again:
        assert again.known(evaluation(1).key) == Outcome(0.25, None, 0.1)
        assert again.known(evaluation(2).key) == Outcome(0.1 + 0.2, 1 / 3, 0.7)
        assert again.known(evaluation(3).key) is None


def test_events_are_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        with Journal(tmp_path, outcome_reader()) as journal:
            journal.event({"event": "generation", "number": 0})
    assert (tmp_path / NAME).read_text().count("\n") == 1


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path, outcome_reader()) as journal:
        for number in range(3):
            journal.outcome(evaluation(number), Outcome(float(number), None, 0.0))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path, outcome_reader()) as again:
        assert again.known(evaluation(1).key) is not None
        assert again.known(evaluation(2).key) is None
        again.outcome(evaluation(2), Outcome(2.0, None, 0.0))
    with Journal(tmp_path, outcome_reader()) as last:
        assert last.known(evaluation(2).key) == Outcome(2.0, None, 0.0)


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1]\n",
        b"\xff\n",
        b'{"event": "evaluation"}\n',
        sealed(b"not json"),
        sealed(b"[1"),
        sealed(b"\xff"),
        sealed(b'{"event": 3'),
        sealed(b'{"event": "begin", "run": []'),
        sealed(b'{"event": "evaluation"'),
        sealed(b'{"event": ' + b"[" * 100_000),
        sealed(b'{"event": "turn", "round": ' + b"1" * 5_000),
        evaluated(validation="-5"),
        evaluated(validation='"0.5"'),
        evaluated(validation="true"),
        evaluated(validation="1" * 400),
        evaluated(validation="[" * 3_000 + "]" * 3_000),
        evaluated(key='["list"]'),
        evaluated(key="1" * 400),
        evaluated(key='"\\ud800"'),
        evaluated(validation="NaN"),
        evaluated(validation="1e999"),
    ],
)
def test_damage_inside_is_refused(tmp_path: Path, line: bytes) -> None:
    with Journal(tmp_path, outcome_reader()) as journal:
        journal.outcome(evaluation(1), Outcome(0.5, None, 0.0))
    path = tmp_path / NAME
    content = path.read_bytes()
    path.write_bytes(line + content)
    with pytest.raises(UserError, match="damaged in line 1;"):
        Journal(tmp_path, outcome_reader())
    assert path.read_bytes() == line + content


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, outcome_reader()) as journal,
        pytest.raises(ValueError, match="not JSON compliant"),
    ):
        journal.outcome(evaluation(1), Outcome(float("nan"), None, 0.0))


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, outcome_reader()),
        pytest.raises(UserError, match="another run is writing"),
    ):
        Journal(tmp_path, outcome_reader())
    Journal(tmp_path, outcome_reader()).close()


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
        with Journal(tmp_path, outcome_reader()) as journal:
            journal.outcome(evaluation(number), Outcome(0.5, None, 0.1))
            assert all(journal.known(evaluation(n).key) for n in range(1, number + 1))
    assert len(set(locked)) == 1 and len(locked) == 2
    assert locked[0] > (tmp_path / NAME).stat().st_size + 2**20


def test_a_run_goes_on_only_with_what_it_was_begun_with(tmp_path: Path) -> None:
    with Journal(tmp_path, outcome_reader()) as journal:
        journal.write_header({"seed": 3, "device": "cpu"})
    with Journal(tmp_path, outcome_reader()) as journal:
        journal.write_header({"seed": 3, "device": "cpu"})
        with pytest.raises(UserError, match="begun with seed = 3, not 4"):
            journal.write_header({"seed": 4, "device": "cpu"})


def test_what_says_nothing_to_a_person_is_named_instead(tmp_path: Path) -> None:
    words = {"samples": "the data 'digits'"}
    with Journal(tmp_path, outcome_reader()) as journal:
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

    with Journal(tmp_path, outcome_reader()) as journal:
        journal.outcome(evaluation(1), Outcome(0.5, None, 0.0))
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(UserError, match=r"No space left on device; .* --resume"):
                journal.sync()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """A journal with a header, events and results."""
    with Journal(tmp_path, outcome_reader()) as journal:
        journal.write_header({"seed": 3, "tasks": ["lenet-digits"]})
        for number in range(8):
            journal.outcome(evaluation(number), Outcome(number / 10, None, 0.1))
            journal.event({"event": "generation", "number": number})
    return (tmp_path / NAME).read_bytes()


def test_every_flipped_bit_is_named_with_its_line(tmp_path: Path, whole: bytes) -> None:
    rng = random.Random(0)
    for _ in range(300):
        place = rng.randrange(len(whole) - 1)  # without its end a journal is torn, not damaged
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / NAME).write_bytes(damaged)
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(UserError, match=f"damaged in line {line};"):
            Journal(tmp_path, outcome_reader())
        assert (tmp_path / NAME).read_bytes() == damaged


def test_a_line_that_changes_after_the_opening_is_not_used(tmp_path: Path, whole: bytes) -> None:
    with Journal(tmp_path, outcome_reader()) as journal:
        (tmp_path / NAME).write_bytes(whole.replace(b'"validation": 0.3', b'"validation": 0.0'))
        assert journal.known(evaluation(2).key) == Outcome(0.2, None, 0.1)
        with pytest.raises(UserError, match="changed while it was read"):
            journal.known(evaluation(3).key)


def test_a_journal_of_an_earlier_version_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"event": "begin", "run": {"seed": 0}}\n')
    with pytest.raises(
        UserError,
        match=r"damaged in line 1; .* \(it has no digest, as in earlier versions\)$",
    ):
        Journal(tmp_path, outcome_reader())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_journal_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "precious").write_text("not to be truncated")
    path = tmp_path / "run" / NAME
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "precious")
    else:
        path.mkdir()
    with pytest.raises(UserError, match="is no regular file"):
        Journal(path.parent, outcome_reader())
    with pytest.raises(UserError, match="is no regular file"):
        list(entries(path, outcome_reader()))
    assert (tmp_path / "precious").read_text() == "not to be truncated"


def test_a_line_without_an_end_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_lines, "MOST_BYTES", 1_000)
    (tmp_path / NAME).write_bytes(seal({"event": "a"}) + b"x" * 1_000)
    with pytest.raises(UserError, match="damaged in line 2;"):
        Journal(tmp_path, outcome_reader())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="no /proc here")
def test_a_million_lines_open_in_little_memory_and_time(tmp_path: Path) -> None:
    """Against the time that reading them as JSON takes, because machines differ."""
    plan = hashlib.sha256(b"plan").hexdigest()
    keys = [f"lenet-digits:{plan}:30:{number}" for number in range(500_000)]
    with (tmp_path / NAME).open("wb") as file:
        for number, key in enumerate(keys):
            outcome = {"validation": number / 1e6, "test": None, "raw": 0.1}
            file.write(seal({"event": "evaluation", "key": key, **outcome}))
            text = {"event": "candidate", "text": f"sum[i,k](W * {number})", "rung": 0}
            file.write(seal({**text, "objectives": [number / 1e6, 0.5, 0.5]}))
    program = f"""
import json, re, time
from pathlib import Path
from gp_prune.runs.journal import Journal
from gp_prune.search.evaluator import outcome_reader
def peak():  # of this program alone, not of the process that it was forked from
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
started = time.process_time()
journal = Journal(Path({str(tmp_path)!r}), outcome_reader())
seconds = time.process_time() - started
more = peak() - before
assert journal.known({keys[-1]!r}).validation == 0.499999
assert journal.holds({{"event": "candidate", "text": "sum[i,k](W * 7)", "rung": 0,
                      "objectives": [7 / 1e6, 0.5, 0.5]}})
print(seconds, more / 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    assert megabytes < 200
    started = time.process_time()
    with (tmp_path / NAME).open("rb") as file:
        for line in file:
            json.loads(line)
    assert seconds < 5 * (time.process_time() - started)
