"""How well the order of formulas on small networks predicts their order on larger ones.

Every formula ranks the channels of every network as the search does (conventions of its default),
at several budgets; the pruned network is measured on the validation split right after its
batch-norm statistics were measured again, on the small networks also after fine-tuning. Each
(formula, network, budget) is a line of the CSV file at once; what stands there is not measured
again. The page is written beside it: rank correlations between the formulas' order on sets of
small networks and on the held-out ones. ``--table`` writes the page alone.

    python benchmarks/proxy_fidelity.py --data FOLDER --work FOLDER
    python benchmarks/proxy_fidelity.py --data FOLDER --work FOLDER --keeps 0.5 --steps 30
    python benchmarks/proxy_fidelity.py --table

The weights of ``mnist_cnn`` and ``resnet20`` are published ones, see ``fidelity_networks.py``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from csv_lines import append, read
from fidelity_networks import Networks
from proxy_fidelity_formulas import formulas
from proxy_fidelity_head import HEAD
from proxy_fidelity_report import report
from proxy_fidelity_table import DENSE, TRIVIAL, Cell, Line
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.base.files import write_text
from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.metric.file import Conventions
from gp_prune.pruning import Budget, compact, consumers, select_channels, trace
from gp_prune.statistics import Batch, collect_each
from gp_prune.tasks import Task, load_task
from gp_prune.training import recalibrate

SMALL = tuple(
    f"{model}-digits@{seed}"
    for seed in (0, 1)
    for model in ("lenet", "cnn", "resnet", "mobilenet", "caffe_lenet", "autoencoder")
)
HELD_OUT = (
    "mnist_cnn", "lenet_fashion", "depthwise_fashion", "cnn_fashion", "resnet_fashion", "resnet20",
)  # fmt: skip
KINDS = ("macs", "params", "channels")
KEEPS = (0.75, 0.5, 0.3)
CALIBRATION, RECALIBRATION, BATCH = 256, 256, 64
MOST_IMAGES = {"resnet20": 250}
"""Validation images at most; 500 of the others."""
EPOCHS = {"lenet_fashion": 2, "cnn_fashion": 1, "depthwise_fashion": 2, "resnet_fashion": 1}


class Network(NamedTuple):
    """A trained network and its data, as the loops here need them.

    Attributes:
        model: in evaluation mode.
        train: inputs, targets and labels of training samples in random order.
        validation: inputs and targets.
        loss: mean over a batch.
        each_error: error of every sample from outputs and targets.
        interface: layers whose channels stay.
        tune: fine-tunes a pruned copy in place; None where that is not measured.
    """

    model: nn.Module
    train: tuple[Tensor, Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    each_error: Callable[[Tensor, Tensor], Tensor]
    interface: tuple[str, ...] = ()
    tune: Callable[[nn.Module, int], None] | None = None


def wrong(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 for every sample of which the class is wrong, else 0."""
    return output.argmax(1).ne(target).double()


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of every sample."""
    return (output - target).square().flatten(1).mean(1).double()


def small(name: str, cache: Path | None) -> Network:
    """Return the network of a task on the digits."""
    task: Task = load_task(name, cache_dir=cache)
    labels = task.train.labels
    assert labels is not None

    def tune(model: nn.Module, steps: int) -> None:
        task.fine_tune(model, steps=steps)

    return Network(
        task.model,
        (task.train.inputs, task.train.target, labels),
        (task.validation.inputs, task.validation.target),
        task.loss,
        wrong if task.kind == "classification" else squared,
        tuple(task.keep),
        tune,
    )


def held_out(name: str, networks: Networks) -> Network:
    """Return a network that no small task is of."""
    subject = networks.load(name)
    most = MOST_IMAGES.get(name, 500)
    images, labels = subject.validation
    return Network(
        subject.model,
        (subject.images, subject.labels, subject.labels),
        (images[:most], labels[:most]),
        functional.cross_entropy,
        wrong,
    )


@torch.inference_mode()
def errors(network: Network, model: nn.Module) -> Tensor:
    """Return the error of every validation sample, and that of the loss as the last entry."""
    inputs, target = network.validation
    outputs = torch.cat([model(part) for part in inputs.split(200)])  # type: ignore[no-untyped-call]
    outputs = outputs.nan_to_num(0.0, 1e6, -1e6)
    loss = network.loss(outputs, target).double()
    return torch.cat([network.each_error(outputs, target), loss[None]])


def dense_errors(network: Network) -> Tensor:
    """Return the errors of the network as it is."""
    return errors(network, network.model)


def trivial_errors(network: Network) -> Tensor:
    """Return the errors of the most frequent class, or of the mean target, in the same form."""
    train, target = network.train[1], network.validation[1]
    if train.is_floating_point():
        output = train.mean(0, keepdim=True).expand_as(target)
    else:
        shares = train.bincount().double().div(len(train)).float()
        output = shares.log().expand(len(target), -1)
    return torch.cat([network.each_error(output, target), network.loss(output, target)[None]])


def line(formula: str, cell: Cell, found: Tensor) -> Line:
    """Return a line from the errors of samples and the loss."""
    each, loss = found[:-1], float(found[-1])
    means = (float(part.mean()) for part in (each[:180], each[:360], each))
    half, most, mean, total = (float(f"{value:.5g}") for value in (*means, loss))
    return Line(formula, *cell, half, most, mean, total)


def scores_of(network: Network, wanted: dict[str, Expression]) -> tuple[Any, dict[str, Any]]:
    """Return the architecture, and the scores of every formula for every layer."""
    inputs, target, labels = (part[:CALIBRATION] for part in network.train)
    architecture = trace(network.model, inputs[:1], interface=network.interface)
    parts = torch.arange(len(inputs)).split(BATCH)  # type: ignore[no-untyped-call]
    batches = [Batch(inputs[p], target[p], labels[p]) for p in parts]
    records = collect_each(
        network.model, architecture.scored_layers, batches, loss=network.loss, seed=0,
        expressions=list(wanted.values()), outgoing=consumers(architecture),
    )  # fmt: skip
    scores: dict[str, Any] = {name: {} for name in wanted}
    for layer, record in records:
        for name, expression in wanted.items():
            scores[name][layer] = evaluate(expression, record)
    return architecture, scores


def measured(
    name: str, network: Network, wanted: dict[str, Expression],
    budgets: Sequence[tuple[str, float, int]], known: set[Any],
) -> Iterator[Line]:  # fmt: skip
    """Yield the lines of a network that are not known.

    Args:
        name: name of the network.
        network: the network.
        wanted: name -> formula.
        budgets: what is counted, the share to keep, and steps of fine-tuning.
        known: keys of lines.
    """
    whole = Cell(name, "none", 1.0, 0)
    for reference, errors_of in ((DENSE, dense_errors), (TRIVIAL, trivial_errors)):
        if (reference, whole) not in known:
            yield line(reference, whole, errors_of(network))
    cells = [Cell(name, *budget) for budget in budgets]
    todo = [(formula, cell) for cell in cells for formula in wanted]
    todo = [key for key in todo if key not in known]
    if not todo:
        return
    architecture, scores = scores_of(network, {key[0]: wanted[key[0]] for key in todo})
    for formula, cell in todo:
        budget = Budget(cell.kind, cell.keep)
        try:
            plan = select_channels(architecture, scores[formula], Conventions(), budget)
        except UserError:  # it ranks nothing here
            yield Line(formula, *cell, math.inf, math.inf, math.inf, math.inf)
            continue
        model = compact(network.model, plan, architecture)
        if cell.steps:
            if network.tune is None:
                continue  # the held-out networks are measured right after pruning
            network.tune(model, cell.steps)
        recalibrate(model, network.train[0][:RECALIBRATION])
        yield line(formula, cell, errors(network, model.eval()))


def measure(given: argparse.Namespace) -> None:
    """Measure what the CSV file lacks of what is asked for."""
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    networks = Networks(
        given.data, given.pretrained or given.data / "pretrained", given.work, EPOCHS
    )
    wanted = formulas()
    budgets = list(product(given.kinds, given.keeps, given.steps))
    for name in given.only:
        known = {entry.key for entry in read(given.out, Line)}
        network = small(name, given.cache_dir) if name in SMALL else held_out(name, networks)
        for found in measured(name, network, wanted, budgets, known):
            append(given.out, found)
        print(name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/proxy_fidelity.csv"))
    parser.add_argument("--data", type=Path, help="torchvision's data sets")
    parser.add_argument("--work", type=Path, help="networks that are trained here")
    parser.add_argument("--pretrained", type=Path, help="published weights; DATA/pretrained")
    parser.add_argument("--cache-dir", type=Path, help="networks of the small tasks")
    parser.add_argument("--only", nargs="*", default=[*SMALL, *HELD_OUT], help="networks")
    parser.add_argument("--kinds", nargs="*", default=KINDS, help="what budgets count")
    parser.add_argument("--keeps", nargs="*", default=KEEPS, type=float, help="shares to keep")
    parser.add_argument("--steps", nargs="*", default=[0], type=int, help="of fine-tuning")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the table")
    given = parser.parse_args()
    if not given.table:
        if given.data is None or given.work is None:
            parser.error("to measure, give --data FOLDER and --work FOLDER")
        measure(given)
    text = report(read(given.out, Line), SMALL, HELD_OUT, HEAD)
    write_text(given.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
