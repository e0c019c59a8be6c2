"""Print what single formulas are worth."""

from __future__ import annotations

from typing import IO

from rich.text import Text

from gp_prune.apply.own_task import short_names
from gp_prune.judging.judge import FormulaResult
from gp_prune.language.record import NEEDS
from gp_prune.pruning.plan.channels import describe_budget
from gp_prune.report.console import make_console, new_table, percent, render

_COSTS = {"macs": "MACs", "params": "params"}


def result_lines(result: FormulaResult, stream: IO[str]) -> list[str]:
    """Return the errors of a formula at each budget, and its objectives, as lines for a stream."""
    console = make_console(stream)
    headings = ["task", ">budget", ">error", ">as measured", ">MACs", ">params"]
    table = new_table("", headings, padding=2)
    table.title = None
    shorts = short_names(row.task for row in result.errors)
    for row in result.errors:
        table.add_row(
            Text(shorts[row.task]), describe_budget(row.kind, row.keep),
            f"{row.error:.3f}", f"{row.raw_error:.4f}", percent(row.macs), percent(row.params),
        )  # fmt: skip
    objectives = ", ".join(
        f"{_COSTS.get(name, name)} {value:.0f}" if name == "size" else
        f"{_COSTS.get(name, name)} {value:.3f}"
        for name, value in result.objectives.items()
    )  # fmt: skip
    use = result.conventions
    ranking = f"{use['scope']}, normaliser {use['normaliser']}, join {use['join']}"
    lines = [
        f"ranks {result.granularity}s: {'those of each layer' if result.shares else ranking}",
        *([f"shares of the layers by {result.shares}"] if result.shares else []),
        *(f"needs {need}: {NEEDS[need]}" for need in result.needs),
    ]
    return render(
        console, Text(result.formula), *map(Text, lines), Text(), table, Text(),
        Text(f"objectives: {objectives}", style="bold"),
        Text("error: 0 as the dense network, 1 as the best constant guess", style="dim"),
    )  # fmt: skip
