"""Find the blocks of a network, and run one after the other.

Transformers are stacks of blocks, of which each reads what the one before returns. Where that is
so, the inputs of one block for all samples are enough to go on, and the network never runs as a
whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.statistics import Batch, prunable_layers
from gp_prune.statistics.batches import split_batch
from gp_prune.statistics.running import Forward, call_model, measurement, to_device

_LEAST_BLOCKS = 2


@dataclass(frozen=True)
class Stage:
    """Layers that are scored together: those of a block, or one that is in none.

    Attributes:
        name: of the block or the layer.
        layers: names of the layers, in the order in which they run.
    """

    name: str
    layers: tuple[str, ...]


class _Stop(Exception):
    """Ends a pass where the rest is of no interest."""


def find_stack(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the blocks of a network; none where it has no stack of blocks.

    A stack is a list or sequence of modules of one class that all have layers with weights; of
    several stacks, none of which is inside of another, the one with the most weights counts.
    """
    best: tuple[int, tuple[str, ...]] = (0, ())
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside and name.startswith(tuple(f"{one}." for one in inside)):
            continue
        children = dict(module.named_children())
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(children) < _LEAST_BLOCKS:
            continue
        kinds = {type(child) for child in children.values()}
        if len(kinds) > 1 or not all(map(_is_block, children.values())):
            continue
        found = tuple(f"{name}.{child}" if name else child for child in children)
        inside += found
        weights = sum(parameter.numel() for parameter in module.parameters())
        best = max(best, (weights, found), key=lambda entry: entry[0])
    return best[1]


def _is_block(module: nn.Module) -> bool:
    """Return whether a module has layers with weights inside."""
    return bool(prunable_layers(module)) and not prunable_layers(module).keys() <= {""}


def find_stages(
    model: nn.Module, layers: Sequence[str], inputs: Any, forward_fn: Forward | None
) -> list[Stage]:
    """Return what is scored one after the other, in the order in which it runs.

    Args:
        model: the network.
        layers: names of the layers that are scored.
        inputs: a batch that the network can be called with.
        forward_fn: runs the network on the batch.
    """
    blocks = find_stack(model)
    order: dict[str, None] = {}
    with ExitStack() as hooks, measurement(model, 0), torch.no_grad():
        for name in layers:
            module = model.get_submodule(name)
            hook = module.register_forward_pre_hook(lambda *_, name=name: order.setdefault(name))
            hooks.callback(hook.remove)
        call_model(model, inputs, forward_fn)
    stages: dict[str, list[str]] = {}
    for name in order:
        block = next((block for block in blocks if name.startswith(f"{block}.")), name)
        stages.setdefault(block, []).append(name)
    return [Stage(name, tuple(found)) for name, found in stages.items()]


class Chain:
    """The inputs of one block of a stack for all samples, from the first block on.

    Args:
        model: the network, whose weights may change between the blocks.
        blocks: names of the blocks.
        forward_fn: runs the network on the inputs of a batch.
        seed: of everything random.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[str], forward_fn: Forward | None, seed: int
    ) -> None:
        self._model, self._forward_fn, self._seed = model, forward_fn, seed
        self._blocks = {name: model.get_submodule(name) for name in blocks}
        self._waiting = list(blocks)
        self._inputs: list[Tensor] = []  # of the next block, one for each sample
        self._others: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def begin(self, batches: Iterable[Batch]) -> bool:
        """Run all samples up to the first block, one after the other.

        Returns:
            Whether each block reads what the one before returns, and what the first one reads
            besides.
        """
        with _without_cache(self._model), measurement(self._model, self._seed), torch.no_grad():
            for batch in batches:
                for part in split_batch(Batch(batch.inputs), 1):
                    inputs = to_device(part.inputs, next(self._model.parameters()).device)
                    if not self._inputs and not self._follows(inputs):
                        return False
                    (held,) = self._watch(inputs, [next(iter(self._blocks.values()))])
                    (first, *others), named = held[0]
                    self._inputs.append(first)
                    self._others.append((tuple(others), named))
        return bool(self._inputs)

    def _follows(self, inputs: Any) -> bool:
        """Return whether the blocks follow each other on one sample."""
        calls = self._watch(inputs, [*self._blocks.values()])
        if len(calls) != len(self._blocks):
            return False
        (arguments, named), output = calls[0]
        if not arguments or not isinstance(arguments[0], Tensor):
            return False
        for (later, also), returned in calls[1:]:
            before = _first(output)
            if before is None or not later or later[0] is not before:
                return False
            if not _same((arguments[1:], named), (later[1:], also)):
                return False
            output = returned
        return _first(output) is not None

    def _watch(self, inputs: Any, blocks: Sequence[nn.Module]) -> list[tuple[Any, Any]]:
        """Return arguments and output of each call of some blocks; the last one ends the pass.

        A single block is not run: its output is None.
        """
        calls: list[tuple[Any, Any]] = []

        def note(module: nn.Module, arguments: Any, named: Any) -> None:
            calls.append(((arguments, named), None))
            if len(blocks) == 1:
                raise _Stop

        def leave(module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
            calls[-1] = (calls[-1][0], output)
            if module is blocks[-1]:
                raise _Stop

        with ExitStack() as hooks:
            for block in blocks:
                hook = block.register_forward_pre_hook(note, with_kwargs=True)
                hooks.callback(hook.remove)
                after = block.register_forward_hook(leave, with_kwargs=True)
                hooks.callback(after.remove)
            with suppress(_Stop):
                call_model(self._model, inputs, self._forward_fn)
        return calls

    def batches(self) -> Iterator[Batch]:
        """Yield the inputs of the next block, with the number of each sample."""
        for number, inputs in enumerate(self._inputs):
            yield Batch((inputs, torch.full((len(inputs),), number)))

    def alone(self, name: str) -> tuple[nn.Module, Forward]:
        """Return a block whose layers have the names that they have in the network.

        Returns:
            The block, and what runs it on the inputs of :meth:`batches`.
        """
        block = self._blocks[name]
        holder = block
        for part in reversed(name.split(".")):
            outer = nn.Module()
            outer.add_module(part, holder)
            holder = outer

        def run(_: nn.Module, inputs: Any) -> Any:
            return self._call(block, inputs[0], int(inputs[1][0]))

        return holder, run

    def reach(self, name: str) -> bool:
        """Run the blocks before one, as they are now; return whether it is a block to come."""
        if name not in self._waiting:
            return False
        while self._waiting[0] != name:
            self._advance(self._waiting.pop(0))
        return True

    def _advance(self, name: str) -> None:
        """Put the outputs of a block in the place of its inputs."""
        block = self._blocks[name]
        with measurement(self._model, self._seed), torch.no_grad():
            for number, inputs in enumerate(self._inputs):
                output = _first(self._call(block, inputs, number))
                assert output is not None
                self._inputs[number] = output

    def _call(self, block: nn.Module, inputs: Tensor, number: int) -> Any:
        others, named = self._others[number]
        return block(inputs, *others, **named)


@contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Let a network of transformers keep no keys and values for tokens to come."""
    config = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = before  # type: ignore[union-attr]


def _first(output: Any) -> Tensor | None:
    """Return the tensor that a block returns, alone or first of several."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None


def _same(one: Any, other: Any) -> bool:
    """Return whether two blocks read the same besides the output of the block before."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool | int | float | str) and bool(one == other)
