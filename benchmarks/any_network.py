"""Cut networks of many families: how long it takes, what is kept whole, and whether it is right.

Every network has random weights and is cut to half of its MACs by L1, on two images of 64 x 64
where it takes them, in a process of its own with one thread; ``seconds`` are those of the
processor. Of every cut it is checked that

* the smaller network computes what the masked one does, in the output of every convolution and
  linear layer (``maps differ by``, a share of the largest value of the map);
* its MACs, counted as it runs, are the share that was asked, or the reason is given;
* networks of up to 30 million weights are also pruned to half of their weights, for which no
  channels have to be followed.

    python benchmarks/any_network.py [--networks NAME ...] [--csv FILE] [--markdown FILE]
        [--limit 900]

The networks are those of torchvision that the tests cut, and 34 of timm, which must be installed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import inspect
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gp_prune._compat import import_torchvision
from gp_prune.apply.models import import_timm
from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.graph.inner_maps import recorded_maps
from gp_prune.pruning.modules import largest_difference
from gp_prune.pruning.surgery import set_to_zero

KEEP = 0.5
MOST_WEIGHTS = 30_000_000
"""Of a network whose single weights are ranked, which takes memory and time for all of them."""
TORCHVISION = (
    "alexnet", "vgg11_bn", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d",
    "wide_resnet50_2", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet", "mnasnet1_0", "regnet_y_400mf",
    "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip
TIMM = (
    "efficientvit_b0", "mixnet_s", "swin_tiny_patch4_window7_224", "convnext_atto",
    "convnextv2_atto", "mobilenetv4_conv_small_050", "ghostnet_050", "repvgg_a0", "dla34",
    "hrnet_w18_small", "res2net50_14w_8s", "resnest14d", "seresnet18", "regnety_002",
    "tf_efficientnet_b0", "dm_nfnet_f0", "cspdarknet53", "ese_vovnet19b_dw", "densenet121",
    "inception_v4", "skresnet18", "mobileone_s0", "edgenext_xx_small", "mobilevitv2_050",
    "poolformer_s12", "levit_128s", "deit_tiny_patch16_224", "xcit_nano_12_p8_224",
    "pvt_v2_b0", "mixer_s32_224", "gmlp_s16_224", "resmlp_12_224", "maxvit_tiny_tf_224",
    "fastvit_t8",
)  # fmt: skip
SIZES = {"inception_v4": 96, "googlenet": 64}


@dataclass(frozen=True)
class Line:
    """What became of a network, by channels and by single weights; empty where it was not cut."""

    network: str
    seconds: str
    result: str
    macs: str
    params: str
    maps_differ_by: str
    kept_whole: str
    weights_seconds: str
    weights_result: str


FIELDS = tuple(field.name for field in fields(Line))


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a network of torchvision, or of timm after ``timm:``, and images for it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchvision = import_torchvision()
        short = name.removeprefix("timm:")
        size = SIZES.get(short, 64)
        if short == name:
            options: dict[str, Any] = {"vit_b_16": {"image_size": 64}}.get(name, {})
            if name == "googlenet":
                options = {"init_weights": False}
            model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
            return model.eval(), torch.randn(2, 3, size, size)
        timm: Any = import_timm()
        source = inspect.getsource(sys.modules[timm.models.model_entrypoint(short).__module__])
        takes_size = "img_size" in source
        try:
            model = timm.create_model(short, **({"img_size": size} if takes_size else {}))
        except (TypeError, AssertionError, RuntimeError, ValueError):
            model = timm.create_model(short)
            size = int(model.default_cfg["input_size"][-1]) if takes_size else size  # type: ignore[index]
    return model.eval(), torch.randn(2, 3, size, size)


def largest_map_difference(model: nn.Module, pruned: PrunedModel, inputs: torch.Tensor) -> float:
    """Return how far the outputs of layers are from those of the masked network.

    Channels at zero are what masks hold, without the memory of masks.
    """
    assert pruned.mode == "compact"
    entries = pruned.architecture.entries(pruned.plan.removed)  # type: ignore[union-attr]
    masked = copy.deepcopy(open_attention(model))
    set_to_zero(masked, entries)
    recorded = []
    for network in (masked, pruned.model):
        with recorded_maps(network) as maps, torch.no_grad():
            network.eval()(inputs)
        recorded.append(maps)
    removed = {name: gone for (name, side), gone in entries.items() if side in ("out", "depthwise")}
    largest = 0.0
    for (name, whole), (other, part) in zip(*recorded, strict=True):
        assert name == other
        stays = np.setdiff1d(np.arange(whole.shape[1]), removed.get(name, []))
        kept = whole.index_select(1, torch.from_numpy(stays))
        if float(kept.abs().amax()) > 1e-6 * float(whole.abs().amax()):
            largest = max(largest, largest_difference([kept], [part]))
    return largest


def cut(name: str) -> dict[str, Any]:
    """Cut one network and return its line."""
    torch.set_num_threads(1)
    line: dict[str, Any] = {"network": name}
    try:
        model, inputs = build(name)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        return {**line, "result": f"not built: {error}"}
    prune(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "l1", torch.ones(1, 3), keep_macs=0.5)
    started = time.process_time()
    try:
        pruned = prune(model, "l1", inputs, keep_macs=KEEP)
    except UserError as error:
        line |= {"seconds": round(time.process_time() - started, 2), "result": f"refused: {error}"}
    else:
        line["seconds"] = round(time.process_time() - started, 2)
        macs = pruned.after.macs / pruned.before.macs
        line |= {
            "result": "cut" if abs(macs - KEEP) <= 0.02 else " ".join(pruned.remarks),
            "macs": round(macs, 4),
            "params": round(pruned.after.params / pruned.before.params, 4),
            "maps_differ_by": f"{largest_map_difference(model, pruned, inputs):.1e}",
        }
        reasons = Counter(row.fixed for row in pruned.rows if row.fixed)
        line["kept_whole"] = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
    if sum(parameter.numel() for parameter in model.parameters()) > MOST_WEIGHTS:
        return line
    started = time.process_time()
    try:
        sparse = prune(model, "magnitude", inputs, keep_params=0.5)
        share = sparse.achieved.weights
        line["weights_result"] = f"{share:.4f} of the weights"
    except UserError as error:
        line["weights_result"] = f"refused: {error}"
    line["weights_seconds"] = round(time.process_time() - started, 2)
    return line


def write_markdown(lines: list[dict[str, Any]], path: Path) -> None:
    """Write the table for people, with the longest cells cut."""

    def cell(value: Any) -> str:
        text = str(value).replace("|", "/").replace("\n", " ")
        return text if len(text) <= 240 else f"{text[:240]}..."

    rows = [list(FIELDS), ["---"] * len(FIELDS)]
    rows += [[cell(line[field]) for field in FIELDS] for line in lines]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    head, _, rest = (__doc__ or "").strip().partition("\n")
    path.write_text(f"# {head.rstrip('.')}\n{rest.partition('    python')[0]}\n{table}\n")


def main() -> None:
    """Cut all networks, or those named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", help="by default all")
    parser.add_argument("--csv", type=Path, help="where the table goes")
    parser.add_argument("--limit", type=int, default=900, help="seconds per network")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--markdown", type=Path, help="where the table for people goes")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(cut(options.one)))
        return
    lines = []
    for name in options.networks or [*TORCHVISION, *(f"timm:{name}" for name in TIMM)]:
        command = [sys.executable, __file__, "--one", name]
        line: dict[str, Any]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            line = json.loads(done.stdout) if not done.returncode else {"result": f"ends: {last}"}
        except subprocess.TimeoutExpired:
            line = {"result": f"not done after {options.limit} s"}
        lines.append({**dict.fromkeys(FIELDS, ""), "network": name, **line})
        print(*lines[-1].values(), sep=" | ", flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    if options.markdown:
        write_markdown(lines, options.markdown)


if __name__ == "__main__":
    main()
