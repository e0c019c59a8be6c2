"""Binary clusters: random bit patterns with flipped bits, the data of Jorgensen et al.

After Baldi's clustering of binary vectors: a cluster is a centroid of bits, each 1 with probability
3/4, and its samples are the centroid with every bit flipped with probability 0.05. No autoencoder
can do better than 0.05 in mean L1 on samples it has not seen, and the constant 1 makes 0.275.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gp_prune.evolution.seeds import derived_seed

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ClusterRecipe:
    """How the samples are made.

    Attributes:
        clusters: number of clusters.
        samples: samples of every split.
        dimensions: bits of a sample.
        ones: probability of a 1 in a centroid. The paper takes the bits of a binomial of 2 draws
            that are not zero, which makes 3/4.
        noise: probability that a bit of a sample is flipped.
    """

    clusters: int = 10
    samples: int = 1000
    dimensions: int = 1000
    ones: float = 0.75
    noise: float = 0.05


RECIPES: dict[str, ClusterRecipe] = {
    "binary-clusters": ClusterRecipe(),
    "binary-clusters-50": ClusterRecipe(clusters=50, samples=5000, dimensions=4000),
}
"""The paper's data sets: 10 clusters of 100 samples with 1000 bits; 50 clusters with 4000 bits."""


def draw_split(recipe: ClusterRecipe, split: str, seed: int) -> tuple[Tensor, Tensor]:
    """The samples of one split, each with its own noise, in random order.

    All splits have the same centroids. In the paper's code the samples of the test split that
    belong to different copies of a centroid share their noise; here no two samples do.

    Args:
        recipe: how they are made.
        split: one of :data:`SPLITS`.
        seed: decides centroids, noise and order.

    Returns:
        (n, dimensions) float32 samples of 0 and 1, and (n,) int64 numbers of their clusters; the
        clusters differ in size by one sample at most.
    """
    first = torch.Generator().manual_seed(derived_seed("clusters", seed))
    shape = recipe.clusters, recipe.dimensions
    centroids = torch.rand(shape, generator=first) < recipe.ones
    own = torch.Generator().manual_seed(derived_seed("clusters", seed, split))
    labels = torch.arange(recipe.samples) % recipe.clusters
    labels = labels[torch.randperm(recipe.samples, generator=own)]
    flipped = torch.rand(recipe.samples, recipe.dimensions, generator=own) < recipe.noise
    return (centroids[labels] ^ flipped).float(), labels
