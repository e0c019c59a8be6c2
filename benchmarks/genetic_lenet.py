"""The genetic pruner on Caffe's LeNet and MNIST, beside the figures of its paper.

    python benchmarks/genetic_lenet.py records --data-root FOLDER --runs FOLDER
    python benchmarks/genetic_lenet.py mutation --data-root FOLDER --runs FOLDER

``records`` trains the network once per seed (Caffe's LeNet, 431,080 parameters) and prunes it three
times: with the weight of the fitness on the parameters, with the weight on the MACs of the
convolutions, and for the whole front. Of the points of a run that are as small as is asked for
the one with the least validation error is judged on MNIST's test samples, which are read once, at
the end. Times are measured anew whenever a finished run is read again, so repeat the command on a
machine that does nothing else.

``mutation`` compares mutations that metrics guide with random ones: how many plans the guided runs
try until their front has the hypervolume that the random run of the same seed ends with.

Every run has a folder of its own, so that a benchmark that was stopped goes on where it was.
Results go to benchmarks/results/genetic_lenet.csv, genetic_mutation.csv and the tables beside them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from csv_lines import read
from genetic_lenet_lines import Comparison, Record, write_comparisons, write_records

from gp_prune.genetic.front import GeneticResult
from gp_prune.genetic.run import CHANNEL_POOL, WEIGHT_POOL, GeneticProgress, prune_genetically
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.metric.mutation import RANDOM
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource

RESULTS = Path(__file__).parent / "results"

EMPHASES = {"sparsity": (1.0, 0.0, 100.0), "computation": (1.0, 100.0, 0.0), "front": ()}
"""Weights of error, MACs and parameters; none for the Pareto front."""

RECORDS = GeneticSettings(
    model="caffe_lenet-mnist", population=24, generations=6, rounds=10, elites=1, epochs=8,
    patience=3, points=6, final_epochs=30, distill=0.9, shift=1, batch_size=128, tolerance=0.006,
    limit=0.003, baselines=False, mutations=(*CHANNEL_POOL, *WEIGHT_POOL, RANDOM),
)  # fmt: skip

OF_EMPHASIS: dict[str, dict[str, Any]] = {
    # Small steps: between two rounds the error must not rise far before retraining.
    "sparsity": {"reach": 0.1, "rounds": 16, "patience": 4},
    # Without weight on the sparsity only channels are pruned.
    "computation": {"mutations": (*CHANNEL_POOL, RANDOM)},
    # The sparsest, the fastest and one between them.
    "front": {"elites": 3, "epochs": 4, "points": 4, "final_epochs": 60},
}
"""What differs from :data:`RECORDS`."""

MUTATION = GeneticSettings(
    population=24, generations=10, rounds=20, elites=2, epochs=1, final_epochs=0, distill=0.5,
    batch_size=128, samples=500, patience=0, baselines=False,
)  # fmt: skip
TASKS = ("lenet-digits", "lenet-mnist")


def run(settings: GeneticSettings, folder: Path, source: TaskSource, workers: int) -> GeneticResult:
    """Run a setting, or what is left of it to do."""
    resume = (folder / CONFIG).exists()

    def tell(now: GeneticProgress) -> None:
        if now.status is not None and now.status.generation is None:
            turn = now.status
            best = " ".join(f"{e.error:.4f}/{e.shares.macs:.4f}/{e.shares.params:.4f}"
                            for e in turn.front[-4:])  # fmt: skip
            print(f"{folder.name}: round {turn.round}, {turn.evaluations} plans, "
                  f"hypervolume {turn.hypervolume:.4f}, {best}", flush=True)  # fmt: skip

    return prune_genetically(
        settings, folder, source=source, workers=workers, resume=resume, progress=tell
    )


def records(options: argparse.Namespace, source: TaskSource) -> None:
    path = RESULTS / "genetic_lenet.csv"
    for seed in options.seeds:
        for emphasis in options.emphases:
            settings = replace(
                RECORDS, lambdas=EMPHASES[emphasis], seed=seed, model_seed=seed
            )  # fmt: skip
            settings = replace(settings, **OF_EMPHASIS.get(emphasis, {}))
            folder = options.runs / f"records-{emphasis}-{seed}"
            result = run(settings, folder, source, options.workers)
            found = Record.of(emphasis, seed, result)
            print(found, flush=True)
            write_records(path, [*read(path, Record), found])


def mutation(options: argparse.Namespace, source: TaskSource) -> None:
    path = RESULTS / "genetic_mutation.csv"
    for task in options.tasks:
        for seed in options.seeds:
            histories = {}
            for arm, mutations in (("random", ("random",)), ("guided", ())):
                settings = replace(
                    MUTATION, model=task, mutations=mutations, seed=seed,
                    max_evaluations=options.plans,
                )  # fmt: skip
                folder = options.runs / f"mutation-{task}-{options.plans}-{arm}-{seed}"
                histories[arm] = run(settings, folder, source, options.workers).history
            found = Comparison.of(task, seed, histories["random"], histories["guided"])
            print(found, flush=True)
            write_comparisons(path, [*read(path, Comparison), found])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["records", "mutation"])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--data-root", help="folder with torchvision's data sets")
    parser.add_argument("--cache-dir", help="folder of trained networks")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2, for mutation 0 to 4")
    parser.add_argument("--emphases", nargs="+", choices=EMPHASES, default=list(EMPHASES))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="of mutation")
    parser.add_argument("--plans", type=int, default=720, help="that a run of mutation tries")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    source = TaskSource(options.cache_dir, options.data_root)
    if options.what == "records":
        options.seeds = options.seeds or [0, 1, 2]
        records(options, source)
    else:
        options.seeds = options.seeds or [0, 1, 2, 3, 4]
        mutation(options, source)


if __name__ == "__main__":
    main(sys.argv[1:])
