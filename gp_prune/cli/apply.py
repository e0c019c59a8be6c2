"""Provide ``gp-prune apply``, which prunes a network by a metric."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from gp_prune._compat import import_torch
from gp_prune.base.names import HF, KEEP, OLD_OPTIONS, SCOPES, UNRANKED_CHOICES
from gp_prune.cli import completion
from gp_prune.cli.options import (
    Sizes,
    json_option,
    memory_option,
    model_timeout_option,
    primitives_option,
    quiet_option,
)
from gp_prune.report.text import echo, print_json

SAMPLES = 512
"""Calibration samples where nothing is said."""


def _old_budgets(command: Callable[..., None]) -> Callable[..., None]:
    """Add the budgets by their old names as hidden options."""
    for old in OLD_OPTIONS:
        command = click.option(f"--{old}", type=float, hidden=True)(command)
    return command


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
@click.option(
    "--sequential", is_flag=True,
    help="Score the weights of each block on the outputs of the pruned blocks before it.",
)  # fmt: skip
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
    type=click.Choice(UNRANKED_CHOICES),
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
    # Formulas need sympy, for which nobody who completes a name should wait.
    from gp_prune.cli.apply_options import take_options

    command = take_options(metric, primitive_files, given)
    import_torch()  # only now, when the arguments are known to be in order
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
        if command.model.startswith(HF):
            back = "from_pretrained of transformers reads it"
        echo(f"Saved in {command.out}; {back}.")
    for path, difference in report["exports"].items():
        echo(f"Exported to {path}; its outputs differ from torch's by {difference:.1g}.")
    if command.plot is not None:
        echo(f"Drawn in {command.plot}.")
