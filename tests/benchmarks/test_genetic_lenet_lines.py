"""The tables of benchmarks/genetic_lenet.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import genetic_lenet_lines as lines
import pytest
from csv_lines import read

RECORD = lines.Record(
    emphasis="computation", seed=0, point="p02", dense_validation=0.7, dense_test=0.6,
    validation=0.9, test=0.85, removed=80.0, conv_macs=31.0, all_macs=20.0, conv_time=17.0,
    conv_time_default=11.0, bytes_dense=4000, bytes_csr=3000, channels="2-10-400", evaluations=500,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"test": 0.91}, False),
        ({"conv_time": 15.9}, False),
        ({"conv_macs": 29.9}, False),
        ({"emphasis": "sparsity"}, False),
        ({"emphasis": "sparsity", "removed": 99.0, "conv_macs": 1.0}, True),
        ({"emphasis": "front", "removed": 95.42, "conv_macs": 16.0}, True),
        ({"emphasis": "front", "removed": 95.0, "conv_macs": 16.0}, False),
    ],
)
def test_what_holds(changes: dict[str, Any], holds: bool) -> None:
    assert replace(RECORD, **changes).holds is holds


def test_a_comparison_counts_the_plans_until_the_same_hypervolume() -> None:
    random = [(10, 0.1), (20, 0.2), (30, 0.3)]
    found = lines.Comparison.of("t", 1, random, [(5, 0.2), (12, 0.31), (30, 0.5)])
    assert (found.guided_evaluations, found.share) == (12, 0.4)
    never = lines.Comparison.of("t", 1, random, [(5, 0.2), (30, 0.29)])
    assert (never.guided_evaluations, never.share) == (0, float("inf"))


def test_the_newest_line_of_a_run_stays(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    other = replace(RECORD, seed=1)
    lines.write_records(path, [other, RECORD, replace(RECORD, test=0.7)])
    assert read(path, lines.Record) == [replace(RECORD, test=0.7), other]
    table = path.with_suffix(".md").read_text()
    assert "| computation | 0 | 0.60 % | 0.70 % | +0.10 | 80.00 % |" in table
    assert "31.0x | 16x | 17.0x (11.0x)" in table
    compared = lines.Comparison("digits", 0, 720, 0.39, 0.48, 216, 0.3)
    lines.write_comparisons(
        tmp_path / "pairs.csv",
        [
            compared,
            replace(compared, seed=1, share=0.2),
            replace(compared, random_evaluations=2160, share=0.7),
            replace(compared, random_evaluations=2160, seed=lines.FRESH, share=0.1),
        ],
    )
    page = (tmp_path / "pairs.md").read_text()
    assert "median of 2 | 720 | | | 0.25 (most 0.30)" in page
    assert "median of 2 | 2160 | | | 0.40 (most 0.70)" in page
    assert "median of seeds 7 to 7 | 2160 | | | 0.10 (most 0.10)" in page
    assert len(read(tmp_path / "pairs.csv", lines.Comparison)) == 4
