"""Use saved metrics as mutation operators in a genetic search of your own with DEAP (seconds).

The search minimises the error of a network and the share of its channels that are kept. A mutation
removes channels, or brings some back. They are drawn by the rank of their scores by a metric, or
uniformly; the output compares both, for the same number of networks and three seeds.
"""

from __future__ import annotations

import random
from functools import partial

import torch
from deap import base, tools
from deap.benchmarks.tools import hypervolume
from torch import Tensor, nn

from gp_prune import Metric, MetricMutation, Task, load_task, random_mutation, score_layers

LAYERS = ("conv1", "conv2", "linear1", "linear2")
POPULATION, GENERATIONS = 16, 12
Masks = dict[str, Tensor]  # layer -> (o,) bool: whether the channel is kept


class Fitness(base.Fitness):  # type: ignore[misc]
    """Validation error and share of channels that are kept, both minimised."""

    weights = (-1.0, -1.0)


class Individual:
    """The channels that a network keeps."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.fitness: base.Fitness = Fitness()


def judge(task: Task, masks: Masks) -> tuple[float, float]:
    """Return the error of the network without the channels, and the share of those kept."""
    hooks = [
        task.model.get_submodule(name).register_forward_hook(partial(_silence, mask))
        for name, mask in masks.items()
    ]
    error = task.error(task.model, task.validation)
    for hook in hooks:
        hook.remove()
    every = torch.cat(list(masks.values()))
    return error, float(every.double().mean())


def _silence(mask: Tensor, layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output * mask.view(-1, *[1] * (output.dim() - 2))


def mutate(
    masks: Masks,
    mutation: MetricMutation,
    scores: dict[str, Tensor],
    rng: random.Random,
    generator: torch.Generator,
) -> Masks:
    """Return a copy in which some channels of a layer are removed, or brought back."""
    name = rng.choice(LAYERS)
    alive = masks[name].clone()
    restore = rng.random() < 0.3 and not alive.all()
    pool = int((~alive).sum()) if restore else int(alive.sum()) - 1
    count = min(max(round(mutation.amount * len(alive)), 1), pool)
    draw = mutation.to_restore if restore else mutation.to_prune
    alive[draw(scores.get(name), alive, count, generator)] = restore
    return {**masks, name: alive}


def search(task: Task, mutation: MetricMutation, seed: int) -> list[Individual]:
    """Return the front of NSGA-II with one kind of mutation."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    scores: dict[str, Tensor] = {}
    if mutation.metric is not None:
        data = [(task.train.inputs[:256], task.train.target[:256])]
        found = score_layers(task.model, mutation.metric, data, loss=task.loss)
        scores = {name: found.scores[name] for name in LAYERS}
    whole = {
        name: torch.ones(len(task.model.get_parameter(f"{name}.bias")), dtype=torch.bool)
        for name in LAYERS
    }
    population = [Individual(whole) for _ in range(POPULATION)]
    for individual in population:
        individual.fitness.values = judge(task, whole)
    for _ in range(GENERATIONS):
        offspring = [
            Individual(mutate(parent.masks, mutation, scores, rng, generator))
            for parent in population
        ]
        for child in offspring:
            child.fitness.values = judge(task, child.masks)
        population = tools.selNSGA2([*population, *offspring], POPULATION)
    return list(tools.sortNondominated(population, POPULATION, first_front_only=True)[0])


def main() -> None:
    torch.set_num_threads(1)
    task = load_task("lenet-digits")
    guided = [Metric.load(name).as_mutation(temperature=0.2, amount=0.2) for name in ("l1", "flap")]
    print("hypervolume of the front, more is better")
    for mutation in (random_mutation(amount=0.2), *guided):
        fronts = [search(task, mutation, seed) for seed in range(3)]
        volumes = [hypervolume(front, [1.0, 1.0]) for front in fronts]
        print(f"{mutation.name:6s}", *(f"{volume:.3f}" for volume in volumes))
    print(f"a front of {mutation.name}")
    for error, kept in sorted({individual.fitness.values for individual in fronts[-1]}):
        print(f"error {error:5.1%} with {kept:4.0%} of the channels")


if __name__ == "__main__":
    main()
