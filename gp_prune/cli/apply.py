"""What ``gp-prune apply`` takes, checked before torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from gp_prune.apply.options import (
    BUDGETS,
    KEEP,
    OLD_BUDGETS,
    REFUSE,
    PruneOptions,
    as_allocation,
)
from gp_prune.cli import completion
from gp_prune.cli.options import (
    Sizes,
    json_option,
    memory_option,
    model_timeout_option,
    primitives_option,
    quiet_option,
)
from gp_prune.errors import UserError, brief, number, whole
from gp_prune.language.primitive import primitive_set
from gp_prune.metric.file import SCOPES
from gp_prune.metric.metric import Metric
from gp_prune.report.text import echo, print_json

_OF_PRUNING = (
    *BUDGETS, "steps", "ignore", "round_to", "min_share", "unranked", "allow_ties",
    "cut_residual", "mode", "time_it", "seed", "max_memory",
)  # fmt: skip
_OF_TUNING = (
    "optimiser", "lr", "weight_decay", "batch_size", "warm_up", "distill", "temperature",
    "patience",
)  # fmt: skip
_OLD_BUDGETS = {old: new for old, new in OLD_BUDGETS.items() if old != "channels"}
"""Options that work until 0.2 -> the options in their place."""
_PACKAGES = ("torchvision:", "timm:", "hf:")
_COUNTS = ("samples", "epochs", "tuning_samples")
_COUNT = whole(1)
_TIMEOUT = number(least=0)
_ENDINGS = {"onnx": [".onnx"], "export": [".pt2", ".ts"], "plot": [".png", ".svg"]}
SAMPLES = 512
"""Calibration samples where nothing is said."""


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
        others = self.model.startswith(_PACKAGES) or ".py:" in self.model
        return not others

    @property
    def judges(self) -> bool:
        """Return whether the error is measured before and after."""
        if self.judge is not None:
            return self.judge
        folder = self.model.startswith("hf:") and self.data is not None
        return self.epochs is not None or self.names_task or folder

    def tell(self, line: str) -> None:
        """Print a line of progress on stderr."""
        if not self.quiet:
            echo(f"gp-prune: {line}", err=True)


def _prune_options(metric: Metric, given: dict[str, Any]) -> PruneOptions:
    """Take the options of pruning out of those that are given; half goes where none says more."""
    for old, new in _OLD_BUDGETS.items():
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


def _old_budgets(command: Callable[..., None]) -> Callable[..., None]:
    """Add the budgets by their old names as hidden options."""
    for old in _OLD_BUDGETS:
        command = click.option(_flag(old), type=float, hidden=True)(command)
    return command


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


_EXAMPLES = """\b
Examples:
  gp-prune apply l1 lenet-digits --epochs 5
  gp-prune apply taylor_weights torchvision:resnet18 --keep-macs 0.5 --data images/ --out small
  gp-prune apply my_metric.json my_model.py:build --pruning-ratio 0.3 --round-to 8 --onnx small.onnx
  gp-prune apply magnitude timm:resnet18 --pattern 2:4 --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("metric", shell_complete=completion.metrics)
