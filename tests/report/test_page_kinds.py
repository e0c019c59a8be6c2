"""The pages of the genetic pruner and of the autoencoder trainer have the numbers of the result."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from gp_prune.autoencoder.run import HISTORY, autoencode
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.genetic.front import JSON
from gp_prune.genetic.run import prune_genetically
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.report.page.write import write_report
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import NAME as JOURNAL


def marks(text: str) -> set[tuple[float, float]]:
    """The exact places of all points of the plots."""
    found = re.findall(r'data-x="([^"]+)" data-y="([^"]+)"', text)
    return {(float(x), float(y)) for x, y in found}


def values(text: str) -> set[float]:
    """The exact numbers of tables and facts."""
    return set(map(float, re.findall(r'<data value="([^"]+)"', text)))


def test_the_page_of_autoencoders(tmp_path: Path) -> None:
    settings = AutoencodeSettings(epochs=3, cells=3, selection_samples=20, probability=0.9)
    result = autoencode(settings, tmp_path / "run")
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    with open(tmp_path / "run" / HISTORY, newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["cell"]) == result.best_cell]
    assert rows
    for row in rows:
        assert (float(row["generation"]), float(row["validation_loss"])) in marks(text)
        assert (float(row["generation"]), 100 * float(row["sparsity"])) in marks(text)
    assert {cell["validation_loss"] for cell in result.to_json()["cells"]} <= values(text)
    assert f"{result.test_loss:.4f}" in text
    (tmp_path / "run" / "result.json").unlink()
    assert "The run has not ended" in write_report(tmp_path / "run").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_of_the_genetic_pruner(tmp_path: Path, task_cache: Path) -> None:
    settings = GeneticSettings(
        population=8, generations=2, rounds=1, elites=2, epochs=1, final_epochs=1, samples=100,
        calibration=64, tolerance=0.5, limit=0.5, batch_size=128,
    )  # fmt: skip
    source = TaskSource(cache_dir=str(task_cache))
    prune_genetically(settings, tmp_path / "run", source=source, timed=False)
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "run" / JSON).read_text())
    dense = report["dense"]
    field = "conv_macs" if report["counted_macs"] == "conv" else "macs"
    for point in report["front"]:
        place = (100 * point[field] / dense[field], 100 * point["report_error"])
        assert place in marks(text)
        assert {point["macs"], point["bytes"], *point["channels"].values()} <= values(text)
    lines = map(json.loads, (tmp_path / "run" / JOURNAL).read_text().splitlines())
    turns = [line for line in lines if line["event"] == "turn"]
    assert turns
    for turn in turns:
        assert (turn["evaluations"], turn["hypervolume"]) in marks(text)
    (tmp_path / "run" / JSON).unlink()
    assert "Front so far" in write_report(tmp_path / "run").read_text(encoding="utf-8")
