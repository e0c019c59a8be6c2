"""The lines of the task of the GECCO 2022 paper, and the page that is made from them."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from gecco_2022_networks import WHOLE, Protocol, costs
from scipy.stats import rankdata

RESULTS = Path(__file__).resolve().parents[1] / "results"
DENSE = "dense"
"""Name of the network before the first step in the lines."""
EVOLVED = "functions that the paper evolved"
"""The group of the settings that has them."""


@dataclass(frozen=True)
class Line:
    """One step of one network; errors in percent of the images.

    Attributes:
        metric: what chose the channels.
        draw: number of the seeds of the metric's noise and of retraining.
        seed: of the network.
        step: from 1 on; 0 is the dense network.
        validation_cut: validation error right after pruning.
        validation: validation error after retraining.
        check: which of the states during retraining was kept.
        seconds: of processor time, for scoring, pruning, retraining and validation.
        settings: digest of the settings.
    """

    metric: str
    draw: int
    seed: int
    step: int
    validation_cut: float
    validation: float
    check: int
    seconds: float
    settings: str

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What it is the line of."""
        return self.metric, self.draw, self.seed, self.step


@dataclass(frozen=True)
class Final(Line):
    """The same with test errors.

    Attributes:
        test_cut: test error right after pruning.
        test: test error after retraining.
    """

    test_cut: float
    test: float

    @classmethod
    def of(cls, line: Line, test_cut: float, test: float) -> Self:
        """Return a line with its test errors."""
        return cls(**asdict(line), test_cut=test_cut, test=test)


class Errors:
    """Test errors by metric and network.

    Attributes:
        lines: of all finished steps.
        protocol: what is decided.
        seeds: of the networks whose test errors were read.
        cells: seed and step of all errors of a metric.
        metrics: names of the metrics that are finished.
    """

    def __init__(self, lines: Sequence[Final], protocol: Protocol) -> None:
        self.lines, self.protocol = lines, protocol
        self._by_key = {line.key: line for line in lines}
        steps = range(1, len(protocol.steps) + 1)
        self.seeds = [seed for seed in protocol.seeds if (DENSE, 0, seed, 0) in self._by_key]
        self.cells = [(seed, step) for seed in self.seeds for step in steps]
        self.metrics = [
            name
            for name in protocol.metrics
            if all(
                (name, draw, *cell) in self._by_key
                for cell in self.cells
                for draw in range(protocol.draws(name))
            )
        ]

    def of(self, metric: str, field: str, draw: int | None = None) -> list[float]:
        """Return the errors in all cells, seed by seed.

        Args:
            metric: name.
            field: of :class:`Final`.
            draw: which one; by default the mean of all of ``random``, the first of others.
        """
        draws = range(self.protocol.draws(metric)) if metric == "random" else (0,)
        chosen = draws if draw is None else (draw,)
        return [
            statistics.fmean(getattr(self._by_key[metric, d, *cell], field) for d in chosen)
            for cell in self.cells
        ]

    def at(self, metric: str, field: str, step: int) -> list[float]:
        """Return the errors after one step, one of each seed."""
        found = self.of(metric, field)
        return [e for e, cell in zip(found, self.cells, strict=True) if cell[1] == step]

    def ranks(self, field: str, steps: Sequence[int]) -> dict[str, float]:
        """Return the mean rank of each metric over the seeds and some steps."""
        columns = [
            [self.of(name, field)[i] for name in self.metrics]
            for i, cell in enumerate(self.cells)
            if cell[1] in steps
        ]
        ranks = rankdata(columns, axis=1).mean(axis=0)
        return dict(zip(self.metrics, ranks.tolist(), strict=True))

    def deviation(self, metric: str, field: str, step: int) -> float:
        """Return the deviation over the draws of one network, pooled over the seeds."""
        own = [cell for cell in self.cells if cell[1] == step]
        draws = range(self.protocol.draws(metric))
        variances = [
            statistics.variance(getattr(self._by_key[metric, d, *cell], field) for d in draws)
            for cell in own
        ]
        return math.sqrt(statistics.fmean(variances))


def page(lines: Sequence[Final], protocol: Protocol, commit: str) -> str:
    """Return the page of the results."""
    errors = Errors(lines, protocol)
    parts = [_head(protocol, errors, commit)]
    missing = [name for name in protocol.metrics if name not in errors.metrics]
    missing += [f"the network of seed {s}" for s in protocol.seeds if s not in errors.seeds]
    if missing:
        parts += ["", f"**Not finished:** {', '.join(missing)}."]
    if len(errors.metrics) > 1:
        parts += ["", *_summary(errors), "", *_table(errors), "", *_paired(errors)]
        parts += ["", *_noise(errors)]
    parts += ["", "## Formulas", "", "| metric | formula |", "|---|---|"]
    parts += [f"| {name} | `{metric.expression}` |" for name, metric in protocol.metrics.items()]
    return "\n".join([*parts, ""])


