"""Pairs as files of the run folder, named by their content."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from gp_prune._io import write_bytes
from gp_prune.autoencoder.data import Data
from gp_prune.errors import UserError
from gp_prune.statistics.running import random_state
from gp_prune.tasks.models import autoencoder

HIDDEN = 30
CODE = 10
"""Widths of the paper's autoencoder, 1000-30-10-30-1000; its small one has a code of 2."""


@dataclass(frozen=True)
class Layout:
    """The widths of an autoencoder.

    Attributes:
        encoder: widths from the features to the code.
        decoder: widths from the code to the features.
        code_relu: whether the code goes through a ReLU, as all hidden layers do; the output goes
            through a sigmoid.
    """

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    code_relu: bool

    def names(self, side: str) -> tuple[str, ...]:
        """The names of the layers of a side, as in :func:`module`."""
        widths, last = {"encoder": (self.encoder, "latent"), "decoder": (self.decoder, "output")}[
            side
        ]
        return (*(f"{side}{number}" for number in range(1, len(widths) - 1)), last)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum((i + 1) * o for side in (self.encoder, self.decoder) for i, o in pairwise(side))


SIDES = ("encoder", "decoder")


def layout_for(data: Data, code: int = 0) -> Layout:
    """The autoencoder for a data set.

    Vectors get the paper's, features-30-10-30-features; images that of the tasks
    (:func:`gp_prune.tasks.models.autoencoder`).

    Args:
        data: the data set.
        code: width of the code; 0 for that of the network as it was published.
    """
    if len(data.shape) != 3:
        features = data.train.inputs.shape[1]
        widths = (features, HIDDEN, code or CODE)
        return Layout(widths, widths[::-1], True)
    channels, height, width = data.shape
    with torch.device("meta"):
        model = autoencoder((channels, height, width), 0)
    steps = list(model.named_children())
    linear = {name: step for name, step in steps if isinstance(step, nn.Linear)}
    names = list(linear)
    inner = names.index("latent")
    encoder = [layer.in_features for layer in linear.values()][: inner + 1]
    decoder = [layer.out_features for layer in linear.values()][inner + 1 :]
    width = code or linear["latent"].out_features
    place = [name for name, _ in steps].index("latent")
    followed = isinstance(steps[place + 1][1], nn.ReLU)
    return Layout((*encoder, width), (width, *decoder), followed)


class Layer(NamedTuple):
    """Views on the part of a flat vector that belongs to one layer."""

    weight: Tensor  # (o, i)
    bias: Tensor  # (o,)


class Half:
    """An encoder or a decoder.

    Attributes:
        widths: of its layers, from its input to its output.
        weights: all weights and biases, flat.
        mask: as ``weights``, 0 where something was pruned for good, otherwise 1.
        first: Adam's mean of the gradients, as ``weights``.
        second: Adam's mean of the squared gradients, as ``weights``.
        steps: number of training steps that it has had.
        events: number of pruning events that it has had.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        weights: Tensor,
        mask: Tensor | None = None,
        first: Tensor | None = None,
        second: Tensor | None = None,
        steps: int = 0,
        events: int = 0,
    ) -> None:
        self.widths = widths
        self.weights = weights
        self.mask = torch.ones_like(weights) if mask is None else mask
        self.first = torch.zeros_like(weights) if first is None else first
        self.second = torch.zeros_like(weights) if second is None else second
        self.steps = steps
        self.events = events

    def clone(self) -> Half:
        """A copy that shares nothing."""
        tensors = (self.weights, self.mask, self.first, self.second)
        weights, mask, first, second = (tensor.clone() for tensor in tensors)
        return Half(self.widths, weights, mask, first, second, self.steps, self.events)

    def layers(self, flat: Tensor | None = None) -> list[Layer]:
        """Views on the weights, or on another vector of the same form, layer by layer."""
        flat = self.weights if flat is None else flat
        found, start = [], 0
        for i, o in pairwise(self.widths):
            weight = flat[start : start + o * i].view(o, i)
            start += o * i
            found.append(Layer(weight, flat[start : start + o]))
            start += o
        return found

    def apply_mask(self) -> None:
        """Set what was pruned to 0, in place."""
        self.weights.mul_(self.mask)

    @property
    def pruned(self) -> bool:
        """Whether anything was pruned for good."""
        return not bool(self.mask.all())


class Pair(NamedTuple):
    """An encoder and a decoder that fit each other."""

    encoder: Half
    decoder: Half

    def clone(self) -> Pair:
        """A copy that shares nothing."""
        return Pair(self.encoder.clone(), self.decoder.clone())


def first_pair(layout: Layout, seed: int, device: str = "cpu") -> Pair:
    """A new pair, initialised as torch does it; the same seed gives the same on every device."""
    halves = []
    with random_state(seed):
        for widths in (layout.encoder, layout.decoder):
            parts = []
            for i, o in pairwise(widths):
                linear = nn.Linear(i, o)
                parts += [linear.weight.detach().flatten(), linear.bias.detach()]
            halves.append(Half(widths, torch.cat(parts).to(device)))
    return Pair(*halves)


def encode(encoder: Half, inputs: Tensor, code_relu: bool) -> Tensor:
    """The codes (n, z) of samples (n, features)."""
    *hidden, last = encoder.layers()
    for layer in hidden:
        inputs = torch.addmm(layer.bias, inputs, layer.weight.t()).relu_()
    code = torch.addmm(last.bias, inputs, last.weight.t())
    return code.relu_() if code_relu else code


def decode(decoder: Half, code: Tensor) -> Tensor:
    """What goes into the output's sigmoid, (n, features), for codes (n, z)."""
    *hidden, last = decoder.layers()
    for layer in hidden:
        code = torch.addmm(layer.bias, code, layer.weight.t()).relu_()
    return torch.addmm(last.bias, code, last.weight.t())


