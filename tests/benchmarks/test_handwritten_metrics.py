"""The figures in the files of the metrics written by hand."""

from __future__ import annotations

from pathlib import Path

import handwritten_metrics
import pytest

from gp_prune import Metric

TABLE = """\
metric,allocation,network,kind,keep,error,failed
square_energy,global,vgg,macs,0.75,0.1,0
square_energy,global,vgg,macs,0.5,0.4,0
square_energy,uniform,vgg,macs,0.5,0.3,0
square_energy,global,autoencoder,macs,0.5,1.5,1
flap,global,vgg,macs,0.5,0.9,0
"""


def test_errors_are_means_over_cells_where_the_metric_can_be_used(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(TABLE)
    found = handwritten_metrics.measured("square_energy", table)
    assert found == {"vgg": {"global_test_error": 0.25, "uniform_test_error": 0.3}}


@pytest.mark.parametrize("path", sorted(handwritten_metrics.FOLDER.glob("*.json")))
def test_the_files_are_what_the_script_writes(path: Path, tmp_path: Path) -> None:
    metric = Metric.load(path)
    assert metric.description == handwritten_metrics.MEANINGS[metric.name]
    metric.save(tmp_path / path.name)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