def _summary(errors: Errors) -> list[str]:
    """Return what the tables say, in sentences."""
    rows = ["## What the tables say", ""]
    best = _best_published(errors)
    for field, when in (("test", "After retraining"), ("test_cut", "Right after pruning")):
        ranks = errors.ranks(field, range(1, len(errors.protocol.steps) + 1))
        order = sorted(ranks, key=lambda name: ranks[name])
        named = dict.fromkeys(name for name in ("l1", best, "random") if name in order)
        places = ", ".join(f"`{name}` {order.index(name) + 1}" for name in named)
        first = ", ".join(f"`{name}`" for name in order[:4])
        text = f"- {when} the first in mean rank are {first}. Places of {len(order)}: {places}."
        rows.append(_wrapped(text))
    return [*rows, *_within_noise(errors)]


def _within_noise(errors: Errors) -> list[str]:
    """Return how many metrics are as good as L1 but for the noise of retraining."""
    if "l1" not in errors.metrics or errors.protocol.draws("l1") < 2:
        return []
    last = len(errors.protocol.steps)
    noise = errors.deviation("l1", "test", last) * math.sqrt(2 / len(errors.seeds))
    own = statistics.fmean(errors.at("l1", "test", last))
    gaps = {n: statistics.fmean(errors.at(n, "test", last)) - own for n in errors.metrics}
    others = [gap for name, gap in gaps.items() if name != "l1"]
    near = sum(abs(gap) <= 2 * noise for gap in others)
    text = (
        f"- After the last retraining, {near} of the {len(others)} others are within two standard "
        f"deviations of the noise of retraining from `l1` ({2 * noise:.2f} points, see below), "
        f"{sum(gap < -2 * noise for gap in others)} have less error and "
        f"{sum(gap > 2 * noise for gap in others)} more. This is the noise of one network: the "
        "order of metrics may differ between networks."
    )
    return [_wrapped(text)]


def _best_published(errors: Errors) -> str:
    """Return which function of the paper has the best mean rank after retraining."""
    ranks = errors.ranks("test", range(1, len(errors.protocol.steps) + 1))
    evolved: list[str] = errors.protocol.content["metrics"][EVOLVED]
    return min((name for name in evolved if name in ranks), key=lambda name: ranks[name])


