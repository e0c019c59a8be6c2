"""Print the report of a pruned network: its layers, steps, times, errors and totals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from gp_prune.errors import pluralize
from gp_prune.metric.file import ALLOCATIONS, OWN
from gp_prune.report.console import percent, print_facts, print_table, quantity

_UNITS = {
    "channels": "channels", "weights": "weights", "macs": "MACs", "params": "parameters",
    "latency": "latency",
}  # fmt: skip
_STATES = {
    "dense": "before pruning", "pruned": "after pruning",
    "recalibrated": "after recalibration", "tuned": "after fine-tuning",
}  # fmt: skip
_ERRORS = {"mse": "mean squared error", "nats": "nats per token"}
"""Kind of an error -> what a column is called; others are errors."""


def print_pruning(console: Console, report: Mapping[str, Any]) -> None:
    """Print the report of :meth:`gp_prune.apply.result.PrunedModel.report`.

    The layers are followed by steps, latency and quality where the report has them, and the totals.
    """
    by_weight = report["achieved"]["weights"] is not None
    print_table(
        console,
        ["layer", ">channels", ">kept", ">MACs", ">kept", ">params", ">kept", ">ties",
         "kept whole"],
        [_layer_cells(row) for row in report["layers"] if row["macs"] or row["params"]],
        fold=["layer", "kept whole"],
    )  # fmt: skip
    for headings, rows in (_steps(report), _times(report), _states(report)):
        if rows:
            console.print()
            print_table(console, headings, rows, fold=())
    console.print()
    print_facts(console, _totals(report, by_weight))
    for line in report.get("remarks") or ():
        console.print(Text(line))


def _allocation(name: str) -> list[tuple[str, str]]:
    """Return what divides the budget among the layers, unless the conventions do."""
    words = ALLOCATIONS.get(name, f"the shares of the layers are those of {name}")
    return [] if name == OWN else [("allocation", words)]


def _layer_cells(row: Mapping[str, Any]) -> list[str]:
    outside = not row["channels"]
    return [
        f"{row['layer']} (heads)" if row.get("unit") == "heads" else row["layer"],
        "" if outside else str(row["channels"]),
        "" if outside else str(row["channels_kept"]),
        quantity(row["macs"]),
        quantity(row["macs_kept"]),
        quantity(row["params"]),
        quantity(row["params_kept"]),
        _share(row["ties"]),
        row["fixed"],
    ]


_Part = tuple[list[str], list[list[str]]]
"""Headings and rows of a table."""


def _steps(report: Mapping[str, Any]) -> _Part:
    """Return the target and the result of each step, where there were several."""
    steps = report.get("steps") or []
    units = [unit for unit in _UNITS if any(step.get(unit) is not None for step in steps)]
    names = ["step", f"{_UNITS[report['asked']['kind']]} asked", *(_UNITS[u] for u in units)]
    rows = [
        [str(number), percent(step["asked"]), *(_share(step.get(unit)) for unit in units)]
        for number, step in enumerate(steps, start=1)
    ]
    return [f">{name}" for name in names], rows if len(rows) > 1 else []


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _times(report: Mapping[str, Any]) -> _Part:
    """Return the time of a forward pass before and after, where it was measured."""
    times = report.get("latency") or {}
    rows = [
        [
            _STATES[state],
            _milliseconds(time["median_s"]),
            f"{_milliseconds(time['lower_s'])} to {_milliseconds(time['upper_s'])}",
            str(time["batch"]),
            str(time["threads"]),
            time["device"],
            str(time["repeats"]),
        ]
        for state, key in (("dense", "before"), ("pruned", "after"))
        if (time := times.get(key))
    ]
    headings = ["latency (ms)", ">median", ">quartiles", ">batch", ">threads", "device", ">passes"]
    return headings, rows


def _milliseconds(seconds: float) -> str:
    """Format a time in milliseconds with three digits."""
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f}" if milliseconds >= 999.5 else f"{milliseconds:#.3g}".rstrip(".")


def _states(report: Mapping[str, Any]) -> _Part:
    """Return the error of the network in each state, where it was measured."""
    quality = report.get("quality") or {}
    is_rate = quality.get("kind") == "error"
    perplexities = quality.get("perplexity")
    rows = []
    for state, title in _STATES.items():
        value = quality.get(state)
        if value is not None:
            row = [title, percent(value) if is_rate else f"{value:.4g}"]
        elif state in ("dense", "pruned") and quality:
            row = [title, "not finite"]
        else:
            continue
        if perplexities:
            perplexity = perplexities.get(state)
            row.append("-" if perplexity is None else f"{perplexity:.4g}")
        rows.append(row)
    samples = pluralize(quality.get("samples") or 0, f"{quality.get('split')} sample")
    heading = _ERRORS.get(quality.get("kind", ""), "error")
    headings = [f"on {samples} of {quality.get('data')}", f">{heading}"]
    return [*headings, *([">perplexity"] if perplexities else [])], rows


def _tuning(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how the network was fine-tuned, if it was."""
    tuning = (report.get("quality") or {}).get("fine_tuning")
    if not tuning:
        return []
    history = tuning["history"]
    end = ", ended early" if history["stopped_early"] else ""
    epochs = f"{len(history['epochs'])} of {pluralize(tuning['epochs'], 'epoch')}{end}"
    distilled = f", {percent(tuning['distill'])} distilled" if tuning["distill"] else ""
    optimiser = f"{tuning['optimiser']}, learning rate {tuning['learning_rate']:g}{distilled}"
    kept = f"the state after epoch {history['best']}" if history["best"] else "the state before"
    return [("fine-tuning", f"{epochs}; {optimiser}; kept {kept}")]


def _totals(report: Mapping[str, Any], by_weight: bool) -> list[tuple[str, str]]:
    asked, before, after = report["asked"], report["before"], report["after"]
    achieved = report["achieved"]
    asked_unit = _UNITS[asked["kind"]]
    cut_unit = "weights" if by_weight else "channels"
    shares = {
        cut_unit: f"{percent(achieved[cut_unit])} of the {cut_unit} that may be cut",
        "MACs": f"{percent(achieved['macs'])} of the MACs",
        "parameters": f"{percent(achieved['params'])} of the parameters",
    }
    if achieved.get("latency") is not None:
        spread = report["latency"]["share"]
        shares["latency"] = (
            f"{percent(achieved['latency'])} of the latency (quartiles {percent(spread['lower'])} "
            f"to {percent(spread['upper'])})"
        )
    in_order = [shares.pop(asked_unit), *shares.values()]  # what was asked for comes first
    counted = "measured" if report["mode"] == "compact" else "without what is masked"
    weights = f" ({report['weights']})" if report.get("weights") else ""
    return [
        ("metric", f"{report['metric']} ({report['conventions']['scope']} ranking)"),
        *_allocation(report["allocation"]),
        ("model", f"{report['model']}{weights}"),
        *([("data", report["data"])] if report.get("data") else []),
        *([("measured", report["measured"])] if report.get("measured") else []),
        ("asked", f"keep {percent(asked['keep'])} of the {asked_unit}"),
        ("achieved", ", ".join(in_order)),
        ("MACs", f"{before['macs']:,} -> {after['macs']:,} per sample ({counted})"),
        ("parameters", f"{before['params']:,} -> {after['params']:,}"),
        *_tuning(report),
        ("tied scores", percent(report["ties"])),
        ("time", f"{report['seconds']:.1f} s"),
    ]
