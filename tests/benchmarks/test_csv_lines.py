"""Lines of results come back as they were written, from files of any age."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import any_network
import autoencoder_tables
import default_run
import default_winners_table
import gecco_2022_table
import genetic_mutation_lines
import genetic_records
import gp_vs_random
import language_networks
import promotion
import proxy_fidelity_table
import pytest
import recalibration
import resnet_cifar_lines
import search_cost
import search_speed
import searches
import stacking
import statistics_fidelity_lines
import statistics_memory
import transfer
from csv_lines import append, as_csv, read
from hypothesis import given
from hypothesis import strategies as st

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
KINDS = {
    "any_network": any_network.Line,
    "autoencoder_operators": autoencoder_tables.Line,
    "choice_1_choose": transfer.Line,
    "choice_1_choose_pairs": transfer.Line,
    "choice_2_choose": transfer.Line,
    "choice_2_choose_pairs": transfer.Line,
    "default_run": default_run.Line,
    "default_winners-test": default_winners_table.Line,
    "default_winners_before-test": default_winners_table.Line,
    "default_winners_before-validation": default_winners_table.Line,
    "default_winners_chosen_pruned-test": default_winners_table.Line,
    "default_winners_six_finalists-test": default_winners_table.Line,
    "gecco_2022": gecco_2022_table.Final,
    "genetic_mutation": genetic_mutation_lines.Comparison,
    "genetic_records": genetic_records.Record,
    "gp_vs_random": gp_vs_random.Line,
    "language": language_networks.Line,
    "promotion": promotion.Line,
    "proxy_fidelity": proxy_fidelity_table.Line,
    "recalibration": recalibration.Line,
    "resnet_cifar": resnet_cifar_lines.Line,
    "search_cost": search_cost.Line,
    "search_speed": search_speed.Step,
    "searches_digits": searches.Line,
    "searches_digits_unseen": searches.Standing,
    "searches_images": searches.Line,
    "searches_shares": searches.Line,
    "stacking": stacking.Line,
    "statistics_fidelity": statistics_fidelity_lines.Line,
    "statistics_memory": statistics_memory.Line,
    "transfer_1_small": transfer.Line,
    "transfer_2_deep": transfer.Line,
    "transfer_2_small": transfer.Line,
    "transfer_2_tuned": transfer.Line,
    "transfer_2_weights": transfer.Line,
    "transfer_3_shares": transfer.Line,
    "transfer_3_shares_deep": transfer.Line,
    "transfer_3_small": transfer.Line,
    "transfer_3_tuned": transfer.Line,
}


@dataclass(frozen=True)
class Sample:
    name: str
    count: int
    value: float


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
SAMPLES = st.builds(Sample, TEXTS, st.integers(), st.floats(allow_nan=False))


@given(st.lists(SAMPLES))
def test_lines_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Sample]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "folder" / "lines.csv"
    assert read(path, Sample) == []
    for line in lines:
        append(path, line)
    assert read(path, Sample) == lines
    if lines:
        assert path.read_text(encoding="utf-8") == as_csv(lines)


@pytest.mark.parametrize("before", [0, 1])
def test_a_torn_last_line_is_made_again(tmp_path: Path, before: int) -> None:
    path = tmp_path / "lines.csv"
    whole = [Sample("first", 1, 0.5)][:before]
    for line in whole:
        append(path, line)
    with path.open("a", encoding="utf-8") as file:
        file.write("seco" if before else "name,cou")
    assert read(path, Sample) == whole
    append(path, Sample("second", 2, float("inf")))
    assert read(path, Sample) == [*whole, Sample("second", 2, float("inf"))]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_the_results_in_the_repository_can_be_read(path: Path) -> None:
    lines: list[Any] = read(path, KINDS[path.stem])
    assert lines
    assert as_csv(lines) == path.read_text(encoding="utf-8")
