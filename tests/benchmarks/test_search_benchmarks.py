"""The benchmarks of the search run to their end, on a search that is as small as can be."""

from __future__ import annotations

import sys
from pathlib import Path

import promotion
import pytest
import search_cost
import search_speed
import stacking
from csv_lines import read

SMALL = ["--population", "6", "--generations", "1", "--steps", "4", "--sample", "2"]


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])


@pytest.mark.slow
def test_both_searches_are_compared_and_what_is_known_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    course, shelf = tmp_path / "course.csv", tmp_path / "shelf.jsonl"
    files = ["--course", str(course), "--shelf", str(shelf), "--time-first", "3"]
    volumes = []
    for _ in range(2):
        started(monkeypatch, *SMALL, *files)
        search_speed.main()
        printed = capsys.readouterr().out
        assert "**in all, processor s**" in printed
        assert "extrapolated from 3 of" in printed
        volumes.append(printed.partition("Hypervolume of the front:")[2])
    assert volumes[0] == volumes[1]
    steps = read(course, search_speed.Step)
    assert [(s.search, s.generation) for s in steps] == 2 * [
        ("naive", 0), ("naive", 1), ("ours", 0), ("ours", 1)
    ]  # fmt: skip
    errors = shelf.read_text(encoding="utf-8").splitlines()
    assert len(errors) == len(set(errors)) > 0


@pytest.mark.slow
def test_the_cost_of_a_search_is_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_cost, "POPULATIONS", (4,))
    monkeypatch.setattr(search_cost, "WORKERS", (1, 2))
    out = tmp_path / "cost.csv"
    started(monkeypatch, "--out", str(out), "--behaviours", "12", "--tasks", "lenet-digits")
    search_cost.main()
    lines = read(out, search_cost.Line)
    assert [line.varied for line in lines] == ["population", "network", "workers", "workers"]
    assert all(line.processor > 0 and line.macs == 35880 for line in lines)
    assert out.with_suffix(".svg").read_text(encoding="utf-8").count("<svg") == 1


@pytest.mark.slow
def test_stacks_are_timed_against_single_networks(tmp_path: Path) -> None:
    out = tmp_path / "stacking.csv"
    options = ["--tasks", "lenet-digits", "--keep", "0.3", "--stacks", "2", "3", "--networks", "3"]
    stacking.main([*options, "--steps", "2", "--turns", "1", "--out", str(out)])
    lines = read(out, stacking.Line)
    assert [(line.stack, line.networks, line.steps) for line in lines] == [(2, 3, 2), (3, 3, 2)]
    assert all(line.alone > 0 and line.stacked > 0 and line.difference < 0.01 for line in lines)
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("| lenet-digits |") == 2


@pytest.mark.slow
def test_fine_tuning_all_is_compared_with_a_quarter_in_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "promotion.csv"
    small = ["--seeds", "2", "--population", "6", "--generations", "1", "--front", "3"]
    for _ in range(2):
        started(monkeypatch, "--out", str(out), "--tasks", "lenet-digits", *small)
        promotion.main()
    lines = read(out, promotion.Line)
    assert [(line.seed, line.fine_tuned) for line in lines] == [
        (0, 1),
        (0, 0.25),
        (1, 1),
        (1, 0.25),
    ]
    for every, some in zip(lines[::2], lines[1::2], strict=True):
        assert every.generations == 1
        # It stops after the first generation that ends behind the limit.
        assert some.seconds >= every.seconds
    assert "| lenet-digits | 2 |" in out.with_suffix(".md").read_text(encoding="utf-8")
