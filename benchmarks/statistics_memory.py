"""Memory and time that scoring ResNet-50 takes, metric by metric, beside the code of before.

Every figure is that of a process of its own. Memory is the peak of the resident memory, less that
of a process that only runs the network forward (and backward, for metrics of gradients) over the
same images. Time is that of the processor, in turns with the last version whose formulas saw 64
samples at 64 positions: what was collected and scored, without loading.

    python benchmarks/statistics_memory.py --work FOLDER [--size 224] [--images 256] [--no-time]
        [--max-memory 2e9] [--metrics NAME ...]

`a+b` measures two metrics in the same passes, under one limit; each alone takes no more.

The network has random weights, the images are noise of 10 classes in batches of 32; neither matters
for memory and hardly for time.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from csv_lines import append, read
from old_code import unpack_old
from torch import Tensor, nn
from torch.nn import functional

from gp_prune._compat import import_torchvision
from gp_prune.base.files import write_text
from gp_prune.language.record import LOSS_NEEDS
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect_each

NAME = "statistics_memory"
BATCH = 32
_AT_ONCE = 8  # samples of a backward pass, so that what autograd keeps does not decide
_ROOT = Path(__file__).resolve().parents[1]
_REPEATS = 2


@dataclass(frozen=True)
class Line:
    """What one metric takes.

    Attributes:
        metric: its name, or several with ``+`` between that are measured in the same passes.
        size: height and width of the images.
        images: number of images.
        limit: ``max_memory`` in bytes.
        peak_mb: peak memory above the passes alone, in 10^6 bytes.
        plain_mb: peak memory of the passes alone.
        seconds: processor time now; not a number where time was not measured.
        before: processor time with the code of before, in turn.
    """

    metric: str
    size: int
    images: int
    limit: float
    peak_mb: float
    plain_mb: float
    seconds: float
    before: float

    @property
    def key(self) -> tuple[str, int, int, float]:
        """Tell what was measured."""
        return self.metric, self.size, self.images, self.limit


class Images:
    """Batches of noise, the same every time; none is kept."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        for start in range(0, self.count, BATCH):
            generator = torch.Generator().manual_seed(start)
            number = min(BATCH, self.count - start)
            images = torch.rand(number, 3, self.size, self.size, generator=generator)
            labels = torch.arange(start, start + number) % 10
            yield Batch(images, labels, labels)


def network() -> nn.Module:
    """ResNet-50 with random weights, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = import_torchvision().models.resnet50(num_classes=10)
    return model.eval()


def peak() -> float:
    """Return the largest resident memory of this process so far, in 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("peak memory is read from /proc/self/status, which Linux alone has")


def run_plain(model: nn.Module, images: Images, *, backward: bool) -> None:
    """Run the network as the statistics do, and measure nothing."""
    parameters = list(model.parameters())
    for batch in images:
        assert isinstance(batch.inputs, Tensor)
        if not backward:
            with torch.inference_mode():
                model(batch.inputs)
            continue
        for start in range(0, len(batch.inputs), _AT_ONCE):
            output = model(batch.inputs[start : start + _AT_ONCE])
            loss = functional.cross_entropy(output, batch.target[start : start + _AT_ONCE])
            torch.autograd.grad(loss, parameters)


def run_metric(model: nn.Module, images: Images, name: str, limit: int) -> None:
    """Score every layer by a metric, or by several in the same passes."""
    metrics = [Metric.load(part) for part in name.split("+")]
    needs = {need for metric in metrics for need in metric.needs}
    request: dict[str, Any] = {"needs": needs}
    if "expressions" in inspect.signature(collect_each).parameters:  # statistics are streamed
        request = {"expressions": [m.expression for m in metrics], "max_memory": limit}
    example = torch.zeros(1, 3, images.size, images.size)
    if "outgoing" in needs:
        request["outgoing"] = consumers(trace(model, example))
    for _, record in collect_each(
        model, None, images, loss=functional.cross_entropy, example_inputs=example, **request
    ):
        for metric in metrics:
            metric.scores(record)


