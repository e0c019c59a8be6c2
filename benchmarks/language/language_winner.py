"""Write the evolved formula for all layers together as a file that comes with the package.

It has where it was found, what it was chosen on, and its cross-entropies on the networks of
``benchmarks/results/language.md``, beside Wanda's. Invariances are those that hold on a small
network.

    python benchmarks/language/language_winner.py
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from csv_lines import read
from language_networks import EVOLVED, FOLDER, RIVALS_AT, Line
from language_tables import by_network, family_of

from gp_prune import Metric
from gp_prune.metric.file import INVARIANCES
from gp_prune.runs.folder import versions
from gp_prune.tasks.invariance import find_invariances

NAME = "log_fisher_weight"
OUT = FOLDER.parents[1] / "evolved_metrics" / "evolved" / f"{NAME}.json"
RESULTS = FOLDER.parent / "results" / "language.csv"


def measured(lines: list[Line]) -> dict[str, dict[str, float]]:
    """Return family of networks -> mean cross-entropy, and Wanda's, at each sparsity."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sparsity in RIVALS_AT:
        own, wanda = (
            by_network(lines, name, sparsity, "global")
            for name in (EVOLVED["global"], "wanda_weight")
        )
        for network in own.keys() & wanda.keys():
            share = sparsity.rstrip("%")
            found[family_of(network)][f"nats_at_{share}"].append(own[network])
            found[family_of(network)][f"nats_of_wanda_at_{share}"].append(wanda[network])
    return {
        family: {key: round(statistics.fmean(values), 4) for key, values in sorted(kinds.items())}
        for family, kinds in sorted(found.items())
    }


def main() -> None:
    chosen = Metric.load(FOLDER / f"{EVOLVED['global']}.json")
    holds = find_invariances(chosen)
    replace(
        chosen,
        name=NAME,
        description="logarithm of the squared weight times its mean squared gradient: divided by "
        "the mean of a layer it compares orders of magnitude over all layers",
        source="evolved by this project: language_searches.py --arm joint_global, seed 1",
        invariances=tuple(name for name in INVARIANCES if holds.get(name)),
        objectives=measured(read(RESULTS, Line)),
        provenance={
            "command": "language_searches.py run --arm joint_global --seeds 1",
            "searched_on": ["llama-pydoc", "gpt-pydoc"],
            "start_formulas": "published metrics",
            "chosen_on": ["llama-pydoc@21", "gpt-pydoc@21", "llama-pydoc@22", "gpt-pydoc@22"],
            "tables": "benchmarks/results/language.md, benchmarks/language/searches.md",
            "versions": versions(),
        },
    ).save(OUT)
    print(OUT)


if __name__ == "__main__":
    main()
