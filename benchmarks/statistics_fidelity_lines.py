"""The results of benchmarks/statistics_fidelity.py: one line per cut, as CSV and as tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COMMAND = (
    "python benchmarks/statistics_fidelity.py --data-root FOLDER --pretrained FOLDER --work FOLDER"
)


@dataclass(frozen=True)
class Line:
    """One network, cut to one budget by the scores of one metric.

    Attributes:
        network: name of the network.
        metric: name of the metric.
        ranking: ``own`` with the conventions of the metric, ``layer`` where every group keeps the
            same share of its channels.
        statistics: ``before`` with 64 samples at 64 positions, ``after`` with all.
        sample: seed that chose the calibration images.
        macs: share of the MACs that is kept.
        tau_whole: Kendall's tau between these scores and those of the whole data.
        tau_seeds: Kendall's tau between these scores and those of another seed.
        accuracy: percent of the validation images right after the cut; not a number where the
            metric refuses the network.
        dense: percent before the cut.
    """

    network: str
    metric: str
    ranking: str
    statistics: str
    sample: int
    macs: float
    tau_whole: float
    tau_seeds: float
    accuracy: float
    dense: float

    @property
    def key(self) -> tuple[str, str, str, str, int, float]:
        """Tell which cut this is."""
        return (
            self.network, self.metric, self.ranking, self.statistics, self.sample, self.macs
        )  # fmt: skip

    @property
    def cell(self) -> tuple[str, int, float]:
        """Tell the network, the calibration images and the budget."""
        return self.network, self.sample, self.macs


BASELINES = ("l1", "random")
_RANKINGS = {
    "own": "by the conventions of each metric",
    "layer": "within each group, which all keep the same share of their channels",
}
_HEAD = [
    "| metric | tau with whole data, before | tau of two seeds, before | after | cells |"
    " accuracy before | after | difference | better in | worse in |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
]


def markdown(lines: Sequence[Line]) -> str:
    """Return the tables."""
    budgets = ", ".join(f"{share:.0%}" for share in sorted({line.macs for line in lines}))
    dense = {line.network: line.dense for line in lines}
    chosen = {name: len({x.sample for x in lines if x.network == name}) for name in dense}
    text = [
        "# Scores from all samples and positions, and from 64 samples at 64 positions",
        "",
        "Accuracy of the validation split right after the cut, in percent, without fine-tuning;",
        "batch norm is measured again on 2,048 training images. The published weights of",
        "`mnist_cnn` and `resnet20` have seen the images of the validation split. `before` is the",
        "code that sampled 64 images and 64 positions of each map, `after` the present one.",
        "Where a metric has another formula now, that is part of the difference. Kendall's tau is",
        "the mean over the layers of a network. Beside a mean is the standard deviation over",
        "networks and calibration images, beside a difference that over the paired cells.",
        f"512 calibration images; budgets of MACs: {budgets}. A global ranking may leave a layer",
        "with one channel, after which a network guesses (10 %); tables of each ranking show that.",
        "",
        f"    {COMMAND}",
        "",
        "| network | accuracy before the cut | choices of calibration images |",
        "|---|---:|---:|",
        *(f"| {name} | {value:.1f} | {chosen[name]} |" for name, value in dense.items()),
    ]
    for ranking, meaning in _RANKINGS.items():
        those = [line for line in lines if line.ranking == ranking]
        if those:
            text += ["", f"## Ranked {meaning}", "", *_tables(those, list(dense))]
    return "\n".join(text) + "\n"


def _tables(lines: Sequence[Line], networks: Sequence[str]) -> list[str]:
    metrics = sorted({line.metric for line in lines if line.statistics == "before"})
    text = [*_HEAD, *(_metric_row(lines, metric) for metric in metrics)]
    text += [_baseline_row(lines, metric) for metric in BASELINES]
    text += ["", "By network, before / after:", ""]
    text += [f"| metric | {' | '.join(networks)} |", f"|---|{'---:|' * len(networks)}"]
    for metric in [*metrics, *BASELINES]:
        cells = " | ".join(_network_cell(lines, metric, network) for network in networks)
        text.append(f"| `{metric}` | {cells} |")
    return text


def _of(lines: Iterable[Line], metric: str, kind: str) -> dict[tuple[str, int, float], Line]:
    return {line.cell: line for line in lines if line.metric == metric and line.statistics == kind}


def _metric_row(lines: Sequence[Line], metric: str) -> str:
    before, after = _of(lines, metric, "before"), _of(lines, metric, "after")
    both = [
        (before[cell].accuracy, after[cell].accuracy)
        for cell in before
        if cell in after
        and not math.isnan(before[cell].accuracy)
        and not math.isnan(after[cell].accuracy)
    ]
    change = [new - old for old, new in both]
    columns = [
        f"`{metric}`",
        _spread([line.tau_whole for line in before.values()], 2),
        _spread([line.tau_seeds for line in before.values()], 2),
        _spread([line.tau_seeds for line in after.values()], 2),
        str(len(both)),
        _spread([old for old, _ in both], 1, spread=False),
        _spread([new for _, new in both], 1, spread=False),
        _spread(change, 1, sign=True),
        str(sum(value > 0 for value in change)),
        str(sum(value < 0 for value in change)),
    ]
    return f"| {' | '.join(columns)} |"


def _baseline_row(lines: Sequence[Line], metric: str) -> str:
    found = [line.accuracy for line in _of(lines, metric, "after").values()]
    mean = _spread(found, 1, spread=False)
    return f"| `{metric}` | | | | {len(found)} | {mean} | {mean} | | | |"


def _network_cell(lines: Sequence[Line], metric: str, network: str) -> str:
    kinds = ("after",) if metric in BASELINES else ("before", "after")
    return " / ".join(
        _spread(
            [x.accuracy for x in _of(lines, metric, kind).values() if x.network == network],
            1,
            spread=False,
        )
        for kind in kinds
    )


def _spread(
    values: Iterable[float], digits: int, *, spread: bool = True, sign: bool = False
) -> str:
    """Write a mean with its standard deviation; a dash where there are no numbers."""
    found = [value for value in values if not math.isnan(value)]
    if not found:
        return "-"
    mean = f"{statistics.mean(found):{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {statistics.pstdev(found):.{digits}f}" if spread else mean