def work(what: str, size: int, images: int, limit: int) -> None:
    """Do what a process of its own is for, and print the figures."""
    torch.set_num_threads(1)
    model, data = network(), Images(images, size)
    started = time.process_time()
    if what in ("forward", "backward"):
        run_plain(model, data, backward=what == "backward")
    else:
        run_metric(model, data, what, limit)
    print(json.dumps({"seconds": time.process_time() - started, "peak": peak()}))


def ask(what: str, arguments: argparse.Namespace, old: Path | None = None) -> dict[str, float]:
    """Run :func:`work` in a process of its own, by the present code or by the old one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if old is not None:
        environment["PYTHONPATH"] = str(old)
    numbers = [str(n) for n in (arguments.size, arguments.images, int(arguments.max_memory))]
    command = [sys.executable, "-W", "ignore", __file__, "--child", what, *numbers]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, arguments: argparse.Namespace, plain: dict[str, float]) -> Line:
    """Measure one metric."""
    needs = {need for part in name.split("+") for need in Metric.load(part).needs}
    kind = "backward" if needs & LOSS_NEEDS else "forward"
    if kind not in plain:
        plain[kind] = ask(kind, arguments)["peak"]
    now, before, highest = list[float](), list[float](), 0.0
    for _ in range(_REPEATS if arguments.time else 1):
        found = ask(name, arguments)
        now.append(found["seconds"])
        highest = max(highest, found["peak"])
        if arguments.time:
            before.append(ask(name, arguments, unpack_old(arguments.work))["seconds"])
    return Line(
        name, arguments.size, arguments.images, arguments.max_memory,
        round(highest - plain[kind], 1), round(plain[kind], 1), round(min(now), 2),
        round(min(before), 2) if before else float("nan"),
    )  # fmt: skip


def markdown(lines: Sequence[Line]) -> str:
    """Return the table."""
    text = [
        "# Memory and time of scoring ResNet-50",
        "",
        "Peak resident memory above that of the passes over the data alone, each metric in a",
        "process of its own, and processor time on one thread in turn with the code that saw 64",
        "samples at 64 positions. Maps grow with the number of images, so that 32 images under a",
        "limit of 250 MB are to 256 images under 2 GB as one to eight; sums of gradients, products",
        "of inputs and mean maps do not, and are measured under 2 GB. A backward pass of a metric",
        "runs on as many images as autograd keeps 0.5 GB of, the plain pass on 8.",
        "",
        "    python benchmarks/statistics_memory.py --work FOLDER --size SIZE --images IMAGES",
    ]
    runs = sorted({(line.size, line.images, line.limit) for line in lines}, reverse=True)
    for run in runs:
        size, images, limit = run
        text += [
            "",
            f"## {images} images of {size} x {size}, at most {limit / 1e6:,.0f} MB",
            "",
            "| metric | MB above the passes | MB of the passes | ms per image | before | ratio |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        those = [line for line in lines if (line.size, line.images, line.limit) == run]
        for line in sorted(those, key=lambda line: -line.peak_mb):
            timed = not math.isnan(line.before)
            each = 1000 * line.seconds / images
            names = line.metric.replace("+", "`, `")
            columns = [f"`{names}`", f"{line.peak_mb:,.0f}", f"{line.plain_mb:,.0f}"]
            columns.append(f"{each:,.0f}")
            columns.append(f"{1000 * line.before / images:,.0f}" if timed else "")
            columns.append(f"{line.seconds / line.before:.2f}" if timed else "")
            text.append(f"| {' | '.join(columns)} |")
    return "\n".join(text) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="folder for the code of before")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--max-memory", type=float, default=2e9)
    parser.add_argument("--no-time", dest="time", action="store_false")
    parser.add_argument("--metrics", nargs="*", default=list(bundled_metrics()))
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(words)
    if arguments.child:
        what, *numbers = arguments.child
        work(what, *map(int, numbers))
        return
    file = arguments.out / f"{NAME}.csv"
    lines, plain = read(file, Line), dict[str, float]()
    there = {line.key for line in lines}
    for name in arguments.metrics:
        if (name, arguments.size, arguments.images, arguments.max_memory) in there:
            continue
        line = measure(name, arguments, plain)
        append(file, line)
        lines.append(line)
        print(line, flush=True)
    write_text(arguments.out / f"{NAME}.md", markdown(lines))


if __name__ == "__main__":
    main()
