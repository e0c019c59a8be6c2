"""How long it takes to score the channels of a layer: the engine beside a plain loop.

The layer is the second convolution of the Caffe LeNet (50 channels, maps of 8 x 8) on 2,000 images,
the metric GECCO function 2 (Eq. 3 of Liu, Kung and Wentzlaff, 2022). Both sides start from the
same activations, in the precision and the layout in which the network gives them, and labels, and
end with 50 scores:

* the engine measures means, variances and mean maps of all classes and channels and evaluates the
  formula (``engine``); a search measures once and then evaluates formula after formula
  (``formula``);
* the loop takes channel by channel and class by class, splits the maps into P and Q and evaluates
  the formula with numpy in float64: as it is written, every statistic wherever it stands, with the
  mean maps of P, Q and X at hand, which is what the trees of the original search do (``loop``), or
  with each statistic computed once, as a careful person would (``spare``).

Their turns alternate, medians are printed, and the rankings must be the same. The second table is
the time that every bundled metric takes to load, once its modules are imported.

    python benchmarks/scoring.py [--data-root FOLDER] [--samples 2000] [--repeats 5] [--threads 1]

With ``--data-root`` (a folder of torchvision's data sets) the images are those of MNIST; otherwise
they are made up: blurred random strokes of the same size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.statistics.moments import Centroids, Moments
from gp_prune.tasks.data import load_data

Array = NDArray[np.float64]
CLASSES = 10
METRIC = "gecco_2"


def images(data_root: Path | None, samples: int) -> tuple[Tensor, Tensor]:
    """(n, 1, 28, 28) in [0, 1] and (n,) labels."""
    if data_root is not None:
        train = load_data("mnist", data_root).train
        return train.inputs[:samples].reshape(-1, 1, 28, 28), train.labels[:samples]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    shapes = torch.rand(CLASSES, 1, 28, 28, generator=generator)[labels]
    noise = torch.rand(samples, 1, 28, 28, generator=generator)
    return functional.avg_pool2d(((shapes + noise) > 1.4).float(), 3, 1, 1), labels


def activations(x: Tensor) -> Tensor:
    """(n, o, s): the rectified second convolution of an untrained Caffe LeNet."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        first, second = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        maps: Tensor = second(functional.max_pool2d(first(x), 2)).relu()
    return maps.flatten(2)


def measured(maps: Tensor, labels: Tensor) -> LayerRecord:
    moments, centroids = Moments(), Centroids()
    moments.add(maps, labels, CLASSES)
    centroids.add(maps, labels)
    rest = moments.rest()
    nothing = torch.zeros(maps.shape[1], dtype=torch.float64)
    maps_of_classes: Any = centroids.result(CLASSES)
    return LayerRecord(
        name="conv2", weight=nothing.reshape(-1, 1, 1), bias=nothing, has_batch_norm=False,
        gamma=nothing + 1, beta=nothing,
        class_mean=moments.mean, class_var=moments.variance,
        rest_mean=rest.mean, rest_var=rest.variance, **maps_of_classes,
    )  # fmt: skip


def spare(maps: Array, labels: NDArray[np.int64]) -> Array:
    scores = np.zeros(maps.shape[1])
    for channel in range(len(scores)):
        X = maps[:, channel].astype(np.float64)
        for label in range(CLASSES):
            P, Q = X[labels == label], X[labels != label]
            p, q, mX = np.var(P), np.var(Q), X.mean(axis=0)
            last = (np.std(mX) * q * mX + p - np.mean(Q)) ** 2 / (p + q + 0.05)
            scores[channel] += np.sum(p / (q + 0.05) + q / (p + 0.05) + last)
    return scores


def loop(maps: Array, labels: NDArray[np.int64]) -> Array:
    var, mean = np.var, np.mean
    scores = np.zeros(maps.shape[1])
    for channel in range(len(scores)):
        X = maps[:, channel].astype(np.float64)
        for label in range(CLASSES):
            P, Q = X[labels == label], X[labels != label]
            mX, _, _ = X.mean(axis=0), P.mean(axis=0), Q.mean(axis=0)
            ratios = var(P) / (var(Q) + 0.05) + var(Q) / (var(P) + 0.05)
            above = (np.std(mX) * var(Q) * mX + var(P) - mean(Q)) ** 2
            scores[channel] += np.sum(ratios + above / (var(P) + var(Q) + 0.05))
    return scores


def seconds(task: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def compare(maps: Tensor, labels: Tensor, repeats: int) -> None:
    plain, classes, metric = maps.numpy(), labels.numpy(), Metric.load(METRIC)
    record = measured(maps, labels)
    sides: dict[str, Callable[[], Array]] = {
        "engine": lambda: metric.scores(measured(maps, labels)).numpy(),
        "formula": lambda: metric.scores(record).numpy(),
        "loop": lambda: loop(plain, classes),
        "spare": lambda: spare(plain, classes),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    scores = {name: side() for name, side in sides.items()}  # once without the clock
    for _ in range(repeats):
        for name, side in sides.items():
            took, scores[name] = seconds(side)
            times[name].append(took)
    for name in ("formula", "loop", "spare"):
        np.testing.assert_allclose(scores["engine"], scores[name], rtol=1e-6)
        assert np.array_equal(np.argsort(scores["engine"]), np.argsort(scores[name]))
    samples, channels, positions = maps.shape
    print(f"{METRIC}: {channels} channels, {samples} samples, {positions} positions")
    medians = {name: statistics.median(all_times) for name, all_times in times.items()}
    for name, all_times in times.items():
        spread = f"{1e3 * min(all_times):.2f} to {1e3 * max(all_times):.2f}"
        print(f"  {name:7s} {1e3 * medians[name]:8.2f} ms  ({spread})")
    for slow in ("loop", "spare"):
        for fast in ("engine", "formula"):
            print(f"  {slow} / {fast}: {medians[slow] / medians[fast]:.1f}")
    print("  the same ranking on all sides")


def load_times() -> None:
    Metric.load("l1")  # imports sympy's share and the primitives
    times = {name: seconds(partial(Metric.load, name))[0] for name in bundled_metrics()}
    slowest = max(times, key=lambda name: times[name])
    print(
        f"loading: {len(times)} metrics, median {1e3 * statistics.median(times.values()):.1f} ms, "
        f"slowest {slowest} {1e3 * times[slowest]:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of scoring a layer.")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_times()
    x, labels = images(options.data_root, options.samples)
    compare(activations(x), labels, options.repeats)


if __name__ == "__main__":
    main()
