"""What a person asks of ``gp-prune apply``, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gp_prune.errors import UserError

_BUDGETS = ("ratio", "macs", "params", "latency", "pattern")
_OF_TUNING = (
    "optimiser", "lr", "weight_decay", "batch_size", "warm_up", "distill", "temperature",
    "patience", "checkpoint",
)  # fmt: skip
_COUNTS = ("steps", "round_to", "samples", "epochs", "batch_size", "tuning_samples")
_ENDINGS = {"onnx": [".onnx"], "export": [".pt2", ".ts"], "plot": [".png", ".svg"]}
SAMPLES = 512
"""Calibration samples where nothing is said."""


@dataclass(frozen=True)
class Request:
    """The arguments and options of the command; see its help."""

    metric: str
    model: str
    ratio: float | None
    macs: float | None
    params: float | None
    latency: float | None
    pattern: str | None
    scope: str | None
    steps: int
    round_to: int
    ignore: tuple[str, ...]
    cut_residual: bool
    mode: str | None
    input_shape: tuple[int, ...] | None
    weights: str | None
    data: str | None
    data_root: str | None
    download: bool
    samples: int | None
    cache_dir: str | None
    epochs: int | None
    optimiser: str | None
    lr: float | None
    weight_decay: float | None
    batch_size: int | None
    warm_up: float | None
    distill: float | None
    temperature: float | None
    patience: int | None
    checkpoint: str | None
    tuning_samples: int | None
    judge: bool | None
    no_recalibrate: bool
    out: str | None
    force: bool
    onnx: str | None
    export: str | None
    plot: str | None
    time_it: bool
    seed: int
    device: str
    primitive_files: tuple[str, ...]
    as_json: bool
    quiet: bool

    @property
    def names_task(self) -> bool:
        """Whether the model is a task, if it is anything: all others are written with a colon."""
        return ":" not in self.model

    def check(self) -> None:
        """Raise UserError where options contradict one another or a number is out of range."""
        self.budget("channel")
        for option in _COUNTS:
            count = getattr(self, option)
            if count is not None and count < 1:
                raise UserError(f"{_flag(option)} is {count}; it must be at least 1")
        self._check_tuning()
        self._check_data()
        if self.pattern is not None and self.scope is not None:
            raise UserError(
                "--pattern ranks the weights of each block alone, so --scope means nothing; leave "
                "one of them out"
            )
        if self.force and self.out is None:
            raise UserError("--force lets --out replace an earlier output; give --out, too")
        for option, endings in _ENDINGS.items():
            path = getattr(self, option)
            if path is not None and Path(path).suffix not in endings:
                raise UserError(
                    f"--{option} is {path!r}; its name must end in {' or '.join(endings)}"
                )

    def _check_tuning(self) -> None:
        """Refuse what would have no effect after pruning."""
        if self.epochs is None:
            for option in _OF_TUNING:
                if getattr(self, option) is not None:
                    raise UserError(f"{_flag(option)} is of fine-tuning; give --epochs, too")
        if self.temperature is not None and not self.distill:
            raise UserError("--temperature is of distillation; give --distill, too")
        if self.judge is False and self.epochs is not None:
            raise UserError("--epochs judges each epoch; leave out --no-judge")
        judges = self.judges(has_task=self.names_task)
        if not judges and (self.tuning_samples is not None or self.no_recalibrate):
            option = "no_recalibrate" if self.no_recalibrate else "tuning_samples"
            raise UserError(
                f"{_flag(option)} is about what --epochs and --judge do; give one of them, too"
            )

    def _check_data(self) -> None:
        """Refuse options about data or tasks where there is neither."""
        if self.names_task:
            return
        if self.cache_dir is not None:
            raise UserError(
                f"--cache-dir is for the trained networks of tasks, and {self.model!r} is none; "
                "leave it out"
            )
        for option in ("download", "data_root", "samples"):
            if self.data is None and getattr(self, option):
                raise UserError(f"{_flag(option)} is about --data; give it, too")

    def budget(self, granularity: str) -> dict[str, Any]:
        """What is to be kept, by the names of :func:`gp_prune.prune`; a ratio is what goes.

        Args:
            granularity: of the metric; a ratio is one of channels or of weights.

        Raises:
            UserError: several budgets, or one that is out of range.
        """
        named = {kind: getattr(self, kind) for kind in _BUDGETS if getattr(self, kind) is not None}
        if len(named) > 1:
            raise UserError(
                f"give one budget, not {' and '.join('--' + kind for kind in named)} together"
            )
        kind, share = named.popitem() if named else ("ratio", 0.5)
        if kind == "pattern":
            return {kind: share}
        inside = 0 < share < 1 if kind == "ratio" else 0 < share <= 1
        if not inside:
            least = "less than 1" if kind == "ratio" else "at most 1"
            raise UserError(f"--{kind} is {share}; it must be greater than 0 and {least}")
        if kind == "ratio":
            return {"params" if granularity == "weight" else "channels": 1 - share}
        return {kind: share}

    def judges(self, *, has_task: bool) -> bool:
        """Whether the error is measured before and after."""
        if self.judge is not None:
            return self.judge
        return self.epochs is not None or has_task

    def tell(self, line: str) -> None:
        """Print a line of progress on stderr."""
        if not self.quiet:
            click.echo(f"gp-prune: {line}", err=True)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
