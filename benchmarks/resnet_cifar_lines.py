"""The results of benchmarks/resnet_cifar.py: one line per measurement, as CSV and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gp_prune.training import FineTuning

COMMAND = (
    "python benchmarks/resnet_cifar.py --data-root FOLDER --resnet20 resnet20-12fca82f.th "
    "--resnet56 resnet56-4bfd9763.th"
)


@dataclass(frozen=True)
class Protocol:
    """What is the same for all networks, metrics and seeds.

    Attributes:
        macs: share of the MACs that is kept.
        calibration: samples that a metric measures on.
        recalibration: samples on which the batch norms are measured anew.
        steps: mini-batches of fine-tuning.
        batch_size: samples per mini-batch.
        learning_rate: the highest one of SGD; it falls to 0 as a cosine.
        momentum: of SGD.
        weight_decay: of SGD.
        padding: black pixels around a training image before it is cropped at random.
    """

    macs: float = 0.5
    calibration: int = 512
    recalibration: int = 2048
    steps: int = 100
    batch_size: int = 128
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    padding: int = 4

    def tuning(self, seed: int) -> FineTuning:
        """Return the settings of fine-tuning; one epoch is all of its mini-batches."""
        return FineTuning(
            epochs=1,
            optimiser="sgd",
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            seed=seed,
        )

    def text(self) -> str:
        """Return the protocol in words."""
        return (
            f"One shot to {self.macs:.0%} of the MACs. Metrics that measure something see "
            f"{self.calibration} training images; batch norms are recalibrated on "
            f"{self.recalibration};\nfine-tuning is {self.steps} mini-batches of "
            f"{self.batch_size} training images (cropped from {self.padding} pixels of padding, "
            f"flipped) with SGD (learning rate\n{self.learning_rate:g} falling as a cosine, "
            f"momentum {self.momentum:g}, weight decay {self.weight_decay:g}), the same for all. "
            "Training images come from 40,000 of the\n50,000 of the official training set; the "
            "test set is read for this table alone and decided nothing. The published\nweights "
            "have seen all 50,000."
        )


@dataclass(frozen=True)
class Line:
    """One network pruned by one metric with one seed; accuracies in percent of the test split.

    Attributes:
        network: name of the network.
        metric: name of the metric.
        ranking: scope and normaliser of the ranking, for instance ``"global, mean"``.
        seed: decides the samples, the order and augmentation of fine-tuning, and noise.
        steps: mini-batches of fine-tuning.
        macs, params, channels: shares kept, the last one of the channels that may be cut.
        dense: accuracy of the network before.
        pruned: after the cut.
        recalibrated: after the cut and recalibration.
        tuned: after the cut, recalibration and fine-tuning.
        seconds: processor time of scoring and cutting.
        plan: digest of what was cut.
        formula: what the metric computes.
    """

    network: str
    metric: str
    ranking: str
    seed: int
    steps: int
    macs: float
    params: float
    channels: float
    dense: float
    pruned: float
    recalibrated: float
    tuned: float
    seconds: float
    plan: str
    formula: str

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What it is the line of."""
        return self.network, self.metric, self.ranking, self.seed, self.steps


def markdown(lines: Sequence[Line], protocol: Protocol) -> str:
    """Return a page with a table per network: mean ± standard deviation over the seeds."""
    lines = [line for line in lines if line.steps == protocol.steps]
    networks = list(dict.fromkeys(line.network for line in lines))
    parts = ["# CIFAR-10 networks pruned one shot\n", f"Made by `{COMMAND}`.\n", protocol.text()]
    parts.append(
        "\nThe shortcuts between stages pad with channels of zeros. When this was measured, the "
        "residual stream was kept\nwhole for that reason, and what was cut are the channels inside "
        "the blocks; now the stream is cut, too.\n\n"
        "Test accuracy in percent, mean ± standard deviation over the seeds (a seed decides the "
        "samples, the order of\nfine-tuning, and the numbers of `random`). Ranking: `layer` cuts "
        "the same share of each layer; `global` ranks\nall layers together, after division by "
        "the mean of the layer where it says so."
    )
    for network in networks:
        parts.append(_network([line for line in lines if line.network == network]))
    formulas = {line.metric: line.formula for line in lines}
    parts.append("\n## Formulas\n")
    parts += [f"- `{name}`: `{formula}`" for name, formula in formulas.items()]
    return "\n".join(parts) + "\n"


def _network(lines: Sequence[Line]) -> str:
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.metric, line.ranking), []).append(line)
    columns = (
        "metric", "ranking", "seeds", "MACs", "parameters", "channels",
        "cut", "recalibrated", "fine-tuned",
    )  # fmt: skip
    rows = [columns, ("---",) * len(columns)]
    for (metric, ranking), group in groups.items():
        kept = (
            100 * statistics.mean(_column(group, name)) for name in ("macs", "params", "channels")
        )
        errors = (_spread(_column(group, name)) for name in ("pruned", "recalibrated", "tuned"))
        shares = (f"{share:.1f} %" for share in kept)
        rows.append((f"`{metric}`", ranking, str(len(group)), *shares, *errors))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"\n## {lines[0].network}, {lines[0].dense:.2f} % before\n\n{table}"


def _column(lines: Iterable[Line], name: str) -> list[float]:
    return [getattr(line, name) for line in lines]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
