"""Published CIFAR-10 networks pruned one shot by several metrics to the same MACs.

ResNet-20 and ResNet-56 (benchmarks/resnets.py) with Idelbayev's published weights. Each metric cuts
each network to the same MACs in one shot; then the batch norms are recalibrated and the network is
fine-tuned for a short while, with the same protocol for all. The accuracy on the test split is
measured after each step, for several seeds: the seed decides the calibration sample, the
recalibration sample, the order and the augmentation of fine-tuning, and the metric's own noise.

    python benchmarks/resnet_cifar.py --data-root FOLDER --resnet20 FILE --resnet56 FILE

Each file holds the published weights of one network; those that are not given are left out. The
folder holds CIFAR-10 (see ``gp_prune.tasks.data``). Each line of the results is written when it is
done; lines that are there are not made again, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from csv_lines import as_csv, read
from resnet_cifar_lines import Line, Protocol, markdown
from resnets import NETWORKS, load_published, normalised
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import Metric, prune
from gp_prune.apply.result import PrunedModel
from gp_prune.base.files import write_text
from gp_prune.metric.file import Conventions
from gp_prune.statistics import Batch
from gp_prune.tasks.data import LabelledSplit, load_data
from gp_prune.training import fine_tune, recalibrate

NAME = "resnet_cifar"
METRICS = ("random", "l1", "taylor_weights", "class_map_energy")
CONVENTIONS = {
    "own": None,
    "layer": Conventions("layer", "none", "mean"),
    "global": Conventions("global", "mean", "mean"),
}
_EVALUATION_BATCH = 500


class Augmented:
    """Mini-batches of randomly shifted and flipped training images, the same for the same seed.

    Args:
        samples: images (n, 3, h, w) in [0, 1] with labels.
        protocol: number, size and shifts.
        seed: decides order, shifts and flips.
    """

    def __init__(self, samples: LabelledSplit, protocol: Protocol, seed: int) -> None:
        self.samples, self.protocol, self.seed = samples, protocol, seed

    def __len__(self) -> int:
        """Return the number of mini-batches."""
        return self.protocol.steps

    def __iter__(self) -> Iterator[Batch]:
        """Yield the mini-batches; samples repeat only when all have been used."""
        generator = torch.Generator().manual_seed(self.seed)
        size, count = self.protocol.batch_size, len(self.samples.labels)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.protocol.steps):
            if len(order) < size:
                order = torch.cat([order, torch.randperm(count, generator=generator)])
            chosen, order = order[:size], order[size:]
            images = augmented(self.samples.inputs[chosen], self.protocol.padding, generator)
            yield Batch(normalised(images), self.samples.labels[chosen])


def augmented(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each cropped from its padded self at random and flipped or not."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    tops, lefts = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).tolist()
    flips = torch.rand(count, generator=generator) < 0.5
    cropped = torch.stack([
        image[:, top : top + height, left : left + width]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ])  # fmt: skip
    return torch.where(flips.reshape(-1, 1, 1, 1), cropped.flip(3), cropped)


def sample(samples: LabelledSplit, count: int, seed: int) -> LabelledSplit:
    """``count`` of the samples, chosen by seed."""
    chosen = torch.randperm(len(samples.labels), generator=torch.Generator().manual_seed(seed))
    return samples.select(chosen[:count])


def accuracy(model: nn.Module, samples: LabelledSplit) -> float:
    """Percent of the samples that are classified right."""
    right = 0
    with torch.inference_mode():
        for start in range(0, len(samples.labels), _EVALUATION_BATCH):
            chosen = slice(start, start + _EVALUATION_BATCH)
            output = model.eval()(normalised(samples.inputs[chosen]))
            right += int(output.argmax(1).eq(samples.labels[chosen]).sum())
    return round(100 * right / len(samples.labels), 4)


class Bench:
    """The networks and data of a run, and the lines that are there already."""

    def __init__(
        self,
        train: LabelledSplit,
        test: LabelledSplit,
        weights: dict[str, Path],
        protocol: Protocol,
        out: Path,
    ) -> None:
        self.train, self.test, self.weights = train, test, weights
        self.protocol, self.out = protocol, out
        self.lines = read(out / f"{NAME}.csv", Line)
        self._models: dict[str, tuple[nn.Module, Tensor, float]] = {}

    def network(self, name: str) -> tuple[nn.Module, Tensor, float]:
        """Return the dense network, an example input and the test accuracy."""
        if name not in self._models:
            model, inputs = NETWORKS[name]()
            load_published(model, self.weights[name])
            found = [line.dense for line in self.lines if line.network == name]
            dense = found[0] if found else accuracy(model, self.test)
            print(f"{name}: test accuracy {dense:.2f} %", flush=True)
            self._models[name] = model, inputs, dense
        return self._models[name]

    def add(self, name: str, metric: Metric, conventions: Conventions, seed: int) -> None:
        """Make the line unless it is there, and write the files anew."""
        ranking = _ranking(conventions)
        key = (name, metric.name, ranking, seed, self.protocol.steps)
        if key in {line.key for line in self.lines}:
            return
        line = self._measured(name, metric, conventions, seed)
        self.lines.append(line)
        self.write()
        print(*list(asdict(line).values())[:-2], flush=True)

    def _measured(self, name: str, metric: Metric, conventions: Conventions, seed: int) -> Line:
        model, inputs, dense = self.network(name)
        calibration = sample(self.train, self.protocol.calibration, 3 * seed)
        started = time.process_time()
        pruned = prune(
            model, metric, inputs, data=_batches(calibration), loss=functional.cross_entropy,
            keep_macs=self.protocol.macs, conventions=conventions, seed=seed, min_share=0,
        )  # fmt: skip
        seconds = time.process_time() - started
        plan = pruned.plan.digest()
        before = self._pruned_accuracy(name, plan, pruned)
        again = sample(self.train, self.protocol.recalibration, 3 * seed + 1)
        recalibrate(pruned.model, normalised(again.inputs))
        recalibrated = accuracy(pruned.model, self.test)
        stream = Augmented(self.train, self.protocol, 3 * seed + 2)
        fine_tune(pruned.model, stream, functional.cross_entropy, self.protocol.tuning(seed))
        return Line(
            network=name,
            metric=metric.name,
            ranking=_ranking(conventions),
            seed=seed,
            steps=self.protocol.steps,
            macs=round(pruned.achieved.macs, 5),
            params=round(pruned.achieved.params, 5),
            channels=round(pruned.achieved.channels or 0.0, 5),
            dense=dense,
            pruned=before,
            recalibrated=recalibrated,
            tuned=accuracy(pruned.model, self.test),
            seconds=round(seconds, 2),
            plan=plan,
            formula=str(metric.expression),
        )

    def _pruned_accuracy(self, name: str, plan: str, pruned: PrunedModel) -> float:
        """Accuracy right after the cut, which the plan decides."""
        for line in self.lines:
            if (line.network, line.plan) == (name, plan):
                return line.pruned
        return accuracy(pruned.model, self.test)

    def write(self) -> None:
        """Return the lines as CSV, and the page made from them."""
        write_text(self.out / f"{NAME}.csv", as_csv(self.lines))
        write_text(self.out / f"{NAME}.md", markdown(self.lines, self.protocol))


def _batches(samples: LabelledSplit) -> list[Batch]:
    inputs, labels = normalised(samples.inputs), samples.labels
    return [
        Batch(x, y, y)
        for x, y in zip(torch.split(inputs, 64), torch.split(labels, 64), strict=True)
    ]


def _ranking(conventions: Conventions) -> str:
    """Scope, and the normaliser where it matters; no layers of these networks are joined."""
    return "layer" if conventions.scope == "layer" else f"global, {conventions.normaliser}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    for name in NETWORKS:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--metrics", default=",".join(METRICS))
    parser.add_argument("--rankings", default="own", help="own, layer, global, or several of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Protocol.steps)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the last bits of a sum depend on the number of threads
    data = load_data("cifar10", given.data_root.expanduser())
    weights = {name: getattr(given, name) for name in NETWORKS if getattr(given, name)}
    protocol = replace(Protocol(), steps=given.steps)
    bench = Bench(data.train, data.read_test(), weights, protocol, given.out)
    metrics = [Metric.load(name) for name in given.metrics.split(",")]
    for ranking in given.rankings.split(","):
        for name in weights:
            for seed in range(given.seeds):
                for metric in metrics:
                    bench.add(name, metric, CONVENTIONS[ranking] or metric.conventions, seed)
    bench.write()


if __name__ == "__main__":
    main()
