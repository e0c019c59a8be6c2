"""Run a model once to find out what surrounds each of its layers, and how large its maps are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics.activation_tracer import Call, Site, norms_of, observe
from gp_prune.statistics.batches import batch_size
from gp_prune.statistics.layers import as_maps
from gp_prune.statistics.pairing import pair_without_data
from gp_prune.statistics.running import Forward, Inputs, is_scripted
from gp_prune.statistics.sampling import Maps

GRAPH_BYTES = 2**29
"""About what autograd may keep at a time: larger batches go through a backward pass in parts."""


class Surroundings(NamedTuple):
    """What follows each layer.

    Attributes:
        layers: the layers that are measured, by name.
        norms: name of the batch norm after each, or None.
        sites: what follows each use of each layer; empty where the model did not run.
        at_once: samples that a backward pass may take at a time; None where that is not known.
        sizes: what each layer gets and returns for a sample, by layer and side (``"inputs"`` or
            ``"outputs"``); empty where the model did not run.
    """

    layers: dict[str, nn.Module]
    norms: Mapping[str, str | None]
    sites: Mapping[Call, Site]
    at_once: int | None
    sizes: Mapping[tuple[str, str], Maps]

    def norm_modules(self, model: nn.Module, layers: Iterable[str]) -> dict[str, nn.Module | None]:
        """Return the batch norm after each of some layers, or None."""
        names = {layer: self.norms[layer] for layer in layers}
        return {n: None if norm is None else model.get_submodule(norm) for n, norm in names.items()}


def look_around(
    model: nn.Module,
    chosen: dict[str, nn.Module],
    inputs: Inputs | None,
    forward: Forward,
    *,
    named: bool,
) -> Surroundings:
    """Find what follows each layer, by running the model or, without inputs, by tracing it.

    Layers that were asked for by name (``named``) must run; others are left out if they do not.
    """
    if inputs is None:
        return Surroundings(chosen, pair_without_data(model, chosen), {}, None, {})
    samples = batch_size(inputs)
    with _count_graph_bytes(model) as graph_bytes, _note_sizes(chosen, samples) as sizes:
        sites = observe(model, chosen, inputs, forward)
    at_once = max(1, GRAPH_BYTES * samples // max(1, *graph_bytes))
    norms = norms_of(sites)
    for name in chosen:
        if named and name not in norms:
            raise UserError(
                f"layer {name!r} did not run when the model was evaluated; leave it out of layers"
            )
    used = {name: module for name, module in chosen.items() if name in norms}
    return Surroundings(used, norms, sites, at_once, sizes)


@contextmanager
def _count_graph_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Add up, about, what autograd would keep of the passes inside: the outputs of all modules."""
    total = [0]

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            total[0] += output.numel() * output.element_size()

    with ExitStack() as stack:
        for module in model.modules():
            if next(module.children(), None) is None and not is_scripted(module):
                stack.callback(module.register_forward_hook(note).remove)
        yield total


@contextmanager
def _note_sizes(
    layers: Mapping[str, nn.Module], samples: int
) -> Iterator[dict[tuple[str, str], Maps]]:
    """Note the sizes of what each layer gets and returns where it first runs inside."""
    sizes: dict[tuple[str, str], Maps] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = args[0] if args else kwargs.get("input")
            for side, values in (("inputs", inputs), ("outputs", output)):
                if isinstance(values, Tensor) and (name, side) not in sizes:
                    rows, channels, positions = as_maps(values, module).shape
                    positions *= max(1, rows // samples)  # of folded samples
                    sizes[name, side] = Maps(channels, positions, values.element_size())

        return note

    with ExitStack() as stack:
        for name, module in layers.items():
            handle = module.register_forward_hook(hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        yield sizes
