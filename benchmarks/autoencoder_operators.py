"""Pruning operators in autoencoder training, at equal final sparsity.

Every operator prunes under every schedule, in canonical training of one autoencoder and in
coevolution of a ring of cells; the amount of an event follows from the number of events, so that
all end with the same number of weights in every layer. A seed decides clusters, first weights,
order of the samples and pruning events, so operators are compared pairwise.

    python benchmarks/autoencoder_operators.py [--data-root FOLDER] [--seeds 10]

The runs are shortened against the paper (Jorgensen et al., GECCO 2025): 30 epochs in place of 400,
mini-batches of 20 in place of 5, a learning rate of 1e-3 in place of 1e-5, 6 cells in place of 10,
10 seeds in place of 30. Each line of the results is written when its run is done; lines that are
there are not made again, so a stopped benchmark goes on where it was. ``--data-root`` adds MNIST.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from autoencoder_tables import Line, key_of, markdown
from csv_lines import append, read

from gp_prune import AutoencodeSettings, autoencode
from gp_prune.autoencoder.schedule import SCHEDULES
from gp_prune.base.files import write_text
from gp_prune.runs.jobs import TaskSource
from gp_prune.statistics.running import one_thread

NAME = "autoencoder_operators"
OPERATORS = ("random", "conjunctive", "variance", "class_map_energy", "l1")
FINE = "random_weights"
FINE_SCHEDULES = ("exponential", "final")
IMAGE_SCHEDULES = ("exponential",)
MODES = ("canonical", "coevolve")
COMMON = AutoencodeSettings(
    data="binary-clusters",
    loss="l1",
    epochs=30,
    batch_size=20,
    learning_rate=1e-3,
    rate_decay=0.5,
    rate_step=1.0,
    target_sparsity=0.5,
    cells=6,
)
IMAGES = replace(COMMON, data="mnist", loss="bce", limit=1000)


def cases(seeds: int, images: bool) -> Iterator[tuple[str, AutoencodeSettings]]:
    """Name of the operator and settings of every run; all of one seed before the next."""
    for seed in range(seeds):
        for common in (COMMON, IMAGES) if images else (COMMON,):
            for mode in MODES:
                own = replace(common, mode=mode, seed=seed)
                yield "none", replace(own, operator="none", target_sparsity=0.0)
                for schedule in SCHEDULES if common is COMMON else IMAGE_SCHEDULES:
                    for operator in OPERATORS:
                        yield operator, replace(own, operator=operator, schedule=schedule)
                    if common is COMMON and schedule in FINE_SCHEDULES:
                        fine = replace(own, operator="random", unit="weight", schedule=schedule)
                        yield FINE, fine


def measured(name: str, settings: AutoencodeSettings, source: TaskSource) -> Line:
    """One run."""
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = autoencode(settings, Path(folder) / "run", source=source)
    return Line(
        data=settings.data,
        mode=settings.mode,
        operator=name,
        schedule="" if name == "none" else settings.schedule,
        seed=settings.seed,
        epochs=settings.epochs,
        cells=len(settings.grid),
        sparsity=result.sparsity,
        events=len({row.generation for row in result.history if row.pruned}),
        validation_loss=result.validation_loss,
        test_l1=result.test_l1,
        trivial_l1=result.trivial_l1,
        seconds=round(time.process_time() - started, 2),
    )


def main() -> None:
    """Make the lines that are missing, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data-root", help="Folder with torchvision's MNIST.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--most", type=int, help="Make at most so many lines now.")
    arguments = parser.parse_args()
    place = arguments.out / f"{NAME}.csv"
    known = {key_of(line) for line in read(place, Line)}
    source = TaskSource(data_root=arguments.data_root)
    made = 0
    with one_thread():
        for name, settings in cases(arguments.seeds, arguments.data_root is not None):
            schedule = "" if name == "none" else settings.schedule
            if (settings.data, settings.mode, name, schedule, settings.seed) in known:
                continue
            if arguments.most is not None and made >= arguments.most:
                break
            append(place, measured(name, settings, source))
            made += 1
    text = markdown(read(place, Line))
    write_text(arguments.out / f"{NAME}.md", text)
    print(text)


if __name__ == "__main__":
    main()
