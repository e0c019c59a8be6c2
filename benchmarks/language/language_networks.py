"""The networks and formulas of the comparison, and how a network is pruned by a formula."""

from __future__ import annotations

import copy
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from torch import Tensor

from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, Pattern, mask, select_weights
from gp_prune.statistics import Batch, collect, prunable_layers
from gp_prune.tasks import Task, load_task

FOLDER = Path(__file__).resolve().parent
NETWORKS = tuple(f"{model}-pydoc@{seed}" for seed in range(1, 9) for model in ("llama", "gpt"))
"""Those of one size, on one text."""
FIRST = NETWORKS[:8]
"""Networks that were known when the order of the tests was fixed."""
LIBRARY = "library"
"""Stands for the text of the standard library in the name of a network."""
OTHERS = (
    *(f"{m}-pydoc@{seed}" for seed in (1, 2) for m in ("llama_wide", "llama_deep", "gpt_wide")),
    *(f"{m}-text@{seed}:{LIBRARY}" for seed in (1, 2) for m in ("llama", "gpt")),
)
"""Those of another width or depth, and on another text."""
FORMULAS = (
    "random_weight", "magnitude", "wanda_weight", "ria_weight", "pruner_zero_weight",
    "sparsegpt_weight", "snip_weight", "taylor_weight", "obd_weight",
)  # fmt: skip
RANKINGS = {"row": Conventions("row", "none"), "global": Conventions("global", "mean")}
"""What is ranked together -> how the scores are used."""
SPARSITIES = ("50%", "60%", "70%", "2:4")
PAIRS = (
    ("magnitude", "random_weight"), ("wanda_weight", "magnitude"), ("ria_weight", "wanda_weight"),
    ("pruner_zero_weight", "wanda_weight"), ("sparsegpt_weight", "wanda_weight"),
)  # fmt: skip
"""A formula, and the one that it is compared with."""
ORDER = PAIRS[:2]
"""What is claimed: magnitude is better than random, and Wanda than magnitude. At each sparsity of
``SPARSITIES`` in turn the first claim and then the second is tested at ``LEVEL``, until one fails;
so that each is tested at the full level (fixed-sequence procedure, Maurer et al. 1995)."""
LEVEL = 0.01
FIRST_SEARCH = "weight_7dbe816d"
"""The formula of an earlier search (``first_search.json``), measured on ``NETWORKS`` alone."""
EVOLVED = {scope: f"evolved_{scope}" for scope in RANKINGS}
"""Ranking -> name of the formula that ``language_searches.py choose`` has chosen for it."""
RIVALS = ("wanda_weight", "pruner_zero_weight", "obd_weight")
"""What evolved formulas are compared with."""
RIVALS_AT = ("50%", "60%")
"""Where the evolved formula is claimed to be better; these tests are corrected together."""
CALIBRATIONS = (0, 1, 2)
SEQUENCES = 64
JUDGED = 160


@dataclass(frozen=True)
class Line:
    """One pruned network.

    Attributes:
        network: name of the task.
        formula: name of what ranked the weights; ``"dense"`` for the whole network.
        scope: what was ranked together, one of :data:`RANKINGS`.
        calibration: seed of the calibration sequences.
        sparsity: share of the weights removed, or the pattern.
        nats: cross-entropy per byte on the test sequences.
    """

    network: str
    formula: str
    scope: str
    calibration: int
    sparsity: str
    nats: float


def load_network(name: str, cache_dir: str | None) -> Task:
    """Return a network of ``NETWORKS`` or ``OTHERS``."""
    if not name.endswith(f":{LIBRARY}"):
        return load_task(name, cache_dir=cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{LIBRARY}.txt"
        file.write_bytes(read_library())
        return load_task(name.replace(LIBRARY, str(file)), cache_dir=cache_dir)


def read_library() -> bytes:
    """Return the modules of Python's standard library, packages left out, in order of names."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return b"\n\n".join(file.read_bytes() for file in files)


def error(task: Task, model: torch.nn.Module) -> float:
    """Return the cross-entropy of a network on the first test sequences, whose order is random."""
    return task.error(model, task.test().select(slice(JUDGED)))


def score(task: Task, metrics: Sequence[Metric], seed: int) -> dict[str, dict[str, Tensor]]:
    """Return name of a metric -> layer -> scores (o, i, 1), measured on sequences drawn by seed."""
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    chosen = task.train.select(order[:SEQUENCES])
    batches = [Batch(b.inputs, b.target) for b in task.batches(chosen, 16)]
    layers = [name for name in prunable_layers(task.model) if name not in task.whole]
    expressions = [metric.expression for metric in metrics]
    records = collect(
        task.model, layers, batches, expressions=expressions, loss=task.loss, seed=seed
    )
    return {
        metric.name: {name: metric.scores(record) for name, record in records.items()}
        for metric in metrics
    }


def prune_by(
    task: Task, scores: Mapping[str, Tensor], scope: str, sparsity: str
) -> torch.nn.Module:
    """Return a masked copy of the network of a task."""
    conventions = RANKINGS[scope]
    dense = {name: values.numpy() for name, values in scores.items()}
    if ":" in sparsity:
        pattern = Pattern.parse(sparsity)
        plan = select_weights(task.model, [*scores], dense, conventions, pattern=pattern)
    else:
        budget = Budget("params", 1 - float(sparsity.rstrip("%")) / 100)
        plan = select_weights(task.model, [*scores], dense, conventions, budget)
    model = copy.deepcopy(task.model)
    mask(model, plan)
    return model