@click.argument("model", shell_complete=completion.tasks)
# What goes.
@click.option(
    "--pruning-ratio", type=float, metavar="R", help="Remove this share of channels (or weights)."
)
@click.option("--keep-channels", type=float, metavar="S", help="Keep this share of the channels.")
@click.option("--keep-macs", type=float, metavar="S", help="Keep this share of the MACs.")
@click.option("--keep-params", type=float, metavar="S", help="Keep this share of the parameters.")
@click.option(
    "--keep-latency",
    type=float,
    metavar="S",
    help="Keep this share of the measured time of a pass.",
)
@_old_budgets
@click.option("--pattern", metavar="N:M", help="Of every M consecutive weights keep N.")
@click.option("--scope", type=click.Choice(SCOPES), help="What is ranked together.")
@click.option(
    "--allocation",
    metavar="NAME|METRIC",
    help="Divide the budget by: own, global, uniform, residual-whole, or a metric's shares.",
)
@click.option(
    "--steps", type=int, default=1, metavar="N", help="Score and cut N times.  [default: 1]"
)
@click.option("--round-to", type=int, default=1, metavar="K", help="Keep multiples of K channels.")
@click.option(
    "--ignore", metavar="NAME", multiple=True, help="Layer, or pattern (layer4.*), to leave whole."
)
@click.option(
    "--with-head",
    is_flag=True,
    help="Also prune weights of the last layer of a language model, which else stays whole.",
)
@click.option(
    "--min-share",
    type=float,
    metavar="S",
    help="Every layer keeps this share of its channels at least; 0: one channel.  [default: 0.1]",
)
@click.option(
    "--keep-share",
    metavar="LAYER=S",
    multiple=True,
    help="Keep this share of the channels of a layer, or of a pattern ('layer4.*=0.8').",
)
@click.option(
    "--unranked",
    type=click.Choice([KEEP, REFUSE]),
    default=KEEP,
    help="Keep layers whose channels all have the same score, or refuse.  [default: keep]",
)
@click.option(
    "--allow-ties", is_flag=True, help="Let positions decide where most scores are equal."
)
@click.option(
    "--cut-residual",
    is_flag=True,
    help="Also cut channels under a layer or group norm, which changes what the norm computes.",
)
@click.option("--mode", type=click.Choice(["compact", "mask"]), help="Remove, or hold at zero.")
# The network and its data.
@click.option("--input-shape", type=Sizes(), help="Sizes of one input.  [default: 3,224,224]")
@click.option(
    "--weights",
    metavar="FILE|DEFAULT",
    help="State dict for the network (.safetensors or torch), or the package's own weights.",
)
@click.option(
    "--data",
    metavar="SET|FOLDER|FILE",
    help="A data set, or a folder of class folders; for a language model of hf: a text or .npy.",
)
@click.option(
    "--kind",
    type=click.Choice(["classification", "reconstruction"]),
    help="What the network does with it.  [default: classification]",
)
@click.option("--data-root", metavar="DIR", help="Folder with torchvision's data sets.")
@click.option("--download", is_flag=True, help="Fetch a missing data set into --data-root.")
@click.option("--samples", type=int, help=f"Calibration samples.  [default: {SAMPLES}]")
@memory_option
@click.option("--cache-dir", metavar="DIR", help="Folder for the trained networks of tasks.")
# After pruning.
@click.option("--epochs", type=int, metavar="N", help="Fine-tune for N epochs.")
@click.option("--optimiser", help="sgd or adamw.  [default: sgd]")
@click.option("--lr", type=float, help="Highest learning rate.  [default: 0.01, adamw 0.001]")
@click.option("--weight-decay", type=float, help="Of the optimiser.  [default: 0]")
@click.option("--batch-size", type=int, help="For fine-tuning.  [default: 64]")
@click.option("--warm-up", type=float, help="Share of the epochs.  [default: 0]")
@click.option("--distill", type=float, metavar="A", help="Share of the loss of distillation.")
@click.option("--temperature", type=float, help="Of distillation.  [default: 4]")
@click.option("--patience", type=int, help="Epochs without gain that end it.")
@click.option("--checkpoint", metavar="DIR", help="Keep the fine-tuning there, to go on from it.")
@click.option("--tuning-samples", type=int, metavar="N", help="Most samples to tune and judge on.")
@click.option(
    "--judge/--no-judge",
    default=None,
    help="Measure the error before and after.  [default: with --epochs, and for tasks]",
)
@click.option("--no-recalibrate", is_flag=True, help="Leave batch norms as pruning left them.")
# What is written.
@click.option("--out", metavar="DIR", help="Save the pruned network there.")
@click.option("--force", is_flag=True, help="Replace the outputs that are there.")
@click.option("--onnx", metavar="FILE", help="Export to ONNX, checked with onnxruntime.")
@click.option("--export", metavar="FILE", help="Export by torch.export (.pt2) or TorchScript (.ts)")
@click.option("--plot", metavar="FILE", help="Draw what goes, as .png or .svg.")
@click.option("--time", "time_it", is_flag=True, help="Measure the latency before and after.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@primitives_option
@model_timeout_option
@json_option
@quiet_option
def apply(metric: str, primitive_files: Sequence[str], as_json: bool, **given: Any) -> None:
    """Prune MODEL by METRIC, and print what each layer loses.

    METRIC is the name of a bundled metric, a metric file or a formula. MODEL is a task such as
    lenet-digits (its trained network and data), torchvision:NAME or timm:NAME (random weights
    unless --weights is given), hf:FOLDER (a folder of transformers) or FILE.py:FUNCTION, where the
    function returns a torch module, or the module and its example inputs. Without a budget half of
    the channels (or weights) are removed. Give the --keep-latency budget with the batch that
    matters, through FILE.py:FUNCTION.
    """
    ranks = Metric.load(metric, primitive_set(*primitive_files))
    pruning = _prune_options(ranks, given)
    tuning = {name: given.pop(name) for name in _OF_TUNING}
    tuning = {name: value for name, value in tuning.items() if value is not None}
    command = ApplyCommand(pruning=pruning, tuning=tuning, **given)
    # Torch is imported only now, when the arguments are known to be in order.
    from gp_prune.cli.apply_run import run
    from gp_prune.report.console import make_console
    from gp_prune.report.progress import measuring
    from gp_prune.report.pruning import print_pruning

    with measuring(quiet=command.quiet) as batches_done:
        report = run(command, batches_done)
    if as_json:
        print_json(report)
        return
    print_pruning(make_console(sys.stdout), report)
    if command.out is not None:
        back = f"gp_prune.load_pruned({command.out!r}, model) gives it back"
        if command.model.startswith("hf:"):
            back = "from_pretrained of transformers reads it"
        echo(f"Saved in {command.out}; {back}.")
    for path, difference in report["exports"].items():
        echo(f"Exported to {path}; its outputs differ from torch's by {difference:.1g}.")
    if command.plot is not None:
        echo(f"Drawn in {command.plot}.")
