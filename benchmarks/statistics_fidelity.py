"""Scores from all samples and positions beside those from a sample of 64 by 64, and what they cut.

Before statistics were streamed, a formula saw the maps of at most 64 samples at 64 positions. Every
bundled channel metric scores four trained networks with that version of the code, which is taken
from the repository, and with the present one. For every metric whose scores changed this measures

* how far the scores before agree with those of the whole data: Kendall's tau, mean over the layers;
* how far two seeds of the statistics agree, before and after, on the same calibration images;
* how accurate the network is right after it is cut, without fine-tuning, batch norm recalibrated on
  training images, on images of the validation split, at several budgets of MACs, beside L1 and
  random. The test split is not read.

    python benchmarks/statistics_fidelity.py --data-root FOLDER --pretrained FOLDER --work FOLDER

``--pretrained`` holds ``akamaster/resnet20-12fca82f.th`` and ``ccexam/mnist.pth``; what is trained
or scored goes to ``--work`` and is not made again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from csv_lines import append, read
from fidelity_networks import Networks, Scores, Subject, score
from old_code import unpack_old
from scipy.stats import kendalltau
from statistics_fidelity_lines import BASELINES, Line, markdown

from gp_prune.base.files import write_text
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import (
    Architecture,
    Budget,
    DegenerateScores,
    compact,
    select_channels,
    trace,
)
from gp_prune.training.recalibration import recalibrate

NAME = "statistics_fidelity"
BUDGETS = (0.75, 0.5, 0.3)
RECALIBRATION = 2048
"""Training images on which the statistics of batch norm are measured again after the cut."""
SAMPLES = (0, 1)
"""Seeds that choose the calibration images."""
SEEDS = (0, 1)
"""Seeds of the statistics, for the same images."""
ONE_SAMPLE = ("mnist_cnn", "cnn_fashion", "resnet20")
"""Networks that are measured with the first calibration images alone, to save time."""
RANKINGS = ("own", "layer")
LAYER = Conventions("layer", "none", "mean")
FEW = (
    "taylor_gate", "taylor_2017", "taylor_bn", "taylor_weights", "taylor_sum", "obd", "di", "mmd",
    "hrank", "chip", "mean_activation", "apoz", "l1", "random",
)  # fmt: skip
"""Metrics that are ranked within the layers, too."""
_ROOT = Path(__file__).resolve().parents[1]


def scores_of(
    arguments: argparse.Namespace, name: str, sample: int, seed: int, old: bool
) -> Scores:
    """Return the scores of a network; a process of its own computes them, with either code."""
    kind = "before" if old else "after"
    file = arguments.work / f"{name}-{kind}-{sample}-{seed}.npz"
    if not file.exists():
        environment = dict(os.environ)
        if old:
            environment["PYTHONPATH"] = str(unpack_old(arguments.work))
        job = ["--score", name, str(sample), str(seed), str(file)]
        folders = [f"--{key.replace('_', '-')}={getattr(arguments, key)}" for key in _FOLDERS]
        print("scoring", file.name, flush=True)
        subprocess.run([sys.executable, __file__, *folders, *job], check=True, env=environment)
    found: Scores = {}
    with np.load(file) as stored:
        for key in stored:
            metric, layer = key.split("/")
            found.setdefault(metric, {})[layer] = stored[key]
    return found


def write_scores(found: Scores, file: Path) -> None:
    """Save scores as an archive of arrays."""
    flat = {f"{m}/{layer}": values for m, rows in found.items() for layer, values in rows.items()}
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, **flat)  # type: ignore[arg-type]
    temporary.rename(file)


def agreement(one: Scores, other: Scores, metric: str) -> float:
    """Return Kendall's tau between two scores of the channels, mean over the layers."""
    found = [
        float(kendalltau(one[metric][layer], values).statistic)
        for layer, values in other[metric].items()
    ]
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def changed(before: Scores, after: Scores) -> list[str]:
    """Return the metrics whose scores are others than before."""

    def differs(metric: str) -> bool:
        return any(
            not np.allclose(before[metric][layer], values, 1e-4, 1e-5 * np.abs(values).max())
            for layer, values in after[metric].items()
        )

    return [metric for metric in after if metric in before and differs(metric)]


def accuracy(
    subject: Subject,
    architecture: Architecture,
    metric: str,
    scores: Scores,
    ranking: str,
    macs: float,
) -> float:
    """Percent right after the cut; not a number where the metric does not rank the channels."""
    conventions = Metric.load(metric).conventions if ranking == "own" else LAYER
    try:
        plan = select_channels(architecture, scores[metric], conventions, Budget("macs", macs))
    except DegenerateScores:
        return float("nan")
    cut = compact(subject.model, plan, architecture)
    recalibrate(cut, subject.images[:RECALIBRATION])
    return subject.accuracy(cut)


def run(arguments: argparse.Namespace, networks: Networks) -> list[Line]:
    """Measure what the file of results lacks, and return all of it."""
    file = arguments.out / f"{NAME}.csv"
    lines = read(file, Line)
    there = {line.key for line in lines}
    for name in arguments.networks or networks.names():
        subject = networks.load(name)
        architecture = trace(subject.model, subject.images[:1])
        dense = subject.accuracy(subject.model)
        for sample in SAMPLES[:1] if name in ONE_SAMPLE else SAMPLES:
            # All seeds give the same now; one network is enough to see that with every sample.
            again = sample == SAMPLES[0] and name != "resnet20"
            scores = {
                (old, seed): scores_of(arguments, name, sample, seed, old=old)
                for old in (True, False)
                for seed in SEEDS
                if old or again or seed == SEEDS[0]
            }
            truth = scores[False, SEEDS[0]]
            metrics = [m for m in changed(scores[True, SEEDS[0]], truth) if m not in BASELINES]
            for old, names in ((True, metrics), (False, [*metrics, *BASELINES])):
                kind = "before" if old else "after"
                for metric in names:
                    ours, other = scores[old, SEEDS[0]], scores.get((old, SEEDS[1]))
                    seeds = float("nan") if other is None else agreement(ours, other, metric)
                    whole = agreement(ours, truth, metric)
                    for ranking, macs in product(RANKINGS, BUDGETS):
                        key = (name, metric, ranking, kind, sample, macs)
                        if key in there or (ranking == "layer" and metric not in FEW):
                            continue
                        right = accuracy(subject, architecture, metric, ours, ranking, macs)
                        line = Line(*key, whole, seeds, right, dense)
                        append(file, line)
                        lines.append(line)
            print(name, sample, len(metrics), "metrics changed", flush=True)
    return lines


_FOLDERS = ("data_root", "pretrained", "work")


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for key in _FOLDERS:
        parser.add_argument(f"--{key.replace('_', '-')}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--score", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    networks = Networks(arguments.data_root, arguments.pretrained, arguments.work)
    if arguments.score:
        name, sample, seed, file = arguments.score
        write_scores(score(networks.load(name), int(sample), int(seed)), Path(file))
        return
    lines = run(arguments, networks)
    write_text(arguments.out / f"{NAME}.md", markdown(lines))


if __name__ == "__main__":
    main()
