"""The search for a metric as a researcher would write it, with DEAP alone.

A typed primitive set of its own, one-point crossover, uniform mutation, NSGA-II. Every candidate
is a deep copy of the network with masks, fine-tuned from torchvision's data set and a DataLoader
with torch's AdamW as it comes and evaluated, at every step of the ladder; individuals that
variation left unchanged are not evaluated again, as in DEAP's own loops, and nothing else is
saved. What it shares with ours are the statistics of the layers, the selection of channels, and
the protocol of fine-tuning: the same samples in the same order, the same number of steps, the
same learning rates.
"""

from __future__ import annotations

import copy
import operator
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from csv_lines import append, read
from deap import algorithms, base, gp, tools
from naive_data import Loadable
from protocols import WORST, hypervolume
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.pruning import Budget, ChannelPlan, DegenerateScores, compact, mask, select_channels
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import relative
from gp_prune.search.objectives import Objectives
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import derive_seed
from gp_prune.tasks import Task
from gp_prune.tasks.training import random_batches
from gp_prune.training.settings import schedule

OPERANDS: dict[str, Callable[[LayerRecord], Tensor | None]] = {
    "W": lambda layer: layer.weight,
    "G": lambda layer: layer.weight_grad,
    "b": lambda layer: layer.bias,
    "gamma": lambda layer: layer.gamma,
    "beta": lambda layer: layer.beta,
    "mu": lambda layer: layer.mu,
    "var": lambda layer: layer.var,
}


class Kind(type):
    """A class with the same hash in every process.

    DEAP draws the type of a crossover from a set of classes, whose order would otherwise depend on
    where they lie in memory, and the search with it.
    """

    def __hash__(cls) -> int:
        return len(cls.__name__)


class Weights(metaclass=Kind):
    """The type of values with the shape (o, i, k)."""


class Channels(metaclass=Kind):
    """The type of values with the shape (o,)."""


class Fitness(base.Fitness):  # type: ignore[misc]
    """Error, MACs and parameters, all to be minimised."""

    weights = (-1.0, -1.0, -1.0)


class Formula(gp.PrimitiveTree):  # type: ignore[misc]
    """A tree with a fitness."""

    def __init__(self, content: Iterable[Any]) -> None:
        super().__init__(content)
        self.fitness = Fitness()


def divide(a: Tensor, b: Tensor) -> Tensor:
    return a / torch.where(b.abs() < 1e-6, torch.ones_like(b), b)


def root(a: Tensor) -> Tensor:
    return a.abs().sqrt()


def primitive_set() -> gp.PrimitiveSetTyped:
    """Arithmetic on both shapes, and three ways from weights to channels."""
    types = [Weights, Weights, *[Channels] * (len(OPERANDS) - 2)]
    primitives = gp.PrimitiveSetTyped("naive", types, Channels)
    for kind, end in ((Weights, "w"), (Channels, "c")):
        for function in (operator.add, operator.sub, operator.mul, divide):
            primitives.addPrimitive(function, [kind, kind], kind, f"{function.__name__}_{end}")
        for unary in (torch.abs, torch.square, root):
            primitives.addPrimitive(unary, [kind], kind, f"{unary.__name__}_{end}")
    for reduction in (torch.sum, torch.mean, torch.amax):
        primitives.addPrimitive(
            lambda x, reduction=reduction: reduction(x, dim=(1, 2)),
            [Weights], Channels, f"{reduction.__name__}_ik",
        )  # fmt: skip
    primitives.renameArguments(**{f"ARG{n}": name for n, name in enumerate(OPERANDS)})
    return primitives


class Tried(NamedTuple):
    """One network that the naive loop tried, by its plan and its relative error."""

    plan: ChannelPlan
    error: float


@dataclass(frozen=True)
class Known:
    """The error of a compact network, and all that it depends on."""

    task: str
    training: int
    judging: int
    steps: int
    seed: int
    plan: str
    error: float


