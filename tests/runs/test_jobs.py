"""Any job runs in any runner, is journalled, and is not run again when its run is resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from jobs_of_tests import Add, Sum, Touch

from gp_prune.errors import UserError
from gp_prune.runs import journal as journals
from gp_prune.runs.config import Settings
from gp_prune.runs.executors import make_runner, run_with_journal
from gp_prune.runs.folder import (
    CONFIG,
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.jobs import RECALLED, TaskSource, Workbench
from gp_prune.runs.journal import NAME, Journal, reader

JOBS = [Add((n, n + 1)) for n in range(6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_the_same_for_any_number_of_workers(workers: int) -> None:
    runner = make_runner(TaskSource(), workers)
    try:
        runner.prepare([])
        assert list(runner.run(JOBS)) == [job.run(Workbench(TaskSource())) for job in JOBS]
    finally:
        runner.close()


def test_what_the_journal_holds_is_not_run_again(tmp_path: Path) -> None:
    runner = make_runner(TaskSource(), 1)
    with Journal(tmp_path, reader(Sum)) as journal:
        first = run_with_journal([*JOBS, *JOBS], runner, journal)
    assert list(first) == [job.key for job in JOBS]
    with Journal(tmp_path, reader(Sum)) as journal:
        assert run_with_journal(JOBS, _nobody, journal) == first  # type: ignore[arg-type]
        assert journal.known(Add((9,))) is None


class _Nobody:
    def run(self, jobs: Iterator[Add]) -> Any:
        assert not list(jobs)
        return iter(())


_nobody = _Nobody()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_jobs_are_done_while_others_are_made(tmp_path: Path, workers: int) -> None:
    def made() -> Iterator[Touch]:
        for number in range(6):
            yield Touch((number,), path=str(tmp_path / str(number)))
            deadline = time.monotonic() + 30
            while number < 4 and not (tmp_path / str(number)).exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)

    heard: list[tuple[int, int]] = []
    runner = make_runner(TaskSource(), workers)
    try:
        with Journal(tmp_path, reader(Sum)) as journal:
            journal.lend({Add((n,)).key: Add((n,)).run(Workbench(TaskSource())) for n in (4, 5)})
            found = run_with_journal(made(), runner, journal, lambda *state: heard.append(state))
    finally:
        runner.close()
    assert [found[Add((n,)).key].total for n in range(6)] == [n / 3 for n in range(6)]
    assert [done for done, _ in heard] == [1, 2, 3, 4, 5, 6]
    assert heard[-1] == (6, 6) and all(done <= of for done, of in heard)
    keys = [json.loads(line)["key"] for line in (tmp_path / NAME).read_text().splitlines()]
    assert keys == [Add((n,)).key for n in range(6)]


def test_progress_of_a_list_knows_the_end(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    with Journal(tmp_path, reader(Sum)) as journal:
        runner = make_runner(TaskSource(), 1)
        run_with_journal([*JOBS, *JOBS], runner, journal, lambda *state: heard.append(state))
    assert heard == [(n + 1, len(JOBS)) for n in range(len(JOBS))]


def test_a_job_that_kills_its_worker_fails_by_name() -> None:
    runner = make_runner(TaskSource(), 2)
    try:
        good, bad = runner.run([Add((1,)), Add((13,))])
        assert good.failure == ""
        assert bad == Add((13,)).failed("its worker died (SIGKILL), 2 times")
    finally:
        runner.close()


def test_a_workbench_keeps_what_was_used_last() -> None:
    workbench = Workbench(TaskSource())
    made: list[int] = []

    def get(number: int) -> int:
        return workbench.recall(str(number), lambda: made.append(number) or number)

    for number in (*range(RECALLED), 0, RECALLED, 0, 1):
        assert get(number) == number
    assert made == [*range(RECALLED), RECALLED, 1]


@dataclass(frozen=True)
class Wishes(Settings):
    names: tuple[str, ...] = ("a", "b")
    shares: tuple[float, ...] = (0.5, 1)
    counts: tuple[int, ...] = ()
    rate: float = 0.1
    eager: bool = True
    seed: int = 0
    title: str = 'a "quoted" \\ title\x7f'


def test_settings_round_trip(tmp_path: Path) -> None:
    wishes = Wishes(names=(), counts=(3,), rate=1e-7, eager=False, title="\n")
    for each in (Wishes(), wishes):
        (tmp_path / CONFIG).write_text(each.to_toml())
        assert Wishes.from_toml(tmp_path / CONFIG) == each
    assert wishes.changed(Wishes()) == ["names", "counts", "rate", "eager", "title"]
    assert wishes.to_json()["counts"] == [3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("counts = [0.5]", "an entry of 'counts' in .* is 0.5; it must be a whole number"),
        ("counts = 3", "must be a list"),
        ("names = [3]", "it must be a text"),
        ("rate = true", "must be a number"),
        ("eager = 1", "must be true or false"),
        ("seed = 1.0", "must be a whole number"),
        ("sed = 1", "unknown setting 'sed' in .*; did you mean 'seed'"),
    ],
)
def test_settings_of_the_wrong_type_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UserError, match=words):
        Wishes.from_toml(tmp_path / CONFIG)
    (tmp_path / CONFIG).write_text("rate = 3\nshares = [1, 0.5]")
    assert Wishes.from_toml(tmp_path / CONFIG) == Wishes(rate=3, shares=(1, 0.5))


def test_a_run_folder_is_begun_once_and_resumed_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    identity = {"versions": versions(), "seed": 3}
    wishes = load_or_check_settings(Wishes, Wishes(seed=3), folder, resume=False)
    with open_run_folder(folder, reader(Sum)) as journal:
        write_run_header(folder, wishes, journal, identity, resume=False)
    with pytest.raises(UserError, match="exists and is not empty"):
        load_or_check_settings(Wishes, None, folder, resume=False)
    with pytest.raises(UserError, match="keeps its settings, but seed would change"):
        load_or_check_settings(Wishes, Wishes(), folder, resume=True)
    assert load_or_check_settings(Wishes, None, folder, resume=True) == wishes
    with Journal(folder, reader(Sum)) as journal:
        write_run_header(folder, wishes, journal, identity, resume=True)
        with pytest.raises(UserError, match="begun with seed = 3, not 4"):
            write_run_header(folder, wishes, journal, {**identity, "seed": 4}, resume=True)


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "of today" / "first"
    with pytest.raises(ZeroDivisionError), open_run_folder(folder, reader(Sum)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    folder.parent.mkdir(parents=True)
    (tmp_path / "runs" / "notes").touch()
    with pytest.raises(ZeroDivisionError), open_run_folder(folder, reader(Sum)):
        raise ZeroDivisionError
    assert folder.parent.is_dir() and not folder.exists()
    folder.mkdir()
    with pytest.raises(ZeroDivisionError), open_run_folder(folder, reader(Sum)):
        raise ZeroDivisionError
    assert list(folder.iterdir()) == []  # it was there before
    with pytest.raises(UserError, match="is not a run folder"):
        load_or_check_settings(Wishes, None, folder, resume=True)


def test_a_run_that_finds_its_folder_taken_leaves_it_alone(tmp_path: Path) -> None:
    """Also while the other run prepares its networks and has written nothing."""
    folder = tmp_path / "run"
    with open_run_folder(folder, reader(Sum)) as journal:
        taken = pytest.raises(UserError, match="another run is writing")
        with taken, open_run_folder(folder, reader(Sum)):
            raise AssertionError
        write_run_header(folder, Wishes(), journal, {"seed": 0}, resume=False)
    assert load_or_check_settings(Wishes, None, folder, resume=True) == Wishes()
    with Journal(folder, reader(Sum)) as journal, pytest.raises(UserError, match="seed = 0, not 1"):
        journal.write_header({"seed": 1})


def test_a_journal_that_was_removed_in_between_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run gives up between the opening of its journal here and the locking."""
    lock = journals._lock

    def late(file: FileIO, path: Path) -> None:
        path.unlink()
        lock(file, path)

    monkeypatch.setattr(journals, "_lock", late)
    with (
        pytest.raises(UserError, match="another run"),
        open_run_folder(tmp_path / "run", reader(Sum)),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    words = "cannot be written: No space left on device; mend this"
    with pytest.raises(UserError, match=words), writing(tmp_path):
        raise OSError(28, "No space left on device")
