"""The page of a run of the genetic pruner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gp_prune.base.json_fields import read_object
from gp_prune.genetic.retraining import outcome_reader
from gp_prune.genetic.settings import GeneticSettings
from gp_prune.genetic.stored import read_report
from gp_prune.report.page.common import (
    Rows,
    closing_sections,
    count_of,
    exact,
    number,
    reading_journal,
)
from gp_prune.report.page.parts import (
    Cell,
    Page,
    Part,
    Plot,
    Point,
    Row,
    Section,
    Series,
    Table,
)
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import entries

_TURN = {
    "round": int, "generation": object, "evaluations": int, "hypervolume": float, "reach": object,
    "rates": dict, "front": list,
}  # fmt: skip


def genetic_page(folder: Path, settings: GeneticSettings) -> Page:
    """Return the page of a run that has ended or goes on.

    Args:
        folder: the run folder.
        settings: of the run.

    Raises:
        UserError: a file of the run is missing or damaged.
    """
    begun, turns = _read_journal(folder)
    report = read_report(folder)
    sections = []
    if report is not None:
        sections += [
            Section("Front", [*_plots(report), _table(report)]),
            Section("Kept of every layer", [_layers(report)]),
        ]
    elif turns:
        sections.append(Section("Front so far", [_front_so_far(turns[-1])]))
    sections += [
        *([Section("Over the run", [_course(turns)])] if turns else []),
        *closing_sections(
            folder,
            "genetic",
            settings,
            _shown(settings),
            begun.get("versions", {}),
            _counts(report, turns),
        ),
    ]
    best = report["recommended"] if report else None
    summary = [f"Network: {Path(settings.model).name or 'in memory'}. Seed {settings.seed}."]
    if report is None:
        summary.append("The run has not ended.")
    elif best is not None:
        summary.append(f"Recommended: {best}.")
    return Page("Genetic pruning", summary, sections, running=report is None)


def _read_journal(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what decided the results, and the states of the run."""
    path = folder / NAME
    begun: dict[str, Any] = {}
    turns: dict[tuple[int, Any], dict[str, Any]] = {}
    with reading_journal(path):
        for entry in entries(path, outcome_reader()):
            if isinstance(entry, tuple):
                continue
            if entry["event"] == "begin":
                begun = entry["run"]
            elif entry["event"] == "turn":
                data = {name: value for name, value in entry.items() if name != "event"}
                turn = read_object(data, "a turn", _TURN)
                turns[turn["round"], turn["generation"]] = turn
    return begun, [*turns.values()]


def _unit(report: Mapping[str, Any]) -> tuple[float, str]:
    """Return what an error is multiplied by, and what it is called."""
    if report["error"] == "error":
        return 100.0, f"{report['split']} error (%)"
    return 1.0, f"{report['split']} mean squared error"


def _place(report: Mapping[str, Any], point: Mapping[str, Any], field: str) -> tuple[float, float]:
    """Return the share of a cost that a network keeps, in percent, and its error."""
    scale, _ = _unit(report)
    share = float(100 * point[field] / max(1, report["dense"][field]))
    return share, scale * point["report_error"]


def _plots(report: Mapping[str, Any]) -> list[Part]:
    _, y = _unit(report)
    macs = "conv_macs" if report["counted_macs"] == "conv" else "macs"
    titles = {
        "conv_macs": "MACs of convolutions kept (%)", "macs": "MACs kept (%)",
        "params_not_zero": "parameters not zero (%)",
    }  # fmt: skip
    plots: list[Part] = []
    for field in (macs, "params_not_zero"):
        front = [
            Point(*_place(report, point, field), point["name"], f"f{count}")
            for count, point in enumerate(report["front"])
        ]
        best = [point for point in front if point.label == report["recommended"]]
        series = [
            Series(
                name,
                name if name in ("random", "l1") else "other",
                [
                    Point(*_place(report, point, field), f"{name} as {point['name']}")
                    for point in points
                    if point is not None
                ],
            )
            for name, points in report["baselines"].items()
        ]
        series += [
            Series("front", "front", [point for point in front if point not in best]),
            Series("recommended", "best", best),
        ]
        shown = [one for one in series if one.points]
        plots.append(Plot("", titles[field], y, shown, zero=True))
    return plots


def _table(report: Mapping[str, Any]) -> Table:
    scale, y = _unit(report)
    digits = 2 if scale > 1 else 5
    headings = [
        "network", y.replace(report["split"], "validation"), y, "MACs of convolutions", "MACs",
        "parameters not zero", "bytes", "bytes, sparse", "epochs",
        *(f"{name}: {y}" for name in report["baselines"]),
    ]  # fmt: skip
    rows = []
    for count, point in enumerate((*report["front"], report["dense"])):
        dense = point is report["dense"]
        cells = [
            Cell(point["name"]),
            number(scale * point["validation_error"], digits=digits),
            number(scale * point["report_error"], digits=digits),
            *(
                exact(point[name])
                for name in (
                    "conv_macs",
                    "macs",
                    "params_not_zero",
                    "bytes",
                    "bytes_csr",
                    "epochs",
                )
            ),
        ]
        for points in report["baselines"].values():
            other = None if dense else points[count]
            cells.append(
                Cell("") if other is None else number(scale * other["report_error"], digits=digits)
            )
        best = not dense and point["name"] == report["recommended"]
        rows.append(Row(cells, "" if dense else f"f{count}", best))
    return Table(headings, rows, "Front, the dense network, and baselines of the same sizes")


def _layers(report: Mapping[str, Any]) -> Table:
    """Return the channels that each network keeps."""
    dense = report["dense"]["channels"]
    headings = ["group of layers", *(point["name"] for point in report["front"])]
    rows = []
    for name, of in dense.items():
        cells = [Cell(str(name))]
        for point in report["front"]:
            cells.append(count_of(int(point["channels"].get(name, 0)), int(of)))
        rows.append(Row(cells))
    return Table(headings, rows)


def _front_so_far(turn: Mapping[str, Any]) -> Table:
    rows = [
        Row([Cell(str(count)), number(error, digits=4), number(macs), number(params)])
        for count, error, macs, params in turn["front"]
    ]
    return Table(["network", "validation error", "MACs kept", "parameters kept"], rows)


def _course(turns: Sequence[Mapping[str, Any]]) -> Plot:
    points = [
        Point(
            turn["evaluations"],
            turn["hypervolume"],
            f"round {turn['round']}, "
            + (
                "retrained"
                if turn["generation"] is None
                else f"generation {int(turn['generation'])}"
            ),
        )
        for turn in turns
    ]
    series = [Series("hypervolume", "best", points, line=True)]
    return Plot("Hypervolume of the front", "plans tried", "hypervolume", series, whole=True)


def _counts(report: Mapping[str, Any] | None, turns: Sequence[Mapping[str, Any]]) -> Rows:
    if report is not None:
        return [
            ("plans tried", exact(report["evaluations"])),
            ("plans that failed", exact(len(report["failures"]))),
        ]
    return [("plans tried", exact(turns[-1]["evaluations"]))] if turns else []


def _shown(settings: GeneticSettings) -> dict[str, Any]:
    """Return the settings, files by their names alone."""
    return {
        name: Path(value).name if name in ("model", "data", "weights") and value else value
        for name, value in settings.to_json().items()
    }