def _table(errors: Errors) -> list[str]:
    last = len(errors.protocol.steps)
    steps = range(1, last + 1)
    ranks, cut_ranks = errors.ranks("test", steps), errors.ranks("test_cut", steps)
    rows = [
        "## Test errors", "",
        f"Percent of the test images; mean ± standard deviation over the networks "
        f"of {len(errors.seeds)} seeds. Ranks: mean over networks and steps, 1 is best of "
        f"{len(errors.metrics)}. "
        "In order of the rank after retraining.", "",
        "| metric | group | rank, retrained | " + " | ".join(f"step {s}" for s in steps)
        + " | rank, only cut | " + " | ".join(f"step {s}, only cut" for s in steps) + " |",
        "|---|---|---:|" + "---:|" * (2 * last + 1),
    ]  # fmt: skip
    for name in sorted(errors.metrics, key=lambda name: ranks[name]):
        tuned = [_spread(errors.at(name, "test", step)) for step in steps]
        before = [_spread(errors.at(name, "test_cut", step), 1) for step in steps]
        cells = [
            name, group_of(errors.protocol, name), f"{ranks[name]:.1f}", *tuned,
            f"{cut_ranks[name]:.1f}", *before,
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _paired(errors: Errors) -> list[str]:
    """Return the differences to L1 and to the best published function."""
    ranks = errors.ranks("test", range(1, len(errors.protocol.steps) + 1))
    best = _best_published(errors)
    bases = ("l1", best)
    pairs = len(errors.cells)
    least = 2 / 2**pairs
    rows = [
        "## Differences", "",
        f"Test error minus that of `l1`, and minus that of `{best}`, which has the best mean rank "
        f"of the paper's functions after retraining; mean over {pairs} pairs (network, step) in "
        "points of percent, in brackets the pairs in which the metric is better. Wilcoxon's "
        f"signed-rank test over {pairs} pairs cannot give less than p = {least:.2g}, or "
        f"{min(1.0, least * (len(errors.metrics) - 1)):.2g} after Holm's correction for the number "
        "of the others, so it is left out; how much retraining scatters is below.", "",
        f"| metric | retrained, to `l1` | retrained, to `{best}` | only cut, to `l1` | "
        f"only cut, to `{best}` |",
        "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name in sorted(errors.metrics, key=lambda name: ranks[name]):
        cells = [
            _difference(errors, name, base, field)
            for field in ("test", "test_cut")
            for base in bases
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _difference(errors: Errors, name: str, base: str, field: str) -> str:
    if name == base:
        return ""
    own, other = errors.of(name, field), errors.of(base, field)
    gaps = [a - b for a, b in zip(own, other, strict=True)]
    better = sum(gap < 0 for gap in gaps)
    return f"{statistics.fmean(gaps):+.2f} ({better} of {len(gaps)})"


def _noise(errors: Errors) -> list[str]:
    """Return how much of the differences is chance."""
    last = len(errors.protocol.steps)
    rows = ["## Noise", ""]
    for name, what in (("l1", "the order of the images in retraining alone"),
                       ("random", "the random scores and that order")):  # fmt: skip
        draws = errors.protocol.draws(name)
        if name in errors.metrics and draws > 1:
            rows.append(
                f"- `{name}`, {draws} draws for each network, which differ in {what}: after the "
                f"last step the test error has a standard deviation of "
                f"{errors.deviation(name, 'test', last):.2f} points after retraining, and of "
                f"{errors.deviation(name, 'test_cut', last):.1f} right after pruning."
            )
    means = [statistics.fmean(errors.at(name, "test", last)) for name in errors.metrics]
    rows.append(
        f"- The means of the {len(means)} metrics after the last step, retrained, lie between "
        f"{min(means):.2f} and {max(means):.2f} %, with a standard deviation of "
        f"{statistics.stdev(means):.2f}."
    )
    return rows


def _wrapped(text: str) -> str:
    """Return an item of a list in lines of at most 100 columns."""
    return textwrap.fill(text, 100, subsequent_indent="  ", break_on_hyphens=False)


def group_of(protocol: Protocol, name: str) -> str:
    """Return to which group of the settings a metric belongs."""
    groups = protocol.content["metrics"].items()
    return str(next(group for group, names in groups if name in names))


def _spread(values: Sequence[float], digits: int = 2) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _head(protocol: Protocol, errors: Errors, commit: str) -> str:
    whole, small = costs(WHOLE), costs(protocol.steps[-1])
    widths = ", ".join(
        f"{layer} {WHOLE[layer]} → {' → '.join(map(str, steps))}"
        for layer, steps in protocol.content["widths"].items()
    )
    dense = [line for line in errors.lines if line.metric == DENSE]
    trained = f"{_spread([line.test for line in dense])} %" if dense else "not read yet"
    how = protocol.content["retraining"]
    minutes = sum(line.seconds for line in errors.lines) / 60
    return _HEAD.format(
        commit=commit, widths=widths, macs=100 * small.macs / whole.macs,
        params=100 * small.params / whole.params, weights=100 * small.weights / whole.weights,
        dense_params=whole.params, dense_weights=whole.weights,
        dense=trained, images=protocol.content["scoring"]["images"], minutes=minutes, **how,
        epochs=how["batches"] * how["batch_size"] / 50_000,
    )  # fmt: skip


_HEAD = """# The pruning task of the GECCO 2022 paper

Liu, Kung and Wentzlaff, *Evolving Transferable Neural Pruning Functions*, judge a function by what
is left of Caffe's LeNet on MNIST after three steps of pruning and retraining:
{widths}.
The last network has {macs:.2f} % of the MACs and {params:.2f} % of the {dense_params:,} parameters,
or {weights:.2f} % of the {dense_weights:,} without biases, which is what the paper's code counts.

As in the paper, the layers of a step are scored and cut one after the other, each in the network
that the cuts before it left; the channels of a layer with the lowest scores go; each step is
followed by retraining with Adam, learning rate {learning_rate:g}, mini-batches of {batch_size},
L2 {weight_decay:g}. What differs:

- **The test images choose nothing.** The paper's code reports the best test accuracy of all
  mini-batches. Here the error on {validation:,} training images that are not trained on is measured
  {checks} times in each retraining, and the network of the best time is kept. The test images were
  read once for each network.
- **Each retraining takes {batches} mini-batches ({epochs:g} epochs of 50,000 images), not 100
  epochs**, and the metrics measure {images:,} training images, not all.
- The network is the one of this package, task `caffe_lenet-mnist` (with ReLU after the
  convolutions, which Caffe's does not have), test error {dense}. Class statistics are of the
  maps after ReLU and before pooling.

`mean_activation_energy` comes from a search in which MNIST took part with another LeNet; the other
evolved formulas of this project from searches on digits of 8x8 pixels, those of
`spread_product_energy` and `gradient_variance_energy` with this network among others.

All was fixed before the test images were read ([gecco_2022.toml](../discovery/gecco_2022.toml),
commit {commit}). Pruning and retraining took {minutes:.0f} minutes of processor time on one core.
Every metric has the same networks, orders of the images and widths, so that only its choice of
channels differs.

    python benchmarks/discovery/gecco_2022.py run --runs FOLDER
    python benchmarks/discovery/gecco_2022.py final --runs FOLDER"""
