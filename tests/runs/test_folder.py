"""Settings round trip as TOML; a run folder has one owner, is begun once, and resumed as it was."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import pytest
from jobs_of_tests import Sum

from gp_prune.errors import UserError
from gp_prune.language.record import Coverage
from gp_prune.runs import journal as journals
from gp_prune.runs.folder import (
    CONFIG,
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.journal import Journal
from gp_prune.runs.journal_lines import reader
from gp_prune.runs.settings import Settings
from gp_prune.runs.statistics import STATISTICS, StatisticsFile
from gp_prune.statistics.coverage import CoverageWarning


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
        ("ADJUSTABLE = 1", "unknown setting 'ADJUSTABLE' in "),
        (f"seed = {10**400}", "is 1000.*; it must be between"),
        (f"seed = 0x{'f' * 5000}", "is a value of too many digits; it must be between"),
        (f"rate = 0x{'f' * 5000}", "is a value of too many digits; it must be between"),
        (f"seed = {'[' * 5000}{']' * 5000}", "is nested too deeply"),
        (f"# {'x' * 2**22}", "it has more than the 4 MB that it may have"),
    ],
    ids=lambda text: text[:30],
)
def test_settings_of_the_wrong_type_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UserError, match=words):
        Wishes.from_toml(tmp_path / CONFIG)
    (tmp_path / CONFIG).write_text("rate = 3\nshares = [1, 0.5]")
    assert Wishes.from_toml(tmp_path / CONFIG) == Wishes(rate=3, shares=(1, 0.5))


def test_pipes_and_devices_hold_no_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / CONFIG)
    for path in (tmp_path / CONFIG, Path("/dev/zero")):
        with pytest.raises(UserError, match="it is a pipe or a device, not a regular file"):
            Wishes.from_toml(path)


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


def test_a_run_that_read_other_statistics_is_not_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    with open_run_folder(folder, reader(Sum)) as journal:
        journal.write_header({"seed": 0})
        (folder / CONFIG).write_text(Wishes().to_toml())
    before = (folder / journals.NAME).read_bytes()
    with (
        pytest.raises(UserError, match=r"version 1 of the statistics .* cannot be resumed"),
        open_run_folder(folder, reader(Sum)),
    ):
        pass
    assert (folder / journals.NAME).read_bytes() == before


def test_equal_sizes_are_equal_settings() -> None:
    @dataclass(frozen=True)
    class Measuring(Settings):
        max_memory: str = "2GB"

        def __post_init__(self) -> None:
            self.normalise_memory()

    assert Measuring("2000 MB") == Measuring() and Measuring("1.5 gib").memory == 3 * 2**29
    with pytest.raises(UserError, match=r"max_memory \(--max-memory\) is '2', which has no unit"):
        Measuring("2")


def test_a_limit_that_was_met_is_warned_about_and_written_down(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Measuring(Settings):
        max_memory: str = "9999TB"

    part = {"conv": {"maps": Coverage(8, 512, 64, 64)}}
    with pytest.warns(CoverageWarning) as caught:
        file = StatisticsFile(tmp_path, Measuring())
        file.write({"net": part, "whole": {}})
        file.write({"net": part, "whole": {}})  # says it once
    machine, limit = (str(warning.message) for warning in caught)
    assert limit.startswith("maps of layer 'conv' of net was measured on 8 of 512 samples")
    assert machine.startswith("max_memory (--max-memory) is 9999TB, but this machine has ")
    content = json.loads((tmp_path / STATISTICS).read_text())
    assert content["notes"] == [limit] and content["max_memory"] == 9999 * 10**12
    assert content["networks"]["net"]["conv"]["maps"]["samples"] == 8


@pytest.mark.parametrize("name", ["metrics", "weights", "states", "front.csv", CONFIG])
@pytest.mark.parametrize("there", [True, False])
def test_a_run_does_not_write_through_a_link(tmp_path: Path, name: str, there: bool) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    if there:
        elsewhere.mkdir()
    folder.mkdir()
    (folder / name).symlink_to(elsewhere)
    with (
        pytest.raises(UserError, match=rf"{name}' is a link to '{elsewhere}', and a run writes"),
        open_run_folder(folder, reader(Sum)),
    ):
        raise AssertionError
    assert [path.name for path in folder.iterdir()] == [name]
    assert elsewhere.exists() == there and not (there and list(elsewhere.iterdir()))


def test_what_a_kill_left_half_written_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "networks" / "p01").mkdir(parents=True)
    left = [
        folder / f".{CONFIG}.0123abcd",
        folder / ".front.csv.0123abcd",
        folder / "networks" / "p01" / ".plan.json.q1w2e3r4",
    ]
    mine = [folder / ".hidden", folder / "networks" / ".notes.markdown"]
    for path in (*left, *mine):
        path.touch()
    with open_run_folder(folder, reader(Sum)):
        assert not any(path.exists() for path in left)
    assert all(path.exists() for path in mine)


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
