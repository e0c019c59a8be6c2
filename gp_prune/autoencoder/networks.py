"""Hold an encoder and a decoder as flat vectors, run them, and keep them as files."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gp_prune.autoencoder.data import FlatData
from gp_prune.base.artifacts import read_tensors, write_tensors
from gp_prune.base.files import DamagedFileError
from gp_prune.errors import UserError
from gp_prune.statistics.running import random_state
from gp_prune.tasks.models import autoencoder

HIDDEN = 30
CODE = 10
"""Widths of the paper's autoencoder, 1000-30-10-30-1000; its small one has a code of 2."""

SIDES = ("encoder", "decoder")

FOLDER = "states"
"""The folder of a run in which pairs are kept."""

_PARTS = ("weights", "mask", "first", "second")
_DIGEST_LENGTH = 32


@dataclass(frozen=True)
class AutoencoderLayout:
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
        """Return the names of the layers of a side, as in :func:`module`."""
        widths, last = (self.encoder, "latent") if side == "encoder" else (self.decoder, "output")
        return (*(f"{side}{number}" for number in range(1, len(widths) - 1)), last)

    @property
    def parameters(self) -> int:
        """Return the number of weights and biases."""
        return sum((i + 1) * o for side in (self.encoder, self.decoder) for i, o in pairwise(side))


def choose_layout(data: FlatData, code: int = 0) -> AutoencoderLayout:
    """Choose the autoencoder for a data set.

    Vectors get the paper's, features-30-10-30-features; images that of the tasks
    (:func:`gp_prune.tasks.models.autoencoder`).

    Args:
        data: the data set.
        code: width of the code; 0 for that of the network as it was published.
    """
    if len(data.shape) != 3:
        widths = (data.shape[0], HIDDEN, code or CODE)
        return AutoencoderLayout(widths, widths[::-1], True)
    channels, height, width = data.shape
    with torch.device("meta"):
        model = autoencoder((channels, height, width), 0)
    names, modules = zip(*model.named_children(), strict=True)
    latent = names.index("latent")
    encoder = [m.in_features for m in modules[: latent + 1] if isinstance(m, nn.Linear)]
    decoder = [m.out_features for m in modules[latent + 1 :] if isinstance(m, nn.Linear)]
    middle = code or modules[latent].out_features
    code_relu = isinstance(modules[latent + 1], nn.ReLU)
    return AutoencoderLayout((*encoder, middle), (middle, *decoder), code_relu)


class Layer(NamedTuple):
    """Views on the part of a flat vector that belongs to one layer."""

    weight: Tensor  # (o, i)
    bias: Tensor  # (o,)


@dataclass(eq=False)
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

    widths: tuple[int, ...]
    weights: Tensor
    mask: Tensor
    first: Tensor
    second: Tensor
    steps: int = 0
    events: int = 0

    def clone(self) -> Half:
        """Return a copy that shares nothing."""
        weights, mask, first, second = (getattr(self, part).clone() for part in _PARTS)
        return Half(self.widths, weights, mask, first, second, self.steps, self.events)

    def layers(self, flat: Tensor | None = None) -> list[Layer]:
        """Return views on the weights, or on another vector of the same form, layer by layer."""
        flat = self.weights if flat is None else flat
        layers, start = [], 0
        for i, o in pairwise(self.widths):
            weight = flat[start : start + o * i].view(o, i)
            start += o * i
            layers.append(Layer(weight, flat[start : start + o]))
            start += o
        return layers

    def apply_mask(self) -> None:
        """Set what was pruned to 0, in place."""
        self.weights.mul_(self.mask)

    @property
    def pruned(self) -> bool:
        """Return whether anything was pruned for good."""
        return not bool(self.mask.all())


class Pair(NamedTuple):
    """An encoder and a decoder that fit each other."""

    encoder: Half
    decoder: Half

    def clone(self) -> Pair:
        """Return a copy that shares nothing."""
        return Pair(self.encoder.clone(), self.decoder.clone())


