"""Measure the layers of small trained networks that come with the package.

Rankings of formulas are compared on them, without training anything. The file holds the weights of
three networks for 8x8 digits and the images that they are measured on; it is written by
``benchmarks/probe_networks.py``. It is read as bounded data and checked tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.base.artifacts import parse_tensors
from gp_prune.base.files import read_file
from gp_prune.errors import UserError
from gp_prune.language.record import LayerRecord
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.running import one_thread, random_state
from gp_prune.tasks.models import MODELS, Shape

FILE = "probe_networks.safetensors"
PROBE_MODELS = ("lenet", "cnn", "autoencoder")
"""Networks of the file, names of :data:`gp_prune.tasks.models.MODELS`."""

IMAGES, LABELS = "images", "labels"
SHAPE: Shape = (1, 8, 8)
CLASSES = 10
LEVELS = 16.0
"""The images hold whole numbers up to this; the networks read shares of it."""

MOST_BYTES = 400_000
_MOST_IMAGES = 1000


@dataclass(frozen=True)
class ProbeNetwork:
    """A trained network with its measured layers.

    Attributes:
        name: what kind it is.
        layers: name -> record, of all prunable layers.
        ranked: names of the layers whose channels may be cut.
    """

    name: str
    layers: Mapping[str, LayerRecord]
    ranked: tuple[str, ...]


def measure_probe_networks(
    needs: AbstractSet[str], names: Iterable[str] = PROBE_MODELS
) -> list[ProbeNetwork]:
    """Return the probe networks, measured.

    Args:
        needs: what is measured, keys of :data:`gp_prune.language.record.NEEDS`.
        names: which of :data:`PROBE_MODELS`.

    Raises:
        UserError: the file of the package is missing or damaged.
    """
    tensors = read_probe_file(Path(str(resources.files("gp_prune.tasks").joinpath(FILE))))
    with one_thread():
        return [_measured(name, tensors, needs) for name in names]


def _measured(name: str, tensors: Mapping[str, Tensor], needs: AbstractSet[str]) -> ProbeNetwork:
    model = build_probe_model(name)
    model.load_state_dict(_part(tensors, name))
    images = tensors[IMAGES].to(torch.float32) / LEVELS
    reconstructs = MODELS[name].kind == "reconstruction"
    target = images if reconstructs else tensors[LABELS].to(torch.int64)
    loss: Any = functional.mse_loss if reconstructs else functional.cross_entropy
    architecture = trace(model, images[:2], interface=MODELS[name].interface)
    labels = tensors[LABELS].to(torch.int64)
    batch = Batch(images, target, labels)
    layers = collect(model, None, [batch], needs=needs, loss=loss, outgoing=consumers(architecture))
    ranked = {member.layer for group in architecture.free for member in group.members}
    return ProbeNetwork(name, layers, tuple(layer for layer in layers if layer in ranked))


def build_probe_model(name: str) -> nn.Module:
    """Return an untrained network of a kind, in evaluation mode."""
    with random_state(0):
        return MODELS[name].build(SHAPE, CLASSES).eval()


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def read_probe_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of probe networks, each checked.

    Raises:
        UserError: the file cannot be read or holds something else; the sentence says what.
    """
    try:
        tensors = parse_tensors(read_file(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"the probe networks {str(path)!r} cannot be read: {reason}") from None
    problem = _find_problem(tensors)
    if problem:
        raise UserError(
            f"the probe networks {str(path)!r} are damaged: {problem}; install gp-prune again"
        )
    return tensors


def _find_problem(tensors: Mapping[str, Tensor]) -> str:
    """Return what is wrong with the tensors; empty if nothing is."""
    images, labels = tensors.get(IMAGES), tensors.get(LABELS)
    if images is None or labels is None:
        return "there are no images with labels"
    count = len(labels) if labels.ndim == 1 else 0
    if not 0 < count <= _MOST_IMAGES or images.shape != (count, *SHAPE):
        return f"images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
    if images.dtype != torch.uint8 or labels.dtype != torch.uint8:
        return f"images of {images.dtype} and labels of {labels.dtype}, where uint8 is needed"
    if int(images.max()) > LEVELS or int(labels.max()) >= CLASSES:
        return "an image or a label is out of range"
    known = {IMAGES, LABELS}
    for name in PROBE_MODELS:
        for key, wanted in build_probe_model(name).state_dict().items():
            tensor = tensors.get(f"{name}/{key}")
            known.add(f"{name}/{key}")
            if tensor is None:
                return f"{name}/{key} is missing"
            if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
                return f"{name}/{key} is {tensor.dtype} of shape {tuple(tensor.shape)}"
            if not bool(tensor.isfinite().all()):
                return f"{name}/{key} is not finite"
    extra = sorted(set(tensors) - known)
    return f"{extra[0]!r} is unknown" if extra else ""
