"""Write the evolved metrics of a round of ``transfer.py`` as files that come with the package.

Each has where it was found, what it was chosen on, and its errors on the networks of
``benchmarks/results/transfer_ROUND.md``. Invariances are those that hold on a small network.

    python benchmarks/discovery/winners.py --round 1 spread_product_energy
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer import RESULTS, ROUNDS, evolved_metrics, load_settings

from gp_prune import Metric
from gp_prune.metric.file import INVARIANCES
from gp_prune.runs.folder import versions
from gp_prune.tasks.invariance import find_invariances

FOLDER = Path(__file__).resolve().parents[2] / "evolved_metrics" / "evolved"
TEXTS = Path(__file__).resolve().with_name("winners.toml")


def measured(number: int, name: str) -> dict[str, Any]:
    """Return the errors of a metric in the final tables, by network and allocation."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(RESULTS.glob(f"transfer_{number}_*.csv")):
        tuned = file.stem.endswith("_tuned")
        steps = "after_short_fine_tuning" if tuned else "test_error"
        with file.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text):
                if row["metric"] == name:
                    rows[row["network"]][f"{row['allocation']}_{steps}"].append(float(row["error"]))
    return {
        task: {key: round(statistics.fmean(errors), 4) for key, errors in found.items()}
        for task, found in rows.items()
    }


def describe(number: int, metric: Metric, chosen_on: Sequence[str]) -> Metric:
    """Return a metric with its description, provenance, invariances and errors."""
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    found, winners = find_invariances(metric), texts[f"round_{number}"]
    own = winners["metrics"][metric.name]
    return replace(
        metric,
        description=own["meaning"],
        source=f"evolved by this project: {own['command']}",
        invariances=tuple(n for n in INVARIANCES if found.get(n)),
        objectives=measured(number, metric.name),
        provenance={
            "command": own["command"],
            **{name: winners[name] for name in ("searched_on", "start_formulas")},
            "chosen_on": list(chosen_on),
            "tables": winners["tables"],
            "versions": versions(),
        },
    )


def main() -> None:
    """Write the files that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+")
    parser.add_argument("--round", type=int, choices=ROUNDS, default=ROUNDS[-1])
    given = parser.parse_args()
    settings = load_settings(given.round)
    evolved = evolved_metrics(settings["metrics"])
    for name in given.names:
        path = FOLDER / f"{name}.json"
        describe(given.round, evolved[name], settings["choose"]["networks"]).save(path)
        print(path)


if __name__ == "__main__":
    main()
