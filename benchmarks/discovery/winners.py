"""Write the evolved metrics of a round of ``transfer.py`` as files that come with the package.

Each has where it was found, what it was chosen on, and its errors on the networks of
``benchmarks/results/transfer_ROUND.md``. Invariances are those that hold on a small network.

    python benchmarks/discovery/winners.py --round 1 spread_product_energy
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from csv_lines import read
from transfer import RESULTS, ROUNDS, Line, evolved_metrics, load_settings

from gp_prune import Metric
from gp_prune.metric.file import INVARIANCES
from gp_prune.runs.folder import versions
from gp_prune.tasks.invariance import find_invariances

FOLDER = Path(__file__).resolve().parents[2] / "evolved_metrics" / "evolved"
TEXTS = Path(__file__).resolve().with_name("winners.toml")


def measured(name: str, *tables: Path) -> dict[str, dict[str, float]]:
    """Return the mean errors of a metric by network and allocation.

    Networks on which it cannot be used are left out; the tables give it the worst error there.

    Args:
        name: of the metric.
        tables: CSV files of ``transfer.py``; those of fine-tuned networks end in ``_tuned``.
    """
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failed = set()
    for table in tables:
        steps = "after_short_fine_tuning" if table.stem.endswith("_tuned") else "test_error"
        for line in read(table, Line):
            if line.metric == name:
                rows[line.network][f"{line.allocation}_{steps}"].append(line.error)
                failed |= {line.network} if line.failed else set()
    return {
        network: {key: round(statistics.fmean(errors), 4) for key, errors in found.items()}
        for network, found in rows.items()
        if network not in failed
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
        objectives=measured(metric.name, *sorted(RESULTS.glob(f"transfer_{number}_*.csv"))),
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
