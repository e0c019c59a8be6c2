"""Write into the hand-written metric files what they mean, what holds for them and how they prune.

The formulas stand in the files themselves, in ``evolved_metrics/handwritten/``. Invariances are
those that hold on a small network; errors are the means of a table of ``transfer.py``.

    python benchmarks/discovery/handwritten_metrics.py benchmarks/results/transfer_1_small.csv
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from winners import measured as measured

from gp_prune import Metric
from gp_prune.metric.file import INVARIANCES
from gp_prune.tasks.invariance import find_invariances

FOLDER = Path(__file__).resolve().parents[2] / "evolved_metrics" / "handwritten"
READS = "the squared norm of the weights that read the channel"
MEANINGS = {
    "class_map_spread_energy": "variance between classes of the mean activation map of each class, "
    f"summed over positions, times {READS}",
    "class_mean_energy": f"variance between classes of the mean activation of each, times {READS}",
    "deviation_reads": "standard deviation of the activation times the summed magnitude of the "
    "weights that read the channel",
    "square_energy": f"mean square of the activation times {READS}",
    "variance_in_energy": "variance of the activation times the squared norm of the filter",
}


def describe(metric: Metric, table: Path) -> Metric:
    """Return a metric with its description, source, invariances and errors."""
    holds = find_invariances(metric)
    return replace(
        metric,
        description=MEANINGS[metric.name],
        source="written by hand by this project, after FLAP (An et al., AAAI 2024)",
        invariances=tuple(name for name in INVARIANCES if holds.get(name)),
        objectives=measured(metric.name, table),
        provenance={"tables": "benchmarks/results, tables of transfer"},
    )


def main() -> None:
    """Write all files of the folder again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="CSV file of transfer.py")
    table = parser.parse_args().table
    for path in sorted(FOLDER.glob("*.json")):
        describe(Metric.load(path), table).save(path)
        print(path)


if __name__ == "__main__":
    main()
