"""The genetic pruner on Caffe's LeNet and LeNet-300-100, beside the literature.

    python benchmarks/genetic_lenet.py choose --data-root FOLDER --runs FOLDER
    python benchmarks/genetic_lenet.py records --data-root FOLDER --runs FOLDER
    python benchmarks/genetic_lenet.py mutation --data-root FOLDER --runs FOLDER

``records`` trains the networks once for each of three fresh seeds and prunes them by the settings
of ``genetic_records.toml``. MNIST's test samples are read once, at the end of each run; it refuses
while that file has changes that are not committed. ``choose`` runs the same on the network of seed
0 and reads validation samples alone: settings are chosen by it. Times are measured when a run ends,
so run ``records`` on a machine that does nothing else where times matter.

``mutation`` compares mutations that metrics guide with random ones: how many plans the guided runs
try until their front has the hypervolume that the random run of the same seed ends with.

Every run has a folder of its own, so that a benchmark that was stopped goes on where it was.
Results go to benchmarks/results/genetic_records.csv, genetic_mutation.csv and the tables beside
them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from committed import check_committed
from csv_lines import read
from genetic_mutation_lines import Comparison, write_comparisons
from genetic_records import (
    SETTINGS,
    Record,
    kinds,
    load_protocol,
    seeds_of,
    settings_digest,
    settings_of,
    write_records,
)

from gp_prune.genetic.front import GeneticResult
from gp_prune.genetic.run import GeneticProgress, prune_genetically
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource

RESULTS = Path(__file__).parent / "results"

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
    protocol, path = load_protocol(), RESULTS / "genetic_records.csv"
    commit = check_committed([SETTINGS])
    for kind in options.kinds or kinds(protocol):
        for seed in options.seeds or seeds_of(protocol, kind):
            settings = settings_of(protocol, kind, seed, read_test=True)
            result = run(settings, options.runs / f"records-{kind}-{seed}", source, options.workers)
            found = Record.of(
                kind,
                seed,
                result,
                protocol[kind]["needed"],
                settings_digest(protocol, kind),
                commit,
            )
            print(found, flush=True)
            write_records(path, [*read(path, Record), found], protocol)


def choose(options: argparse.Namespace, source: TaskSource) -> None:
    protocol = load_protocol()
    for seed in options.seeds or [0]:
        for kind in options.kinds or kinds(protocol):
            settings = settings_of(protocol, kind, seed, read_test=False)
            folder = options.runs / f"choose-{kind}-{settings_digest(protocol, kind)}-{seed}"
            result = run(settings, folder, source, options.workers)
            needed = protocol[kind]["needed"]
            found = Record.of(kind, seed, result, needed, settings_digest(protocol, kind), "")
            print(f"{kind} {seed}: validation error {found.validation:.2f} % (dense "
                  f"{found.dense_validation:.2f} %), {found.params:.1f}x parameters, conv MACs "
                  f"{found.conv_macs:.1f}x, all MACs {found.all_macs:.1f}x, {found.flops} FLOPs, "
                  f"{found.widths}", flush=True)  # fmt: skip


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
    parser.add_argument("what", choices=["choose", "records", "mutation"])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--data-root", help="folder with torchvision's data sets")
    parser.add_argument("--cache-dir", help="folder of trained networks")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: of the settings; 0; 0 to 4")
    parser.add_argument("--kinds", nargs="+", choices=kinds(load_protocol()), help="of record")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="of mutation")
    parser.add_argument("--plans", type=int, default=720, help="that a run of mutation tries")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    source = TaskSource(options.cache_dir, options.data_root)
    if options.what == "mutation":
        options.seeds = options.seeds or [0, 1, 2, 3, 4]
        mutation(options, source)
    elif options.what == "records":
        records(options, source)
    else:
        choose(options, source)


if __name__ == "__main__":
    main(sys.argv[1:])
