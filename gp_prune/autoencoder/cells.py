"""One step of one cell as a job: choose a pair, train it for an epoch, prune it, judge it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from deap import base, tools

from gp_prune.autoencoder import data as data_sets
from gp_prune.autoencoder.data import Data
from gp_prune.autoencoder.networks import Layout, Pair, layout_for, read_pair, write_pair
from gp_prune.autoencoder.pruning import made, prune, sparsity
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.autoencoder.training import (
    Reconstruction,
    Training,
    cross_losses,
    evaluate,
    named_loss,
    train_epoch,
)
from gp_prune.language.registry import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.runs.jobs import Workbench
from gp_prune.statistics.running import derive_seed


class CellResult(NamedTuple):
    """What a step of a cell gave.

    Attributes:
        state: digest of the new pair.
        encoder_from: the cell that the encoder came from.
        decoder_from: the cell that the decoder came from.
        selection_loss: least loss among the pairs to choose from; None where there was one.
        train_loss: mean loss of the epoch.
        validation_loss: loss on the validation split, after pruning.
        sparsity: share of the weights that are zero, after pruning.
        uncut: digest of the trained pair before it was pruned; None where it was not.
        failure: why the cell stays as it was; empty if it does not.
    """

    state: str
    encoder_from: int
    decoder_from: int
    selection_loss: float | None
    train_loss: float | None
    validation_loss: float | None
    sparsity: float | None
    uncut: str | None = None
    failure: str = ""


class Parent(NamedTuple):
    """A pair that a cell may take from.

    Attributes:
        cell: where it lives.
        state: its digest.
    """

    cell: int
    state: str


@dataclass(frozen=True)
class CellStep:
    """The step of one cell in one generation.

    Attributes:
        settings: of the run, with ``loss`` decided.
        metric: the operator's metric file as text; empty where it has none.
        folder: where the states are.
        generation: from 1.
        cell: number of the cell.
        learning_rate: of this epoch.
        parents: the cell's own pair first.
        prunes: whether there is a pruning event after the epoch.
        stays: the share of the units that it leaves; None for one more event of the amount.
    """

    settings: AutoencodeSettings
    metric: str
    folder: str
    generation: int
    cell: int
    learning_rate: float
    parents: tuple[Parent, ...]
    prunes: bool
    stays: float | None

    @property
    def key(self) -> str:
        """A digest of all but the place of the folder."""
        content = {**asdict(self), "folder": ""}
        text = json.dumps(content, sort_keys=True)
        return f"{self.generation}.{self.cell}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    @property
    def task(self) -> str:
        """It needs no task of the catalogue."""
        return ""

    def failed(self, reason: str) -> CellResult:
        """The cell stays as it was."""
        own = self.parents[0]
        return CellResult(own.state, own.cell, own.cell, None, None, None, None, None, reason)

    def run(self, workbench: Workbench) -> CellResult:
        """Choose, train, prune, judge; writes the new pair, and what it was before it was pruned.

        Raises:
            UserError: the loss is not finite any more, or a state is damaged.
        """
        bench = Bench.of(self.settings, workbench)
        pairs = [_recalled(workbench, self.folder, parent.state) for parent in self.parents]
        encoder, decoder, least = self._choose(bench, pairs)
        pair = Pair(pairs[encoder].encoder, pairs[decoder].decoder).clone()
        train = bench.data.train
        order = torch.randperm(len(train.inputs), generator=self._generator("order"))
        how = Training(
            bench.loss, self.learning_rate, self.settings.batch_size, bench.layout.code_relu
        )
        train_loss = train_epoch(pair, train.inputs, order.to(train.inputs.device), how)
        uncut = None
        if self.prunes:
            uncut = write_pair(Path(self.folder), pair)
            operator = made(self.settings, self._metric(workbench))
            prune(pair, bench.layout, operator, train, bench.loss, self._seed("prune"), self.stays)
        return CellResult(
            state=write_pair(Path(self.folder), pair),
            encoder_from=self.parents[encoder].cell,
            decoder_from=self.parents[decoder].cell,
            selection_loss=least,
            train_loss=train_loss,
            validation_loss=bench.validation_loss(pair),
            sparsity=sparsity(pair),
            uncut=uncut,
        )

    def _choose(self, bench: Bench, pairs: list[Pair]) -> tuple[int, int, float | None]:
        """Places of the chosen encoder and decoder, and the least loss of all pairs.

        An encoder is as good as with the decoder that suits it best, and the other way round.
        """
        if len(pairs) == 1:
            return 0, 0, None
        inputs = bench.data.train.inputs
        count = min(self.settings.selection_samples, len(inputs))
        chosen = torch.randperm(len(inputs), generator=self._generator("selection"))[:count]
        table = cross_losses(
            [pair.encoder for pair in pairs], [pair.decoder for pair in pairs],
            inputs[chosen], bench.loss, bench.layout.code_relu,
        )  # fmt: skip
        of_encoders = [min(row) for row in table]
        size = self.settings.tournament
        with python_random(self._seed("tournament")):
            encoder = tournament(of_encoders, size)
            if self.settings.exchange == "together":
                return encoder, encoder, min(of_encoders)
            decoder = tournament([min(column) for column in zip(*table, strict=True)], size)
        return encoder, decoder, min(of_encoders)

    def _metric(self, workbench: Workbench) -> Metric | None:
        if not self.metric:
            return None
        digest = hashlib.sha256(self.metric.encode()).hexdigest()

        def read() -> Metric:
            primitives = primitive_set(*self.settings.primitives)
            return Metric.from_text(self.metric, self.settings.operator, primitives)

        return workbench.recall(f"metric:{digest}", read)

    def _seed(self, purpose: str) -> int:
        return derive_seed(self.settings.seed, purpose, self.generation, self.cell)

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(purpose))


class Bench(NamedTuple):
    """What all steps of a run share: data, widths, loss."""

    data: Data
    layout: Layout
    loss: Reconstruction

    @classmethod
    def of(cls, settings: AutoencodeSettings, workbench: Workbench) -> Bench:
        """The bench of a run whose loss is decided, loaded once per worker."""
        parts = (settings.data, settings.seed, settings.limit)

        def read() -> Data:
            return data_sets.load(settings.data, settings.seed, workbench.source, settings.limit)

        data = workbench.recall(f"data:{parts}", read)
        return cls(data, layout_for(data, settings.code), named_loss(settings.loss))

    def validation_loss(self, pair: Pair) -> float:
        """The loss on the validation split."""
        return evaluate(pair, self.data.validation.inputs, self.loss, self.layout.code_relu)


def _recalled(workbench: Workbench, folder: str, state: str) -> Pair:
    device = workbench.source.device
    return workbench.recall(f"pair:{state}", lambda: read_pair(Path(folder), state, device))


class LossFitness(base.Fitness):  # type: ignore[misc]  # DEAP ships no types
    """A loss, the smaller the better."""

    weights = (-1.0,)


class Candidate:
    """An encoder or a decoder as DEAP sees it.

    Attributes:
        place: among the candidates of its cell.
        fitness: its loss.
    """

    def __init__(self, place: int, loss: float) -> None:
        self.place = place
        self.fitness = LossFitness((loss,))


def tournament(losses: list[float], size: int) -> int:
    """The place of the winner of one tournament, with Python's global random numbers."""
    candidates = [Candidate(place, loss) for place, loss in enumerate(losses)]
    winner: Candidate = tools.selTournament(candidates, 1, tournsize=size)[0]
    return winner.place


@contextmanager
def python_random(seed: int) -> Iterator[None]:
    """Python's global random numbers start from a seed meanwhile; DEAP knows no others."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
