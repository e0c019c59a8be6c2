"""Write the evolved metrics of ``transfer_1.toml`` as files that come with the package.

Each has where it was found, what it was chosen on, and its errors on the networks of
``benchmarks/results/transfer_1.md``. Invariances are those that hold on a small network.

    python benchmarks/discovery/winners.py norm_spread_energy spread_product_energy
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer import RESULTS, evolved_metrics, load_settings

from gp_prune import Metric
from gp_prune.metric.file import INVARIANCES
from gp_prune.runs.folder import versions
from gp_prune.tasks.invariance import find_invariances

FOLDER = Path(__file__).resolve().parents[2] / "evolved_metrics" / "evolved"
SEEDS = {"norm_spread_energy": 13, "spread_product_energy": 11, "gradient_variance_energy": 20}
"""Seed of the search that recommended each."""
MEANINGS = {
    "norm_spread_energy": "norm of the filter, times how much the loss of nuclear norm without the "
    "channel varies over the samples, times the energy of the weights that read it",
    "spread_product_energy": "spread of the weights' magnitudes in the filter, times that of the "
    "activation, times the energy of the weights that read it",
    "gradient_variance_energy": "batch-norm variance, times the variance of the gradient of the "
    "loss with respect to the output, times the energy of the weights that read it",
}
DEFAULT_SEARCHES = (10, 11, 12, 13, 14)
"""Searches with the settings of the default; the others tried 500 behaviours at most."""


def measured(name: str) -> dict[str, Any]:
    """Return the errors of a metric in the final tables, by network and allocation."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(RESULTS.glob("transfer_1_*.csv")):
        steps = "after_short_fine_tuning" if file.stem == "transfer_1_tuned" else "test_error"
        with file.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text):
                if row["metric"] == name:
                    rows[row["network"]][f"{row['allocation']}_{steps}"].append(float(row["error"]))
    return {
        task: {key: round(statistics.fmean(errors), 4) for key, errors in found.items()}
        for task, found in rows.items()
    }


def describe(metric: Metric) -> Metric:
    """Return a metric with its description, provenance, invariances and errors."""
    seed, found = SEEDS[metric.name], find_invariances(metric)
    command = "gp-prune evolve" if seed in DEFAULT_SEARCHES else "joint_digits.py --arms evolve"
    return replace(
        metric,
        description=MEANINGS[metric.name],
        source=f"evolved by this project: {command}, seed {seed}",
        invariances=tuple(n for n in INVARIANCES if found.get(n)),
        objectives=measured(metric.name),
        provenance={
            "command": f"{command} --seed {seed}",
            "searched_on": ["lenet-digits", "caffe_lenet-digits", "resnet-digits",
                            "resnet-digits@1"],
            "start_formulas": "published metrics and the six two-factor formulas",
            "chosen_on": load_settings(1)["choose"]["networks"],
            "tables": "benchmarks/results/transfer_1.md, choice_1.md",
            "versions": versions(),
        },
    )  # fmt: skip


def main() -> None:
    """Write the files that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=SEEDS)
    evolved = evolved_metrics(load_settings(1)["metrics"])
    for name in parser.parse_args().names:
        path = FOLDER / f"{name}.json"
        describe(evolved[name]).save(path)
        print(path)


if __name__ == "__main__":
    main()
