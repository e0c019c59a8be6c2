"""Choose a pair for a cell, train it for an epoch, prune it and judge it, as a job."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gp_prune.autoencoder.data import FlatData, load
from gp_prune.autoencoder.networks import (
    AutoencoderLayout,
    Pair,
    choose_layout,
    read_pair,
    write_pair,
)
from gp_prune.autoencoder.pruning import PruningOperator, measure_sparsity, prune
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.autoencoder.training import (
    LOSSES,
    Reconstruction,
    TrainingOptions,
    cross_losses,
    evaluate,
    train_epoch,
)
from gp_prune.errors import Rule, number, whole
from gp_prune.language.primitive import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.runs.jobs import Decoder, Workbench
from gp_prune.runs.journal_lines import TEXT, optional, reader
from gp_prune.statistics.running import derive_seed


class RunContext(NamedTuple):
    """What all steps of a run share: data, widths, loss."""

    data: FlatData
    layout: AutoencoderLayout
    loss: Reconstruction

    @classmethod
    def of(cls, settings: AutoencodeSettings, workbench: Workbench) -> RunContext:
        """Return the context of a run whose loss is decided, loaded once per worker."""
        parts = (settings.data, settings.seed, workbench.source, settings.limit)
        data = workbench.recall(f"data:{parts}", lambda: load(*parts))
        return cls(data, choose_layout(data, settings.code), LOSSES[settings.loss])

    def validation_loss(self, pair: Pair) -> float:
        """Return the loss on the validation split."""
        return evaluate(pair, self.data.validation.inputs, self.loss, self.layout.code_relu)


class CellResult(NamedTuple):
    """The result of a step of a cell.

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
        limit: a sentence where the operator measured a part of its samples; otherwise empty.
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
    limit: str = ""


_LOSS = optional(number(least=0, most=math.inf))
_STATE = Rule(
    lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None,
    "the first half of a SHA-256",
)
_CELL = whole(0)
_RULES = {
    "state": _STATE, "uncut": optional(_STATE), "encoder_from": _CELL, "decoder_from": _CELL,
    "selection_loss": _LOSS, "train_loss": _LOSS, "validation_loss": _LOSS,
    "sparsity": optional(number(least=0, most=1)), "limit": TEXT,
}  # fmt: skip


def result_reader() -> Decoder[CellResult]:
    """Return a decoder of the results of steps; the states name files."""
    read_fields = reader(CellResult, _RULES)

    def read(entry: Mapping[str, Any]) -> CellResult:
        result = read_fields(entry)
        if not result.failure and None in (result.validation_loss, result.sparsity):
            raise ValueError("validation_loss")
        return result

    return read


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
        """Return a digest of all but the place of the folder."""
        text = json.dumps({**asdict(self), "folder": ""}, sort_keys=True)
        return f"{self.generation}.{self.cell}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    @property
    def task(self) -> str:
        """Return no task: the step loads its data itself."""
        return ""

    @property
    def title(self) -> str:
        """Return the number of the cell and its epoch."""
        return f"epoch {self.generation} of cell {self.cell}"

    def failed(self, reason: str) -> CellResult:
        """Return the result by which the cell stays as it was."""
        cell, state = self.parents[0]
        return CellResult(state, cell, cell, None, None, None, None, None, reason)

    def run(self, workbench: Workbench) -> CellResult:
        """Choose, train, prune, judge; write the new pair, and what it was before it was pruned.

        Raises:
            UserError: the loss is not finite any more, or a state is damaged.
        """
        context = RunContext.of(self.settings, workbench)
        folder, train, settings = Path(self.folder), context.data.train, self.settings
        pairs = [self._read(workbench, parent.state) for parent in self.parents]
        encoder, decoder, least = self._choose(context, pairs)
        pair = Pair(pairs[encoder].encoder, pairs[decoder].decoder).clone()
        order = torch.randperm(len(train), generator=self._generator("order"))
        options = TrainingOptions(
            context.loss, self.learning_rate, settings.batch_size, context.layout.code_relu
        )
        train_loss = train_epoch(pair, train.inputs, order.to(train.inputs.device), options)
        uncut, limit = None, ""
        if self.prunes:
            uncut = write_pair(folder, pair)
            operator = PruningOperator.of(settings, self._metric(workbench))
            seed = self._seed("prune")
            limit = prune(pair, context.layout, operator, train, context.loss, seed, self.stays)
        return CellResult(
            state=write_pair(folder, pair),
            encoder_from=self.parents[encoder].cell,
            decoder_from=self.parents[decoder].cell,
            selection_loss=least,
            train_loss=train_loss,
            validation_loss=context.validation_loss(pair),
            sparsity=measure_sparsity(pair),
            uncut=uncut,
            limit=limit,
        )

    def _read(self, workbench: Workbench, state: str) -> Pair:
        folder, device = Path(self.folder), workbench.source.device
        return workbench.recall(f"pair:{state}", lambda: read_pair(folder, state, device))

    def _choose(self, context: RunContext, pairs: list[Pair]) -> tuple[int, int, float | None]:
        """Return the places of the chosen encoder and decoder, and the least loss of all pairs.

        An encoder is as good as with the decoder that suits it best, and the other way round.
        """
        if len(pairs) == 1:
            return 0, 0, None
        inputs = context.data.train.inputs
        count = min(self.settings.selection_samples, len(inputs))
        chosen = torch.randperm(len(inputs), generator=self._generator("selection"))[:count]
        table = cross_losses(
            [pair.encoder for pair in pairs], [pair.decoder for pair in pairs],
            inputs[chosen], context.loss, context.layout.code_relu,
        )  # fmt: skip
        of_encoders = [min(row) for row in table]
        size, rng = self.settings.tournament, random.Random(self._seed("tournament"))
        encoder = tournament(of_encoders, size, rng)
        if self.settings.exchange == "together":
            return encoder, encoder, min(of_encoders)
        decoder = tournament([min(column) for column in zip(*table, strict=True)], size, rng)
        return encoder, decoder, min(of_encoders)

    def _metric(self, workbench: Workbench) -> Metric | None:
        if not self.metric:
            return None

        def read() -> Metric:
            primitives = primitive_set(*self.settings.primitives)
            return Metric.from_text(self.metric, self.settings.operator, primitives)

        return workbench.recall(f"metric:{self.metric}", read)

    def _seed(self, purpose: str) -> int:
        return derive_seed(self.settings.seed, purpose, self.generation, self.cell)

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(purpose))


def tournament(losses: list[float], size: int, rng: random.Random) -> int:
    """Return the place of the least loss of ``size`` that are drawn, the first of equals.

    This is DEAP's ``selTournament`` without its global random numbers.
    """
    return min((rng.choice(range(len(losses))) for _ in range(size)), key=losses.__getitem__)
