"""Run a network once, and note what the dependency graph does not see of it."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.errors import first_line
from gp_prune.pruning.attention.heads import AttentionEnds, cut_graph_at_attention
from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.flops import FlopCounter, flop_counter
from gp_prune.pruning.graph.function_modes import (
    Joined,
    Joins,
    Padded,
    Pads,
    Shuffles,
    gradients_everywhere,
    training_branches,
)
from gp_prune.pruning.modules import PerChannel, Prunable, Spanning, is_transposed
from gp_prune.pruning.surgery import side_width
from gp_prune.statistics.running import (
    Forward,
    call_model,
    is_scripted,
    map_tensors,
    tensors_of,
)

MIXED = "a channel shuffle mixes its channels"
ATTENDED = "an attention layer works on its channels"
RECURRENT = "a recurrent layer works on its channels"
NO_GRADIENT = "no gradient comes back to its outputs (argmax, detach, no_grad)"


class GraphObserver:
    """Runs a network as Torch-Pruning wants it and takes notes.

    Attributes:
        positions: how often each weight of each layer was used.
        macs: MACs of the whole batch.
        uncounted: operators whose MACs are not known.
        others: MACs of every module with weights of another kind.
        quiet: layers whose outputs have no gradient.
        failure: what the network itself raised, if it did not run.
        unflattened: autograd node -> name of the ``nn.Unflatten`` that made it.
        joined: autograd node of a concatenation -> where its parts lie.
        padded: autograd node of a padding with channels of zeros -> where it puts the others.
        ends: autograd node of an artificial output -> why the channels that reach it stay.
        has_attention: whether the network has opened attention layers.
    """

    def __init__(
        self,
        model: nn.Module,
        forward_fn: Forward | None = None,
        *,
        branches: bool = False,
        cut_more: bool = False,
        with_gradients: bool = False,
    ) -> None:
        """Prepare a run.

        Args:
            model: a private copy.
            forward_fn: how to run it; by default with the inputs as arguments.
            branches: run what training mode adds, such as auxiliary heads.
            cut_more: end the graph around attention layers that are not opened and begin it again
                after them, as it always does where the channels of maps are shuffled; and do so
                for maps of three dimensions, too, whose second might be that of a sequence.
            with_gradients: let autograd work in what the network runs under ``torch.no_grad()`` or
                ``torch.inference_mode()``.
        """
        self.positions: Counter[str] = Counter()
        self.macs = 0
        self.uncounted: tuple[str, ...] = ()
        self.others: Counter[str] = Counter()
        self.quiet: set[str] = set()
        self.failure: Exception | None = None
        self.unflattened: dict[Any, str] = {}
        self.ends: dict[Any, str] = {}
        self.joined: dict[Any, Joined] = {}
        self.padded: dict[Any, Padded] = {}
        self._cut_more = cut_more
        self._with_gradients = with_gradients
        self._outputs: list[Tensor] = []  # of layers, in the order of their calls
        self._ended: list[tuple[Tensor, str]] = []  # what opaque layers read, and why it stays
        self._shuffles = Shuffles(3 if cut_more else 4)
        self._branches = branches
        self._forward_fn = forward_fn
        self._attention = AttentionEnds([], [])
        self._names = {module: name for name, module in model.named_modules()}
        self.has_attention = any(isinstance(module, HeadAttention) for module in self._names)

    def __call__(self, model: nn.Module, inputs: Any) -> Any:
        """Run the network."""
        with ExitStack() as stack:
            for module in self._names:
                if isinstance(module, (*Prunable, nn.Unflatten)):
                    stack.callback(module.register_forward_hook(self._note).remove)
            try:
                if self.has_attention or self._cut_more:
                    self._attention = stack.enter_context(
                        cut_graph_at_attention(model, closed=self._cut_more)
                    )
                counter = stack.enter_context(flop_counter())
                self._watch_others(stack, counter)
                if self._with_gradients:
                    stack.enter_context(gradients_everywhere())
                if self._branches:
                    stack.enter_context(training_branches(model))
                stack.enter_context(self._shuffles)
                stack.enter_context(Joins(self.joined))
                stack.enter_context(self._watch_pads(stack))
                output = call_model(model, inputs, self._forward_fn)
            except Exception as error:
                self.failure = error
                raise
            self.macs, self.uncounted = counter.total // 2, tuple(sorted(counter.uncounted))
            return output

    def _watch_pads(self, stack: ExitStack) -> Pads:
        """Return a mode that notes paddings, and tell it which modules run."""
        pads = Pads()
        self.padded = pads.padded

        def leave(*_: Any) -> None:
            pads.leave()

        for module, name in self._names.items():
            if not is_scripted(module):
                hook = module.register_forward_pre_hook(lambda *_, name=name: pads.enter(name))
                stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(leave).remove)
        return pads

    def _watch_others(self, stack: ExitStack, counter: FlopCounter) -> None:
        """Count the MACs of modules with weights of other kinds, and cut the graph around some."""

        def start(name: str, *_: Any) -> None:
            self.others[name] -= counter.total // 2

        def stop(name: str, *_: Any) -> None:
            self.others[name] += counter.total // 2

        for module, name in self._names.items():
            if is_scripted(module):
                continue
            if holds_other_weights(module) and not any(module.children()):
                stack.callback(module.register_forward_pre_hook(partial(start, name)).remove)
                stack.callback(module.register_forward_hook(partial(stop, name)).remove)
            if isinstance(module, _OPAQUE):
                before, after = self._end_inputs, self._end_outputs
                hook = module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(hook.remove)
                stack.callback(module.register_forward_hook(after).remove)

    def _end_inputs(self, module: nn.Module, inputs: Any, named: Any) -> None:
        read = [x for x in tensors_of((inputs, named)) if x.requires_grad]
        self._ended += [(tensor, _why_opaque(module)) for tensor in read]

    def _end_outputs(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        def begin_again(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            start = tensor.detach().requires_grad_() * 1
            self.ends[start.grad_fn] = _why_opaque(module)
            return start

        return map_tensors(begin_again, output)

    def outputs(self, output: Any) -> list[Tensor]:
        """Return every tensor at which the graph ends.

        Where layers feed nothing with a gradient, as before ``argmax``, it ends at their outputs.
        """
        ends = [(tensor, ATTENDED) for tensor in self._attention.closed if tensor.requires_grad]
        ends += [(tensor, MIXED) for tensor in self._shuffles.mixed] + self._ended
        # A product with one gives every output an own node, so that outputs need no name.
        marked = [tensor * 1 for tensor in tensors_of(output) if tensor.requires_grad]
        marked += [tensor * 1 for tensor in self._attention.sources if tensor.requires_grad]
        for tensor, reason in ends:
            marked.append(tensor * 1)
            self.ends[marked[-1].grad_fn] = reason
        seen: set[Any] = set()
        for end in marked:
            _walk(end.grad_fn, seen)
        for tensor in reversed(self._outputs):
            if tensor.grad_fn not in seen:
                _walk(tensor.grad_fn, seen)
                marked.append(tensor * 1)
                self.ends[marked[-1].grad_fn] = NO_GRADIENT
        return marked

    @property
    def cut(self) -> bool:
        """Return whether the graph was cut at a shuffle or around an attention layer."""
        return bool(self._attention.closed or self._shuffles.mixed)

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        name = self._names[module]
        if isinstance(module, nn.Unflatten):
            self.unflattened[output.grad_fn] = name
        elif is_transposed(module):
            self.positions[name] += inputs[0].numel() // side_width(module, "in")
        else:
            self.positions[name] += output.numel() // side_width(module, "out")
        if isinstance(module, Prunable):
            if output.requires_grad:
                self._outputs.append(output)
            else:
                self.quiet.add(name)


_OPAQUE = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.EmbeddingBag)
"""Modules that no graph follows: it ends before them and begins again after them."""


def _why_opaque(module: nn.Module) -> str:
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return RECURRENT
    return f"a layer of type {type(module).__name__} works on its channels"


def holds_other_weights(module: nn.Module) -> bool:
    """Return whether a module holds weights of its own, and is no layer that pruning knows."""
    if isinstance(module, Prunable) and "weight" in module._parameters:
        return False
    if isinstance(module, (*PerChannel, *Spanning)):
        return False
    own = [parameter for parameter in module._parameters.values() if parameter is not None]
    return any(sum(size > 1 for size in parameter.shape) > 1 for parameter in own)


def _walk(node: Any, seen: set[Any]) -> None:
    """Add everything that a node of autograd was computed from."""
    stack = [node]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [before for before, _ in node.next_functions]


class TraceWarning(UserWarning):
    """Something of a network could not be followed."""


def adds_branches(model: nn.Module, inputs: Any, forward_fn: Forward | None, ran: Any) -> bool:
    """Return whether layers that are idle in evaluation mode run in training mode.

    Args:
        model: a private copy in evaluation mode.
        inputs: the example batch.
        forward_fn: how to run the model.
        ran: names of the layers that run in evaluation mode.

    Warns:
        TraceWarning: layers are idle, and the model does not run in training mode.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, Prunable)]
    idle = {name for name in layers if not ran[name]}
    if not idle:
        return False
    observer = GraphObserver(model, forward_fn, branches=True)
    try:
        with torch.no_grad():
            observer(model, inputs)
    except Exception as error:  # in training mode it may want targets, larger maps, or anything
        reason = first_line(error)
        warnings.warn(
            f"layers that are idle in evaluation mode ({', '.join(sorted(idle))}) are not "
            f"followed, because the network does not run in training mode on these inputs "
            f"({reason}); if they read channels that are cut, it cannot be trained afterwards",
            TraceWarning,
            stacklevel=2,
        )
        return False
    return any(observer.positions[name] for name in idle)
