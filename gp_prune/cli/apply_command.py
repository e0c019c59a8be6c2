"""``gp-prune apply``: prune a network by a metric."""

from __future__ import annotations

import sys
from typing import Any

import click

from gp_prune.cli.apply_request import SAMPLES, Request
from gp_prune.cli.interrupts import insistent_interrupts
from gp_prune.cli.options import (
    Sizes,
    json_option,
    primitives_option,
    print_json,
    quiet_option,
    read_metrics,
)
from gp_prune.conventions import SCOPES

_EXAMPLES = """\b
Examples:
  gp-prune apply l1 lenet-digits --epochs 5
  gp-prune apply taylor_weights torchvision:resnet18 --macs 0.5 --data images/ --out small
  gp-prune apply my_metric.json my_model.py:build --ratio 0.3 --round-to 8 --onnx small.onnx
  gp-prune apply magnitude timm:resnet18 --pattern 2:4 --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("metric")
@click.argument("model")
# What goes.
@click.option(
    "--ratio", type=float, metavar="R", help="Remove this share of channels (or weights)."
)
@click.option("--macs", type=float, metavar="S", help="Keep this share of the MACs.")
@click.option("--params", type=float, metavar="S", help="Keep this share of the parameters.")
@click.option(
    "--latency", type=float, metavar="S", help="Keep this share of the measured time of a pass."
)
@click.option("--pattern", metavar="N:M", help="Of every M consecutive weights keep N.")
@click.option("--scope", type=click.Choice(SCOPES), help="What is ranked together.")
@click.option("--steps", type=int, default=1, help="Score and cut so many times.  [default: 1]")
@click.option("--round-to", type=int, default=1, metavar="K", help="Keep multiples of K channels.")
@click.option(
    "--ignore", metavar="NAME", multiple=True, help="Layer, or pattern (layer4.*), to leave whole."
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
    "--weights", metavar="FILE", help="State dict for the network (.safetensors or torch)."
)
@click.option("--data", metavar="SET|FOLDER", help="A data set, or a folder of class folders.")
@click.option("--data-root", metavar="DIR", help="Folder with torchvision's data sets.")
@click.option("--download", is_flag=True, help="Fetch a missing data set into --data-root.")
@click.option("--samples", type=int, help=f"Calibration samples.  [default: {SAMPLES}]")
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
@click.option("--force", is_flag=True, help="Let --out replace an earlier output.")
@click.option("--onnx", metavar="FILE", help="Export to ONNX, checked with onnxruntime.")
@click.option("--export", metavar="FILE", help="Export by torch.export (.pt2) or TorchScript (.ts)")
@click.option("--plot", metavar="FILE", help="Draw what goes, as .png or .svg.")
@click.option("--time", "time_it", is_flag=True, help="Measure the latency before and after.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@primitives_option
@json_option
@quiet_option
def apply(metric: str, model: str, **options: Any) -> None:
    """Prune MODEL by METRIC, and print what each layer loses.

    METRIC is the name of a bundled metric or a metric file. MODEL is a task such as lenet-digits
    (its trained network and data), torchvision:NAME or timm:NAME (random weights unless --weights
    is given) or FILE.py:FUNCTION, where the function returns a torch module, or the module and its
    example inputs. Without a budget half of the channels (or weights) are removed. Give the
    --latency budget with the batch that matters, through FILE.py:FUNCTION.
    """
    request = Request(metric=metric, model=model, **options)
    request.check()
    (found,) = read_metrics([metric], request.primitive_files)
    # Torch is imported only now, when the arguments are known to be in order.
    from gp_prune.cli.apply_run import run
    from gp_prune.report.progress import measuring

    with insistent_interrupts(), measuring(quiet=request.quiet) as batches_done:
        report = run(request, found, batches_done)
    if request.as_json:
        print_json(report)
        return
    from gp_prune.report.tables import make_console, print_pruning

    print_pruning(make_console(sys.stdout), report)
    if request.out is not None:
        click.echo(
            f"Saved in {request.out}; gp_prune.load_pruned({request.out!r}, model) gives it back."
        )
    for path, difference in report["exports"].items():
        click.echo(f"Exported to {path}; its outputs differ from torch's by {difference:.1g}.")
    if request.plot is not None:
        click.echo(f"Drawn in {request.plot}.")
