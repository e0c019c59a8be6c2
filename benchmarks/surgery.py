"""What it costs to prune a network of ImageNet's size: memory of the statistics, time of the plan.

Memory: a fresh process runs ResNet-50 forward on 256 images of 224 x 224, in batches of 32; another
one measures the statistics that a demanding metric needs on the same batches. What is compared is
the peak of the resident memory (VmHWM of /proc) of both. Images are made batch by batch, so that
they count for neither.

Time: the channels of ResNet-50 are scored by L1 and the plan for half of the MACs is made, from the
network and example inputs to the finished list of channels (``plan``), and to the smaller network
(``prune``), which is also compared with the masked one; beside it Torch-Pruning's own magnitude
pruner makes its dependency graph and the same kind of cut (``BasePruner`` with
``MagnitudeImportance``, which removes as it goes). ``tried plan`` is the plan for channels that
were tried out before, as ``trace`` does unless it is told that the cut itself will be. They run in
turns, medians are printed.

    python benchmarks/surgery.py [--memory] [--time] [--metrics NAME ...] [--repeats 5]
        [--threads 1]

Without ``--memory`` or ``--time`` both are measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune._compat import import_torchvision
from gp_prune.apply.prune import prune
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, consumers, measure, select_channels, trace
from gp_prune.statistics import Batch, collect_each

METRICS = ("mean_activation", "taylor_bn", "gecco_2", "apoz")
SAMPLES, BATCH, SIZE, CLASSES = 256, 32, 224, 10
LIMIT_MB = 2048
KEEP = 0.5


class Images:
    """The same random images and labels every time, one batch after the other."""

    def __iter__(self) -> Iterator[Batch]:
        """Make the batches."""
        for number in range(SAMPLES // BATCH):
            generator = torch.Generator().manual_seed(number)
            images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
            labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
            yield Batch(images, labels, labels)


def resnet50() -> nn.Module:
    torchvision = import_torchvision()
    torch.default_generator.manual_seed(0)
    model: nn.Module = torchvision.models.resnet50(weights=None)
    return model.eval()


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM; memory is measured on Linux")


def run_forward() -> None:
    model = resnet50()
    with torch.no_grad():
        for batch in Images():
            model(batch.inputs)


def run_statistics(name: str) -> None:
    """Do what :func:`gp_prune.prune` does before it has scores: trace, measure, score."""
    model, metric = resnet50(), Metric.load(name)
    inputs = torch.zeros(1, 3, SIZE, SIZE)
    architecture = trace(model, inputs)
    channels = metric.granularity == "channel"
    records = collect_each(
        model,
        architecture.scored_layers if channels else architecture.prunable_layers,
        Images(),
        expressions=[metric.expression],
        loss=functional.cross_entropy,
        example_inputs=inputs,
        outgoing=consumers(architecture) if "outgoing" in metric.needs else None,
    )
    for _, record in records:
        metric.scores(record)


def child(what: str, threads: int) -> None:
    """One measurement in this process, printed as JSON."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    if what == "forward":
        run_forward()
    else:
        run_statistics(what)
    print(json.dumps({"peak_mb": peak_mb(), "seconds": time.perf_counter() - started}))


def in_a_process(what: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", what, "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory(metrics: list[str], threads: int) -> bool:
    """Print peaks; whether all stay below the limit."""
    forward = in_a_process("forward", threads)
    print(f"ResNet-50, {SAMPLES} images of {SIZE} x {SIZE}, batches of {BATCH}")
    print(f"{'':18}{'peak MB':>10}{'above forward':>15}{'seconds':>10}")
    print(f"{'forward':18}{forward['peak_mb']:10.0f}{'':15}{forward['seconds']:10.1f}")
    good = True
    for name in metrics:
        found = in_a_process(name, threads)
        above = found["peak_mb"] - forward["peak_mb"]
        good &= above < LIMIT_MB
        print(f"{name:18}{found['peak_mb']:10.0f}{above:15.0f}{found['seconds']:10.1f}")
    return good


def our_plan(model: nn.Module, inputs: Tensor, *, try_out: bool = False) -> Any:
    # As prune() does for a metric that reads weights alone; it tries out the cut that it makes.
    metric = Metric.load("l1")
    architecture = trace(model, inputs, try_out=try_out)
    records = collect_each(
        model, architecture.scored_layers, (), example_inputs=inputs, norms=False
    )
    scores = {name: metric.scores(record) for name, record in records}
    return select_channels(architecture, scores, Conventions("layer"), Budget("macs", KEEP))


def our_prune(model: nn.Module, inputs: Tensor) -> nn.Module:
    return prune(model, "l1", inputs, keep_macs=KEEP, min_share=0).model


def their_prune(model: nn.Module, inputs: Tensor, ratio: float) -> nn.Module:
    import torch_pruning as tp

    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        ignored_layers=[model.fc],
    )
    pruner.step()
    return model


def matching_ratio(model: nn.Module, inputs: Tensor) -> float:
    """Torch-Pruning's ratio of channels that comes nearest to our share of MACs."""
    whole = measure(model, inputs).macs
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        kept = measure(their_prune(copy.deepcopy(model), inputs, middle), inputs).macs / whole
        low, high = (middle, high) if kept > KEEP else (low, middle)
    return (low + high) / 2


def timing(repeats: int) -> bool:
    """Print times; whether scoring and planning takes at most twice Torch-Pruning's time."""
    model, inputs = resnet50(), torch.zeros(1, 3, SIZE, SIZE)
    ratio = matching_ratio(model, inputs)
    ways: dict[str, Callable[[nn.Module], Any]] = {
        "gp-prune, plan": lambda fresh: our_plan(fresh, inputs),
        "gp-prune, tried plan": lambda fresh: our_plan(fresh, inputs, try_out=True),
        "gp-prune, prune": lambda fresh: our_prune(fresh, inputs),
        "Torch-Pruning": lambda fresh: their_prune(fresh, inputs, ratio),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            fresh = copy.deepcopy(model)  # Torch-Pruning cuts the network that it is given
            started = time.perf_counter()
            way(fresh)
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - started)
    theirs = statistics.median(times["Torch-Pruning"])
    print(f"ResNet-50 by L1 to {KEEP} of the MACs, median of {repeats} turns")
    for name, found in times.items():
        median = statistics.median(found)
        spread = f"{min(found):.2f} to {max(found):.2f}"
        print(f"{name:22}{median:8.2f} s  ({spread}){median / theirs:8.2f} x")
    return statistics.median(times["gp-prune, plan"]) <= 2 * theirs


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.threads)
        return 0
    torch.set_num_threads(options.threads)
    both = not (options.memory or options.time)
    good = True
    if options.time or both:
        good &= timing(options.repeats)
    if options.memory or both:
        good &= memory(options.metrics, options.threads)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
