"""What ``gp-prune apply`` takes, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gp_prune.apply.options import PruneOptions, as_allocation
from gp_prune.base.names import BUDGETS, HF, OLD_OPTIONS, TIMM, TORCHVISION
from gp_prune.errors import UserError, brief, number, whole
from gp_prune.language.primitive import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.report.text import echo

_OF_PRUNING = (
    *BUDGETS, "steps", "sequential", "ignore", "round_to", "min_share", "unranked", "allow_ties",
    "cut_residual", "mode", "time_it", "seed", "max_memory",
)  # fmt: skip
_OF_TUNING = (
    "optimiser", "lr", "weight_decay", "batch_size", "warm_up", "distill", "temperature",
    "patience",
)  # fmt: skip
_COUNTS = ("samples", "epochs", "tuning_samples")
_COUNT = whole(1)
_TIMEOUT = number(least=0)
_ENDINGS = {"onnx": [".onnx"], "export": [".pt2", ".ts"], "plot": [".png", ".svg"]}


@dataclass(frozen=True, kw_only=True)
class ApplyCommand:
    """What the command does besides pruning: network, data, tuning and files; see its help.

    Attributes:
        pruning: what is removed, and by which ranking.
        tuning: the settings of fine-tuning that are given, by the names of their options.

    Raises:
        UserError: options contradict each other or a number is out of range.
    """

    pruning: PruneOptions
    tuning: Mapping[str, Any]
    model: str
    input_shape: tuple[int, ...] | None
    kind: str | None
    weights: str | None
    data: str | None
    data_root: str | None
    download: bool
    samples: int | None
    cache_dir: str | None
    epochs: int | None
    checkpoint: str | None
    tuning_samples: int | None
    judge: bool | None
    no_recalibrate: bool
    out: str | None
    force: bool
    onnx: str | None
    export: str | None
    plot: str | None
    device: str
    quiet: bool
    model_timeout: float
    with_head: bool

    def __post_init__(self) -> None:
        """Check the options, each alone and then together."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        for name, count in {**counts, "batch_size": self.tuning.get("batch_size")}.items():
            if count is not None and not _COUNT.accepts(count):
                raise UserError(f"{_flag(name)} is {brief(count)}; it must be {_COUNT.words}")
        self._check_tuning()
        self._check_data()
        if self.force and self.out is None and not self.files:
            raise UserError(
                "--force lets --out, --onnx, --export and --plot replace what is there; give one "
                "of them, too"
            )
        if not _TIMEOUT.accepts(self.model_timeout):
            raise UserError(
                f"--model-timeout is {self.model_timeout:g}; it must be {_TIMEOUT.words}, and 0 "
                "means any time"
            )
        for option, endings in _ENDINGS.items():
            path = getattr(self, option)
            if path is not None and Path(path).suffix not in endings:
                raise UserError(
                    f"--{option} is {path!r}; its name must end in {' or '.join(endings)}"
                )

    @property
    def files(self) -> dict[str, Path]:
        """Return the files that are asked for, by their options."""
        paths = {option: getattr(self, option) for option in _ENDINGS}
        return {_flag(option): Path(path) for option, path in paths.items() if path is not None}

    def _check_tuning(self) -> None:
        """Refuse what would have no effect after pruning."""
        if self.epochs is None:
            for option in (*self.tuning, *(["checkpoint"] if self.checkpoint else [])):
                raise UserError(f"{_flag(option)} is of fine-tuning; give --epochs, too")
        if "temperature" in self.tuning and not self.tuning.get("distill"):
            raise UserError("--temperature is of distillation; give --distill, too")
        if self.judge is False and self.epochs is not None:
            raise UserError("--epochs judges each epoch; leave out --no-judge")
        if not self.judges and (self.tuning_samples is not None or self.no_recalibrate):
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

    @property
    def names_task(self) -> bool:
        """Return whether the model is a task, if it is anything."""
        others = self.model.startswith((TORCHVISION, TIMM, HF)) or ".py:" in self.model
        return not others

    @property
    def judges(self) -> bool:
        """Return whether the error is measured before and after."""
        if self.judge is not None:
            return self.judge
        folder = self.model.startswith(HF) and self.data is not None
        return self.epochs is not None or self.names_task or folder

    def tell(self, line: str) -> None:
        """Print a line of progress on stderr."""
        if not self.quiet:
            echo(f"gp-prune: {line}", err=True)


def take_options(
    metric: str, primitive_files: Sequence[str], given: Mapping[str, Any]
) -> ApplyCommand:
    """Return what the command line asks for.

    Args:
        metric: a name, a file or a formula.
        primitive_files: Python files with further operands and operators.
        given: the other options by name.

    Raises:
        UserError: the metric cannot be read, or options contradict each other.
    """
    left = dict(given)
    pruning = _prune_options(Metric.load(metric, primitive_set(*primitive_files)), left)
    tuning = {name: left.pop(name) for name in _OF_TUNING}
    tuning = {name: value for name, value in tuning.items() if value is not None}
    return ApplyCommand(pruning=pruning, tuning=tuning, **left)


def _prune_options(metric: Metric, given: dict[str, Any]) -> PruneOptions:
    """Take the options of pruning out of those that are given; half goes where none says more."""
    for old, new in OLD_OPTIONS.items():
        share = given.pop(old)
        if share is None:
            continue
        echo(f"gp-prune: {_flag(old)} is now {_flag(new)}; the old name works until 0.2", err=True)
        if given[new] is not None:
            raise UserError(f"give one budget, not {_flag(old)} and {_flag(new)} together")
        given[new] = share
    pruning = {name: given.pop(name) for name in _OF_PRUNING}
    pruning["keep_share"] = _layer_shares(given.pop("keep_share"))
    pattern, scope = given.pop("pattern"), given.pop("scope")
    budgets = {name: pruning[name] for name in BUDGETS} | {"pattern": pattern}
    several = [_flag(name) for name, value in budgets.items() if value is not None]
    if len(several) > 1:
        raise UserError(f"give one budget, not {' and '.join(several)} together")
    if pattern is not None:
        if scope is not None:
            raise UserError(
                "--pattern ranks the weights of each block alone, so --scope means nothing; leave "
                "one of them out"
            )
        from gp_prune.pruning import Pattern

        pruning["pattern"] = Pattern.parse(pattern)
    elif not several:
        pruning["pruning_ratio"] = 0.5
    allocation = given.pop("allocation")
    if allocation is not None:
        if scope is not None:
            raise UserError(
                "--scope and --allocation both say how the budget is divided; leave one of them out"
            )
        pruning["allocation"] = as_allocation(allocation, metric.primitives)
    if scope is not None:
        pruning["conventions"] = replace(metric.conventions, scope=scope)
    return PruneOptions(metric=metric, **pruning)


def _layer_shares(texts: Sequence[str]) -> dict[str, float]:
    """Read LAYER=SHARE; UserError shows the text that is something else."""
    shares = {}
    for text in texts:
        layer, _, share = text.rpartition("=")
        try:
            shares[layer] = float(share)
        except ValueError:
            layer = ""
        if not layer:
            raise UserError(f"--keep-share is {text!r}; write LAYER=SHARE, such as 'layer4.*=0.8'")
    return shares


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")
