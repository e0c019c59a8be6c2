"""The files of a finished run: the front as CSV and JSON, every network and its plan."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gp_prune._io import write_json, write_text
from gp_prune.apply.result import PrunedModel, layer_rows
from gp_prune.apply.saving import save_pruned
from gp_prune.genetic.points import FrontEntry
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.subject import Prepared
from gp_prune.metric.ranking import Conventions
from gp_prune.statistics.running import tensors_of


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave.

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
        kind: what the errors are: ``"error"`` (rate) or ``"mse"``.
        evaluations: plans that were tried.
        history: (evaluations, hypervolume) after every generation and every retraining.
        counted: which MACs were an objective: ``"conv"`` or ``"all"``.
        failures: why retrainings gave no network, one reason for each.
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
    prepared: Prepared


FRONT, JSON = "front.csv", "result.json"
NETWORKS, PLANS = "networks", "plans"

_COLUMNS = (
    "name", "validation_error", "report_error", "conv_macs", "macs", "params_not_zero",
    "params", "bytes", "bytes_csr", "conv_time_share",
    "conv_time_share_default", "epochs",
)  # fmt: skip


def write(result: Result) -> None:
    """Write the files of a run.

    Raises:
        OSError: the disk is full or the folder closed.
        UserError: a network cannot be saved.
    """
    folder = result.folder
    for point in result.points:
        write_json(folder / PLANS / f"{point.name}.json", point.elite.plan.to_json())
        name = result.settings.model or "network"
        save_pruned(_as_pruned(result, point), folder / NETWORKS / point.name, model=name)
    write_text(folder / FRONT, _csv(result))
    write_json(folder / JSON, result_json(result))


def point_json(point: FrontEntry) -> dict[str, Any]:
    """A network of the report as a JSON object."""
    time = point.conv_time
    return {
        "name": point.name,
        "validation_error": point.validation,
        "report_error": point.report,
        "conv_macs": point.conv_macs,
        "macs": point.macs,
        "macs_compact": point.cost.macs,
        "params_not_zero": point.cost.nonzero,
        "params": point.cost.params,
        "bytes": point.size.dense,
        "bytes_csr": point.size.csr,
        "conv_time_share": None if time is None else time.share,
        "conv_time_quartiles": None if time is None else [time.lower, time.upper],
        "conv_time_share_default": None if time is None else time.default,
        "epochs": point.elite.epochs,
        "channels": point.channels,
    }


def result_json(result: Result) -> dict[str, Any]:
    """The result of a run as a JSON object."""
    recommended = result.recommended
    return {
        "folder": str(result.folder),
        "settings": result.settings.to_json(),
        "error": result.kind,
        "split": result.split,
        "counted_macs": result.counted,
        "evaluations": result.evaluations,
        "dense": point_json(result.dense),
        "front": [point_json(point) for point in result.points],
        "baselines": {
            name: [None if point is None else point_json(point) for point in points]
            for name, points in result.baselines.items()
        },
        "recommended": None if recommended is None else recommended.name,
        "failures": list(result.failures),
        "history": [list(entry) for entry in result.history],
    }


def _csv(result: Result) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    everything = [result.dense, *result.points]
    for points in result.baselines.values():
        everything += [point for point in points if point is not None]
    for point in everything:
        table.writerow(point_json(point))
    return text.getvalue()


def _as_pruned(result: Result, point: FrontEntry) -> PrunedModel:
    """A point as what :func:`gp_prune.prune` returns; its zeros are in its weights."""
    architecture = result.prepared.architecture
    plan = point.elite.plan.channels(architecture)
    before, after = result.dense.cost, point.cost
    loaded = result.prepared.loaded
    return PrunedModel(
        model=point.model,
        plan=plan,
        mode="compact",
        before=before,
        after=after,
        rows=layer_rows(architecture, plan, {}, before, after),
        seconds=0.0,
        metric="genetic",
        metric_digest="",
        conventions=Conventions(),
        interface=loaded.interface,
        input_shapes=tuple(tuple(t.shape) for t in tensors_of(loaded.example_inputs)),
        architecture=architecture,
    )