def create_pair(layout: AutoencoderLayout, seed: int, device: str = "cpu") -> Pair:
    """Create a pair, initialised as torch does it; equal for equal seeds on every device."""
    halves = []
    with random_state(seed):
        for widths in (layout.encoder, layout.decoder):
            parts = []
            for i, o in pairwise(widths):
                linear = nn.Linear(i, o)
                parts += [linear.weight.detach().flatten(), linear.bias.detach()]
            weights = torch.cat(parts).to(device)
            mask, zeros = torch.ones_like(weights), torch.zeros_like(weights)
            halves.append(Half(widths, weights, mask, zeros, zeros.clone()))
    return Pair(*halves)


def encode(encoder: Half, inputs: Tensor, code_relu: bool) -> Tensor:
    """Return the codes (n, z) of samples (n, features)."""
    *hidden, last = encoder.layers()
    for layer in hidden:
        inputs = torch.addmm(layer.bias, inputs, layer.weight.t()).relu_()
    code = torch.addmm(last.bias, inputs, last.weight.t())
    return code.relu_() if code_relu else code


def decode(decoder: Half, code: Tensor) -> Tensor:
    """Return the inputs of the output's sigmoid, (n, features), for codes (n, z)."""
    return encode(decoder, code, code_relu=False)


def reconstruct(pair: Pair, inputs: Tensor, code_relu: bool) -> Tensor:
    """Return the output of the autoencoder for samples (n, features), in [0, 1]."""
    return decode(pair.decoder, encode(pair.encoder, inputs, code_relu)).sigmoid_()


def module(pair: Pair, layout: AutoencoderLayout) -> nn.Sequential:
    """Return the pair as a network of torch, which shares the weights.

    Its layers are ``encoder1``, ..., ``latent``, ``decoder1``, ..., ``output``.
    """
    steps: list[tuple[str, nn.Module]] = []
    for side, half in zip(SIDES, pair, strict=True):
        names = layout.names(side)
        for name, layer in zip(names, half.layers(), strict=True):
            o, i = layer.weight.shape
            with torch.device("meta"):
                linear = nn.Linear(i, o)
            linear.weight, linear.bias = nn.Parameter(layer.weight), nn.Parameter(layer.bias)
            steps.append((name, linear))
            if name != names[-1] or (side == "encoder" and layout.code_relu):
                steps.append((f"relu_{name}", nn.ReLU()))
    steps.append(("sigmoid", nn.Sigmoid()))
    return nn.Sequential(OrderedDict(steps)).eval()


def write_pair(folder: Path, pair: Pair) -> str:
    """Write a pair as one step; return the digest by which it is read.

    Args:
        folder: the folder of the states.
        pair: what is written, with masks and the state of Adam.
    """
    tensors, facts = {}, {}
    for side, half in zip(SIDES, pair, strict=True):
        for part in _PARTS:
            tensors[f"{side}.{part}"] = getattr(half, part).detach().cpu()
        tensors[f"{side}.mask"] = tensors[f"{side}.mask"].bool()
        facts[side] = {"widths": list(half.widths), "steps": half.steps, "events": half.events}
    metadata = {"pair": json.dumps(facts, sort_keys=True)}
    return write_tensors(folder, "{:.32}.safetensors", tensors, metadata)[:_DIGEST_LENGTH]


def read_pair(folder: Path, digest: str, device: str) -> Pair:
    """Read a pair.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = pair_path(folder, digest)
    halves = []
    try:
        tensors = read_tensors(path, digest)
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["pair"])
        for side in SIDES:
            widths, steps, events = (facts[side][name] for name in ("widths", "steps", "events"))
            weights, mask, first, second = (
                tensors[f"{side}.{part}"].to(device, torch.float32) for part in _PARTS
            )
            halves.append(Half(tuple(widths), weights, mask, first, second, steps, events))
    except (OSError, DamagedFileError, ValueError, KeyError) as error:
        fault = getattr(error, "strerror", None) or str(error).removeprefix(f"{path} ")
        raise UserError(
            f"state {str(path)!r} cannot be read: {fault}; restore it or start a new run"
        ) from None
    return Pair(*halves)


def pair_path(folder: Path, digest: str) -> Path:
    """Return the file of a pair."""
    return folder / f"{digest}.safetensors"
