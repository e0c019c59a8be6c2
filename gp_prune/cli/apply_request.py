"""What a person asks of ``gp-prune apply``, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gp_prune.errors import UserError

_BUDGETS = ("ratio", "macs", "params", "latency", "pattern")


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
    samples: int
    cache_dir: str | None
    epochs: int | None
    optimiser: str
    lr: float | None
    weight_decay: float
    batch_size: int
    warm_up: float
    distill: float
    temperature: float
    patience: int
    checkpoint: str | None
    tuning_samples: int | None
    judge: bool | None
    no_recalibrate: bool
    out: str | None
    onnx: str | None
    export: str | None
    plot: str | None
    time_it: bool
    seed: int
    device: str
    primitive_files: tuple[str, ...]
    as_json: bool
    quiet: bool

    def check(self) -> None:
        """Raise UserError where options contradict one another or a number is out of range."""
        self.budget("channel")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"--epochs is {self.epochs}; it must be at least 1, or be left out")
        if self.epochs is None and self.checkpoint is not None:
            raise UserError("--checkpoint keeps a fine-tuning; give --epochs, too")
        for option in ("lr", "weight_decay", "warm_up", "distill", "patience"):
            if self.epochs is None and getattr(self, option):
                name = option.replace("_", "-")
                raise UserError(f"--{name} is one of fine-tuning; give --epochs, too")
        if self.judge is False and self.epochs is not None:
            raise UserError("--epochs judges each epoch; leave out --no-judge")
        for option, endings in (("onnx", [".onnx"]), ("export", [".pt2", ".ts"]),
                                ("plot", [".png", ".svg"])):  # fmt: skip
            path = getattr(self, option)
            if path is not None and Path(path).suffix not in endings:
                raise UserError(
                    f"--{option} is {path!r}; its name must end in {' or '.join(endings)}"
                )

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
