"""The page of benchmarks/proxy_fidelity.py: small networks against held-out ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from proxy_fidelity_table import (
    AGGREGATES,
    BOOTSTRAPS,
    Cell,
    Floats,
    Line,
    Table,
    agree,
    difference,
    halves,
    spearman,
)

SETS = {
    "lenet": ("lenet",),
    "cnn": ("cnn",),
    "resnet": ("resnet",),
    "mobilenet": ("mobilenet",),
    "caffe_lenet": ("caffe_lenet",),
    "autoencoder": ("autoencoder",),
    "lenet, cnn, autoencoder (the default before)": ("lenet", "cnn", "autoencoder"),
    "lenet, cnn": ("lenet", "cnn"),
    "lenet, resnet": ("lenet", "resnet"),
    "cnn, resnet": ("cnn", "resnet"),
    "lenet, mobilenet": ("lenet", "mobilenet"),
    "resnet, mobilenet": ("resnet", "mobilenet"),
    "lenet, resnet, mobilenet": ("lenet", "resnet", "mobilenet"),
    "lenet, cnn, resnet": ("lenet", "cnn", "resnet"),
    "lenet, cnn, resnet, mobilenet": ("lenet", "cnn", "resnet", "mobilenet"),
    "the same, caffe_lenet": ("lenet", "cnn", "resnet", "mobilenet", "caffe_lenet"),
    "the same, autoencoder": ("lenet", "cnn", "resnet", "mobilenet", "caffe_lenet", "autoencoder"),
}
CHOSEN = "lenet, resnet"
TUNED = 30
"""Mini-batches of fine-tuning of which the page has a table."""
KEEPS = (0.5, 0.3)
BUDGETS = (
    ("macs", 0.5, 0), ("macs", 0.3, 0), ("params", 0.5, 0), ("channels", 0.5, 0),
    ("macs", 0.5, TUNED),
)  # fmt: skip
"""Kind, share kept and mini-batches of fine-tuning."""
FIELDS = {"180 images": "error180", "360 images": "error360", "loss of all": "loss"}


class Column(NamedTuple):
    """What a column of a table is made of.

    Attributes:
        kind: what the budgets count.
        keeps: shares kept.
        steps: mini-batches of fine-tuning.
        aggregate: how cells become one number.
        field: of the lines.
    """

    kind: str = "macs"
    keeps: tuple[float, ...] = KEEPS
    steps: int = 0
    aggregate: str = "logarithm"
    field: str = "error"


def grid(head: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table in Markdown, without the rows in which nothing is known."""
    lines = [f"| {head} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows if set(cells) != {"-"}]
    return "\n".join(lines)


def budget_name(kind: str, keep: float, steps: int = 0) -> str:
    """Return the name of a budget for a person."""
    counted = {"macs": "MACs", "params": "parameters"}.get(kind, kind)
    return f"{keep:.0%} of the {counted}" + (f", {steps} mini-batches" if steps else "")


class Page:
    """The tables, from the lines of the CSV file.

    Args:
        lines: of the CSV file.
        small: names of the small networks, ``MODEL-digits@SEED``.
        held_out: names of the held-out networks.
    """

    def __init__(self, lines: Iterable[Line], small: Sequence[str], held_out: Sequence[str]):
        self.table = Table(lines)
        self.small, self.all_held_out = small, held_out
        self.held_out = [name for name in held_out if self.table.select([name], "macs", KEEPS)]
        self.target = self.target_of(self.held_out)

    def target_of(
        self, networks: Sequence[str], kind: str = "macs", keeps: Sequence[float] = KEEPS
    ) -> Floats:
        """Return the mean rank on held-out networks right after pruning (formulas,)."""
        return self.table.order(self.table.select(networks, kind, keeps), "rank")

    def cells(
        self, models: Sequence[str], column: Column, seeds: Sequence[int] = (0,)
    ) -> list[Cell]:
        """Return the cells of kinds of small networks; none where one is missing."""
        names = [f"{model}-digits@{seed}" for model in models for seed in seeds]
        return self.table.select(names, column.kind, column.keeps, column.steps)

    def order(self, models: Sequence[str], column: Column, seeds: Sequence[int] = (0,)) -> Floats:
        """Return the order of the formulas on kinds of small networks; empty where one misses."""
        cells = self.cells(models, column, seeds)
        if not cells:
            return np.empty(0)
        return self.table.order(cells, column.aggregate, column.field)

    def agreement(self, models: Sequence[str], column: Column, target: Floats) -> str:
        """Return how far the order on small networks agrees with a target, for a table."""
        order = self.order(models, column)
        return str(agree(order, target)) if len(order) else "-"

    def by_columns(self, columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
        """Return rows: every set of small networks, its agreement with the target."""
        return [
            (name, [self.agreement(models, column, self.target) for column in columns])
            for name, models in SETS.items()
        ]

    def coverage(self) -> str:
        """Return what was measured."""
        rows = [
            (name, ["yes" if Cell(name, *b) in self.table.cells else "no" for b in BUDGETS])
            for name in (*self.all_held_out, *self.small)
        ]
        missing = [name for name, found in rows if "yes" not in found]
        text = grid(
            "network", [budget_name(*b) for b in BUDGETS], [r for r in rows if r[0] not in missing]
        )
        return text + (f"\n\nNot measured at all: {', '.join(missing)}." if missing else "")

    def set_table(self) -> str:
        """Return the agreement of sets by aggregate, and how sure the differences are."""
        chosen = self.order(SETS[CHOSEN], Column())
        parts = [
            self.target_of([name for name in self.held_out if name != left_out])
            for left_out in self.held_out
        ]
        rows = self.by_columns([Column(aggregate=name) for name in AGGREGATES])
        for (_, row), models in zip(rows, SETS.values(), strict=True):
            order = self.order(models, Column())
            more = ["-", "-"]
            if len(order):
                values = [float(spearman(order, part)) for part in parts]
                more = ["", f"{min(values):.2f} to {max(values):.2f}"]
                if len(chosen) and models != SETS[CHOSEN]:
                    gain, deviation = difference(order, chosen, self.target)
                    more[0] = f"{gain:+.2f} ± {deviation:.2f}"
            row += more
        return grid(
            "tasks",
            [*AGGREGATES, f"logarithm, minus that of {CHOSEN}", "logarithm, one network less"],
            rows,
        )

    def single_table(self) -> str:
        """Return the agreement of sets with every held-out network."""
        targets = [self.target_of([name]) for name in self.held_out]
        return grid(
            "tasks",
            self.held_out,
            [
                (name, [self.agreement(models, Column(), target) for target in targets])
                for name, models in SETS.items()
            ],
        )

    def among_networks(self) -> str:
        """Return how far every two networks agree, and how far halves of the held-out ones do."""
        names = [n for n in (*self.held_out, *self.small) if self.table.select([n], "macs", KEEPS)]
        orders = [self.target_of([name]) for name in names]
        rows = [
            (name, ["" if first is o else f"{spearman(first, o):.2f}" for o in orders])
            for name, first in zip(names, orders, strict=True)
        ]
        half = halves(self.table, [self.table.select([n], "macs", KEEPS) for n in self.held_out])
        return grid("network", names, rows) + (
            f"\n\nTwo halves of the {len(self.held_out)} held-out networks agree at {half:.2f}, on "
            "average over all ways to divide them."
        )

    def kinds_table(self) -> str:
        """Return the agreement of every kind of budget here with every kind there, at 50 %."""
        kinds = ("macs", "params", "channels")
        networks = [
            name
            for name in self.held_out
            if all(self.table.select([name], kind, (0.5,)) for kind in kinds)
        ]
        if not networks:
            return "Not measured."
        targets = {kind: self.target_of(networks, kind, (0.5,)) for kind in kinds}
        rows = [
            (
                f"{name}: {kind}",
                [self.agreement(models, Column(kind, (0.5,)), targets[there]) for there in kinds],
            )
            for name, models in SETS.items()
            for kind in kinds
        ]
        orders = {kind: self.order(SETS[CHOSEN], Column(kind, (0.5,))) for kind in kinds}
        if all(map(len, orders.values())):
            for other in kinds[1:]:
                gains = [difference(orders["macs"], orders[other], t) for t in targets.values()]
                cells = [f"{gain:+.2f} ± {deviation:.2f}" for gain, deviation in gains]
                rows.append((f"{CHOSEN}: macs minus {other}", cells))
        columns = [f"{kind} of {', '.join(networks)}" for kind in kinds]
        return grid("tasks and what their budgets count", columns, rows)

    def tuned_table(self) -> str:
        """Return the agreement of errors after fine-tuning, beside that right after pruning."""
        columns = [
            Column("macs", (0.5,), steps, name)
            for name in ("mean", "logarithm")
            for steps in (0, TUNED)
        ]
        rows = [row for row in self.by_columns(columns) if row[1][-1] != "-"]
        if not rows:
            return "Not measured."
        for name, row in rows:
            at_once, tuned = (self.order(SETS[name], column) for column in columns[2:])
            gain, deviation = difference(tuned, at_once, self.target)
            medians = [
                float(np.median(self.table.matrix(self.cells(SETS[name], column))))
                for column in columns[2:]
            ]
            row += [f"{gain:+.2f} ± {deviation:.2f}", " and ".join(f"{m:.3f}" for m in medians)]
        heads = [f"{c.aggregate}, after {c.steps} mini-batches" for c in columns]
        return grid("tasks", [*heads, "logarithm, gain by fine-tuning", "median errors"], rows)

    def seed_table(self) -> str:
        """Return how far networks of two training seeds agree, and what the second seed adds."""
        rows = []
        for name, models in SETS.items():
            first, second, both = (self.order(models, Column(), s) for s in ((0,), (1,), (0, 1)))
            if len(both):
                gain, deviation = difference(both, first, self.target)
                agreements = [agree(second, first)]
                agreements += [agree(order, self.target) for order in (first, second, both)]
                rows.append((name, [*map(str, agreements), f"{gain:+.2f} ± {deviation:.2f}"]))
        if not rows:
            return "Not measured."
        columns = ["seed 1 with seed 0", "seed 0 with the target", "seed 1", "both", "both, gain"]
        return grid("tasks", columns, rows)

    def best(self, count: int = 8) -> str:
        """Return the formulas with the least mean rank on the held-out networks."""
        return "\n".join(
            f"{place}. `{self.table.formulas[i]}` ({self.target[i]:.1f})"
            for place, i in enumerate(np.argsort(self.target)[:count], 1)
        )


def report(
    lines: Iterable[Line], small: Sequence[str], held_out: Sequence[str], head: str = ""
) -> str:
    """Return the page with all tables.

    Args:
        lines: of the CSV file.
        small: names of the small networks.
        held_out: names of the held-out networks.
        head: what stands above the tables.
    """
    page = Page(lines, small, held_out)
    table = page.table
    unranked = ", ".join(f"`{name}`" for name in table.left_out)
    several = [(name, field) for name in ("logarithm", "rank") for field in FIELDS.items()]
    parts = [
        head,
        "## What was measured",
        page.coverage(),
        f"{len(table.formulas)} formulas rank something in every cell"
        + (f"; these do not: {unranked}" if unranked else "")
        + f". The target is the mean rank over {', '.join(page.held_out)}, at 50 % and 30 % of the "
        "MACs, right after pruning. A number is Spearman's rank correlation with it ± its standard "
        f"deviation over {BOOTSTRAPS} samples of the formulas with replacement, and Kendall's in "
        "brackets.",
        "## How far two networks agree (mean rank at 50 % and 30 % of the MACs, seed 0)",
        page.among_networks(),
        "## Tasks and aggregates, at 50 % and 30 % of the MACs, seed 0",
        "The last columns: the difference in correlation, on the same samples of formulas; the "
        "least and the greatest correlation when one of the held-out networks is left out.",
        page.set_table(),
    ]
    shares = [Column(keeps=keeps) for keeps in ((0.5,), (0.3,), KEEPS)]
    parts += [
        "## Against every held-out network, aggregate logarithm, seed 0",
        page.single_table(),
        "## Share of the MACs kept, aggregate logarithm, seed 0",
        grid("tasks", ["50 %", "30 %", "both"], page.by_columns(shares)),
        "## What the budgets count, at 50 %, aggregate logarithm, seed 0",
        page.kinds_table(),
        "## Number of validation images, at 50 % and 30 % of the MACs, seed 0",
        grid(
            "tasks",
            [f"{name}, {told}" for name, (told, _) in several],
            page.by_columns([Column(aggregate=n, field=field) for n, (_, field) in several]),
        ),
        "## Fine-tuning on the small networks, at 50 % of the MACs, seed 0",
        page.tuned_table(),
        "## A second training seed, at 50 % and 30 % of the MACs, aggregate logarithm",
        page.seed_table(),
        "## Best formulas on the held-out networks (mean rank)",
        page.best(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
