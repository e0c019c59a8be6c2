"""Measure the networks of the front on samples that decided nothing, and write them down."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from gp_prune.apply.result import PrunedModel, layer_rows
from gp_prune.apply.saving import save_pruned
from gp_prune.base.files import write_text
from gp_prune.base.html import table_html
from gp_prune.base.json_fields import write_json
from gp_prune.errors import pluralize
from gp_prune.genetic.convolution_times import ConvolutionTimes, compare_convolutions
from gp_prune.genetic.elite import Elite
from gp_prune.genetic.engine import Engine
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.source import PreparedModel
from gp_prune.genetic.weights import cut_network
from gp_prune.metric.file import Conventions
from gp_prune.pruning.cost import Cost, measure
from gp_prune.statistics.running import (
    device_of,
    tensors_of,
    to_device,
)

FRONT, JSON = "front.csv", "result.json"
NETWORKS, PLANS = "networks", "plans"

TIMED_BATCH = 256
"""Samples of the batch on which convolutions are timed."""

_JUDGED_BATCH = 250
_VALUE_BYTES = 4
_INDEX_BYTES = 4  # of a row pointer or a column number


class StoredBytes(NamedTuple):
    """Bytes of the weights of a network.

    Attributes:
        dense: all numbers that are left, zeros included, as 32-bit floats.
        csr: likewise, but every matrix in compressed sparse rows where that is smaller: 32-bit
            values, column numbers and row pointers.
    """

    dense: int
    csr: int


def count_stored_bytes(model: nn.Module) -> StoredBytes:
    """Count the bytes of the parameters of a network.

    A tensor is stored sparsely as a matrix of its first dimension by all others.
    """
    dense = csr = 0
    for parameter in model.parameters():
        full = parameter.numel() * _VALUE_BYTES
        values = int(parameter.count_nonzero()) * (_VALUE_BYTES + _INDEX_BYTES)
        rows = (len(parameter) + 1) * _INDEX_BYTES if parameter.dim() > 1 else full
        dense += full
        csr += min(full, values + rows)
    return StoredBytes(dense, csr)


@dataclass(frozen=True, eq=False, repr=False)
class FrontEntry:
    """A network of the front, or one that it is compared with.

    Attributes:
        name: ``p01`` and so on, the least error first; ``dense``; or a baseline and its point.
        elite: the network.
        model: it, with what is pruned removed or zero.
        validation: error on the validation samples.
        report: error on the samples that decided nothing, or once more on the validation samples
            where there are no others.
        cost: MACs of the smaller network, its parameters, and those that are not zero.
        conv_macs: MACs of its convolutions.
        macs: all MACs, where a weight that is zero costs nothing.
        size: bytes as stored.
        conv_time: median time of its convolutions by that of the dense network's, with quartiles;
            None where there are none or it was not measured.
        channels: group -> channels that are left.
    """

    name: str
    elite: Elite
    model: nn.Module
    validation: float
    report: float
    cost: Cost
    conv_macs: int
    macs: int
    size: StoredBytes
    conv_time: ConvolutionTimes | None
    channels: dict[str, int]

    def __repr__(self) -> str:
        """Return name, error and size, without the network."""
        size = f"{self.macs:,} MACs, {self.cost.nonzero:,} parameters"
        return f"<FrontEntry {self.name!r}: validation error {self.validation:.4g}, {size}>"

    def to_json(self) -> dict[str, Any]:
        """Return the entry as a JSON object."""
        time = self.conv_time
        return {
            "name": self.name,
            "validation_error": self.validation,
            "report_error": self.report,
            "conv_macs": self.conv_macs,
            "macs": self.macs,
            "macs_compact": self.cost.macs,
            "params_not_zero": self.cost.nonzero,
            "params": self.cost.params,
            "bytes": self.size.dense,
            "bytes_csr": self.size.csr,
            "conv_time_share": None if time is None else time.share,
            "conv_time_quartiles": None if time is None else [time.lower, time.upper],
            "conv_time_share_default": None if time is None else time.default,
            "conv_time_onednn": None if time is None else list(time.onednn),
            "epochs": self.elite.epochs,
            "channels": self.channels,
        }


def measure_entries(
    engine: Engine, named: list[tuple[str, Elite]], *, timed: bool
) -> Iterator[FrontEntry]:
    """Measure all that a report says of networks; reads the samples of the report.

    Args:
        engine: the run.
        named: names and networks.
        timed: whether to measure the time of the convolutions of all but the dense network.
    """
    prepared, layout = engine.prepared, engine.layout
    report = prepared.data.read_report()
    batch = timing_batch(prepared) if timed else None
    groups = [group.name for group in prepared.architecture.free]
    for name, elite in named:
        model = cut_network(engine.load(elite), elite.plan, prepared.architecture)
        error = prepared.data.evaluate(model, report, batch_size=_JUDGED_BATCH).error
        times = None
        if batch is not None and elite.number:
            times = compare_convolutions(prepared.model, model, batch)
        yield FrontEntry(
            name=name,
            elite=elite,
            model=model,
            validation=elite.error,
            report=error,
            cost=measure(model, prepared.loaded.example_inputs),
            conv_macs=layout.macs(elite.plan, "conv"),
            macs=layout.macs(elite.plan, "all"),
            size=count_stored_bytes(model),
            conv_time=times,
            channels=dict(
                zip(groups, elite.plan.widths(prepared.architecture).tolist(), strict=True)
            ),
        )


def timing_batch(prepared: PreparedModel) -> Tensor | None:
    """Return validation inputs, repeated where there are too few; None if they are no tensor."""
    inputs = prepared.first_samples(TIMED_BATCH).inputs
    if not isinstance(inputs, Tensor):
        return None
    repeats = -(-TIMED_BATCH // len(inputs))
    batch = inputs.repeat(repeats, *(1 for _ in inputs.shape[1:]))[:TIMED_BATCH]
    moved: Tensor = to_device(batch, device_of(prepared.model))
    return moved


@dataclass(frozen=True, eq=False, repr=False)
class GeneticResult:
    """The result of a run.

    Attributes:
        folder: the run folder.
        settings: of the run.
        dense: the network that was pruned.
        points: the front, the least error first.
        baselines: name -> networks of the sizes of the points, in their order; None where the
            retraining failed.
        recommended: of the points whose error is within the limit, the one that keeps least, or
            with lambdas the fittest; None where there is none.
        split: what the points were judged on in the end: ``"test"`` or ``"validation"``.
        kind: what the errors are: ``"error"`` (rate), ``"mse"`` or ``"own"``.
        evaluations: plans that were tried.
        history: (evaluations, hypervolume) after every generation and every retraining.
        counted: which MACs were an objective: ``"conv"`` or ``"all"``.
        failures: why plans could not be evaluated or retrained, one reason for each.
        prepared: the network and its data.
    """

    folder: Path
    settings: GeneticSettings
    dense: FrontEntry
    points: tuple[FrontEntry, ...]
    baselines: dict[str, tuple[FrontEntry | None, ...]]
    recommended: FrontEntry | None
    split: str
    kind: str
    evaluations: int
    history: tuple[tuple[int, float], ...]
    counted: str
    failures: tuple[str, ...]
    prepared: PreparedModel

    def __repr__(self) -> str:
        """Return the folder, the size of the front and what is recommended."""
        best = "none of them" if self.recommended is None else repr(self.recommended.name)
        front = pluralize(len(self.points), "network")
        return f"<GeneticResult in {str(self.folder)!r}: {front} on the front, recommended {best}>"

    def _repr_html_(self) -> str:
        """Return the front for a notebook; all text is escaped."""
        rows = [
            (p.name, f"{p.validation:.4g}", f"{p.report:.4g}", f"{p.macs:,}", f"{p.cost.nonzero:,}")
            for p in (self.dense, *self.points)
        ]
        headings = ("network", "validation error", f"{self.split} error", "MACs", "parameters")
        return table_html(repr(self)[1:-1], headings, rows)

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "folder": str(self.folder),
            "settings": self.settings.to_json(),
            "error": self.kind,
            "split": self.split,
            "counted_macs": self.counted,
            "evaluations": self.evaluations,
            "dense": self.dense.to_json(),
            "front": [point.to_json() for point in self.points],
            "baselines": {
                name: [None if entry is None else entry.to_json() for entry in entries]
                for name, entries in self.baselines.items()
            },
            "recommended": None if self.recommended is None else self.recommended.name,
            "failures": list(self.failures),
            "history": [list(pair) for pair in self.history],
        }

    def write(self) -> None:
        """Write the files of the run: the front as CSV and JSON, every network and its plan.

        Raises:
            OSError: the disk is full or the folder closed.
            UserError: a network cannot be saved.
        """
        for point in self.points:
            write_json(self.folder / PLANS / f"{point.name}.json", point.elite.plan.to_json())
            name = self.settings.model or "network"
            save_pruned(self._as_pruned(point), self.folder / NETWORKS / point.name, model=name)
        write_text(self.folder / FRONT, self._to_csv())
        write_json(self.folder / JSON, self.to_json())

    def _to_csv(self) -> str:
        columns = (
            "name", "validation_error", "report_error", "conv_macs", "macs", "params_not_zero",
            "params", "bytes", "bytes_csr", "conv_time_share", "conv_time_share_default", "epochs",
        )  # fmt: skip
        text = io.StringIO()
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        rows = [self.dense, *self.points]
        for entries in self.baselines.values():
            rows += [entry for entry in entries if entry is not None]
        table.writerows(entry.to_json() for entry in rows)
        return text.getvalue()

    def _as_pruned(self, point: FrontEntry) -> PrunedModel:
        """Return a point as :func:`gp_prune.prune` would; its zeros are in its weights."""
        architecture, loaded = self.prepared.architecture, self.prepared.loaded
        plan = point.elite.plan.channel_plan(architecture)
        return PrunedModel(
            model=point.model,
            plan=plan,
            mode="compact",
            before=self.dense.cost,
            after=point.cost,
            rows=layer_rows(architecture, plan, {}, self.dense.cost, point.cost),
            seconds=0.0,
            metric="genetic",
            metric_digest="",
            conventions=Conventions(),
            interface=loaded.interface,
            input_shapes=tuple(tuple(t.shape) for t in tensors_of(loaded.example_inputs)),
            architecture=architecture,
        )
