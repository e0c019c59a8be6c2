"""``gp-prune apply``: prune a network by a metric."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import click

from gp_prune.cli.options import (
    Sizes,
    json_option,
    primitives_option,
    print_json,
    quiet_option,
    read_metrics,
)
from gp_prune.errors import UserError
from gp_prune.layer import LOSS_NEEDS
from gp_prune.metric import Metric

_EXAMPLES = """\b
Examples:
  gp-prune apply l1 lenet-digits
  gp-prune apply taylor_weights torchvision:resnet18 --macs 0.5 --data images/ --out small
  gp-prune apply my_metric.json my_model.py:build --ratio 0.3 --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("metric")
@click.argument("model")
@click.option(
    "--ratio", type=float, metavar="R", help="Remove this share of channels (or weights)."
)
@click.option("--macs", type=float, metavar="S", help="Keep this share of the MACs.")
@click.option("--params", type=float, metavar="S", help="Keep this share of the parameters.")
@click.option(
    "--data", metavar="SET|FOLDER", help="Calibration data: a data set, or class folders."
)
@click.option("--data-root", metavar="DIR", help="Folder with torchvision's data sets.")
@click.option("--download", is_flag=True, help="Fetch a missing data set into --data-root.")
@click.option("--samples", type=int, default=512, show_default=True, help="Calibration samples.")
@click.option("--input-shape", type=Sizes(), help="Sizes of one input.  [default: 3,224,224]")
@click.option(
    "--weights", metavar="FILE", help="State dict for the network (.safetensors or torch)."
)
@click.option("--mode", type=click.Choice(["compact", "mask"]), help="Remove, or hold at zero.")
@click.option("--scope", type=click.Choice(["layer", "global"]), help="Rank per layer or together.")
@click.option("--interface", metavar="NAME", multiple=True, help="Layer whose channels stay.")
@click.option("--out", metavar="DIR", help="Save the pruned network there.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--cache-dir", metavar="DIR", help="Folder for the trained networks of tasks.")
@primitives_option
@json_option
@quiet_option
def apply(metric: str, model: str, **options: Any) -> None:
    """Prune MODEL by METRIC, and print what each layer loses.

    METRIC is the name of a bundled metric or a metric file. MODEL is a task such as lenet-digits
    (its trained network and data), torchvision:NAME (random weights unless --weights is given) or
    FILE.py:FUNCTION, where the function returns a torch module, or the module and its example
    inputs. Without a budget half of the channels (or weights) are removed.
    """
    request = Request(metric=metric, model=model, **options)
    budget = request.budget()
    (found,) = read_metrics([metric], request.primitive_files)
    report = _run(request, found, budget)
    if request.as_json:
        print_json(report)
        return
    from gp_prune.report.tables import make_console, print_pruning

    print_pruning(make_console(sys.stdout), report)
    if request.out is not None:
        click.echo(
            f"Saved in {request.out}; gp_prune.load_pruned({request.out!r}, model) gives it back."
        )


@dataclass(frozen=True)
class Request:
    """What a person asked for; the fields are the arguments and options of the command."""

    metric: str
    model: str
    ratio: float | None
    macs: float | None
    params: float | None
    data: str | None
    data_root: str | None
    download: bool
    samples: int
    input_shape: tuple[int, ...] | None
    weights: str | None
    mode: str | None
    scope: str | None
    interface: tuple[str, ...]
    out: str | None
    seed: int
    device: str
    cache_dir: str | None
    primitive_files: tuple[str, ...]
    as_json: bool
    quiet: bool

    def budget(self) -> dict[str, float]:
        """What is to be kept: ``{kind: share}``; a ratio is the share that goes.

        Raises:
            UserError: several budgets, or one that is out of range.
        """
        given = {"ratio": self.ratio, "macs": self.macs, "params": self.params}
        named = {kind: share for kind, share in given.items() if share is not None}
        if len(named) > 1:
            raise UserError(
                f"give one budget, not {' and '.join('--' + kind for kind in named)} together"
            )
        kind, share = named.popitem() if named else ("ratio", 0.5)
        inside = 0 < share < 1 if kind == "ratio" else 0 < share <= 1
        if not inside:
            least = "less than 1" if kind == "ratio" else "at most 1"
            raise UserError(f"--{kind} is {share}; it must be greater than 0 and {least}")
        return {kind: share} if kind != "ratio" else {"channels": 1 - share}

    def tell(self, line: str) -> None:
        """Print a line of progress on stderr."""
        if not self.quiet:
            click.echo(f"gp-prune: {line}", err=True)


def _run(request: Request, metric: Metric, budget: dict[str, float]) -> dict[str, Any]:
    """Do what is asked and give the report."""
    from gp_prune.application.models import load_model
    from gp_prune.application.prune import prune
    from gp_prune.application.saving import check_folder, save_pruned

    if metric.granularity == "weight" and "channels" in budget:
        budget = {"params": budget["channels"]}
    if request.out is not None:
        check_folder(request.out)
    _check_device(request.device)
    request.tell(f"loading {request.model}")
    loaded = load_model(
        request.model,
        input_shape=request.input_shape,
        weights=request.weights,
        seed=request.seed,
        device=request.device,
        cache_dir=request.cache_dir,
        data_root=request.data_root,
        download=request.download,
    )
    data = _data(request, metric, loaded)
    conventions = metric.conventions
    if request.scope is not None:
        conventions = replace(conventions, scope=request.scope)
    pruned = prune(
        loaded.model,
        metric,
        loaded.example_inputs,
        data=data.batches,
        loss=data.loss,
        channels=budget.get("channels"),
        macs=budget.get("macs"),
        params=budget.get("params"),
        interface=(*loaded.interface, *request.interface),
        mode=request.mode,
        conventions=conventions,
        seed=request.seed,
        progress=request.tell,
    )
    if request.out is not None:
        save_pruned(pruned, request.out, model=request.model)
    origin = {"weights": loaded.origin, "data": data.name, "saved": request.out}
    return {**pruned.report(model=request.model), **origin}


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("this torch finds no CUDA device; use --device cpu")


def _data(request: Request, metric: Metric, loaded: Any) -> Any:
    """Calibration data if the metric measures anything, otherwise none."""
    from gp_prune.application.data import NO_DATA, calibration, check_labels
    from gp_prune.application.prune import needs_data

    if not needs_data(metric):
        if request.data is not None:
            request.tell(f"{metric.name} measures nothing, so --data is not read")
        return NO_DATA
    if request.data is not None or loaded.task is not None:
        request.tell(f"reading {request.data or 'training samples of ' + request.model}")
    data = calibration(
        loaded,
        request.data,
        samples=request.samples,
        seed=request.seed,
        data_root=request.data_root,
        download=request.download,
    )
    if metric.needs & LOSS_NEEDS:
        check_labels(loaded, data)
    return data
