"""The records of the genetic pruner: settings, what holds, and the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import genetic_records
import pytest
from csv_lines import read

PROTOCOL = genetic_records.load_protocol()
RECORD = genetic_records.Record(
    kind="both", seed=6, point="p01", dense_validation=0.7, dense_test=0.6, validation=0.9,
    test=0.95, params=160.0, conv_macs=31.0, all_macs=15.5, sparse_macs=20.0,
    flops=5000, conv_time=17.0, bytes_dense=4000, bytes_csr=3000, widths="2-10-400",
    evaluations=500, settings=genetic_records.settings_digest(PROTOCOL, "both"), commit="0123456",
)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "changes", "holds"),
    [
        ("both", {}, True),
        ("both", {"test": 1.01}, False),
        ("both", {"params": 155.9}, False),
        ("both", {"all_macs": 14.9}, False),
        ("sparsity", {}, False),
        ("sparsity", {"params": 300.0, "test": 0.8}, True),
        ("sparsity", {"params": 300.0, "test": 0.81}, False),
        ("computation", {"conv_macs": 49.0, "test": 0.9}, True),
        ("computation", {"conv_macs": 49.0, "test": 0.91}, False),
        ("mlp", {"params": 90.0, "test": 1.57}, True),
        ("mlp", {"params": 90.0, "test": 1.58}, False),
        ("mlp", {"params": 90.0, "flops": 6201}, False),
    ],
)
def test_what_holds(kind: str, changes: dict[str, Any], holds: bool) -> None:
    assert replace(RECORD, **changes).holds(PROTOCOL[kind]["needed"]) is holds


@pytest.mark.parametrize("kind", genetic_records.kinds(PROTOCOL))
def test_settings_are_valid_and_only_records_read_the_test_split(kind: str) -> None:
    chosen = genetic_records.settings_of(PROTOCOL, kind, 0, read_test=False)
    final = genetic_records.settings_of(PROTOCOL, kind, 0, read_test=True)
    assert not chosen.read_test and final == replace(chosen, read_test=True)
    seeds = genetic_records.seeds_of(PROTOCOL, kind)
    assert 0 not in seeds and len(set(seeds)) == 3
    digest = genetic_records.settings_digest(PROTOCOL, kind)
    other = {**PROTOCOL, "common": {**PROTOCOL["common"], "epochs": 99}}
    assert genetic_records.settings_digest(other, kind) != digest


def test_the_newest_line_of_a_run_stays(tmp_path: Path) -> None:
    seeds, path = PROTOCOL["seeds"], tmp_path / "found.csv"
    first, other = replace(RECORD, seed=seeds[0]), replace(RECORD, seed=seeds[1], test=1.2)
    genetic_records.write_records(path, [other, first, replace(first, test=0.7)], PROTOCOL)
    assert read(path, genetic_records.Record) == [replace(first, test=0.7), other]
    page = path.with_suffix(".md").read_text()
    errors = f"| {seeds[0]} | 0.60 % | 0.70 % | 0.90 % |"
    assert f"{errors} 160.0x | 31.0x | 15.5x (20.0x) | 5,000 | 17.0x |" in page
    assert page.count("| yes |") == 1 and page.count("| no |") == 1
    assert f"Not run yet: seed {seeds[2]}." in page
    missing = [genetic_records.seeds_of(PROTOCOL, kind) for kind in ("sparsity", "computation")]
    for others in missing:
        assert f"Not run yet: seed {', '.join(map(str, others))}." in page
    assert "Commit 0123456." in page and "Sparse VD" in page
    assert "By earlier settings" not in page


def test_what_earlier_settings_found_stays_apart() -> None:
    earlier = replace(RECORD, seed=3, settings="abc", commit="abcdef0")
    page = genetic_records.records_page([earlier, RECORD], PROTOCOL)
    now, before = page.split("By earlier settings:")
    assert "| 6 | 0.60 %" in now and "Commit 0123456." in now and "| 3 | 0.60 %" not in now
    assert "| 3 | 0.60 %" in before and "Commit abcdef0." in before and "| 6 |" not in before