def reconstruct(pair: Pair, inputs: Tensor, code_relu: bool) -> Tensor:
    """What the autoencoder makes of samples (n, features), in [0, 1]."""
    return decode(pair.decoder, encode(pair.encoder, inputs, code_relu)).sigmoid_()


def module(pair: Pair, layout: Layout) -> nn.Sequential:
    """The pair as a network of torch, which shares the weights.

    Its layers are ``encoder1``, ..., ``latent``, ``decoder1``, ..., ``output``.
    """
    steps: list[tuple[str, nn.Module]] = []
    for side, half in zip(SIDES, pair, strict=True):
        names = layout.names(side)
        for name, layer in zip(names, half.layers(), strict=True):
            steps.append((name, _linear(layer)))
            if name != names[-1] or (side == "encoder" and layout.code_relu):
                steps.append((f"relu_{name}", nn.ReLU()))
    steps.append(("sigmoid", nn.Sigmoid()))
    return nn.Sequential(OrderedDict(steps)).eval()


def _linear(layer: Layer) -> nn.Linear:
    o, i = layer.weight.shape
    with torch.device("meta"):
        linear = nn.Linear(i, o)
    linear.weight = nn.Parameter(layer.weight)
    linear.bias = nn.Parameter(layer.bias)
    return linear


FOLDER = "states"
_PARTS = ("weights", "mask", "first", "second")
_LENGTH = 32


def write_pair(folder: Path, pair: Pair) -> str:
    """Write a pair as one step; gives the digest by which it is read.

    Args:
        folder: the folder of the states.
        pair: what is written, with masks and the state of Adam.
    """
    tensors = {
        f"{side}.{part}": getattr(half, part).detach().cpu()
        for side, half in zip(SIDES, pair, strict=True)
        for part in _PARTS
    }
    for side in SIDES:
        tensors[f"{side}.mask"] = tensors[f"{side}.mask"].bool()
    facts = {
        side: {"widths": list(half.widths), "steps": half.steps, "events": half.events}
        for side, half in zip(SIDES, pair, strict=True)
    }
    # One entry alone: safetensors writes several in an order that changes from run to run.
    content = save(tensors, {"pair": json.dumps(facts, sort_keys=True)})
    digest = hashlib.sha256(content).hexdigest()[:_LENGTH]
    write_bytes(place(folder, digest), content)
    return digest


def read_pair(folder: Path, digest: str, device: str) -> Pair:
    """Read a pair.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = place(folder, digest)
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:_LENGTH] != digest:
            raise ValueError("its content is not what was written")
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["pair"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"state {str(path)!r} cannot be read: {reason}; restore it or start a new run"
        ) from None
    halves = []
    for side in SIDES:
        weights, mask, first, second = (
            tensors[f"{side}.{part}"].to(device, torch.float32) for part in _PARTS
        )
        known = facts[side]
        halves.append(
            Half(
                tuple(known["widths"]), weights, mask, first, second,
                known["steps"], known["events"],
            )
        )  # fmt: skip
    return Pair(*halves)


def sweep(folder: Path) -> None:
    """Delete what a kill left of files that were being written.

    Args:
        folder: a folder that no other run writes to.
    """
    for path in folder.glob(".*.????????"):
        if path.is_file():
            path.unlink(missing_ok=True)


def place(folder: Path, digest: str) -> Path:
    """The file of a pair."""
    return folder / f"{digest}.safetensors"
