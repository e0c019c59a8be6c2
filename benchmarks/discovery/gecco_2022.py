"""The pruning task of the GECCO 2022 paper, by all of its metrics and by formulas of this project.

Caffe's LeNet on MNIST, three steps of pruning and retraining, to 5-11-40 channels. What is decided
beforehand stands in ``gecco_2022.toml``. ``run`` prunes and retrains, and reads validation images
alone; ``final`` reads the test images, once for each network, and refuses to while that file or a
file of the protocol has changes that are not committed.

    python benchmarks/discovery/gecco_2022.py run --runs FOLDER
    python benchmarks/discovery/gecco_2022.py final --runs FOLDER
    python benchmarks/discovery/gecco_2022.py table

Each step of each network is a line at once, with its weights beside it, and what stands there is
not made again. ``table`` writes the page anew from the results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from committed import check_committed
from csv_lines import append, read
from gecco_2022_networks import (
    SETTINGS,
    Protocol,
    build,
    cut,
    error,
    for_training,
    retrain,
    seed_of,
)
from gecco_2022_table import DENSE, RESULTS, Final, Line, page

from gp_prune import Task, load_task
from gp_prune.base.files import write_text
from gp_prune.tasks.data import Split

NETWORKS = Path(__file__).with_name("gecco_2022_networks.py")
PROTOCOL_FILES = (SETTINGS, NETWORKS, Path(__file__).resolve())
LINES = "validation.csv"


def run(protocol: Protocol, folder: Path) -> None:
    """Prune and retrain all networks, or go on with it.

    Args:
        protocol: what is decided.
        folder: of lines and weights.

    Raises:
        SystemExit: lines of other settings are in the folder.
    """
    there = {line.key: line for line in finished(protocol, folder)}
    for seed, metric, draw in protocol.cells():
        for step in range(1, len(protocol.steps) + 1):
            if (metric, draw, seed, step) not in there:
                line = run_step(protocol, folder, metric, draw, seed, step)
                append(folder / LINES, line)
                print(line, flush=True)


def finished(protocol: Protocol, folder: Path) -> list[Line]:
    """Return the lines of a folder.

    Raises:
        SystemExit: some are of other settings.
    """
    lines = read(folder / LINES, Line)
    if any(line.settings != protocol.digest for line in lines):
        raise SystemExit(f"{folder / LINES} has lines of other settings; name another folder")
    return lines


def run_step(
    protocol: Protocol, folder: Path, metric: str, draw: int, seed: int, step: int
) -> Line:
    """Prune and retrain one network once, and keep its weights before and after retraining.

    Args:
        protocol: what is decided.
        folder: of the weights.
        metric: name.
        draw: number of the seeds.
        seed: of the network.
        step: from 1 on.
    """
    task = dense(protocol, seed)
    model, widths = task.model, protocol.steps[step - 1]
    if step > 1:
        file = weights_file(folder, metric, draw, seed, step - 1)
        model = restore(file, protocol.steps[step - 2])
    started = time.process_time()
    how = protocol.content["retraining"]
    images = first(task.train, int(protocol.content["scoring"]["images"]))
    validation = first(task.validation, int(how["validation"]))
    chosen = seed_of(seed, draw, step)
    model = for_training(cut(model, protocol.metrics[metric], widths, images, chosen))
    before = error(model, validation)
    save(model, weights_file(folder, metric, draw, seed, step, before=True))
    check, after = retrain(model, task.train, validation, how, chosen)
    save(model, weights_file(folder, metric, draw, seed, step))
    seconds = round(time.process_time() - started, 2)
    return Line(metric, draw, seed, step, before, after, check, seconds, protocol.digest)


@cache
def _dense(name: str) -> Task:
    return load_task(name)


def dense(protocol: Protocol, seed: int) -> Task:
    """Return the trained network of a seed with its data, from the cache or trained now."""
    return _dense(f"{protocol.content['network']['task']}@{seed}")


def first(samples: Split, count: int) -> Split:
    """Return the first samples of a split."""
    return samples.select(torch.arange(count))


def weights_file(
    folder: Path, metric: str, draw: int, seed: int, step: int, *, before: bool = False
) -> Path:
    """Return the file of the weights after a step, or before its retraining."""
    state = "cut" if before else "retrained"
    return folder / "weights" / f"{metric}-{draw}-{seed}-{step}-{state}.pt"


def save(model: nn.Module, path: Path) -> None:
    """Write the weights of a network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def restore(path: Path, widths: dict[str, int]) -> nn.Module:
    """Return a network of these widths with its weights from a file."""
    model = build(widths)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def final(protocol: Protocol, folder: Path, results: Path) -> None:
    """Read the test errors of all networks that are not in the results yet.

    A seed is left out while some of its networks are not finished.

    Args:
        protocol: what is decided.
        folder: of :func:`run`.
        results: CSV file to which the lines are added.
    """
    lines = finished(protocol, folder)
    known = {line.key for line in read(results, Final)}
    for seed in protocol.seeds:
        missing = unfinished(protocol, lines, seed)
        if missing:
            print(f"seed {seed}: {', '.join(missing)} not finished; go on with run", flush=True)
            continue
        task = dense(protocol, seed)
        test = task.test()
        model = for_training(task.model)
        judged = first(task.validation, int(protocol.content["retraining"]["validation"]))
        before = error(model, judged)
        whole = Line(DENSE, 0, seed, 0, before, before, 0, 0.0, protocol.digest)
        if whole.key not in known:
            found = error(model, test)
            append(results, Final.of(whole, found, found))
        for line in lines:
            if line.seed == seed and line.key not in known:
                append(results, tested(line, protocol, folder, test))


def unfinished(protocol: Protocol, lines: Sequence[Line], seed: int) -> list[str]:
    """Return the metrics that have not pruned the network of a seed to the end, all draws."""
    there = {line.key for line in lines}
    steps = range(1, len(protocol.steps) + 1)
    return [
        name
        for name in protocol.metrics
        if any((name, draw, seed, step) not in there
               for draw in range(protocol.draws(name)) for step in steps)
    ]  # fmt: skip


def tested(line: Line, protocol: Protocol, folder: Path, test: Split) -> Final:
    """Return a line with its test errors before and after retraining."""
    errors = []
    for before in (True, False):
        file = weights_file(folder, *line.key, before=before)
        model = restore(file, protocol.steps[line.step - 1])
        errors.append(error(for_training(model), test))
    return Final.of(line, *errors)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "final", "table"))
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    given = parser.parse_args()
    if given.what != "table" and given.runs is None:
        parser.error(f"{given.what} needs --runs, the folder of the runs")
    torch.set_num_threads(1)  # the last bits of a sum depend on the number of threads
    protocol, results = Protocol.load(), RESULTS / "gecco_2022.csv"
    if given.what == "run":
        run(protocol, given.runs)
        return
    commit = check_committed(PROTOCOL_FILES)
    if given.what == "final":
        final(protocol, given.runs, results)
    write_text(results.with_suffix(".md"), page(read(results, Final), protocol, commit))


if __name__ == "__main__":
    main()
