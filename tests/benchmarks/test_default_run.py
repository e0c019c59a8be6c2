"""The table and the lines of the benchmark of the default run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import default_profile
import default_run
from csv_lines import append, read
from default_run import Line

OLD = Line("07ddc16", 0, 24, 14.0, 450.0, 20.0, 210.0, 700.0, 1000, 6, 121.9, "a", "0f")
NEW = replace(OLD, code="now", search=200.0, total=430.0, networks=8)


def test_lines_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    for line in (OLD, NEW):
        append(path, line)
    assert read(path, Line) == [OLD, NEW]


def test_means_are_of_the_seeds_that_both_have() -> None:
    more = [replace(OLD, seed=1, total=900.0), replace(NEW, seed=1, total=470.0)]
    alone = replace(OLD, seed=2, total=5000.0)
    rows = default_run.report([OLD, NEW, *more, alone]).splitlines()
    before, now = (row.split(" | ") for row in rows[2:4])
    assert before[5] == "800.0 ± 141.4" and now[5] == "450.0 ± 28.3"
    assert before[7:9] == ["6", "75.0 ± 0.0"] and now[7:9] == ["8", "25.0 ± 0.0"]
    assert sum(row.startswith("| 2 |") for row in rows) == 1, "a run alone is in the list of runs"


def test_a_profile_tells_how_far_a_part_is_from_its_arithmetic() -> None:
    parts = [
        default_profile.Part("lenet-digits", "cut", 0.002, 0.0),
        default_profile.Part("lenet-digits", "validate", 0.004, 1e8),
    ]
    text = default_profile.report(parts, Counter({"conv": 3, "norm": 1}), 1e11, 2.0)
    assert "| lenet-digits | cut | 2.00 |  |  |" in text
    assert "| lenet-digits | validate | 4.00 | 1.00 | 4.0 |" in text
    assert text.index("| `conv` | 75.0% |") < text.index("| `norm` | 25.0% |")
    assert "100 GFLOP/s" in text
