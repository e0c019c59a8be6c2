"""Which formula prunes the weights of language models best, without training them again.

Every network is pruned by every formula at 50, 60 and 70 % sparsity and in the pattern 2:4, and its
cross-entropy is measured on sequences of the test split, which nothing has read. All formulas rank
the weights of each output alone, as most of the papers do, and then the weights of all layers
together, divided by the mean of their layer; embeddings and the last layer stay whole, and nothing
is trained afterwards. What a formula measures comes from 64 training sequences,
drawn by three seeds; a network counts once, by the mean over these.

The networks are those of one size on Python's help texts, and others: wider, deeper, and trained on
another text, the modules of Python's standard library. ``EVOLVED`` are formulas that searches found
(``language_searches.py``), one for each ranking, chosen before a network here was pruned by them.
They are compared on networks that were not there when the earlier tests were made.

Every pruned network is a line of the CSV file at once, and what stands there is not run again. The
table is written beside it.

    python benchmarks/language/language_formulas.py --out benchmarks/results/language.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from committed import check_committed
from csv_lines import append, read
from language_networks import (
    CALIBRATIONS,
    EVOLVED,
    FIRST,
    FOLDER,
    FORMULAS,
    NETWORKS,
    OTHERS,
    SPARSITIES,
    Line,
    error,
    load_network,
    prune_by,
    score,
)  # fmt: skip
from language_tables import table

from gp_prune.base.files import write_text
from gp_prune.metric.metric import Metric


def run(name: str, metrics: Sequence[Metric], out: Path, cache_dir: str | None) -> None:
    """Prune one network in all ways that are not yet in the file."""
    known = {(x.network, x.formula, x.scope, x.calibration, x.sparsity) for x in read(out, Line)}
    later = name not in FIRST
    # A pattern says itself what is ranked together.
    shares = [sparsity for sparsity in SPARSITIES if ":" not in sparsity] if later else []
    ways = [*(("row", s) for s in SPARSITIES), *(("global", s) for s in shares)]
    missing = [
        (metric, seed, scope, sparsity)
        for seed in CALIBRATIONS
        for metric in metrics
        for scope, sparsity in ways
        if (name, metric.name, scope, seed, sparsity) not in known
        and (seed == CALIBRATIONS[0] or metric.name != "magnitude")
        and (metric.name not in EVOLVED.values() or (later and metric.name == EVOLVED[scope]))
    ]
    if not missing:
        return
    task = load_network(name, cache_dir)
    if (name, "dense", "row", 0, "0%") not in known:
        append(out, Line(name, "dense", "row", 0, "0%", error(task, task.model)))
    for seed in CALIBRATIONS:
        wanted = {m.name: m for m, calibration, _, _ in missing if calibration == seed}
        scores = score(task, [*wanted.values()], seed) if wanted else {}
        for metric, calibration, scope, sparsity in missing:
            if calibration == seed:
                model = prune_by(task, scores[metric.name], scope, sparsity)
                append(out, Line(name, metric.name, scope, seed, sparsity, error(task, model)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/language.csv"))
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS, *OTHERS])
    parser.add_argument("--cache-dir")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        files = [FOLDER / f"{name}.json" for name in EVOLVED.values()]
        check_committed([*files, *FOLDER.glob("language_*.py")])
        metrics = [*map(Metric.load, FORMULAS), *map(Metric.load, files)]
        for name in given.networks:
            run(name, metrics, given.out, given.cache_dir)
            print(name, flush=True)
    write_text(given.out.with_suffix(".md"), table(read(given.out, Line)))


if __name__ == "__main__":
    main()
