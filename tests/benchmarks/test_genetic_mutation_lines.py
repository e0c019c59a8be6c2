"""The table of `genetic_lenet.py mutation`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import genetic_mutation_lines as lines
from csv_lines import read


def test_a_comparison_counts_the_plans_until_the_same_hypervolume() -> None:
    random = [(10, 0.1), (20, 0.2), (30, 0.3)]
    found = lines.Comparison.of("t", 1, random, [(5, 0.2), (12, 0.31), (30, 0.5)])
    assert (found.guided_evaluations, found.share) == (12, 0.4)
    never = lines.Comparison.of("t", 1, random, [(5, 0.2), (30, 0.29)])
    assert (never.guided_evaluations, never.share) == (0, float("inf"))


def test_the_table_has_medians_of_pairs_that_are_alike(tmp_path: Path) -> None:
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