class Shelf:
    """Errors of compact networks by their plans, kept in a file from one run to the next.

    Args:
        path: the file, see :mod:`csv_lines`; without it the errors are kept in memory alone.
        config: the settings of the run, of which an error depends on the seed and the steps.
        task: the task of the networks.
    """

    def __init__(self, path: Path | None, config: SearchConfig, task: Task) -> None:
        self.path = path
        self.known = partial(
            Known, task.name, len(task.train.inputs), len(task.validation.inputs),
            config.fine_tune_steps, config.seed,
        )  # fmt: skip
        lines = read(path, Known) if path is not None else []
        self.errors = {k.plan: k.error for k in lines if k == self.known(k.plan, k.error)}

    def error(self, plan: str, measure: Callable[[], float]) -> float:
        """Return the error under a plan, measured where it is not known."""
        if plan not in self.errors:
            self.errors[plan] = measure()
            if self.path is not None:
                append(self.path, self.known(plan, self.errors[plan]))
        return self.errors[plan]


class Naive:
    """The naive loop.

    Args:
        config: the settings that it shares with ours.
        bench: the task.
        images: the images of the task.
        time_first: evaluations of networks that are done the naive way; 0 means all.
        shelf: file with errors of compact networks of earlier runs, see :class:`Shelf`.
    """

    def __init__(
        self, config: SearchConfig, bench: TaskScorer, images: Loadable, time_first: int = 0,
        shelf: Path | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.bench = bench
        self.images = images
        self.time_first = time_first
        self.primitives = primitive_set()
        self.tried: list[Tried] = []
        self.timed = 0
        self.tuning = 0.0
        self.elsewhere = 0.0
        self.course: list[tuple[float, int, float]] = []
        self._shelf = Shelf(shelf, config, bench.task)
        self.layers = {
            name: [read(layer) for read in OPERANDS.values()] for name, layer in ranked(bench)
        }

    def run(self) -> tuple[float, list[Objectives]]:
        """Processor seconds (extrapolated where only a part was timed) and the front."""
        random.seed(self.config.seed)
        box = base.Toolbox()
        box.register("tree", gp.genHalfAndHalf, pset=self.primitives, min_=1, max_=4)
        box.register("mate", gp.cxOnePoint)
        box.register("grow", gp.genFull, min_=0, max_=2)
        box.register("mutate", gp.mutUniform, expr=box.grow, pset=self.primitives)
        box.register("select", tools.selNSGA2)
        box.register("evaluate", self.evaluate)
        for name in ("mate", "mutate"):
            box.decorate(name, gp.staticLimit(operator.attrgetter("height"), 17))
        size = self.config.population
        population = [Formula(box.tree()) for _ in range(size)]
        started = time.process_time()
        figures = tools.Statistics()
        figures.register("course", lambda survivors: self._note(started, survivors))
        population, _ = algorithms.eaMuPlusLambda(
            population, box, size, size, 0.5, 0.4, self.config.generations,
            stats=figures, verbose=False,
        )  # fmt: skip
        return self._seconds(started), first_front(population)

    def _seconds(self, started: float) -> float:
        """Processor seconds so far, as if all networks had been tried the naive way."""
        other = time.process_time() - started - self.tuning - self.elsewhere
        return other + self.tuning * len(self.tried) / max(1, self.timed)

    def _note(self, started: float, survivors: Sequence[Formula]) -> None:
        """Add a generation to the course."""
        front = first_front(survivors)
        self.course.append((self._seconds(started), len(self.tried), hypervolume(front)))

    def evaluate(self, formula: Formula) -> Objectives:
        """Error, MACs and parameters, means over the ladder."""
        function = gp.compile(formula, self.primitives)
        results = []
        for keep in self.config.ladder:
            try:
                scores = {name: function(*values).double() for name, values in self.layers.items()}
                plan = select_channels(
                    self.bench.architecture, scores, self.config.conventions,
                    Budget("channels", keep),
                )  # fmt: skip
            except DegenerateScores:
                return WORST
            if plan.ties > 0.5:
                return WORST
            results.append((self.error(plan), plan.achieved.macs, plan.achieved.params))
        error, macs, params = (statistics.fmean(column) for column in zip(*results, strict=True))
        return error, macs, params

    def error(self, plan: ChannelPlan) -> float:
        """Return the error of a masked copy; of a compact one where the naive way is not timed."""
        started = time.process_time()
        if not self.time_first or self.timed < self.time_first:
            error = masked_error(self.config, self.bench, self.images, plan)
            self.timed += 1
            self.tuning += time.process_time() - started
        else:
            error = self._shelf.error(
                plan.digest(),
                lambda: tuned_error(self.config, self.bench, smaller(self.bench, plan)),
            )
            # Not its own way, so it counts neither as tuning nor as anything else.
            self.elsewhere += time.process_time() - started
        self.tried.append(Tried(plan, error))
        return error


def first_front(population: Sequence[Formula]) -> list[Objectives]:
    """Objectives of the individuals that none dominates."""
    front = tools.sortNondominated(population, len(population), first_front_only=True)[0]
    return sorted({formula.fitness.values for formula in front})


def ranked(bench: TaskScorer) -> list[tuple[str, LayerRecord]]:
    """Return the layers whose channels can be removed, with all measurements."""
    bench.measure(NEEDS.keys())
    names = {member.layer for group in bench.architecture.free for member in group.members}
    return [(name, layer) for name, layer in bench.layers.items() if name in names]


def masked_error(
    config: SearchConfig, bench: TaskScorer, images: Loadable, plan: ChannelPlan
) -> float:
    """Measure a masked copy after fine-tuning, as a researcher writes it."""
    task = bench.task
    model = masked_copy(bench, plan)
    steps, size, learning_rate = config.fine_tune_steps, 64, 5e-3
    chunks = random_batches(len(task.train.inputs), size, trial_seed(config, bench))
    order = (chunk.tolist() for _, chunk in zip(range(steps), chunks, strict=False))
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    task.recalibrate(model)
    model.train()
    for step, (inputs, labels) in enumerate(DataLoader(images.train, batch_sampler=order)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * schedule(step / steps, 0.0)
        optimiser.zero_grad()
        target = labels if task.kind == "classification" else inputs
        task.loss(model(inputs), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    task.recalibrate(model)
    return relative(loaded_error(model, bench, images), task.dense_error, task.trivial_error)


def loaded_error(model: nn.Module, bench: TaskScorer, images: Loadable) -> float:
    """Measure the error on the validation split, from a DataLoader."""
    wrong, squares = 0, 0.0
    model.eval()
    with torch.no_grad():
        for inputs, labels in DataLoader(images.validation, 256):
            output = model(inputs)
            wrong += int(output.argmax(1).ne(labels).sum()) if output.dim() == 2 else 0
            if output.shape == inputs.shape:
                squares += float((output - inputs).square().sum(dtype=torch.float64))
    split = bench.task.validation
    if bench.task.kind == "classification":
        return wrong / len(split.inputs)
    return squares / split.target.numel()


def tuned_error(config: SearchConfig, bench: TaskScorer, model: nn.Module) -> float:
    """Return the same of a pruned copy, with batches that are slices of one tensor."""
    task = bench.task
    task.recalibrate(model)
    task.fine_tune(model, steps=config.fine_tune_steps, seed=trial_seed(config, bench))
    task.recalibrate(model)
    error = task.error(model, task.validation)
    return relative(error, task.dense_error, task.trivial_error)


def masked_copy(bench: TaskScorer, plan: ChannelPlan) -> nn.Module:
    """Return a copy of the task's network with zeros in the place of what a plan removes."""
    model = copy.deepcopy(bench.task.model)
    mask(model, plan, bench.architecture)
    return model


def smaller(bench: TaskScorer, plan: ChannelPlan) -> nn.Module:
    """Return the task's network without what a plan removes."""
    return compact(bench.task.model, plan, bench.architecture)


def trial_seed(config: SearchConfig, bench: TaskScorer) -> int:
    """Decides the order of the samples, as in the search."""
    return derive_seed("trial", config.seed, bench.task.name)
