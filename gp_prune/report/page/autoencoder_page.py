"""The page of a run of the autoencoder trainer."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gp_prune.autoencoder.run import HISTORY
from gp_prune.autoencoder.settings import AutoencodeSettings
from gp_prune.autoencoder.stored import read_report
from gp_prune.base.files import MOST_JSON, read_file
from gp_prune.errors import UserError
from gp_prune.report.autoencoder import facts
from gp_prune.report.page.common import Rows, closing_sections, count_of, exact, number
from gp_prune.report.page.parts import (
    Cell,
    Facts,
    Page,
    Part,
    Plot,
    Point,
    Row,
    Section,
    Series,
    Table,
)
from gp_prune.report.plots import LOSSES
from gp_prune.runs.folder import versions

_MOST_POINTS = 400


class _Step(NamedTuple):
    """A line of the history."""

    epoch: int
    cell: int
    train: float
    validation: float
    sparsity: float
    pruned: int


def autoencoder_page(folder: Path, settings: AutoencodeSettings) -> Page:
    """Return the page of a run.

    Args:
        folder: the run folder.
        settings: of the run.

    Raises:
        UserError: a file of the run is missing or damaged.
    """
    report = read_report(folder)
    title = "Autoencoder" if settings.mode == "canonical" else "Coevolved autoencoders"
    sections = []
    summary = [f"Data: {Path(settings.data).name}. Seed {settings.seed}."]
    if report is None:
        summary.append("The run has not ended; its history is written at the end.")
    else:
        steps = _read_history(folder)
        shown = [(name, Cell(value)) for name, value in facts(report) if name != "run folder"]
        sections += [
            Section("Result", [Facts(shown), *_cells(report)]),
            Section("Over the epochs", _course(report, steps)),
            Section("Kept of every layer", [_nodes(report)]),
        ]
    sections += closing_sections(
        folder, "autoencode", settings, settings.to_json(), versions(), _counts(report)
    )
    return Page(title, summary, sections, running=report is None)


def _read_history(folder: Path) -> list[_Step]:
    path = folder / HISTORY
    try:
        rows = csv.DictReader(io.StringIO(read_file(path, MOST_JSON).decode()))
        return [
            _Step(
                int(row["generation"]),
                int(row["cell"]),
                float(row["train_loss"] or math.nan),
                float(row["validation_loss"]),
                float(row["sparsity"]),
                int(row["pruned"]),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the history {str(path)!r} cannot be read: {reason}") from None


def _cells(report: Mapping[str, Any]) -> list[Part]:
    if len(report["cells"]) < 2:
        return []
    rows = [
        Row(
            [
                Cell(str(cell["cell"])),
                number(cell["validation_loss"], digits=4),
                number(100 * cell["sparsity"], digits=1),
                exact(cell["pruned"]),
                Cell(f"{cell['learning_rate']:.2g}", cell["learning_rate"]),
            ],
            best=cell["cell"] == report["best_cell"],
        )
        for cell in report["cells"]
    ]
    headings = ["cell", "validation loss", "weights zero (%)", "times pruned", "learning rate"]
    return [Table(headings, rows, "Cells")]


def _course(report: Mapping[str, Any], steps: Sequence[_Step]) -> list[Part]:
    best = [step for step in steps if step.cell == report["best_cell"]]
    best = best[:: -(-len(best) // _MOST_POINTS) or 1]
    others = [
        (float(step.epoch), step.validation) for step in steps if step.cell != report["best_cell"]
    ]
    train = [
        Point(step.epoch, step.train, f"epoch {step.epoch}")
        for step in best
        if not math.isnan(step.train)
    ]
    validation = [
        Point(step.epoch, step.validation, f"epoch {step.epoch}{', pruned' if step.pruned else ''}")
        for step in best
    ]
    sparsity = [Point(step.epoch, 100 * step.sparsity, f"epoch {step.epoch}") for step in best]
    name = "validation, best cell" if others else "validation"
    series = [
        Series("training", "l1", train, line=True),
        Series(name, "best", validation, line=True),
    ]
    loss = LOSSES[report["settings"]["loss"]]
    return [
        Plot("Loss", "epoch", loss, [one for one in series if one.points], others,
             "validation, other cells", whole=True),
        Plot("Weights that are zero", "epoch", "share (%)",
             [Series("zero", "best", sparsity, line=True)], whole=True, zero=True),
    ]  # fmt: skip


def _nodes(report: Mapping[str, Any]) -> Table:
    rows = [Row([Cell(name), count_of(alive, of)]) for name, (alive, of) in report["nodes"].items()]
    return Table(["layer", "nodes alive"], rows)


def _counts(report: Mapping[str, Any] | None) -> Rows:
    if report is None:
        return []
    return [
        ("pruning events", exact(report["pruning_events"])),
        ("steps of cells that were lost", exact(len(report["failures"]))),
    ]
