"""What a run of the autoencoder trainer found, and its files."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from gp_prune._io import write_bytes, write_json, write_text
from gp_prune.autoencoder.networks import Layout, Pair, module, reconstruct
from gp_prune.autoencoder.population import Row
from gp_prune.autoencoder.pruning import live_nodes
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.runs.folder import versions

HISTORY = "history.csv"
RESULT = "result.json"
NETWORK = "autoencoder.safetensors"


@dataclass(frozen=True, eq=False)
class AutoencodeResult:
    """What a run found.

    Attributes:
        settings: its settings, with ``loss`` and ``unit`` decided.
        folder: its run folder.
        layout: widths of the network.
        shape: of one sample.
        history: a row for every step of every cell.
        probabilities: of a pruning event after each epoch.
        best_cell: the cell with the least validation loss, whose pair this is.
        best: the best pair.
        cut: the pair before and behind the last pruning event that the best encoder went through;
            None where it was never pruned.
        validation_loss: of the best pair.
        test_loss: of the best pair.
        test_l1: its mean absolute error on the test split.
        trivial_l1: mean absolute error there of the best constant picture, the training median.
        sparsity: share of its weights that are zero.
        pictures: some samples of the validation split, (n, features).
    """

    settings: AutoencodeSettings
    folder: Path
    layout: Layout
    shape: tuple[int, ...]
    history: list[Row]
    probabilities: tuple[float, ...]
    best_cell: int
    best: Pair
    cut: tuple[Pair, Pair] | None
    validation_loss: float
    test_loss: float
    test_l1: float
    trivial_l1: float
    sparsity: float
    pictures: Tensor

    def module(self) -> nn.Sequential:
        """The best autoencoder as a network of torch; pruned weights are 0 in it."""
        return module(self.best.clone(), self.layout)

    def reconstructions(self) -> list[tuple[str, Tensor]]:
        """Titled pictures: the samples, and what the network makes of them."""
        found = [("input", self.pictures)]
        pairs = [("at the end", self.best)]
        if self.cut is not None:
            before, after = self.cut
            pairs = [("before the last pruning", before), ("after it", after), *pairs]
        for title, pair in pairs:
            found.append((title, reconstruct(pair, self.pictures, self.layout.code_relu)))
        return found

    def nodes(self) -> dict[str, tuple[int, int]]:
        """For every hidden layer, how many nodes are alive, and how many there were."""
        found = {}
        for side, half in zip(("encoder", "decoder"), self.best, strict=True):
            for name, alive in zip(self.layout.names(side), live_nodes(half), strict=False):
                found[name] = (int(alive.sum()), alive.numel())
        return found

    def to_json(self) -> dict[str, Any]:
        """The result for a machine."""
        failures = [row for row in self.history if row.failure]
        return {
            "folder": str(self.folder),
            "settings": self.settings.to_json(),
            "best_cell": self.best_cell,
            "validation_loss": self.validation_loss,
            "test_loss": self.test_loss,
            "test_l1": self.test_l1,
            "trivial_l1": self.trivial_l1,
            "sparsity": self.sparsity,
            "nodes": {name: list(counts) for name, counts in self.nodes().items()},
            "parameters": self.layout.parameters,
            "pruning_events": sum(row.pruned for row in self.history),
            "failures": [
                f"generation {r.generation}, cell {r.cell}: {r.failure}" for r in failures
            ],
        }


def write(result: AutoencodeResult) -> None:
    """Write history, result and network into the run folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(result.history)
    write_text(result.folder / HISTORY, text.getvalue())
    tensors = {name: t.detach().cpu().contiguous() for name, t in
               result.module().state_dict().items()}  # fmt: skip
    write_bytes(result.folder / NETWORK, save(tensors))
    content = {**result.to_json(), "versions": versions()}
    del content["folder"]  # so that the file is the same wherever the run was
    write_json(result.folder / RESULT, content)
